//! Measures whole rollouts on the shipped state machine and prints the table of `docs/analysis.md`.
//!
//! `cargo run --release -p knhk-promotion --example false_alarms [-- RUNS]`; the same RUNS give the same table.
#![allow(clippy::print_stdout)]

#[path = "../tests/promotion/confidence.rs"]
mod confidence;
#[path = "../tests/promotion/stream.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod stream;
#[path = "../tests/promotion/traffic.rs"]
mod traffic;

use confidence::{at_least, at_most};
use knhk_promotion::RolloutSpec;
use std::process::ExitCode;
use stream::{Shocks, Users, World};
use traffic::{End, Outcome, Traffic, run};

const RUNS: u32 = 100;
/// Of both sides of an interval together: 99 %.
const LEVEL: f64 = 0.005;
/// Twice what the steps last.
const LIMIT_MS: u64 = 420_000;

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
    - { name: canary, steps: [ { setWeight: 1, pause: 30s }, { setWeight: 5, pause: 30s }, { setWeight: 50, pause: 30s } ] }
    - { name: staging, match: { headers: [ { name: x-tester, present: true } ] }, pause: 30s }
    - { name: production, watch: 90s }
  analysis: { minRequests: 100, alpha: 0.01, tolerance: 0.5, slos: [ { metric: request-success-rate, min: 99.5 }, { metric: request-duration, quantile: 0.995, max: 250ms } ] }
";

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    let Ok(runs) = argument.map_or(Ok(RUNS), |text| text.parse()) else {
        eprintln!("RUNS is the number of rollouts a row, such as {RUNS}");
        return ExitCode::from(2);
    };
    let spec = RolloutSpec::from_yaml(SPEC).expect("the example's own rollout is right");
    println!(
        "| traffic | rolled back beside stable | in staging | in the watch | held | succeeded | requests of the canary in the last step, median |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, world) in worlds() {
        let traffic = Traffic {
            rate: 400,
            picked: 40,
            world,
        };
        let ends: Vec<Outcome> = (0..runs)
            .map(|seed| run(&spec, traffic, LIMIT_MS, u64::from(seed)))
            .collect();
        println!(
            "| {name} | {} | {} | {} | {} | {} | {} |",
            share(&ends, End::Canary, runs),
            share(&ends, End::Staging, runs),
            share(&ends, End::Watch, runs),
            count(&ends, End::Holding),
            count(&ends, End::Succeeded),
            median(&ends)
        );
    }
    ExitCode::SUCCESS
}

fn worlds() -> Vec<(&'static str, World)> {
    let steady = |stable, canary| World {
        weight: 0.0,
        stable,
        canary,
        shocks: None,
        users: Users::Many,
    };
    let users = |users, world| World { users, ..world };
    let shocks = Some(Shocks {
        begins: 0.0002,
        ends: 0.005,
        bad: 0.7,
    });
    vec![
        ("both fail 0.1 %", steady(0.001, 0.001)),
        ("both exactly at the SLO", steady(0.005, 0.005)),
        ("both fail 2 %", steady(0.02, 0.02)),
        ("the canary is worse by what is tolerated", steady(0.02, 0.025)),
        (
            "outages of both",
            World {
                shocks,
                ..steady(0.001, 0.001)
            },
        ),
        (
            "one user is a fifth of the canary and always fails",
            users(Users::OneHeavy(0.2), steady(0.001, 0.001)),
        ),
        (
            "users of the canary fail 3 times in a row",
            users(Users::Retrying(3), steady(0.003, 0.003)),
        ),
        (
            "users of the canary fail 10 times in a row",
            users(Users::Retrying(10), steady(0.003, 0.003)),
        ),
        ("the canary fails 30 %", steady(0.001, 0.301)),
        ("the canary fails 5 %", steady(0.001, 0.051)),
    ]
}

fn count(ends: &[Outcome], end: End) -> u32 {
    u32::try_from(ends.iter().filter(|outcome| outcome.end == end).count()).unwrap_or(u32::MAX)
}

/// The share with its exact 99 % confidence interval.
fn share(ends: &[Outcome], end: End, runs: u32) -> String {
    let hits = count(ends, end);
    format!(
        "{:.1} % ({:.1} to {:.1})",
        f64::from(hits) / f64::from(runs) * 100.0,
        at_least(hits, runs, LEVEL) * 100.0,
        at_most(hits, runs, LEVEL) * 100.0
    )
}

/// Of the last window of those that were rolled back.
fn median(ends: &[Outcome]) -> String {
    let back = ends
        .iter()
        .filter(|outcome| matches!(outcome.end, End::Canary | End::Staging | End::Watch));
    let mut requests: Vec<u64> = back.map(|outcome| outcome.requests).collect();
    requests.sort_unstable();
    requests
        .get(requests.len() / 2)
        .map_or_else(String::new, ToString::to_string)
}
