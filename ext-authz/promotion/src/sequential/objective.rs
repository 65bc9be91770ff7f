//! Does a version violate an SLO? A test that holds at every look.
//!
//! The null: whatever came before, the next request is bad with a chance of at most q, the share that the SLO allows. A
//! stake s (a share of the largest, 1 / q) is multiplied by 1 + s (1 - q) / q for a bad request and by 1 - s for a good
//! one, which is 1 on average at q and less below it. It is the likelihood ratio of a share of q + s (1 - q) against q.

use super::capital::Capital;
use super::growth::Growth;
use super::starts::{AT_ONCE, Starts};
use crate::tally::Tally;
use serde::{Deserialize, Serialize};

/// Stakes of this test: the smallest looks for an excess of 0.003 percentage points.
const STAKES: usize = 16;

/// An SLO that allows nothing is tested as one that allows this share: one bad request in a billion. A larger share than
/// the SLO's makes the test slower and its promise no weaker.
const LEAST_ALLOWED: f64 = 1e-9;

/// The evidence that one version violates one SLO.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Objective {
    capital: Capital<STAKES>,
    starts: Starts,
}

impl Objective {
    /// No requests yet.
    pub(crate) fn new() -> Self {
        Self {
            capital: Capital::beginning(AT_ONCE),
            starts: Starts::default(),
        }
    }

    /// Requests finished, in an order that does not matter.
    pub(crate) fn finished(&mut self, allowed: f64, tally: Tally) {
        if tally.requests == 0 {
            return;
        }
        self.capital.begin(&Capital::beginning(self.starts.next_round()));
        let allowed = allowed.max(LEAST_ALLOWED);
        let odds = (1.0 - allowed) / allowed;
        let good = tally.requests - tally.bad;
        self.capital.grow(|stake, capital| {
            let lost = Growth::of(1.0 - stake, good);
            let won = Growth::of(1.0 + stake * odds, tally.bad);
            won.times(lost).applied_to(capital, super::capital::MOST)
        });
    }

    /// A step begins.
    pub(crate) fn step_begins(&mut self) {
        let beginning = self.starts.next_step();
        self.capital.begin(&Capital::beginning(beginning));
    }

    /// A step begins, and what was bet before is forgotten.
    pub(crate) fn starts_over(&mut self) {
        self.capital = Capital::beginning(self.starts.next_step());
    }

    /// The capital, from 1 at the beginning.
    pub(crate) fn evidence(&self) -> f64 {
        self.capital.sum() + self.starts.kept()
    }
}
