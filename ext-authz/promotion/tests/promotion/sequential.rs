//! The sequential tests from the outside: the shipped trial is fed, never a copy of its formulas.

mod definition;
mod monte_carlo;
mod properties;
mod verdicts;

use crate::scenarios;
use knhk_promotion::sequential::{
    Block, Decides, Group, Outcome, Outcomes, Plan, Tallies, Trial, TrialEvent,
};

/// One SLO, 200 requests a step.
pub(crate) fn plan(alpha: f64, tolerance: f64, min: f64) -> Plan {
    scenarios::plan(
        alpha,
        tolerance,
        &format!("{{ metric: request-success-rate, min: {min} }}"),
    )
}

/// Two SLOs.
pub(crate) fn plan_of_two(alpha: f64) -> Plan {
    let slos =
        "{ metric: request-success-rate, min: 99 }, { metric: request-duration, quantile: 0.9, max: 250ms }";
    scenarios::plan(alpha, 0.5, slos)
}

/// An outcome of the canary by a key of `group`, bad in the metrics of the bits, after `stable` requests of which so many
/// were bad in the first metric and in the second.
pub(crate) fn block(group: u8, bad: u8, stable: u64, stable_bad: [u64; 2]) -> Block {
    Block {
        stable: tallies(stable, stable_bad),
        canary: Outcome::new(Group::new(group).expect("it is a group"), bad),
    }
}

pub(crate) fn tallies(requests: u64, bad: [u64; 2]) -> Tallies {
    Tallies::new(requests, &bad).expect("they are right")
}

pub(crate) fn in_order(blocks: Vec<Block>) -> TrialEvent {
    let outcomes = Outcomes::in_order(blocks, Tallies::default()).expect("it is not too long");
    TrialEvent::Finished(Box::new(outcomes))
}

pub(crate) fn beside(plan: &Plan) -> Trial {
    Trial::new(plan.clone(), Decides::SloAndStable)
}
