//! From evidence to what follows.

use super::plan::Goal;
use super::trial::{Decides, Metric, Trial};
use crate::analysis::Finding;
use crate::tally::Tally;
use crate::text::Share;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a trial says now, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Verdict {
    /// What follows.
    pub decision: Decision,
    /// One for each SLO, in the rollout's order.
    pub evidence: Vec<Evidence>,
}

/// What follows from everything that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// The canary is to blame.
    RollBack,
    /// An SLO is violated by both versions: stop until it is over.
    StableAlsoFailing,
    /// Enough requests of this step, and every SLO is met.
    Pass,
    /// The evidence is not there yet.
    Wait,
    /// The evidence was not there by the deadline: hold, and say so.
    Inconclusive,
}

impl Decision {
    /// A stable, low-cardinality name.
    pub fn label(self) -> &'static str {
        match self {
            Self::RollBack => "roll-back",
            Self::StableAlsoFailing => "stable-also-failing",
            Self::Pass => "pass",
            Self::Wait => "wait",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// What is known about one SLO. Evidence is the capital of a bet that began with 1: the chance that it ever reaches the
/// bound is at most 1 / bound while what it is evidence for is not so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Evidence {
    /// The SLO as text.
    pub slo: String,
    /// The canary's requests in this step.
    pub canary: Tally,
    /// Stable's requests in this step.
    pub stable: Tally,
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
    pub rests_on: Option<usize>,
    /// What follows.
    pub finding: Finding,
}

impl Trial {
    /// What is known now, when the present step has lived through `lived_ms` milliseconds.
    pub fn verdict(&self, lived_ms: u64) -> Verdict {
        let evidence: Vec<Evidence> = self
            .metrics
            .iter()
            .zip(self.plan.goals())
            .enumerate()
            .map(|(index, (metric, goal))| self.evidence(index, metric, goal))
            .collect();
        let found = |finding| evidence.iter().any(|one| one.finding == finding);
        let decision = if found(Finding::Worse) {
            Decision::RollBack
        } else if found(Finding::StableAlso) {
            Decision::StableAlsoFailing
        } else if evidence.iter().all(|one| one.finding == Finding::Met) {
            Decision::Pass
        } else if self.plan.is_late(lived_ms) {
            Decision::Inconclusive
        } else {
            Decision::Wait
        };
        Verdict { decision, evidence }
    }

    fn evidence(&self, index: usize, metric: &Metric, goal: &Goal) -> Evidence {
        let bound = self.plan.bound();
        let is_compared = self.decides == Decides::SloAndStable;
        let mut evidence = Evidence {
            slo: goal.slo.clone(),
            canary: self.canary.tally(index),
            stable: self.stable.tally(index),
            allowed: goal.allowed,
            tolerance: self.plan.tolerance(),
            bound,
            violated: metric.canary.evidence(),
            stable_violates: metric.stable.evidence(),
            worse: is_compared.then(|| metric.worse.evidence()),
            rests_on: metric.worse.rests_on(bound).filter(|_| is_compared),
            finding: Finding::Met,
        };
        evidence.finding = self.finding(&evidence);
        evidence
    }

    fn finding(&self, evidence: &Evidence) -> Finding {
        if evidence.violated >= evidence.bound {
            if evidence.worse.is_none_or(|worse| worse >= evidence.bound) {
                Finding::Worse
            } else if evidence.stable_violates >= evidence.bound {
                Finding::StableAlso
            } else {
                Finding::Violated
            }
        } else if self.plan.is_too_few(evidence.canary) {
            Finding::TooFew
        } else if evidence.canary.share() > evidence.allowed {
            Finding::Missed
        } else {
            Finding::Met
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: canary {}, {} allowed",
            self.slo,
            self.canary,
            Share(self.allowed)
        )?;
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
        match self.rests_on {
            Some(group) => write!(
                f,
                ", all but for the keys of group {group}, which may be one user"
            ),
            None => Ok(()),
        }
    }
}
