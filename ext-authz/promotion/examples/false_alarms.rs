//! Measures the analysis rule on the shipped state machine and prints the tables of `docs/analysis.md`.
//!
//! `cargo run --release -p knhk-promotion --example false_alarms [-- RUNS]`; the same RUNS give the same tables.
#![allow(clippy::print_stdout)]

#[path = "../tests/promotion/traffic.rs"]
mod traffic;

use knhk_promotion::RolloutSpec;
use std::process::ExitCode;
use traffic::{End, Outcome, Traffic, interval, run};

const RUNS: u32 = 400;
const MINUTE_MS: u64 = 60_000;

const ANALYSIS: &str = "
  analysis: { minRequests: 200, alpha: 0.01, tolerance: 0.5, slos: [ { metric: request-success-rate, min: 99.5 }, { metric: request-duration, quantile: 0.99, max: 250ms } ] }
";

const HEAD: &str = "
apiVersion: knhk.dev/v1
kind: Rollout
metadata: { name: checkout }
spec:
  version: v42
  stable: v41
  match: {}
  key: [ { requestId: {} } ]
  stages:
";

/// The rollout of the README: 1, 5, 25 and 50 %, then fifteen minutes of watch.
const WHOLE: &str = "    - { name: canary, steps: [ { setWeight: 1, pause: 30s }, { setWeight: 5, pause: 1m }, { setWeight: 25, pause: 1m }, { setWeight: 50, pause: 1m } ] }
    - { name: production, watch: 15m }";

/// The same number of windows, but the first step lasts for as long as a bad canary needs.
const ONE_STEP: &str = "    - { name: canary, steps: [ { setWeight: WEIGHT, pause: 1day }, { setWeight: 25 }, { setWeight: 50 }, { setWeight: 75 } ] }
    - { name: production, watch: 15m }";

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    let Ok(runs) = argument.map_or(Ok(RUNS), |text| text.parse()) else {
        eprintln!("RUNS is the number of rollouts a row, such as {RUNS}");
        return ExitCode::from(2);
    };
    false_alarms(runs);
    clusters(runs);
    detection(runs);
    ExitCode::SUCCESS
}

fn false_alarms(runs: u32) {
    println!(
        "| true bad share, stable | canary | requests/s | rolled back beside stable | in the watch | held | succeeded |"
    );
    println!("|---|---|---|---|---|---|---|");
    // Good, near the SLO, at the SLO, both over it, and worse than stable by just what is tolerated: within the SLO, and
    // over it.
    for (stable, canary) in [
        (0.001, 0.001),
        (0.004, 0.004),
        (0.005, 0.005),
        (0.02, 0.02),
        (0.0, 0.005),
        (0.005, 0.01),
    ] {
        for rate in [10.0, 100.0, 1_000.0] {
            row(
                runs,
                Traffic {
                    rate,
                    stable,
                    canary,
                    burst: 1,
                },
            );
        }
    }
    println!();
}

fn clusters(runs: u32) {
    println!(
        "| errors come in bursts of | true bad share of both | requests/s | rolled back beside stable | in the watch |"
    );
    println!("|---|---|---|---|---|");
    for burst in [1, 3, 10, 30] {
        let traffic = Traffic {
            rate: 100.0,
            stable: 0.003,
            canary: 0.003,
            burst,
        };
        let ends = ends(runs, traffic);
        println!(
            "| {burst} | {} | {} | {} | {} |",
            percent(traffic.canary),
            traffic.rate,
            share(&ends, End::Canary),
            share(&ends, End::Watch)
        );
    }
    println!();
}

fn detection(runs: u32) {
    println!(
        "| requests/s | canary | extra errors | requests to roll back: median | 99 of 100 | seconds: median | 99 of 100 |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (rate, weight) in [(200.0, 5), (1_000.0, 1), (1_000.0, 5)] {
        let spec = spec(&ONE_STEP.replace("WEIGHT", &weight.to_string()));
        for extra in [0.3, 0.05, 0.01] {
            let traffic = Traffic {
                rate,
                stable: 0.001,
                canary: 0.001 + extra,
                burst: 1,
            };
            let outcomes: Vec<Outcome> = (0..runs)
                .map(|seed| run(&spec, traffic, 120 * MINUTE_MS, u64::from(seed)))
                .collect();
            let missed = outcomes
                .iter()
                .filter(|outcome| outcome.end != End::Canary)
                .count();
            let requests = sorted(outcomes.iter().map(|outcome| outcome.requests));
            let ms = sorted(outcomes.iter().map(|outcome| outcome.ms));
            println!(
                "| {rate} | {weight} % | {} | {} | {} | {} | {}{} |",
                percent(extra),
                at(&requests, 50),
                at(&requests, 99),
                seconds(at(&ms, 50)),
                seconds(at(&ms, 99)),
                if missed == 0 {
                    String::new()
                } else {
                    format!(" ({missed} not within two hours)")
                }
            );
        }
    }
}

fn row(runs: u32, traffic: Traffic) {
    let ends = ends(runs, traffic);
    println!(
        "| {} | {} | {} | {} | {} | {} | {} |",
        percent(traffic.stable),
        percent(traffic.canary),
        traffic.rate,
        share(&ends, End::Canary),
        share(&ends, End::Watch),
        count(&ends, End::Holding),
        count(&ends, End::Succeeded)
    );
}

fn ends(runs: u32, traffic: Traffic) -> Vec<End> {
    let spec = spec(WHOLE);
    // Slow traffic needs long for its evidence; nothing but waiting happens after that.
    let limit = if traffic.rate < 100.0 {
        120 * MINUTE_MS
    } else {
        40 * MINUTE_MS
    };
    (0..runs)
        .map(|seed| run(&spec, traffic, limit, u64::from(seed)).end)
        .collect()
}

fn spec(stages: &str) -> RolloutSpec {
    RolloutSpec::from_yaml(&format!("{HEAD}{stages}{ANALYSIS}")).expect("the example's own rollout is right")
}

fn count(ends: &[End], end: End) -> u32 {
    u32::try_from(ends.iter().filter(|other| **other == end).count()).unwrap_or(u32::MAX)
}

/// The share with its 95 % confidence interval.
fn share(ends: &[End], end: End) -> String {
    let runs = u32::try_from(ends.len()).unwrap_or(u32::MAX);
    let hits = count(ends, end);
    let (least, most) = interval(hits, runs);
    let point = f64::from(hits) / f64::from(runs) * 100.0;
    format!(
        "{point:.2} % ({:.2} to {:.2})",
        least.max(0.0) * 100.0,
        most * 100.0
    )
}

fn percent(fraction: f64) -> String {
    format!("{} %", (fraction * 100_000.0).round() / 1_000.0)
}

fn sorted(numbers: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut sorted: Vec<u64> = numbers.collect();
    sorted.sort_unstable();
    sorted
}

fn at(sorted: &[u64], percent: usize) -> u64 {
    sorted
        .get(sorted.len() * percent / 100)
        .copied()
        .unwrap_or_default()
}

fn seconds(ms: u64) -> String {
    format!("{}.{:02}", ms / 1_000, ms % 1_000 / 10)
}
