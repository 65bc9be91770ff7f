//! A fixed threshold, as Flagger documents it: at each interval the canary's metrics of that interval are checked against
//! their thresholds, a check that fails is counted, counts are never forgotten, and the interval after the one with the
//! last failed check rolls back. No requests are a failed check.

use crate::contender::{Contender, ERRORS_ALLOWED, SLOW_ALLOWED};
use crate::traffic::{Request, TICKS_PER_SECOND};

pub(crate) struct Flagger {
    interval_seconds: u32,
    threshold: u32,
    failed_checks: u32,
    requests: u32,
    failed: u32,
    slow: u32,
}

impl Flagger {
    /// `analysis.interval` in seconds, `analysis.threshold`.
    pub(crate) fn new(interval_seconds: u32, threshold: u32) -> Self {
        Self {
            interval_seconds,
            threshold,
            failed_checks: 0,
            requests: 0,
            failed: 0,
            slow: 0,
        }
    }

    /// The success rate below its minimum, or the quantile above its maximum.
    fn check_fails(&self) -> bool {
        let requests = f64::from(self.requests);
        self.requests == 0
            || f64::from(self.failed) > requests * ERRORS_ALLOWED
            || f64::from(self.slow) > requests * SLOW_ALLOWED
    }
}

impl Contender for Flagger {
    fn name(&self) -> String {
        format!("threshold, {} s x {}", self.interval_seconds, self.threshold)
    }

    fn rolls_back(&mut self, requests: &[Request], tick: u32) -> bool {
        for request in requests.iter().filter(|request| request.is_canary) {
            self.requests += 1;
            self.failed += u32::from(request.failed);
            self.slow += u32::from(request.is_slow());
        }
        if !tick.is_multiple_of(self.interval_seconds * TICKS_PER_SECOND) {
            return false;
        }
        if self.failed_checks >= self.threshold {
            return true;
        }
        self.failed_checks += u32::from(self.check_fails());
        (self.requests, self.failed, self.slow) = (0, 0, 0);
        false
    }
}
