//! From evidence to what follows.

use super::plan::Goal;
use super::trial::{Decides, Metric, Trial};
use crate::finding::{Finding, Reading};
use serde::{Deserialize, Serialize};

/// What a trial says now, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Verdict {
    /// What follows.
    pub decision: Decision,
    /// One for each SLO, in the rollout's order.
    pub readings: Vec<Reading>,
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

/// Whether a step may go on waiting for its evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// There is no deadline, or it lies ahead.
    Left,
    /// The deadline is over.
    Over,
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

impl Verdict {
    /// What follows from the readings of every SLO. Of none it is a pass: there is nothing to judge.
    pub(crate) fn of(readings: Vec<Reading>, patience: Patience) -> Self {
        let found = |finding| readings.iter().any(|one| one.finding == finding);
        let decision = if found(Finding::Worse) {
            Decision::RollBack
        } else if found(Finding::StableAlso) {
            Decision::StableAlsoFailing
        } else if readings.iter().all(|one| one.finding == Finding::Met) {
            Decision::Pass
        } else if patience == Patience::Over {
            Decision::Inconclusive
        } else {
            Decision::Wait
        };
        Self { decision, readings }
    }
}

impl Trial {
    /// What is known now.
    pub fn verdict(&self, patience: Patience) -> Verdict {
        let metrics = self.metrics.iter().zip(self.plan.goals()).enumerate();
        let readings = metrics.map(|(index, (metric, goal))| self.reading(index, metric, goal));
        Verdict::of(readings.collect(), patience)
    }

    fn reading(&self, index: usize, metric: &Metric, goal: &Goal) -> Reading {
        let bound = self.plan.bound();
        let is_compared = self.decides == Decides::SloAndStable;
        let mut reading = Reading {
            slo: goal.slo.clone(),
            canary: self.canary.tally(index),
            stable: self.stable.tally(index),
            staging: None,
            allowed: goal.allowed,
            tolerance: self.plan.tolerance(),
            bound,
            violated: metric.canary.evidence(),
            stable_violates: metric.stable.evidence(),
            worse: is_compared.then(|| metric.worse.evidence()),
            group: metric.worse.rests_on(bound).filter(|_| is_compared),
            finding: Finding::Met,
            rests_on: None,
        };
        reading.finding = reading.found(self.plan.min_requests());
        reading
    }
}
