//! When bets begin.
//!
//! A bet that began with the rollout has lost much of its capital to hours without a failure when a later step brings the
//! failure out. So only half of the capital is bet from the beginning. A quarter waits for the steps, and a quarter is
//! spread over all later rounds. What has not begun is kept, so the whole is still a capital of 1: a mixture over times
//! at which bets begin, fixed before anything was seen.

use crate::binomial::count;
use serde::{Deserialize, Serialize};

/// The share of the capital that is bet from the beginning.
pub(crate) const AT_ONCE: f64 = 0.5;
/// The share that waits for the steps that follow: step k after the first gets 1 / (k (k + 1)) of it.
const WITH_STEPS: f64 = 0.25;
/// The share that waits for the rounds: those from 2^e to 2^(e + 1) - 1 get 1 / ((e + 1)(e + 2)) of it in equal parts, so
/// that a change in round n costs about ln(n) + 2 ln(log2 n), little more than not to know when it would come.
const WITH_ROUNDS: f64 = 0.25;

/// How much has begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Starts {
    /// Rounds that were bet on or passed over.
    rounds: u64,
    /// Steps after the first.
    steps: u32,
}

impl Starts {
    /// The next round: what begins with it.
    pub(crate) fn next_round(&mut self) -> f64 {
        self.rounds = self.rounds.saturating_add(1);
        let (width, share) = octave(self.rounds);
        WITH_ROUNDS * share / width
    }

    /// The next step: what begins with it.
    pub(crate) fn next_step(&mut self) -> f64 {
        self.steps = self.steps.saturating_add(1);
        let step = f64::from(self.steps);
        WITH_STEPS / (step * (step + 1.0))
    }

    /// What has not begun yet.
    pub(crate) fn kept(self) -> f64 {
        let for_steps = WITH_STEPS / (f64::from(self.steps) + 1.0);
        if self.rounds == 0 {
            return for_steps + WITH_ROUNDS;
        }
        let (width, share) = octave(self.rounds);
        let begun = count(self.rounds) - width + 1.0;
        let later = 1.0 / (f64::from(self.rounds.ilog2()) + 1.0);
        for_steps + WITH_ROUNDS * (later - share * begun / width)
    }
}

/// How many rounds the octave of this round has, and its share of what waits for rounds. The shares of all octaves from
/// e on are 1 / (e + 1).
fn octave(round: u64) -> (f64, f64) {
    let octave = round.ilog2();
    let rank = f64::from(octave) + 1.0;
    (count(1 << octave), 1.0 / (rank * (rank + 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_begins_is_what_is_kept_no_more(steps in proptest::collection::vec(any::<bool>(), 0..400)) {
            let mut starts = Starts::default();
            let mut begun = AT_ONCE;
            for is_round in steps {
                begun += if is_round { starts.next_round() } else { starts.next_step() };
                prop_assert!((begun + starts.kept() - 1.0).abs() < 1e-12, "{begun} {}", starts.kept());
                prop_assert!(starts.kept() > 0.0);
            }
        }
    }
}
