//! The benchmark: every number of the README, from one run on one machine.
//!
//! It measures and says where a target is missed, and does not fail for that: a machine's speed is no test.

mod abort;
mod chains;
mod check;
mod decide;
mod detect;
mod disk;
mod machine;
mod proxy;
mod regions;
mod rotation;
mod table;
mod wrk;

use std::io::Write;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::Serialize;

use crate::{Error, artifacts};

/// Where the numbers go.
const OUTPUT: &str = "target/bench.json";

/// What to measure, and for how long.
#[derive(Debug, Parser)]
#[command(
    name = "knhk-bench",
    about = "Measures what a decision, a rollback and a receipt cost on this machine."
)]
pub struct Options {
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    only: Vec<Part>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How often each chain is measured, in turn with the others; the median counts.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// How often a bad canary is rolled back.
    #[arg(long, default_value_t = 100)]
    rollbacks: usize,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Chains of filters in Envoy.
    Proxy,
    /// From `abort` to the last worker.
    Abort,
    /// From a canary's first failure to its last request.
    Detect,
    /// `ext_authz` with durable receipts, beside the raw disk.
    Check,
    /// `ext_authz` over mutual TLS while certificates are renewed.
    Rotation,
    /// The decision alone.
    Decide,
    /// Three regions with 40 ms round trips between them.
    Regions,
}

impl Part {
    const ALL: [Self; 7] = [
        Self::Proxy,
        Self::Abort,
        Self::Detect,
        Self::Check,
        Self::Rotation,
        Self::Decide,
        Self::Regions,
    ];
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    machine: machine::Machine,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<Vec<proxy::Row>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    abort: Option<abort::Propagation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detect: Option<detect::Detection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<check::Receipts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation: Option<rotation::Rotations>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decide: Option<Vec<decide::Case>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    regions: Option<regions::Replication>,
}

/// Measures, prints tables, and writes `target/bench.json`.
pub async fn run(options: &Options, mut out: impl Write) -> Result<(), Error> {
    let wanted = |part| options.only.contains(&part);
    let mut report = Report {
        machine: machine::Machine::this()?,
        proxy: None,
        abort: None,
        detect: None,
        check: None,
        rotation: None,
        decide: None,
        regions: None,
    };
    let mut show = |text: String| {
        writeln!(out, "{text}")
            .and_then(|()| out.flush())
            .map_err(Error::io("the table"))
    };
    show(report.machine.to_string())?;
    if wanted(Part::Proxy) {
        let rows = proxy::measure(options.seconds, options.repeats).await?;
        show(proxy::table(&rows, options))?;
        report.proxy = Some(rows);
    }
    if wanted(Part::Abort) {
        let propagation = abort::measure().await?;
        show(propagation.to_string())?;
        report.abort = Some(propagation);
    }
    if wanted(Part::Detect) {
        let detection = detect::measure(options.rollbacks).await?;
        show(detection.to_string())?;
        report.detect = Some(detection);
    }
    if wanted(Part::Check) {
        let receipts = check::measure(options.seconds).await?;
        show(receipts.to_string())?;
        report.check = Some(receipts);
    }
    if wanted(Part::Rotation) {
        let rotations = rotation::measure().await?;
        show(rotations.to_string())?;
        report.rotation = Some(rotations);
    }
    if wanted(Part::Decide) {
        let cases = decide::measure()?;
        show(decide::table(&cases))?;
        report.decide = Some(cases);
    }
    if wanted(Part::Regions) {
        let replication = regions::measure(options.seconds).await?;
        show(replication.to_string())?;
        report.regions = Some(replication);
    }
    let file: PathBuf = artifacts::root().join(OUTPUT);
    let json = serde_json::to_string_pretty(&report).map_err(|error| Error::Contract {
        what: OUTPUT.to_owned(),
        reason: error.to_string(),
    })?;
    std::fs::write(&file, json).map_err(Error::io(OUTPUT))?;
    show(format!("\nAll of it in {OUTPUT}."))
}

/// The middle one; of an even number the upper of the two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What a target says about a value.
fn judged(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// As the report writes times.
fn us(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
