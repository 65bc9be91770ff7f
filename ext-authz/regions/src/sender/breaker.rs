/// After so many failures one after the other a peer counts as away.
pub const BREAKER_FAILURES: u32 = 5;

/// The pause after the first failure, in milliseconds. Each further one is twice as long.
pub const PAUSE_BASE_MS: u64 = 200;

/// The longest pause, in milliseconds.
pub const PAUSE_CAP_MS: u64 = 30_000;

/// Counts failures: pauses grow with them, and at [`BREAKER_FAILURES`] the breaker opens. An open one lets one request through
/// after each pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Breaker {
    failures: u32,
}

/// How a peer is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// It is sent to.
    Closed,
    /// It is left alone until the pause is over.
    Open,
    /// It is being tried.
    HalfOpen,
}

impl BreakerState {
    /// `closed`, `open` or `half_open`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

impl Breaker {
    pub(crate) fn failures(self) -> u32 {
        self.failures
    }

    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure. Returns how long to wait, in milliseconds: the second half of the pause is drawn, so that peers that failed
    /// together do not come back together.
    pub(crate) fn failed(&mut self, random: u64) -> u64 {
        let doublings = self.failures.min(PAUSE_CAP_MS.ilog2());
        self.failures = self.failures.saturating_add(1);
        let pause = PAUSE_BASE_MS.saturating_mul(1 << doublings).min(PAUSE_CAP_MS);
        pause / 2 + random % (pause / 2 + 1)
    }

    pub(crate) fn state(self, in_flight: bool) -> BreakerState {
        if self.failures < BREAKER_FAILURES {
            BreakerState::Closed
        } else if in_flight {
            BreakerState::HalfOpen
        } else {
            BreakerState::Open
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_double_up_to_the_cap_and_are_drawn_from_their_second_half(draws in prop::collection::vec(any::<u64>(), 1..200)) {
            let mut breaker = Breaker::default();
            let mut whole = PAUSE_BASE_MS;
            for (n, draw) in (1..).zip(draws) {
                let pause = breaker.failed(draw);
                prop_assert!((whole / 2..=whole).contains(&pause), "{pause} of {whole}");
                whole = (whole * 2).min(PAUSE_CAP_MS);
                let state = breaker.state(false);
                prop_assert_eq!(state == BreakerState::Open, n >= BREAKER_FAILURES);
            }
            breaker.succeeded();
            prop_assert_eq!(breaker.state(true), BreakerState::Closed);
            prop_assert!(breaker.failed(u64::MAX) <= PAUSE_BASE_MS);
        }
    }
}
