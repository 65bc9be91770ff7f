//! A log line that traffic repeats: at most one in a while, with a count of those left out.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A line of one kind is written at most once in this time, so that a disk that fails does not fill another one.
pub(super) const LINE_EVERY: Duration = Duration::from_secs(1);

/// Decides for one kind of line whether it is written.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    written: Option<Duration>,
    suppressed: u64,
}

impl Seldom {
    /// `Some` if a line is due at `now`, a time that does not run backwards: how many were left out since the last one.
    pub(super) fn due(&self, now: Duration) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let early = state
            .written
            .is_some_and(|written| now.saturating_sub(written) < LINE_EVERY);
        if early {
            state.suppressed += 1;
            return None;
        }
        state.written = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_line_is_written_at_once_and_then_one_a_second() {
        let seldom = Seldom::default();
        let at = |ms| seldom.due(Duration::from_millis(ms));
        assert_eq!(at(0), Some(0));
        assert_eq!((at(1), at(999)), (None, None));
        assert_eq!(at(1_000), Some(2));
        assert_eq!(at(5_000), Some(0));
    }

    proptest! {
        #[test]
        fn no_line_is_lost_from_the_count_and_none_is_early(gaps in prop::collection::vec(0_u64..1_500, 1..200)) {
            let seldom = Seldom::default();
            let (mut now, mut counted, mut waiting, mut last) = (Duration::ZERO, 0, 0, None);
            for gap in &gaps {
                now += Duration::from_millis(*gap);
                match seldom.due(now) {
                    Some(suppressed) => {
                        prop_assert_eq!(suppressed, waiting);
                        prop_assert!(last.is_none_or(|last| now.saturating_sub(last) >= LINE_EVERY));
                        counted += 1 + suppressed;
                        (waiting, last) = (0, Some(now));
                    }
                    None => waiting += 1,
                }
            }
            prop_assert_eq!(counted + waiting, gaps.len() as u64);
        }
    }
}
