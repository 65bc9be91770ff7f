//! `knhk rollout`: an operator's actions, each recorded, and the view of what happens.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use reqwest::Method;

use super::client::Client;
use super::output::Reader;
use super::{Failure, Format, OutputArgs, ServerArgs, failed, input, output};
use knhk_promotion::{HistoryEntry, Provenance};

use crate::api::{Deleted, PromoteRequest, RolloutHistory, RolloutList, RolloutStatus, rfc3339};
use crate::http::MAX_SPEC_BYTES;

/// How often `--watch` asks again.
const WATCH_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutVerb {
    /// Start a rollout, or a new generation of one.
    Apply {
        /// The rollout; `-` reads standard input.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// List every rollout.
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Show where a rollout stands and what it waits for.
    Status {
        name: String,
        /// Show it again whenever it changes, until the rollout has ended.
        #[arg(short, long)]
        watch: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Go to the next step now.
    Promote {
        name: String,
        /// Go to production now.
        #[arg(long)]
        full: bool,
        /// Why without the evidence; it goes into receipt and history.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Let it into the stage that asks for an approval.
    Approve(Named),
    /// Stop advancing; the weight stays. A rollback still happens.
    Pause(Named),
    /// Go on after a pause.
    Resume(Named),
    /// Send everything back to stable, now.
    Abort(Named),
    /// Start the failed version again from its first step.
    Retry(Named),
    /// Make this region the rollout's home, in a new generation: when its home is lost, or is to be another.
    Adopt(Named),
    /// Remove a rollout; its requests go to stable.
    Delete(Named),
    /// Show every transition with its reason and numbers.
    History(Named),
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    name: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(verb: RolloutVerb) -> Result<(), Failure> {
    match verb {
        RolloutVerb::Apply { file, common } => apply(&file, &common).await,
        RolloutVerb::List { common } => list(&common).await,
        RolloutVerb::Status { name, watch, common } if watch => watch_status(&name, &common).await,
        RolloutVerb::Status { name, common, .. } => status(&name, &common).await,
        RolloutVerb::Promote {
            name,
            full,
            reason,
            common,
        } => {
            let client = Client::new(&common.server).await?;
            let request = client.request(Method::POST, &path(&name, "/promote")?);
            show(
                &common,
                &client
                    .json(request.json(&PromoteRequest { full, reason }))
                    .await?,
            )
        }
        RolloutVerb::Approve(named) => act(&named, "/approve").await,
        RolloutVerb::Pause(named) => act(&named, "/pause").await,
        RolloutVerb::Resume(named) => act(&named, "/resume").await,
        RolloutVerb::Abort(named) => act(&named, "/abort").await,
        RolloutVerb::Retry(named) => act(&named, "/retry").await,
        RolloutVerb::Adopt(named) => act(&named, "/adopt").await,
        RolloutVerb::Delete(named) => delete(&named).await,
        RolloutVerb::History(named) => history(&named).await,
    }
}

async fn apply(file: &Path, common: &Common) -> Result<(), Failure> {
    let text = input::text(file, MAX_SPEC_BYTES)?;
    let spec = knhk_promotion::RolloutSpec::from_yaml(&text)
        .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    let client = Client::new(&common.server).await?;
    let request = client.request(Method::PUT, &path(spec.name(), "")?);
    let request = request.header("content-type", "application/yaml").body(text);
    show(common, &client.json(request).await?)
}

async fn list(common: &Common) -> Result<(), Failure> {
    let client = Client::new(&common.server).await?;
    let list: RolloutList = client.json(client.request(Method::GET, "/v1/rollouts")).await?;
    output::print(common.output, &list, || {
        let rows = list.rollouts.iter().map(|row| {
            [
                row.name.clone(),
                row.phase.clone(),
                format!("{} %", row.weight),
                row.stable.clone(),
                row.version.clone(),
                row.generation.to_string(),
                row.reason.clone().unwrap_or_default(),
            ]
        });
        output::table(
            [
                "NAME",
                "PHASE",
                "WEIGHT",
                "STABLE",
                "VERSION",
                "GENERATION",
                "REASON",
            ],
            rows,
        )
    })
}

async fn status(name: &str, common: &Common) -> Result<(), Failure> {
    show(
        common,
        &fetch_status(&Client::new(&common.server).await?, name).await?,
    )
}

async fn fetch_status(client: &Client, name: &str) -> Result<RolloutStatus, Failure> {
    client.json(client.request(Method::GET, &path(name, "")?)).await
}

/// Redraws in place on a terminal; appends otherwise, once a change. Ends with the rollout.
async fn watch_status(name: &str, common: &Common) -> Result<(), Failure> {
    let client = Client::new(&common.server).await?;
    let redraw = common.output.output == Format::Text && std::io::stdout().is_terminal();
    let mut shown = String::new();
    loop {
        let status = fetch_status(&client, name).await?;
        let text = match common.output.output {
            Format::Text => describe(&status),
            Format::Json => serde_json::to_string(&status).map_err(failed)?,
        };
        if text != shown {
            // Home, clear to the end: the last drawing is replaced without a flicker.
            let clear = if redraw { "\x1b[H\x1b[J" } else { "" };
            if output::line(&format!("{clear}{text}"))? == Reader::Gone {
                return Ok(());
            }
            shown = text;
        }
        match status.summary.phase.as_str() {
            "Succeeded" => return Ok(()),
            // Pipelines wait with this verb: a version that is not out is no success.
            "Failed" => return Err(rolled_back(&status)),
            _ => {}
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

fn rolled_back(status: &RolloutStatus) -> Failure {
    let reason = status.summary.reason.as_deref().unwrap_or("no reason given");
    Failure::new(format!(
        "rollout `{name}`: {version} is Failed ({reason}), {stable} serves; `knhk rollout history {name}` says why",
        name = status.summary.name,
        version = status.summary.version,
        stable = status.summary.stable,
    ))
}

async fn act(named: &Named, verb: &str) -> Result<(), Failure> {
    let client = Client::new(&named.common.server).await?;
    let request = client.request(Method::POST, &path(&named.name, verb)?);
    show(&named.common, &client.json(request).await?)
}

async fn delete(named: &Named) -> Result<(), Failure> {
    let client = Client::new(&named.common.server).await?;
    let deleted: Deleted = client
        .json(client.request(Method::DELETE, &path(&named.name, "")?))
        .await?;
    output::print(named.common.output, &deleted, || {
        format!("{}: deleted; its requests go to stable", deleted.deleted)
    })
}

async fn history(named: &Named) -> Result<(), Failure> {
    let client = Client::new(&named.common.server).await?;
    let path = path(&named.name, "/history")?;
    let mut whole: Option<RolloutHistory> = None;
    let mut after = Some(0);
    while let Some(from) = after {
        let request = client.request(Method::GET, &path).query(&[("after", from)]);
        let page: RolloutHistory = client.json(request).await?;
        after = page.next_after;
        match (named.common.output.output, &mut whole) {
            // A long history is shown as it comes.
            (Format::Text, _) => {
                for entry in &page.history {
                    if output::line(&describe_entry(entry))? == Reader::Gone {
                        return Ok(());
                    }
                }
            }
            (Format::Json, Some(whole)) => whole.history.extend(page.history),
            (Format::Json, none) => *none = Some(page),
        }
    }
    let Some(mut whole) = whole else { return Ok(()) };
    whole.next_after = None;
    output::print(named.common.output, &whole, String::new)
}

/// A name goes into the path as it is; what no rollout can be called is refused before it is sent.
fn path(name: &str, rest: &str) -> Result<String, Failure> {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if name.is_empty() || !plain {
        let message = format!("`{name}` is not a rollout's name: they consist of a-z, 0-9 and '-'");
        return Err(Failure::new(message));
    }
    Ok(format!("/v1/rollouts/{name}{rest}"))
}

fn show(common: &Common, status: &RolloutStatus) -> Result<(), Failure> {
    output::print(common.output, status, || describe(status))
}

/// The status as text.
fn describe(status: &RolloutStatus) -> String {
    let summary = &status.summary;
    let explanation = &status.explanation;
    let workers = &status.workers;
    let reason = summary
        .reason
        .as_ref()
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    let mut lines = vec![
        format!("{}  {}{reason}", summary.name, summary.phase),
        format!(
            "  {} -> {}   weight {} %   generation {}   {} step {} of {}",
            summary.stable,
            summary.version,
            summary.weight,
            summary.generation,
            explanation.stage,
            explanation.step,
            explanation.steps
        ),
        format!(
            "  snapshot {}: {} of {} workers   ({} connected)",
            status.policy, workers.newest, workers.active, workers.connected
        ),
    ];
    lines.extend(
        explanation
            .picked
            .iter()
            .map(|picked| format!("  staging: {picked}; the others at {} %", summary.weight)),
    );
    lines.extend(workers.refusals.iter().map(|refusal| {
        format!(
            "  ! {} refused {}: {}: {}",
            refusal.node, refusal.policy, refusal.reason, refusal.detail
        )
    }));
    lines.extend(
        explanation
            .because
            .iter()
            .map(|because| format!("  because: {because}")),
    );
    lines.extend(explanation.metrics.iter().map(|reading| format!("  {reading}")));
    lines.extend(explanation.reporters.iter().flat_map(describe_reporters));
    lines.extend(
        explanation
            .waits_for
            .iter()
            .map(|awaited| format!("  waits for: {awaited}")),
    );
    lines.push(format!("  next: {}", explanation.next));
    lines.extend(
        explanation
            .next_look_wall_ms
            .map(|at| format!("  looks again: {}", rfc3339(at))),
    );
    lines.join("\n")
}

/// Who reported, how much of it counts, and who is set aside.
fn describe_reporters(reporters: &Provenance) -> Vec<String> {
    let mut lines = vec![format!("  reporters: {reporters}")];
    lines.extend(reporters.counted.iter().map(|it| format!("    {it}")));
    if reporters.more > 0 {
        lines.push(format!("    and {} more", reporters.more));
    }
    lines.extend(
        reporters
            .set_aside
            .iter()
            .map(|it| format!("  ! set aside: {it}")),
    );
    if reporters.more_set_aside > 0 {
        lines.push(format!("  ! and {} more", reporters.more_set_aside));
    }
    lines
}

/// A transition as text.
fn describe_entry(entry: &HistoryEntry) -> String {
    format!(
        "{}  {:<11} {} -> {} %  {}, {}  by {}: {}",
        rfc3339(entry.wall_ms),
        entry.what.label(),
        entry.weight_before.percent(),
        entry.weight.percent(),
        entry.phase,
        entry.stage,
        entry.who,
        entry.why
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_name_goes_into_a_path() {
        assert_eq!(
            path("check-out2", "/abort").expect("a name"),
            "/v1/rollouts/check-out2/abort"
        );
        for bad in ["", ".", "..", "a/b", "a?b", "a%2f", "A", "a b", "\u{e4}"] {
            assert!(path(bad, "").is_err(), "{bad}");
        }
    }

    #[test]
    fn who_reported_and_who_is_set_aside_is_shown() {
        let reporters = r#"{
            "identities": 13, "canaryReporting": 11, "stableReporting": 12,
            "counted": [ { "identity": "spiffe://a/web", "canary": { "reported": 1200, "counted": 300 },
                           "stable": { "reported": 24000, "counted": 24000 } } ],
            "more": 11,
            "setAside": [ { "identity": "spiffe://a/x", "variant": "canary", "slo": "request-success-rate min 99 %",
                            "own": { "requests": 100, "bad": 100 }, "others": { "requests": 3000, "bad": 3 } } ],
            "moreSetAside": 0
        }"#;
        let reporters: Provenance = serde_json::from_str(reporters).expect("the status");
        assert_eq!(
            describe_reporters(&reporters),
            [
                "  reporters: 13 identities report, none counts for more than a third of the canary's requests, 1 set aside",
                "    spiffe://a/web: canary 300 of 1200 requests counted, stable 24000 requests",
                "    and 11 more",
                "  ! set aside: spiffe://a/x, whose canary has 100 of 100 bad (100 %) for request-success-rate min 99 %, the others' 3 of 3000 bad (0.1 %)",
            ]
        );
    }
}
