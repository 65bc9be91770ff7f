//! Time that a step has really lived through.

use crate::counts::Now;
use serde::{Deserialize, Serialize};

/// The most that one look can add to a step's time, in milliseconds. A look that comes later than this after the one
/// before it means that the machine slept or the service hung: time in which nobody watched does not count.
pub const MAX_GAP_MS: u64 = 1_000;

/// Milliseconds lived, and the monotonic time up to which they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Lived {
    ms: u64,
    counted_to: u64,
}

impl From<Now> for Lived {
    fn from(now: Now) -> Self {
        Self {
            ms: 0,
            counted_to: now.mono_ms,
        }
    }
}

impl Lived {
    pub(crate) fn ms(self) -> u64 {
        self.ms
    }

    /// Counts up to now: never more than [`MAX_GAP_MS`], and nothing when the clock went back.
    pub(crate) fn live(&mut self, now: Now) {
        let gap = now.mono_ms.saturating_sub(self.counted_to);
        self.ms = self.ms.saturating_add(gap.min(MAX_GAP_MS));
        self.skip(now);
    }

    /// Lets the time up to now pass uncounted: paused, or before a restart.
    pub(crate) fn skip(&mut self, now: Now) {
        self.counted_to = now.mono_ms;
    }

    /// A step begins now.
    pub(crate) fn start(&mut self, now: Now) {
        *self = Self::from(now);
    }
}
