//! The rule that judges a canary: see `docs/analysis.md` for what it promises and how often it is wrong.
//!
//! Each look judges the whole window. For every SLO, with the canary's bad requests X of n:
//! - *violated*: P(X or more of n) is at most the level if the canary's bad share were the one that the SLO allows;
//! - *worse than stable*: P(X or more of n) is at most half the level if the canary's bad share were stable's plus
//!   the tolerance, where stable's share is its upper confidence bound at the other half of the level.
//!
//! Both: roll back. Violated, by stable too, but not worse: stop and say so. Where nothing of stable runs beside the
//! canary (a weight of 100 %), the SLO alone decides.

use crate::agreement::agreed;
use crate::binomial::{count, upper_bound, upper_tail};
use crate::counts::WindowCounts;
use crate::reporters::Weighed;
use crate::spec::{RolloutSpec, Slo, Stage};
use crate::tally::Tally;
use knhk_decision::spec::Weight;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The part of `alpha` that one look may spend is `alpha` / ([`LOOKS`] x SLOs x windows of the rollout).
///
/// A window is looked at many times and a walk has many chances to cross a fixed line: this is the allowance for it.
/// It is measured (`examples/false_alarms.rs`), not proven.
pub const LOOKS: u32 = 10;

/// What one look found out about one SLO.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reading {
    /// The SLO as text.
    pub slo: String,
    /// The canary's requests in this window.
    pub canary: Tally,
    /// Stable's requests in this window.
    pub stable: Tally,
    /// The share of bad requests that the SLO allows, as a fraction.
    pub allowed: f64,
    /// The chance of so many bad requests if the canary's share were the allowed one.
    pub slo_tail: f64,
    /// The largest share that a canary may have without being worse than stable by more than the tolerance: stable's
    /// upper confidence bound plus the tolerance. None where the SLO alone decides, or where it is not violated.
    pub bound: Option<f64>,
    /// The chance of so many bad requests if the canary's share were that bound.
    pub bound_tail: Option<f64>,
    /// What the chance may be at most for the SLO to count as violated; half of it in the comparison.
    pub level: f64,
    /// What follows.
    pub finding: Finding,
    /// The identity without whose counts more would not follow, which is why it does not: see `agreement.rs`.
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

/// Judges every SLO of `spec` by the evidence of one window that runs at `weight`.
///
/// The comparison with stable, which costs the most, is made where it can change the finding: where the SLO is violated.
pub fn judge(spec: &RolloutSpec, weight: Weight, evidence: &Weighed) -> Vec<Reading> {
    let thresholds = spec.thresholds();
    let level = look_level(spec);
    let slos = spec.analysis.slos.iter();
    slos.map(|slo| {
        let by = |counts: &WindowCounts| {
            let canary = Tally::of(*slo, &counts.canary, &thresholds);
            let stable = Tally::of(*slo, &counts.stable, &thresholds);
            read(spec, *slo, weight, canary, stable, level)
        };
        agreed(by(evidence.counts()), evidence, by)
    })
    .collect()
}

/// The level of one look.
pub fn look_level(spec: &RolloutSpec) -> f64 {
    let windows: usize = spec
        .stages
        .iter()
        .map(|stage| match stage {
            Stage::Canary { steps } => steps.iter().filter(|step| step.weight > Weight::ZERO).count(),
            Stage::Production { .. } => 1,
        })
        .sum();
    let tests = windows.max(1) * spec.analysis.slos.len().max(1);
    spec.analysis.alpha.value() / (f64::from(LOOKS) * count(tests as u64))
}

fn read(spec: &RolloutSpec, slo: Slo, weight: Weight, canary: Tally, stable: Tally, level: f64) -> Reading {
    let (seen, allowed) = (canary.bounded(), slo.allowed());
    let slo_tail = upper_tail(seen.bad, seen.requests, allowed);
    let mut reading = Reading {
        slo: slo.to_string(),
        canary,
        stable,
        allowed,
        slo_tail,
        bound: None,
        bound_tail: None,
        level,
        finding: Finding::Met,
        rests_on: None,
    };
    reading.finding = if slo_tail <= level {
        reading.compare(spec, weight);
        violation(&reading)
    } else if canary.requests < spec.analysis.min_requests {
        Finding::TooFew
    } else if canary.share() > allowed {
        Finding::Missed
    } else {
        Finding::Met
    };
    reading
}

/// What a violated SLO means, once it is compared.
fn violation(reading: &Reading) -> Finding {
    let beside = reading.stable.bounded();
    if reading.bound_tail.is_none_or(|tail| tail <= reading.level / 2.0) {
        Finding::Worse
    } else if upper_tail(beside.bad, beside.requests, reading.allowed) <= reading.level {
        Finding::StableAlso
    } else {
        Finding::Violated
    }
}

impl Reading {
    /// Fills in the comparison with stable, where stable runs beside the canary.
    pub(crate) fn compare(&mut self, spec: &RolloutSpec, weight: Weight) {
        if weight == Weight::FULL {
            return;
        }
        let (seen, beside) = (self.canary.bounded(), self.stable.bounded());
        let stable_at_most = upper_bound(beside.bad, beside.requests, self.level / 2.0);
        let bound = (stable_at_most + spec.analysis.tolerance.fraction()).min(1.0);
        self.bound = Some(bound);
        self.bound_tail = Some(upper_tail(seen.bad, seen.requests, bound));
    }
}
