//! What the three have in common.

use crate::traffic::Request;

/// The share of requests that may fail, and the share that may be slower than [`SLOW_MS`]: the SLOs that everybody has.
pub(crate) const ERRORS_ALLOWED: f64 = 0.005;
pub(crate) const SLOW_ALLOWED: f64 = 0.1;
/// The latency that nine of ten requests keep to.
pub(crate) const SLOW_MS: f64 = 120.0;

/// Somebody who watches a canary.
pub(crate) trait Contender {
    /// Who, with the settings.
    fn name(&self) -> String;

    /// Sees what finished in tick number `tick`, counted from 1, in order, and says whether the canary is rolled back now.
    fn rolls_back(&mut self, requests: &[Request], tick: u32) -> bool;
}
