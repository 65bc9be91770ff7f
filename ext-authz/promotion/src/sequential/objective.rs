//! Does a version violate an SLO? A test that holds at every look.
//!
//! The null: whatever came before, the bad share of the next block of requests is on average at most q, the share that the
//! SLO allows. A stake s (a share of the largest, 1 / q) is multiplied by 1 + s (share - q) / q, which is 1 on average at q
//! and less below it.
//!
//! A block counts as its share, however many requests it has and however they hang together: a user who tries again ten
//! times within a block is no more than a larger share of one block, and no block multiplies by more than 32. So where
//! this test decides alone, a block is as long as what should not convict by itself: see `trial`.

use super::capital::Capital;
use super::starts::{AT_ONCE, Starts};
use crate::tally::Tally;
use serde::{Deserialize, Serialize};

/// Stakes of this test: the smallest is the best for an excess of a hundred-thousandth or so.
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

    /// A block of requests finished. One without requests is none.
    pub(crate) fn closed(&mut self, allowed: f64, block: Tally) {
        if block.requests == 0 {
            return;
        }
        let allowed = allowed.max(LEAST_ALLOWED);
        self.capital.begin(&Capital::beginning(self.starts.next_round()));
        self.capital.settle((block.share() - allowed) / allowed);
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
