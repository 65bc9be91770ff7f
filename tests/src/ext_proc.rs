//! What tests of `ext_proc` stand on. It panics where a test would: these are its assertions.
#![allow(clippy::expect_used, clippy::missing_panics_doc)]

use serde_json::Value;

use crate::cli::Cli;
use crate::envoy::{EXT_PROC as PROCESS_FILTER, Envoy, EnvoyConfig, EnvoyOptions};
use crate::load::{Answer, Ask, Client};
use crate::mesh::{EXT_PROC, Mesh, user};
use crate::wait::{self, SOON};

/// The operators' configuration, patient with a busy disk.
pub fn patient(mesh: &Mesh) -> EnvoyConfig {
    let mut config = mesh.config(EXT_PROC).expect("the operators' configuration");
    config.make_patient().expect("the filter");
    config
}

/// A proxy of this configuration.
pub async fn start(config: EnvoyConfig) -> Envoy {
    Envoy::start(config, EnvoyOptions::default())
        .await
        .expect("Envoy starts")
}

/// The configuration of Envoy's `ext_proc` filter.
pub fn filter(config: &mut EnvoyConfig) -> &mut Value {
    &mut config.http_filter(PROCESS_FILTER).expect("the filter")["typed_config"]
}

/// Asks once, over a connection of its own.
pub async fn ask(envoy: &Envoy, ask: Ask) -> Answer {
    Client::new(envoy.address())
        .ask(&ask)
        .await
        .expect("it is answered")
}

/// The ID of the receipt that a response carries.
pub fn receipt(answer: &Answer) -> Option<String> {
    answer.header("x-knhk-receipt").map(str::to_owned)
}

/// What a receipt says.
pub async fn payload(cli: &Cli, id: &str) -> Value {
    cli.json(&["receipt", "get", id]).await.expect("a receipt")["payload"].clone()
}

/// IDs of all decisions, newest first.
pub async fn decisions(cli: &Cli) -> Vec<String> {
    let list = cli
        .json(&["receipt", "list", "--kind", "decision", "--limit", "1000"])
        .await
        .expect("a list");
    let rows = list["receipts"].as_array().expect("receipts");
    rows.iter()
        .map(|row| row["id"].as_str().expect("an ID").to_owned())
        .collect()
}

/// Waits for this many decisions in the log, and gives the newest.
pub async fn newest_of(cli: &Cli, count: usize) -> Value {
    let newest = wait::until(&format!("{count} decisions"), SOON, || async {
        let all = decisions(cli).await;
        if all.len() == count {
            Ok(all[0].clone())
        } else {
            Err(format!("{}", all.len()))
        }
    })
    .await
    .expect("it is recorded");
    payload(cli, &newest).await
}

/// A value in the service's `/metrics`, by its name and labels.
pub async fn counter(mesh: &Mesh, line: &str) -> u64 {
    let metrics = mesh.service.metrics().await.expect("metrics");
    let value = metrics
        .lines()
        .find_map(|candidate| candidate.strip_prefix(line)?.strip_prefix(' '));
    value
        .unwrap_or_else(|| panic!("no {line} in {metrics}"))
        .parse()
        .expect("a number")
}

/// How many exchanges ended so.
pub async fn outcomes(mesh: &Mesh, outcome: &str) -> u64 {
    counter(mesh, &format!("knhk_exchanges_total{{outcome=\"{outcome}\"}}")).await
}

/// Waits until so many have ended so.
pub async fn until_outcomes(mesh: &Mesh, outcome: &str, count: u64) {
    wait::until(&format!("{count} {outcome}"), SOON, || async {
        match outcomes(mesh, outcome).await {
            found if found == count => Ok(()),
            found => Err(format!("{found}")),
        }
    })
    .await
    .expect("it is counted");
}

/// Waits until the upstreams have seen this many requests.
pub async fn until_asked(mesh: &Mesh, count: u64) {
    wait::until(&format!("{count} requests at the upstreams"), SOON, || async {
        match mesh.stable.requests() + mesh.canary.requests() {
            seen if seen >= count => Ok(()),
            seen => Err(format!("{seen}")),
        }
    })
    .await
    .expect("they arrive");
}

/// Waits until a response carries a receipt again.
pub async fn until_recorded(envoy: &Envoy) {
    wait::until("a receipt", SOON, || async {
        let answer = Client::new(envoy.address()).ask(&user("u1")).await?;
        receipt(&answer).ok_or_else(|| format!("{} without a receipt", answer.status))
    })
    .await
    .expect("it records");
}

/// Waits until the log has no room for a receipt.
pub async fn until_refused(envoy: &Envoy) {
    wait::until("the log to fail", SOON, || async {
        let answer = Client::new(envoy.address()).ask(&user("u1")).await?;
        receipt(&answer).map_or(Ok(()), Err)
    })
    .await
    .expect("there is no room for receipts");
}
