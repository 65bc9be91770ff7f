//! Names of the headers that KNHK sets, for the upstream unless said otherwise. A client's own copies are removed before
//! anything is decided.

/// Every header of ours begins with this.
pub const PREFIX: &str = "x-knhk-";
/// `stable`, `canary` or `staging`: what the route is chosen by.
pub const VARIANT: &str = "x-knhk-variant";
/// Name of the rollout that routed the request.
pub const ROLLOUT: &str = "x-knhk-rollout";
/// Feature flags and their variants.
pub const FLAGS: &str = "x-knhk-flags";
/// Admission class of the request.
pub const CLASS: &str = "x-knhk-class";
/// The snapshot that decided, as [`crate::PolicyId`] prints it.
pub const POLICY: &str = "x-knhk-policy";
/// ID of the request's receipt; set by `ext_authz` and `ext_proc` only.
pub const RECEIPT: &str = "x-knhk-receipt";
/// For the client: why it was answered in the upstream's place; low-cardinality.
pub const REASON: &str = "x-knhk-reason";
/// The [`REASON`] of a request whose caller its rollout does not admit.
pub const PEER_NOT_ALLOWED: &str = "peer_not_allowed";
/// The status of a request whose caller its rollout does not admit.
pub const PEER_NOT_ALLOWED_STATUS: u16 = 403;
