//! What a trial is about: the SLOs, and how `alpha` is shared over them.

use crate::spec::{MAX_MIN_REQUESTS, MAX_SLOS, RolloutSpec};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How the canary of one generation is judged. It is a part of the trial's state: a rollout whose analysis is changed
/// starts a new trial, with a promise of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedPlan", rename_all = "camelCase")]
pub struct Plan {
    goals: Vec<Goal>,
    alpha: f64,
    tolerance: f64,
    min_requests: u64,
}

/// One SLO.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Goal {
    /// As text.
    pub slo: String,
    /// The share of bad requests that it allows, as a fraction from 0 to 1.
    pub allowed: f64,
}

/// Why a plan from a state cannot be right.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// None, or too many.
    #[error("a trial of {0} SLOs: there are 1 to {MAX_SLOS}; its state was damaged, start the rollout over")]
    Goals(usize),
    /// A number out of its range.
    #[error(
        "a trial with {field} {value}, from {least} to {most}; its state was damaged, start the rollout over"
    )]
    Range {
        /// Which.
        field: &'static str,
        /// What it is.
        value: f64,
        /// What it may be at least.
        least: f64,
        /// What it may be at most.
        most: f64,
    },
    /// Evidence without its needs.
    #[error(
        "a trial with minRequests {0}, 1 to {MAX_MIN_REQUESTS}; its state was damaged, start the rollout over"
    )]
    MinRequests(u64),
}

impl PlanError {
    /// A stable, low-cardinality name.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Goals(_) => "goals",
            Self::Range { field, .. } => field,
            Self::MinRequests(_) => "min-requests",
        }
    }
}

/// The smallest `alpha`, that of the spec: a part per million.
const LEAST_ALPHA: f64 = 1e-6;
/// The largest.
const MOST_ALPHA: f64 = 0.5;

impl Plan {
    /// What `spec` asks for.
    pub fn of(spec: &RolloutSpec) -> Self {
        let analysis = &spec.analysis;
        let goal = |slo: &crate::spec::Slo| Goal {
            slo: slo.to_string(),
            allowed: slo.allowed(),
        };
        Self {
            goals: analysis.slos.iter().map(goal).collect(),
            alpha: analysis.alpha.value(),
            tolerance: analysis.tolerance.fraction(),
            min_requests: analysis.min_requests,
        }
    }

    /// The SLOs in the rollout's order.
    pub fn goals(&self) -> &[Goal] {
        &self.goals
    }

    /// How much larger than stable's the canary's share of bad requests may be, as a fraction.
    pub fn tolerance(&self) -> f64 {
        self.tolerance
    }

    /// What evidence has to reach: the number of SLOs over `alpha`.
    ///
    /// Each SLO has an equal part of `alpha`, so the chance that any of them is blamed wrongly is at most `alpha`, whatever
    /// they have to do with each other (Boole). The steps and the looks have no part: one test spans them all.
    pub fn bound(&self) -> f64 {
        let goals: f64 = self.goals.iter().map(|_| 1.0).sum();
        goals / self.alpha
    }

    /// The canary's requests that a step needs.
    pub fn min_requests(&self) -> u64 {
        self.min_requests
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UncheckedPlan {
    goals: Vec<Goal>,
    alpha: f64,
    tolerance: f64,
    min_requests: u64,
}

impl TryFrom<UncheckedPlan> for Plan {
    type Error = PlanError;

    fn try_from(unchecked: UncheckedPlan) -> Result<Self, PlanError> {
        if !(1..=MAX_SLOS).contains(&unchecked.goals.len()) {
            return Err(PlanError::Goals(unchecked.goals.len()));
        }
        in_range("alpha", unchecked.alpha, LEAST_ALPHA, MOST_ALPHA)?;
        in_range("tolerance", unchecked.tolerance, 0.0, 1.0)?;
        for goal in &unchecked.goals {
            in_range("allowed", goal.allowed, 0.0, 1.0)?;
        }
        if !(1..=MAX_MIN_REQUESTS).contains(&unchecked.min_requests) {
            return Err(PlanError::MinRequests(unchecked.min_requests));
        }
        Ok(Self {
            goals: unchecked.goals,
            alpha: unchecked.alpha,
            tolerance: unchecked.tolerance,
            min_requests: unchecked.min_requests,
        })
    }
}

fn in_range(field: &'static str, value: f64, least: f64, most: f64) -> Result<(), PlanError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(PlanError::Range {
        field,
        value,
        least,
        most,
    })
}
