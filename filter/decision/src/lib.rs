//! Which version serves a request: a pure function of policy and request facts.
//!
//! The same code decides in the filter, in the service, in the command line and in the tests, and replays a decision
//! from its receipt. Nothing here does I/O, reads a clock or draws a random number, and no input makes it panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod bucket;
mod decide;
mod document;
mod error;
mod evidence;
mod facts;
mod flags;
pub mod headers;
mod index;
pub mod limits;
mod peer;
mod policy;
mod replay;
mod rule;
mod sample;
pub mod spec;
mod xfcc;

pub use crate::bucket::{BUCKETS, GROUPS, bucket};
pub use crate::decide::{Admission, Decision, Routed, Variant, Verdict, decide};
pub use crate::document::{API_VERSION, KIND, PolicyDoc, PolicyId, PolicyIdError, RolloutRule, StagingRule};
pub use crate::error::{Fault, PolicyError};
pub use crate::evidence::{ConditionTruth, Evidence, EvidenceRoute, FlagTruth, evidence};
pub use crate::facts::Facts;
pub use crate::flags::{FlagRead, FlagReason};
pub use crate::peer::{MAX_ID_BYTES, SpiffeId};
pub use crate::policy::Policy;
pub use crate::replay::{ReplayError, ReplayedFlag, ReplayedRoute, ReplayedVerdict, replay};
pub use crate::rule::{Host, request_id_bucket};
pub use crate::sample::is_sampled;
pub use crate::xfcc::{MAX_XFCC_BYTES, XFCC_HEADER, xfcc_peer};
