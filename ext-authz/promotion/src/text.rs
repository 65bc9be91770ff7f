//! Numbers as people read them.

use crate::tally::Tally;
use std::fmt;

/// A fraction as a percentage with at most four places: `0.5 %`, `33.3333 %`.
pub(crate) struct Share(pub(crate) f64);

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = format!("{:.4}", self.0 * 100.0);
        write!(f, "{} %", number.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// Milliseconds as a duration to the second, or to the millisecond below one: `1m 30s`.
pub(crate) struct Time(pub(crate) u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = if self.0 < 1_000 {
            self.0
        } else {
            self.0 / 1_000 * 1_000
        };
        humantime::format_duration(std::time::Duration::from_millis(shown)).fmt(f)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} bad ({})",
            self.bad,
            self.requests,
            Share(self.share())
        )
    }
}
