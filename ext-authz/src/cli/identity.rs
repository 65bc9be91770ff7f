//! `knhk identity`: who the service is to its proxies and operators.

use std::time::Duration;

use clap::Subcommand;
use knhk_identity::{Readiness, SourceStatus, Status, SvidStatus};
use reqwest::Method;

use super::client::Client;
use super::{Failure, OutputArgs, ServerArgs, output};

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityVerb {
    /// Show the service's SVID, its last rotation, and how its Workload API does. Through the socket it works while SPIRE is
    /// down, too.
    Show {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) async fn run(verb: IdentityVerb) -> Result<(), Failure> {
    let IdentityVerb::Show { server, output } = verb;
    let client = Client::new(&server).await?;
    let status: Status = client.json(client.request(Method::GET, "/v1/identity")).await?;
    output::print(output, &status, || text(&status))
}

fn text(status: &Status) -> String {
    let mut lines = Vec::new();
    match &status.svid {
        Some(svid) => lines.extend(held(svid, status.rotations)),
        None => lines.push("no SVID".to_owned()),
    }
    lines.push(row("trust domains", &list(&status.trust_domains)));
    lines.push(row("source", &source(&status.source)));
    let refused = status.refused_updates.iter();
    let refused: Vec<String> = refused
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let last = status
        .last_refusal
        .iter()
        .map(|why| format!("; the newest: {why}"));
    lines.push(row(
        "refused updates",
        &format!("{}{}", list(&refused), last.collect::<String>()),
    ));
    lines.push(match &status.readiness {
        Readiness::Ready => row("state", "ready"),
        Readiness::Warns(why) => row("state", &format!("ready, but {why}")),
        Readiness::Fails(why) => row("state", &format!("NOT READY: {why}")),
    });
    lines.join("\n")
}

fn held(svid: &SvidStatus, rotations: u64) -> [String; 4] {
    let left = match svid.left_seconds {
        0 => "expired".to_owned(),
        seconds => format!(
            "{} left",
            humantime::format_duration(Duration::from_secs(seconds))
        ),
    };
    [
        svid.spiffe_id.clone(),
        row("serial", &svid.serial),
        row(
            "valid",
            &format!("{} to {}, {left}", svid.not_before, svid.not_after),
        ),
        row(
            "received",
            &format!("{}; rotations since the start: {rotations}", svid.received),
        ),
    ]
}

fn source(source: &SourceStatus) -> String {
    let state = match (source.connected, &source.last_error) {
        (true, _) => "connected".to_owned(),
        (false, None) => "not connected yet".to_owned(),
        (false, Some(error)) => format!("{} failures since the last update: {error}", source.failures),
    };
    format!("{}, {state}", source.endpoint)
}

fn list(items: &[String]) -> String {
    match items {
        [] => "none".to_owned(),
        items => items.join(", "),
    }
}

fn row(what: &str, value: &str) -> String {
    format!("  {what:<15}  {value}")
}
