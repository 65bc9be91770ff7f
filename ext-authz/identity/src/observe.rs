//! What metrics are told.

use crate::peer::{PeerError, Side};
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::source::SourceError;

/// Is told what happens, from any thread. Each method must return at once.
pub trait Observer: Send + Sync {
    /// This is the SVID from now on.
    fn rotated(&self, _snapshot: &Snapshot) {}

    /// No valid SVID is held any longer.
    fn lost(&self) {}

    /// An update was not used.
    fn refused(&self, _refusal: &Refusal) {}

    /// A stream could not be opened, or ended.
    fn source_failed(&self, _error: &SourceError) {}

    /// A handshake ended, in which we played this part. `outcome` is one of [`OUTCOMES`].
    fn handshake(&self, _ours: Side, _outcome: &'static str) {}

    /// A peer was refused in a handshake in which we played this part: for receipts. It is counted by
    /// [`Observer::handshake`] as well.
    fn peer_refused(&self, _ours: Side, _error: &PeerError) {}
}

/// Tells nobody.
impl Observer for () {}

/// How a handshake may end: `full` and `resumed` are good ends.
pub const OUTCOMES: [&str; 15] = [
    "full",
    "resumed",
    "no_certificate",
    "not_svid",
    "unknown_trust_domain",
    "untrusted",
    "expired",
    "not_yet_valid",
    "not_allowed",
    "refused_by_peer",
    "no_svid",
    "tls_version",
    "not_tls",
    "timeout",
    "broken",
];
