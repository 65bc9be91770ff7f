//! When the key is rotated by itself. Pure.

use std::time::Duration;

/// After a rotation that failed, the next try comes after so long at first.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// And never later than this: somebody is to look at it, and the outage may be over.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Tries of the service by itself, and how long it pauses after failed ones.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Schedule {
    failures: u32,
    /// Not before this, by the monotonic clock.
    pause_until: Option<Duration>,
}

/// When a key that is in use since `since_unix_ms` is to be rotated, in milliseconds since the Unix epoch.
pub(crate) fn due_at(since_unix_ms: u64, every: Duration) -> u64 {
    since_unix_ms.saturating_add(u64::try_from(every.as_millis()).unwrap_or(u64::MAX))
}

impl Schedule {
    /// Whether the service may try by itself now.
    pub(crate) fn may_try(&self, now_mono: Duration) -> bool {
        self.pause_until.is_none_or(|until| now_mono >= until)
    }

    /// A try went well, or there was nothing to do.
    pub(crate) fn went_well(&mut self) {
        *self = Self::default();
    }

    /// A try failed: pause, each time twice as long.
    pub(crate) fn failed(&mut self, now_mono: Duration) {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        self.pause_until = Some(now_mono.saturating_add(doubled.min(LONGEST_PAUSE)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_due_when_it_has_signed_for_as_long_as_it_should() {
        assert_eq!(due_at(1_000, Duration::from_secs(60)), 61_000);
        assert_eq!(due_at(u64::MAX, Duration::from_secs(60)), u64::MAX);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_end_with_a_success() {
        let (mut schedule, mut now) = (Schedule::default(), Duration::ZERO);
        assert!(schedule.may_try(now));
        let mut pauses = Vec::new();
        for _ in 0..40 {
            schedule.failed(now);
            let until = schedule.pause_until.expect("it pauses");
            let just_before = until.saturating_sub(Duration::from_nanos(1));
            assert!(!schedule.may_try(just_before) && schedule.may_try(until));
            pauses.push(until.saturating_sub(now).as_secs());
            now = until;
        }
        assert_eq!(pauses[..7], [60, 120, 240, 480, 960, 1920, 3600]);
        assert!(pauses[7..].iter().all(|pause| *pause == 3600));
        schedule.went_well();
        assert!(schedule.may_try(Duration::ZERO));
    }
}
