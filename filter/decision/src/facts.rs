//! What a decision may ask about a request.

use crate::peer::SpiffeId;

/// A request as its decider sees it. Reading may cost a call into the proxy, so [`crate::decide`] asks only for what
/// the rules it meets need, and for the peer last of all.
pub trait Facts {
    /// `:method`, empty when there is none.
    fn method(&self) -> &[u8];
    /// `:authority` or `host`, with its port if it came with one; empty when there is none.
    fn authority(&self) -> &[u8];
    /// `:path`, with the query; empty when there is none.
    fn path(&self) -> &[u8];
    /// The first value of a header, whose name is given in lower case.
    fn header(&self, lower_case_name: &str) -> Option<&[u8]>;
    /// The SPIFFE ID of the caller, where the proxy terminates mTLS or is told by one that does.
    fn peer_spiffe_id(&self) -> Option<SpiffeId<'_>>;
}
