//! What is bet, by stake.

use super::stakes::{STAKES, spread};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The most capital of one stake: 2^40. More is thrown away. A test keeps its promise when it throws capital away, and
/// forgets a long outage all the sooner. Above every bound that a level can ask for.
pub(crate) const MOST: f64 = 1_099_511_627_776.0;

/// The most that one round multiplies by. Ten bad requests of one second are not ten proofs where the SLO allows one of
/// 10,000: to convict takes several rounds, whatever happens in one. A gain that is cut off makes no promise weaker.
const MOST_GAIN: f64 = 32.0;

/// The capital of `N` stakes, each from 0 to [`MOST`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Capital<const N: usize>([f64; N]);

impl<const N: usize> Capital<N> {
    /// `amount` begins, spread over the stakes.
    pub(crate) fn beginning(amount: f64) -> Self {
        Self(spread(amount))
    }

    /// What begins is added to what is there.
    pub(crate) fn begin(&mut self, beginning: &Self) {
        for (capital, more) in self.0.iter_mut().zip(&beginning.0) {
            *capital = (*capital + more).min(MOST);
        }
    }

    /// The bets were won or lost by `excess`: what was seen over the null's bound, as a share of the most that it can fall
    /// short of it. At least -1.
    pub(crate) fn settle(&mut self, excess: f64) {
        for (capital, stake) in self.0.iter_mut().zip(STAKES) {
            *capital = (*capital * (1.0 + stake * excess).min(MOST_GAIN)).min(MOST);
        }
    }

    /// What became of each unit that has begun, by its stake.
    pub(crate) fn grown(&self) -> [f64; N] {
        let mut grown = self.0;
        for (grown, share) in grown.iter_mut().zip(spread::<N>(1.0)) {
            *grown /= share;
        }
        grown
    }

    /// All stakes together.
    pub(crate) fn sum(&self) -> f64 {
        self.0.iter().sum()
    }
}

impl<const N: usize> Serialize for Capital<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Capital<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let capital = Vec::<f64>::deserialize(deserializer)?;
        if capital.iter().any(|one| !(0.0..=MOST).contains(one)) {
            return Err(de::Error::custom(format_args!(
                "the capital of a stake lies from 0 to {MOST}; this state was damaged, start the rollout over"
            )));
        }
        let stakes = capital.len();
        capital.try_into().map(Self).map_err(|_| {
            de::Error::custom(format_args!(
                "{stakes} stakes where this version has {N}; the state was written by another, start the rollout over"
            ))
        })
    }
}
