//! Is the canary worse than stable by more than the tolerance? A test that holds at every look.
//!
//! For each block, d is the canary's bad share minus stable's. The null: E[d | past] is at most the tolerance t. A stake s
//! (a share of the largest, 1 / (1 + t)) is multiplied by 1 + s (d - t) / (1 + t), which cannot be expected to exceed 1
//! under the null and never falls below 1 - s, because d is at least -1.
//!
//! Keys are sticky, so one heavy user whose requests always fail is evidence again and again, and not against the version.
//! So the keys are divided into [`GROUPS`] groups and the test is made [`GROUPS`] times, each time without one group. The
//! evidence is the least of them: nobody whose keys are all in one group can bring a rollback about.

use super::capital::Capital;
use super::outcomes::GROUPS;
use super::pending::Differences;
use super::starts::{AT_ONCE, Starts};
use serde::{Deserialize, Serialize};

/// Stakes of this test. The smallest is the best for an excess that is some 1/250 of the variance of d.
const STAKES: usize = 9;

/// The evidence that the canary is worse than stable in one metric.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Comparison {
    without: [Capital<STAKES>; GROUPS],
    starts: Starts,
}

impl Comparison {
    /// No block yet.
    pub(crate) fn new() -> Self {
        Self {
            without: [Capital::beginning(AT_ONCE); GROUPS],
            starts: Starts::default(),
        }
    }

    /// A block closed.
    pub(crate) fn closed(&mut self, tolerance: f64, differences: &Differences) {
        let beginning = Capital::beginning(self.starts.next_round());
        for (capital, difference) in self.without.iter_mut().zip(differences.without) {
            capital.begin(&beginning);
            if let Some(difference) = difference {
                capital.settle((difference - tolerance) / (1.0 + tolerance));
            }
        }
    }

    /// A step begins.
    pub(crate) fn step_begins(&mut self) {
        let beginning = Capital::beginning(self.starts.next_step());
        for capital in &mut self.without {
            capital.begin(&beginning);
        }
    }

    /// A step begins, and what was bet before is forgotten.
    pub(crate) fn starts_over(&mut self) {
        self.without = [Capital::beginning(self.starts.next_step()); GROUPS];
    }

    /// The least capital of all groups, from 1 at the beginning.
    pub(crate) fn evidence(&self) -> f64 {
        self.each().fold(f64::INFINITY, f64::min)
    }

    /// The only group without which the evidence is below `bound`, if there is one: what the other tests found rests on
    /// its keys.
    pub(crate) fn rests_on(&self, bound: f64) -> Option<usize> {
        let mut below = self.each().enumerate().filter(|(_, evidence)| *evidence < bound);
        let (group, _) = below.next()?;
        below.next().is_none().then_some(group)
    }

    fn each(&self) -> impl Iterator<Item = f64> {
        let kept = self.starts.kept();
        self.without.iter().map(move |capital| capital.sum() + kept)
    }
}
