//! The one place where the service reads a clock; everything else is told the time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use knhk_promotion::Now;

/// Wall time for labels, monotonic time for durations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    #[allow(
        clippy::disallowed_methods,
        reason = "this is where the monotonic clock enters"
    )]
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    /// Both clocks at once.
    pub(crate) fn now(&self) -> Now {
        Now {
            wall_ms: wall_ms(),
            mono_ms: millis(self.mono()),
        }
    }

    /// Time since the service started.
    #[allow(
        clippy::disallowed_methods,
        reason = "this is where the monotonic clock enters"
    )]
    pub(crate) fn mono(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Unix time in milliseconds; 0 before 1970.
#[allow(clippy::disallowed_methods, reason = "this is where the wall clock enters")]
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
