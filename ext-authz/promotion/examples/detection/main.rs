//! How soon a bad canary is found, and how often a good one is blamed: the shipped sequential tests beside a fixed
//! threshold as Flagger has it and the Mann-Whitney test as Kayenta has it, on the same requests.
//!
//! `cargo run --release -p knhk-promotion --example detection [-- RUNS]`; the same RUNS give the same tables, which are
//! those of `docs/analysis-sequential.md`. The other two are written from their documented rules and live only here.
#![allow(clippy::print_stdout)]

#[path = "../../tests/promotion/confidence.rs"]
mod confidence;
mod contender;
mod flagger;
mod kayenta;
mod knhk;
#[path = "../../tests/promotion/scenarios.rs"]
mod scenarios;
#[path = "../../tests/promotion/stream.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod stream;
mod traffic;

use confidence::{at_least, at_most};
use contender::Contender;
use flagger::Flagger;
use kayenta::Kayenta;
use knhk::Knhk;
use scenarios::{ALPHA, Scenario, not_promised, promised};
use std::process::ExitCode;
use traffic::{PER_SECOND, TICKS_PER_SECOND, Traffic, Version};

const RUNS: u32 = 200;

/// How long a canary that is not rolled back is looked at.
const HORIZON_SECONDS: u32 = 30 * 60;

/// For the table of false alarms: rollouts for each rollout of the table of detection, and requests of both versions in
/// each.
const MORE_RUNS: u32 = 10;
const REQUESTS: u32 = 300_000;

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    let Ok(runs) = argument.map_or(Ok(RUNS), |text| text.parse()) else {
        eprintln!("RUNS is the number of rollouts a row, such as {RUNS}");
        return ExitCode::from(2);
    };
    println!(
        "Rolled back, of {} rollouts that should not be; alpha {ALPHA}\n",
        runs * MORE_RUNS
    );
    false_alarms(runs * MORE_RUNS);
    println!(
        "\nDetection, {runs} rollouts a row, {PER_SECOND} requests/s, 5 % to the canary, at most 30 minutes\n"
    );
    detection(runs);
    ExitCode::SUCCESS
}

fn false_alarms(runs: u32) {
    println!("| traffic | rolled back (99 % confidence) | promised |");
    println!("|---|---|---|");
    for scenario in promised() {
        alarm_row(&scenario, runs, "at most 5 %");
    }
    for scenario in not_promised() {
        alarm_row(&scenario, runs, "nothing");
    }
}

fn alarm_row(scenario: &Scenario, runs: u32, promise: &str) {
    const LEVEL: f64 = 0.005;
    let rolled_back = scenario.rollbacks(runs, REQUESTS, 20);
    println!(
        "| {} | {:.2} % ({:.2} to {:.2}) | {promise} |",
        scenario.name,
        f64::from(rolled_back) / f64::from(runs) * 100.0,
        at_least(rolled_back, runs, LEVEL) * 100.0,
        at_most(rolled_back, runs, LEVEL) * 100.0
    );
}

/// What the canary does that stable does not.
struct Row {
    name: &'static str,
    stable: Version,
    canary: Version,
}

fn detection(runs: u32) {
    let good = Version {
        errors: 0.001,
        slowness: 1.0,
    };
    let errors = |name, extra| Row {
        name,
        stable: good,
        canary: Version {
            errors: good.errors + extra,
            ..good
        },
    };
    let slow = |name, slowness| Row {
        name,
        stable: good,
        canary: Version { slowness, ..good },
    };
    let both = Version { errors: 0.02, ..good };
    let rows = [
        errors("nothing: a false alarm", 0.0),
        Row {
            name: "nothing, both fail 2 %: a false alarm",
            stable: both,
            canary: both,
        },
        errors("0.5 % errors", 0.005),
        errors("1 % errors", 0.01),
        errors("5 % errors", 0.05),
        errors("30 % errors", 0.3),
        slow("1.2x the latency", 1.2),
        slow("2x the latency", 2.0),
    ];
    let names: Vec<String> = contenders().iter().map(|contender| contender.name()).collect();
    println!("| the canary has more of | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
    for row in rows {
        let mut found: Vec<Vec<u64>> = vec![Vec::new(); names.len()];
        for seed in 0..runs {
            for (found, requests) in found.iter_mut().zip(rollout(&row, u64::from(seed))) {
                found.extend(requests);
            }
        }
        let cells: Vec<String> = found.into_iter().map(|found| cell(found, runs)).collect();
        println!("| {} | {} |", row.name, cells.join(" | "));
    }
}

fn contenders() -> Vec<Box<dyn Contender>> {
    vec![
        Box::new(Knhk::new(0.5)),
        Box::new(Knhk::new(0.1)),
        Box::new(Flagger::new(60, 10)),
        Box::new(Flagger::new(10, 1)),
        Box::new(Kayenta::new()),
    ]
}

/// How many requests of the canary each contender took to roll back, in its order; none for who did not.
fn rollout(row: &Row, seed: u64) -> Vec<Option<u64>> {
    let mut traffic = Traffic::new(row.stable, row.canary, seed);
    let mut contenders: Vec<_> = contenders()
        .into_iter()
        .map(|contender| (contender, None))
        .collect();
    let mut served = 0;
    for tick in 1..=HORIZON_SECONDS * TICKS_PER_SECOND {
        let requests = traffic.tick();
        served += requests.iter().filter(|request| request.is_canary).count() as u64;
        for (contender, found) in &mut contenders {
            if found.is_none() && contender.rolls_back(&requests, tick) {
                *found = Some(served);
            }
        }
        if contenders.iter().all(|(_, found)| found.is_some()) {
            break;
        }
    }
    contenders.into_iter().map(|(_, found)| found).collect()
}

/// The median and 99 of 100 of those that were rolled back, and how many were.
fn cell(mut found: Vec<u64>, runs: u32) -> String {
    found.sort_unstable();
    let of_all = |percent: usize| found.get(runs as usize * percent / 100);
    let share = found.len() * 100 / runs as usize;
    match (of_all(50), of_all(99)) {
        (None, _) => format!("{share} % rolled back"),
        (Some(median), None) => format!("{median}; {share} % rolled back"),
        (Some(median), Some(late)) => format!("{median}, {late}"),
    }
}
