//! The promise, measured: the shipped trial on random traffic, with exact confidence bounds on what is counted.
//!
//! Seeds are fixed, so a test that passed passes again. Enumeration proves the promise for short histories and for every
//! null (`src/sequential/reference.rs`); here are long ones, for the traffic that there is.

use crate::confidence::{at_least, at_most};
use crate::scenarios::{ALPHA, Scenario, not_promised, plan, promised, until_rollback};
use crate::stream::{Users, World};
use knhk_promotion::sequential::{Decides, Trial};

/// How sure the bounds on a count are.
const LEVEL: f64 = 0.01;

/// Rolled back in at most `alpha` of rollouts, and that is known.
fn keeps_its_promise(scenario: &Scenario, runs: u32, requests: u32) {
    // A look after each 20 requests, so after almost every one of the canary at 5 %.
    let rolled_back = scenario.rollbacks(runs, requests, 20);
    let most = at_most(rolled_back, runs, LEVEL);
    assert!(
        most <= ALPHA,
        "{}: {rolled_back} of {runs} rolled back, the chance may be {most}",
        scenario.name
    );
}

#[test]
fn no_more_than_alpha_of_good_canaries_are_rolled_back() {
    for scenario in promised() {
        keeps_its_promise(&scenario, 400, 30_000);
    }
}

#[test]
#[ignore = "minutes: the same, longer and more often"]
fn no_more_than_alpha_of_good_canaries_are_rolled_back_in_the_long_run() {
    for scenario in promised() {
        keeps_its_promise(&scenario, 2_000, 200_000);
    }
}

#[test]
fn where_nothing_is_promised_it_can_be_seen() {
    // The counting that finds no alarm above finds these: users who try again without end are beyond the promise.
    let scenarios = not_promised();
    let worst = scenarios
        .iter()
        .find(|scenario| scenario.name.contains("30 times"));
    let rolled_back = worst.expect("it is there").rollbacks(250, 80_000, 20);
    assert!(at_least(rolled_back, 250, LEVEL) > ALPHA, "{rolled_back}");
}

#[test]
fn a_bad_canary_is_found() {
    let slo =
        "{ metric: request-success-rate, min: 99.5 }, { metric: request-duration, quantile: 0.99, max: 1s }";
    let plan = plan(0.01, 0.5, slo);
    for (extra, most) in [(0.3, 2_400), (0.05, 18_000)] {
        let world = World {
            weight: 0.05,
            stable: 0.001,
            canary: 0.001 + extra,
            shocks: None,
            users: Users::Many,
        };
        let found = (0..300).filter(|seed| {
            let trial = Trial::new(plan.clone(), Decides::SloAndStable);
            until_rollback(trial, world, most, 20, *seed).is_some()
        });
        let found = u32::try_from(found.count()).expect("at most all");
        assert!(
            at_least(found, 300, LEVEL) >= 0.98,
            "{extra}: {found} of 300 within {most} requests of both versions"
        );
    }
}
