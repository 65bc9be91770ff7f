//! What a filter's report tells the tests: how requests went, in the order in which they finished.
//!
//! A report has up to [`MAX_ORDERED`] of the canary's outcomes one by one, with the counts of stable's between them, and
//! counts of everything else: what did not fit, what a lost report had. Cumulative counts tell how much that is. Counts
//! without order are evidence about an SLO, where order means nothing, and none in the comparison, where it does.
//!
//! What is left out may depend on anything but how requests went: a report that the network lost is no harm, and of too
//! many outcomes the first ones are told. Leaving out good outcomes, or bad ones, breaks the promise.

use crate::spec::MAX_SLOS;
use crate::tally::Tally;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most outcomes of the canary that a report tells one by one.
pub const MAX_ORDERED: usize = 64;

/// Groups of keys. A key's group is the low four bits of the hash that its bucket is made of: a key has one group for as
/// long as the rollout lasts, and group and bucket are independent.
pub const GROUPS: usize = 16;

/// A group of keys, below [`GROUPS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(u8);

/// One finished request of the canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    group: Group,
    bad: u8,
}

/// Finished requests of one version, and how many of them were bad in each metric, in the order of the rollout's SLOs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedTallies")]
pub struct Tallies {
    requests: u64,
    bad: [u64; MAX_SLOS],
}

/// An outcome of the canary, and stable's since the outcome before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Stable's requests that finished since the canary's last.
    pub stable: Tallies,
    /// The canary's.
    pub canary: Outcome,
}

/// One report of one worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcomes {
    ordered: Vec<Block>,
    after: Tallies,
    uncompared_canary: Tallies,
    uncompared_stable: Tallies,
}

/// Why outcomes cannot be right. The report is refused as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OutcomesError {
    /// A group that there is not.
    #[error(
        "a report names group {0} of the keys and there are {GROUPS}, from 0; run filters of the service's version"
    )]
    Group(u8),
    /// More bad requests than requests.
    #[error("a report counts {bad} bad of {requests} requests; run filters of the service's version")]
    Counts {
        /// In one metric.
        bad: u64,
        /// In all.
        requests: u64,
    },
    /// More metrics than a rollout can have.
    #[error(
        "a report counts for {0} SLOs and a rollout has at most {MAX_SLOS}; run filters of the service's version"
    )]
    Metrics(usize),
    /// No counts for something that an SLO is about.
    #[error("a report lacks counts for an SLO of the rollout; run filters of the service's version")]
    Missing,
    /// More outcomes than a report may have.
    #[error(
        "a report tells {0} outcomes one by one and may tell {MAX_ORDERED}; run filters of the service's version"
    )]
    TooMany(usize),
}

impl OutcomesError {
    /// A stable, low-cardinality name.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Group(_) => "group",
            Self::Counts { .. } => "counts",
            Self::Metrics(_) => "metrics",
            Self::Missing => "missing",
            Self::TooMany(_) => "too-many",
        }
    }
}

impl Group {
    /// Group `index`.
    pub fn new(index: u8) -> Result<Self, OutcomesError> {
        if usize::from(index) < GROUPS {
            Ok(Self(index))
        } else {
            Err(OutcomesError::Group(index))
        }
    }

    /// Its number, below [`GROUPS`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A bit for each metric.
const _: () = assert!(MAX_SLOS <= u8::BITS as usize);

impl Outcome {
    /// A request by a key of `group`; bit i of `bad` says that it was bad in the rollout's SLO i.
    pub fn new(group: Group, bad: u8) -> Self {
        Self { group, bad }
    }

    /// Whose key it was.
    pub fn group(self) -> Group {
        self.group
    }

    /// Whether it was bad in metric `index`.
    fn is_bad(self, index: usize) -> bool {
        self.bad >> index & 1 == 1
    }
}

impl Tallies {
    /// `requests` of which `bad` were bad in each metric.
    pub fn new(requests: u64, bad: &[u64]) -> Result<Self, OutcomesError> {
        let mut tallies = Self {
            requests,
            bad: [0; MAX_SLOS],
        };
        let Some(known) = tallies.bad.get_mut(..bad.len()) else {
            return Err(OutcomesError::Metrics(bad.len()));
        };
        known.copy_from_slice(bad);
        match bad.iter().find(|bad| **bad > requests) {
            Some(bad) => Err(OutcomesError::Counts { bad: *bad, requests }),
            None => Ok(tallies),
        }
    }

    /// All of them.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Those that were bad in metric `index`.
    pub fn bad(&self, index: usize) -> u64 {
        self.bad.get(index).copied().unwrap_or_default()
    }

    /// Seen through metric `index`.
    pub fn tally(&self, index: usize) -> Tally {
        Tally {
            requests: self.requests,
            bad: self.bad(index),
        }
    }

    /// Those of `more` too. Bad requests stay at most all of them, also where a count reaches its end.
    pub(crate) fn add(&mut self, more: &Self) {
        self.requests = self.requests.saturating_add(more.requests);
        for (bad, more) in self.bad.iter_mut().zip(more.bad) {
            *bad = bad.saturating_add(more);
        }
    }

    /// One more.
    pub(crate) fn count(&mut self, outcome: Outcome) {
        self.requests = self.requests.saturating_add(1);
        for (index, bad) in self.bad.iter_mut().enumerate() {
            *bad = bad.saturating_add(u64::from(outcome.is_bad(index)));
        }
    }
}

impl Outcomes {
    /// Outcomes in order: `ordered`, then stable's `after` the canary's last.
    pub fn in_order(ordered: Vec<Block>, after: Tallies) -> Result<Self, OutcomesError> {
        if ordered.len() > MAX_ORDERED {
            return Err(OutcomesError::TooMany(ordered.len()));
        }
        Ok(Self {
            ordered,
            after,
            ..Self::default()
        })
    }

    /// The same report with counts of what it does not tell in order.
    #[must_use]
    pub fn with_uncompared(mut self, canary: Tallies, stable: Tallies) -> Self {
        self.uncompared_canary = canary;
        self.uncompared_stable = stable;
        self
    }

    /// The same requests without their order.
    pub(crate) fn without_order(&self) -> Self {
        let (mut canary, mut stable) = (self.uncompared_canary, self.uncompared_stable);
        for block in &self.ordered {
            stable.add(&block.stable);
            canary.count(block.canary);
        }
        stable.add(&self.after);
        Self::default().with_uncompared(canary, stable)
    }

    /// In order.
    pub(crate) fn ordered(&self) -> &[Block] {
        &self.ordered
    }

    /// Stable's after the canary's last in order.
    pub(crate) fn after(&self) -> &Tallies {
        &self.after
    }

    /// The canary's without order.
    pub(crate) fn uncompared_canary(&self) -> &Tallies {
        &self.uncompared_canary
    }

    /// Stable's without order.
    pub(crate) fn uncompared_stable(&self) -> &Tallies {
        &self.uncompared_stable
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UncheckedTallies {
    requests: u64,
    bad: [u64; MAX_SLOS],
}

impl TryFrom<UncheckedTallies> for Tallies {
    type Error = OutcomesError;

    fn try_from(unchecked: UncheckedTallies) -> Result<Self, OutcomesError> {
        Self::new(unchecked.requests, &unchecked.bad)
    }
}
