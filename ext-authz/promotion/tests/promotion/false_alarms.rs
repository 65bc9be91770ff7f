//! How often the rule blames a canary that is not to blame, measured on the shipped state machine.
//!
//! `docs/analysis.md` has the long table; here the same simulation is small and its seed fixed, and each promise of that
//! page is checked against the confidence interval of the measurement, not its point.

use crate::traffic::{End, Outcome, Traffic, interval, run};
use knhk_promotion::RolloutSpec;

const SPEC: &str = "
apiVersion: knhk.dev/v1
kind: Rollout
metadata: { name: checkout }
spec:
  version: v42
  stable: v41
  match: {}
  key: [ { requestId: {} } ]
  stages:
    - { name: canary, steps: [ { setWeight: 5, pause: 10s }, { setWeight: 50, pause: 10s } ] }
    - { name: production, watch: 30s }
  analysis: { alpha: 0.01, tolerance: 0.5, slos: [ { metric: request-success-rate, min: 99.5 } ] }
";

const RUNS: u32 = 300;
/// Twice what the steps last: what waits longer for better numbers counts as not rolled back.
const LIMIT_MS: u64 = 100_000;

/// What a version within its SLO may need when chance holds it back for a while.
const PATIENT_MS: u64 = 900_000;

/// How many of [`RUNS`] rollouts ended this way in time.
fn count(traffic: Traffic, end: End, limit_ms: u64) -> u32 {
    let spec = RolloutSpec::from_yaml(SPEC).expect("it is a rollout");
    let ended = (0..RUNS).filter(|seed| run(&spec, traffic, limit_ms, u64::from(*seed)).end == end);
    u32::try_from(ended.count()).expect("at most RUNS")
}

fn steady(stable: f64, canary: f64) -> Traffic {
    Traffic {
        rate: 100.0,
        stable,
        canary,
        burst: 1,
    }
}

/// With 300 runs the interval of no alarm at all ends at 1.3 %.
const MEASURABLE: f64 = 0.015;

#[test]
fn a_canary_as_good_as_stable_is_not_rolled_back_beside_it() {
    // Well within the SLO, exactly at it, and with both far over it.
    for share in [0.001, 0.005, 0.05] {
        let (_, most) = interval(count(steady(share, share), End::Canary, LIMIT_MS), RUNS);
        assert!(most <= MEASURABLE, "at a share of {share}: up to {most}");
    }
}

#[test]
fn a_version_well_within_its_slo_succeeds() {
    let (least, _) = interval(count(steady(0.001, 0.001), End::Succeeded, PATIENT_MS), RUNS);
    assert!(least >= 1.0 - MEASURABLE, "{least}");
}

#[test]
fn a_version_exactly_at_its_slo_is_seldom_rolled_back_in_the_watch() {
    let (_, most) = interval(count(steady(0.005, 0.005), End::Watch, LIMIT_MS), RUNS);
    assert!(most <= 0.03, "up to {most}");
}

#[test]
fn a_bad_canary_is_always_rolled_back() {
    // The same counting that finds no alarm above must be able to find one.
    let (least, _) = interval(count(steady(0.001, 0.3), End::Canary, LIMIT_MS), RUNS);
    assert!(least >= 1.0 - MEASURABLE, "{least}");
}

#[test]
fn thirty_percent_errors_at_ten_requests_a_second_are_found_within_seconds() {
    let spec = RolloutSpec::from_yaml(SPEC).expect("it is a rollout");
    let traffic = Traffic {
        rate: 200.0,
        stable: 0.001,
        canary: 0.3,
        burst: 1,
    };
    let ended: Vec<Outcome> = (0..RUNS)
        .map(|seed| run(&spec, traffic, LIMIT_MS, u64::from(seed)))
        .collect();
    let sorted = |of: fn(&Outcome) -> u64| {
        let mut numbers: Vec<u64> = ended.iter().map(of).collect();
        numbers.sort_unstable();
        (numbers[numbers.len() / 2], numbers[numbers.len() * 99 / 100])
    };
    let (median, late) = sorted(|outcome| outcome.requests);
    assert!(
        median <= 20 && late <= 60,
        "median {median}, 99 of 100 within {late} requests"
    );
    let (median, late) = sorted(|outcome| outcome.ms);
    assert!(
        median <= 2_000 && late <= 6_000,
        "median {median} ms, 99 of 100 within {late} ms of the model's time"
    );
}
