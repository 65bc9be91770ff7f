//! What a decision may ask about a request.

use crate::peer::SpiffeId;

/// A request as its decider sees it. Reading may cost a call into the proxy, so [`crate::decide`] asks only for what
/// the rules it meets need: for the peer last of all but flags, and for the time only where a flag reads it.
pub trait Facts {
    /// `:method`, empty when there is none.
    fn method(&self) -> &[u8];
    /// `:authority` or `host`, with its port if it came with one; empty when there is none.
    fn authority(&self) -> &[u8];
    /// `:path`, with the query; empty when there is none.
    fn path(&self) -> &[u8];
    /// The first value of a header, whose name is given in lower case.
    fn header(&self, lower_case_name: &str) -> Option<&[u8]>;
    /// All headers in their order, names in lower case. Names that begin with a colon, and headers of ours, may be among
    /// them.
    fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])>;
    /// The time of the decision in seconds since 1970, in UTC: the same however often it is asked for.
    fn unix_seconds(&self) -> i64;
    /// The SPIFFE ID of the caller, where the proxy terminates mTLS or is told by one that does.
    fn peer_spiffe_id(&self) -> Option<SpiffeId<'_>>;
}
