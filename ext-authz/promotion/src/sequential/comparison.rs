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
use super::stakes::spread;
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

    /// What became of each unit of capital without group `group`, by the stake that it bet or will bet: 1 at the beginning.
    fn grown(&self, group: usize) -> [f64; STAKES] {
        let kept = self.starts.kept();
        self.without
            .get(group)
            .map_or([1.0; STAKES], |capital| capital.grown().map(|grown| grown + kept))
    }

    /// The least capital of all groups, from 1 at the beginning.
    pub(crate) fn evidence(&self) -> f64 {
        self.each().fold(f64::INFINITY, f64::min)
    }

    /// The only group without which the evidence is below `bound`, if there is one: what the other tests found rests on
    /// its keys.
    pub(crate) fn rests_on(&self, bound: f64) -> Option<usize> {
        only_below(self.each(), bound)
    }

    fn each(&self) -> impl Iterator<Item = f64> {
        let kept = self.starts.kept();
        self.without.iter().map(move |capital| capital.sum() + kept)
    }
}

/// What several comparisons of the same versions say together, each of requests that no other one has seen.
///
/// For each stake, what each of them made of a unit of capital is multiplied: while the null is true for every block, given
/// all that came before in any of them, the product cannot be expected to grow, since each block moves one factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Worse([[f64; STAKES]; GROUPS]);

impl Worse {
    /// All of `comparisons`. Of none it is 1: nothing is known.
    pub(crate) fn of<'a>(comparisons: impl Iterator<Item = &'a Comparison>) -> Self {
        let mut product = [[1.0; STAKES]; GROUPS];
        for comparison in comparisons {
            for (group, product) in product.iter_mut().enumerate() {
                for (product, grown) in product.iter_mut().zip(comparison.grown(group)) {
                    *product *= grown;
                }
            }
        }
        Self(product)
    }

    /// The least capital of all groups, from 1 at the beginning.
    pub(crate) fn evidence(&self) -> f64 {
        self.each().fold(f64::INFINITY, f64::min)
    }

    /// See [`Comparison::rests_on`].
    pub(crate) fn rests_on(&self, bound: f64) -> Option<usize> {
        only_below(self.each(), bound)
    }

    fn each(&self) -> impl Iterator<Item = f64> {
        let shares = spread::<STAKES>(1.0);
        self.0
            .iter()
            .map(move |grown| grown.iter().zip(shares).map(|(grown, share)| grown * share).sum())
    }
}

/// The only one that is below `bound`, if there is one.
fn only_below(each: impl Iterator<Item = f64>, bound: f64) -> Option<usize> {
    let mut below = each.enumerate().filter(|(_, evidence)| *evidence < bound);
    let (group, _) = below.next()?;
    below.next().is_none().then_some(group)
}
