//! The block that is being gathered.
//!
//! A block closes with a canary's outcome once stable has an outcome in it too. Until then it keeps gathering: a block
//! without stable has no difference, and stable's share of an earlier block in its place would be a known number, about
//! which the null says nothing. Where a block ends depends on which version serves a request and never on how it went.

use super::outcomes::{GROUPS, Outcome, Tallies};
use crate::binomial::count;
use serde::{Deserialize, Serialize};

/// What finished since the last block closed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Pending {
    stable: Tallies,
    canary: [Tallies; GROUPS],
}

/// One metric's differences of a block that has closed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Differences {
    /// The canary's bad share without the keys of each group, minus stable's: within -1 and 1. None where nothing is left.
    pub(crate) without: [Option<f64>; GROUPS],
}

impl Pending {
    /// Stable's requests finished.
    pub(crate) fn stable(&mut self, tallies: &Tallies) {
        self.stable.add(tallies);
    }

    /// One of the canary's requests finished.
    pub(crate) fn canary(&mut self, outcome: Outcome) {
        if let Some(group) = self.canary.get_mut(outcome.group().index()) {
            group.count(outcome);
        }
    }

    /// Whether a block can close here, after an outcome of the canary.
    pub(crate) fn is_whole(&self) -> bool {
        self.stable.requests() > 0
    }

    /// The differences of metric `index`.
    pub(crate) fn differences(&self, index: usize) -> Differences {
        let beside = share(self.stable.bad(index), self.stable.requests());
        let (mut requests, mut bad) = (0, 0);
        for group in &self.canary {
            requests += group.requests();
            bad += group.bad(index);
        }
        let without = std::array::from_fn(|group| {
            let own = self.canary.get(group)?;
            let others = requests - own.requests();
            (others > 0).then(|| share(bad - own.bad(index), others) - beside)
        });
        Differences { without }
    }
}

fn share(bad: u64, requests: u64) -> f64 {
    count(bad) / count(requests)
}
