//! How often a whole rollout is rolled back that should not be, measured on the shipped state machine: steps, pauses, a
//! watch, looks each quarter of a second. What is counted is compared with the promise by an exact confidence bound.
//!
//! `docs/analysis.md` has the long table. Seeds are fixed, so a test that passed passes again.

use crate::confidence::{at_least, at_most};
use crate::stream::{Shocks, Users, World};
use crate::traffic::{End, Outcome, Traffic, run};
use knhk_promotion::RolloutSpec;

/// Large enough to be measured in a few hundred rollouts.
const ALPHA: f64 = 0.05;
/// How sure the bounds on a count are.
const LEVEL: f64 = 0.01;
/// Steps and watch last half a minute; what waits longer counts as not rolled back.
const LIMIT_MS: u64 = 45_000;

fn spec(tolerance: f64) -> RolloutSpec {
    staged(
        tolerance,
        "{ name: canary, steps: [ { setWeight: 5, pause: 10s }, { setWeight: 50, pause: 10s } ] }",
    )
}

/// With this stage before production.
fn staged(tolerance: f64, stage: &str) -> RolloutSpec {
    let yaml = format!(
        "
apiVersion: knhk.dev/v1
kind: Rollout
metadata: {{ name: checkout }}
spec:
  version: v42
  stable: v41
  match: {{}}
  key: [ {{ requestId: {{}} }} ]
  stages:
    - {stage}
    - {{ name: production, watch: 10s }}
  analysis: {{ alpha: {ALPHA}, tolerance: {tolerance}, slos: [ {{ metric: request-success-rate, min: 99.5 }}, {{ metric: request-duration, quantile: 0.995, max: 1s }} ] }}
"
    );
    RolloutSpec::from_yaml(&yaml).expect("it is a rollout")
}

fn steady(stable: f64, canary: f64) -> World {
    World {
        weight: 0.0,
        stable,
        canary,
        shocks: None,
        users: Users::Many,
    }
}

/// Rollouts of which at most `alpha` may be rolled back, before production or ever.
fn promised() -> Vec<(&'static str, f64, World)> {
    let shocks = Some(Shocks {
        begins: 0.0005,
        ends: 0.005,
        bad: 0.7,
    });
    vec![
        ("within the SLOs", 0.5, steady(0.001, 0.001)),
        ("exactly at the SLOs", 0.5, steady(0.005, 0.005)),
        (
            "both miss the SLOs, the canary by what is tolerated",
            0.5,
            steady(0.05, 0.055),
        ),
        (
            "outages of both, nothing tolerated",
            0.0,
            World {
                shocks,
                ..steady(0.001, 0.001)
            },
        ),
        (
            "users of the canary fail three times in a row",
            0.5,
            World {
                users: Users::Retrying(3),
                ..steady(0.003, 0.003)
            },
        ),
        (
            "one user is a fifth of the canary and always fails",
            0.5,
            World {
                users: Users::OneHeavy(0.2),
                ..steady(0.02, 0.02)
            },
        ),
    ]
}

fn ends(spec: &RolloutSpec, world: World, runs: u32) -> Vec<Outcome> {
    let traffic = Traffic {
        rate: 400,
        picked: 200,
        world,
    };
    (0..runs)
        .map(|seed| run(spec, traffic, LIMIT_MS, u64::from(seed)))
        .collect()
}

fn count(ends: &[Outcome], end: End) -> u32 {
    u32::try_from(ends.iter().filter(|outcome| outcome.end == end).count()).expect("at most all")
}

fn keeps_its_promise(runs: u32) {
    for (name, tolerance, world) in promised() {
        let ends = ends(&spec(tolerance), world, runs);
        let rolled_back = count(&ends, End::Canary);
        let most = at_most(rolled_back, runs, LEVEL);
        assert!(
            most <= ALPHA,
            "{name}: {rolled_back} of {runs} rolled back beside stable, the chance may be {most}"
        );
    }
}

#[test]
fn no_more_than_alpha_of_good_rollouts_are_rolled_back() {
    keeps_its_promise(200);
}

#[test]
#[ignore = "minutes: the same, more often"]
fn no_more_than_alpha_of_good_rollouts_are_rolled_back_in_the_long_run() {
    keeps_its_promise(2_000);
}

#[test]
fn a_version_exactly_at_its_slos_is_not_rolled_back_in_its_watch() {
    let ends = ends(&spec(0.5), steady(0.004, 0.004), 120);
    let most = at_most(count(&ends, End::Watch), 120, LEVEL);
    assert!(most <= ALPHA, "up to {most}");
}

const STAGING: &str =
    "{ name: staging, match: { headers: [ { name: x-tester, present: true } ] }, pause: 20s }";

#[test]
fn a_version_exactly_at_its_slos_is_not_rolled_back_in_staging() {
    let ends = ends(&staged(0.5, STAGING), steady(0.004, 0.004), 120);
    let most = at_most(count(&ends, End::Staging), 120, LEVEL);
    assert!(most <= ALPHA, "up to {most}");
}

#[test]
fn a_bad_version_is_rolled_back_in_staging() {
    let ends = ends(&staged(0.5, STAGING), steady(0.001, 0.3), 60);
    assert_eq!(count(&ends, End::Staging), 60);
}

#[test]
fn a_version_well_within_its_slos_succeeds() {
    let ends = ends(&spec(0.5), steady(0.001, 0.001), 100);
    let least = at_least(count(&ends, End::Succeeded), 100, LEVEL);
    assert!(least >= 0.9, "{least}");
}

#[test]
fn a_bad_canary_is_always_rolled_back() {
    // The same counting that finds no alarm above must be able to find one.
    let ends = ends(&spec(0.5), steady(0.001, 0.3), 100);
    assert_eq!(count(&ends, End::Canary), 100);
    let mut requests: Vec<u64> = ends.iter().map(|outcome| outcome.requests).collect();
    requests.sort_unstable();
    assert!(requests[50] <= 80 && requests[99] <= 200, "{requests:?}");
}
