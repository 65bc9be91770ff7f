//! What follows from one SLO's numbers.

use crate::tally::Tally;
use crate::text::Share;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// What is known about one SLO. Evidence is the capital of a bet that began with 1: the chance that it ever reaches the
/// bound is at most 1 / bound while what it is evidence for is not so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reading {
    /// The SLO as text.
    pub slo: String,
    /// The canary's requests in this step; in a staging stage all that the version served.
    pub canary: Tally,
    /// Stable's requests in this step.
    pub stable: Tally,
    /// In a staging stage those of `canary` that staging led to the version: without enough of them, and without their
    /// share being within the SLO as well, it is not passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staging: Option<Tally>,
    /// The share of bad requests that the SLO allows, as a fraction.
    pub allowed: f64,
    /// How much larger than stable's the canary's share may be, as a fraction.
    pub tolerance: f64,
    /// What evidence has to reach.
    pub bound: f64,
    /// That the canary violates the SLO.
    pub violated: f64,
    /// That stable violates it.
    pub stable_violates: f64,
    /// That the canary is worse than stable by more than the tolerance, without the keys of any one group. None where the
    /// SLO alone decides.
    pub worse: Option<f64>,
    /// The group of keys that the rest of the evidence that the canary is worse rests on: without them it would be below
    /// the bound, without any other it is not. Often a single heavy user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<usize>,
    /// What follows.
    pub finding: Finding,
    /// The identity without whose reports more would not follow, which is why it does not: see `trials.rs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rests_on: Option<Arc<str>>,
}

/// What follows from one SLO's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// Fewer requests than `minRequests`, and nothing proven: wait.
    TooFew,
    /// Enough requests, and their share of bad ones is within the SLO: passed.
    Met,
    /// Their share of bad ones is over the SLO's, which may be chance: wait.
    Missed,
    /// The SLO is violated, but that the canary is worse than stable is not proven, nor that stable violates it: wait.
    Violated,
    /// The SLO is violated by both: stop until it is over.
    StableAlso,
    /// The SLO is violated, and the canary is worse than stable by more than the tolerance, or alone: roll back.
    Worse,
}

impl Finding {
    /// A stable, low-cardinality name.
    pub fn label(self) -> &'static str {
        match self {
            Self::TooFew => "too-few",
            Self::Met => "met",
            Self::Missed => "missed",
            Self::Violated => "violated",
            Self::StableAlso => "stable-also",
            Self::Worse => "worse",
        }
    }
}

impl Reading {
    /// The requests that the step is about.
    pub(crate) fn own(&self) -> Tally {
        self.staging.unwrap_or(self.canary)
    }

    /// What follows from these numbers where a step needs `min_requests` of the canary.
    pub(crate) fn found(&self, min_requests: u64) -> Finding {
        if self.violated >= self.bound {
            if self.worse.is_none_or(|worse| worse >= self.bound) {
                Finding::Worse
            } else if self.stable_violates >= self.bound {
                Finding::StableAlso
            } else {
                Finding::Violated
            }
        } else if self.own().requests < min_requests {
            Finding::TooFew
        } else if self.canary.share() > self.allowed || self.own().share() > self.allowed {
            Finding::Missed
        } else {
            Finding::Met
        }
    }
}

/// The canary's numbers and what is allowed; where more than that counts, the evidence and its bound, and stable's.
impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: canary {}, {} allowed",
            self.slo,
            self.canary,
            Share(self.allowed)
        )?;
        if let Some(staging) = self.staging {
            write!(f, ", staging's own {staging}")?;
        }
        if matches!(self.finding, Finding::TooFew | Finding::Met) {
            return Ok(());
        }
        write!(f, " (evidence {:.1e} of {:.1e})", self.violated, self.bound)?;
        let Some(worse) = self.worse else { return Ok(()) };
        write!(
            f,
            "; stable {} (evidence {:.1e}); worse by more than {} (evidence {worse:.1e})",
            self.stable,
            self.stable_violates,
            Share(self.tolerance)
        )?;
        match self.group {
            Some(group) => write!(
                f,
                ", all but for the keys of group {group}, which may be one user"
            ),
            None => Ok(()),
        }
    }
}
