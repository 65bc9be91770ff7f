//! How long a bad version is served: from the first failure that a user sees to the last request that the version is
//! given, with a canary at 5 % of 1,000 requests a second of which 30 % fail.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::{judged, us};
use crate::Error;
use crate::load::{Latencies, Load, Tally};
use crate::mesh::{FILTER, Mesh, NAME, RolloutFile};
use crate::rollout::Status;
use crate::wait;

/// The canary's share, in percent.
const WEIGHT: f64 = 5.0;
/// The share of its requests that fail.
const FAILING: f64 = 0.3;
/// Answers of the canary that are good before it fails: evidence that speaks for it.
const GOOD_BEFORE: u64 = 100;
/// No detection takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The targets, in microseconds.
const TARGET_P50_US: f64 = 1_500_000.0;
const TARGET_P99_US: f64 = 3_000_000.0;

/// What it took.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Detection {
    rollbacks: usize,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    /// Failed answers in one rollback, on average.
    failures: f64,
}

pub(super) async fn measure(rounds: usize) -> Result<Detection, Error> {
    let mesh = Mesh::start().await?;
    let envoy = mesh.proxy(FILTER).await?;
    let load = Load::start(Mesh::load(&envoy));
    let (rollouts, cli) = (mesh.rollouts(), mesh.cli()?);
    mesh.apply(&RolloutFile::at(WEIGHT)).await?;
    let (mut times, mut failed) = (Latencies::new(), 0);
    for _ in 0..rounds {
        let begun = rollouts
            .until(NAME, "the canary everywhere", PATIENCE, Status::everywhere)
            .await?;
        until_served(&load, &begun.policy).await?;
        load.take();
        mesh.canary.fail(FAILING);
        let gone = |status: &Status| status.phase == "Failed" && status.everywhere();
        rollouts
            .until(NAME, "the rollback everywhere", PATIENCE, gone)
            .await?;
        mesh.canary.fail(0.0);
        let served = load.take().version("v2");
        let (Some(first), Some(last)) = (served.first_failure, served.last_sent) else {
            return Err(wrong("the canary served nothing".to_owned()));
        };
        times.add(last.saturating_duration_since(first));
        failed += served.failed;
        cli.json(&["rollout", "retry", NAME]).await?;
    }
    load.finish().await;
    #[allow(clippy::cast_precision_loss)]
    let failures = failed as f64 / rounds.max(1) as f64;
    Ok(Detection {
        rollbacks: rounds,
        p50_us: us(times.quantile(0.5)),
        p99_us: us(times.quantile(0.99)),
        max_us: us(times.max()),
        failures,
    })
}

/// Until the canary has answered often by this snapshot.
async fn until_served(load: &Load, policy: &str) -> Result<(), Error> {
    load.take();
    wait::until("good answers of the canary", PATIENCE, || async {
        let served = load.peek(|tally: &Tally| tally.version_under(policy, "v2").requests);
        if served >= GOOD_BEFORE {
            Ok(())
        } else {
            Err(format!("{served} answers"))
        }
    })
    .await
}

fn wrong(reason: String) -> Error {
    Error::Contract {
        what: "detection".to_owned(),
        reason,
    }
}

impl fmt::Display for Detection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |us: f64| us / 1e6;
        write!(
            f,
            "\nFrom the first failure to the last request that the canary was given, {WEIGHT} % of 1,000 requests/s and {:.0} % failing, {} times: \
             p50 {:.2} s, p99 {:.2} s, max {:.2} s; {:.1} requests failed.\nAt most {:.1} s at p50: {}; at most {:.1} s at p99: {}.",
            FAILING * 100.0,
            self.rollbacks,
            seconds(self.p50_us),
            seconds(self.p99_us),
            seconds(self.max_us),
            self.failures,
            seconds(TARGET_P50_US),
            judged(self.p50_us <= TARGET_P50_US),
            seconds(TARGET_P99_US),
            judged(self.p99_us <= TARGET_P99_US),
        )
    }
}
