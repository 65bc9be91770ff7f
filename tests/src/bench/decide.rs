//! The decision alone, as criterion measures it in its own crate.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{judged, table};
use crate::{Error, artifacts};

/// Where criterion leaves its numbers.
const CRITERION: &str = "target/criterion";
/// The case of the target, by its name in the benchmark, and the target in nanoseconds.
const TARGET: (&str, f64) = ("20 rollouts, 50 rules", 200.0);

/// One case.
#[derive(Debug, Serialize)]
pub(super) struct Case {
    name: String,
    /// The median.
    nanoseconds: f64,
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

#[derive(Deserialize)]
struct About {
    full_id: String,
}

/// Runs `cargo bench -p knhk-decision` and reads what it left.
pub(super) fn measure() -> Result<Vec<Case>, Error> {
    #[allow(
        clippy::disallowed_methods,
        reason = "files of an earlier run are told apart by their age"
    )]
    let began = SystemTime::now();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["bench", "--quiet", "-p", "knhk-decision"])
        .current_dir(artifacts::root())
        .output()
        .map_err(Error::io("cargo bench"))?;
    if !output.status.success() {
        return Err(wrong(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let mut cases = Vec::new();
    collect(&artifacts::root().join(CRITERION), began, &mut cases)?;
    if cases.is_empty() {
        return Err(wrong(format!("no case in {CRITERION}")));
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

/// A case is a directory with `new/estimates.json` and `new/benchmark.json`.
fn collect(directory: &Path, since: SystemTime, cases: &mut Vec<Case>) -> Result<(), Error> {
    let io = || Error::io(format!("{}", directory.display()));
    let new = directory.join("new");
    let estimates = new.join("estimates.json");
    if let Ok(about) = estimates.metadata() {
        if about.modified().map_err(io())? >= since {
            let Estimates { median } = read(&estimates)?;
            let About { full_id } = read(&new.join("benchmark.json"))?;
            cases.push(Case {
                name: full_id,
                nanoseconds: median.point_estimate,
            });
        }
        return Ok(());
    }
    for entry in std::fs::read_dir(directory).map_err(io())? {
        let path: PathBuf = entry.map_err(io())?.path();
        if path.is_dir() {
            collect(&path, since, cases)?;
        }
    }
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T, Error> {
    let text = std::fs::read(file).map_err(Error::io(format!("{}", file.display())))?;
    serde_json::from_slice(&text).map_err(|error| wrong(format!("{}: {error}", file.display())))
}

pub(super) fn table(cases: &[Case]) -> String {
    let rows: Vec<[String; 2]> = cases
        .iter()
        .map(|case| [case.name.clone(), format!("{:.0}", case.nanoseconds)])
        .collect();
    let target = cases
        .iter()
        .find(|case| case.name.ends_with(TARGET.0))
        .map_or(String::new(), |case| {
            format!(
                "\nAt most {:.0} ns with {}: {}.",
                TARGET.1,
                TARGET.0,
                judged(case.nanoseconds <= TARGET.1)
            )
        });
    format!(
        "\nThe decision alone, medians.\n\n{}\n{target}",
        table::table(["decide", "ns"], &rows)
    )
}

fn wrong(reason: String) -> Error {
    Error::Contract {
        what: "cargo bench -p knhk-decision".to_owned(),
        reason,
    }
}
