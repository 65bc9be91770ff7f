//! `knhk receipt audit`: a whole log against itself.

use std::io::IsTerminal as _;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use knhk_receipts::SignedCheckpoint;
use knhk_receipts::audit::{Audit, AuditError, Directory, Pin, Progress, Report, Source, audit};
use knhk_receipts::checkpoint::MAX_CHECKPOINT_BYTES;
use serde::Serialize;

use super::credentials::CredentialArgs;
use super::published::Published;
use super::{Failure, OutputArgs, failed, input, output, trusted};

/// Threads that read a log over the network: they wait more than they compute. As many as a service lets read at once.
const NETWORK_THREADS: usize = 8;

/// How an audit goes on is shown so often, in a second.
const DRAWS: u8 = 10;

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// A data directory, or its `log` directory; or a service: `https://HOST:PORT[/v1/log/REGION]`, the same with `http`,
    /// or `unix:PATH`.
    #[arg(value_name = "DIR_OR_URL")]
    target: String,
    /// The region whose log a service is asked for; without it, its own.
    #[arg(long)]
    region: Option<String>,
    /// A public key in PEM, or a key set as `GET /v1/keys` answers it, that is trusted; may be repeated. The log's chain of
    /// keys has to contain one of them, and what a key set says of the trees that its keys signed has to be so.
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// A checkpoint that was fetched before; may be repeated. The log has to lead through it.
    #[arg(long, value_name = "FILE")]
    since: Vec<PathBuf>,
    #[command(flatten)]
    credentials: CredentialArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Answer<'r> {
    clean: bool,
    #[serde(flatten)]
    report: &'r Report,
    seconds: f64,
}

pub(crate) async fn run(args: AuditArgs) -> Result<(), Failure> {
    let asked = Asked {
        pinned: trusted::pins(&args.keys)?,
        since: args
            .since
            .iter()
            .map(|path| checkpoint(path))
            .collect::<Result<_, _>>()?,
    };
    let begun = now();
    let address = args.target.starts_with("unix:") || args.target.contains("://");
    let report = if address {
        let source = Published::open(&args.target, args.region.as_deref(), &args.credentials).await?;
        look(source, NETWORK_THREADS, asked).await
    } else {
        if args.region.is_some() {
            return Err(Failure::new(
                "--region is for a service: a directory holds one log",
            ));
        }
        let source = Directory::open(Path::new(&args.target)).map_err(failed)?;
        look(source, available_parallelism().map_or(1, NonZero::get), asked).await
    };
    let report = report.map_err(|error| Failure::new(format!("{}: {error}", args.target)))?;
    let taken = now() - begun;
    let answer = Answer {
        clean: report.is_clean(),
        report: &report,
        seconds: taken.as_secs_f64(),
    };
    output::print(args.output, &answer, || shown(&args.target, &report, taken))?;
    match report.findings.as_slice() {
        [] => Ok(()),
        [only] => Err(Failure::new(format!("{}: NOT CLEAN: {only}", args.target))),
        [first, others @ ..] => {
            let message = format!(
                "{}: NOT CLEAN: {first}; and {} more findings",
                args.target,
                others.len()
            );
            Err(Failure::new(message))
        }
    }
}

/// What the user asked for, owned.
struct Asked {
    pinned: Vec<Pin>,
    since: Vec<(String, SignedCheckpoint)>,
}

fn checkpoint(path: &Path) -> Result<(String, SignedCheckpoint), Failure> {
    let bytes = input::bytes(path, MAX_CHECKPOINT_BYTES)?;
    let checkpoint = SignedCheckpoint::from_bytes(&bytes)
        .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    Ok((path.display().to_string(), checkpoint))
}

/// Audits off the threads that serve requests: it blocks.
async fn look(
    source: impl Source + Send + 'static,
    threads: usize,
    asked: Asked,
) -> Result<Report, AuditError> {
    let looking = tokio::task::spawn_blocking(move || {
        let bar = bar();
        let progress = |it: Progress| {
            bar.set_length(it.entries);
            bar.set_position(it.done);
        };
        let report = audit(
            &source,
            &Audit {
                threads,
                pinned: &asked.pinned,
                since: &asked.since,
                progress: &progress,
            },
        );
        bar.finish_and_clear();
        report
    });
    looking
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Drawn on stderr, and only where that is a terminal.
fn bar() -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr_with_hz(DRAWS)
    } else {
        ProgressDrawTarget::hidden()
    };
    let style =
        ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} entries  {per_sec}  {eta} left");
    ProgressBar::with_draw_target(None, target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn shown(target: &str, report: &Report, taken: Duration) -> String {
    let verdict = match report.findings.len() {
        0 => "audited, nothing wrong".to_owned(),
        1 => "NOT CLEAN, 1 finding".to_owned(),
        n => format!("NOT CLEAN, {n} findings"),
    };
    let mut lines = vec![format!("{target}: {verdict}")];
    if !report.origin.is_empty() {
        lines.push(format!("  log   {}", report.origin));
        lines.push(format!("  size  {}", report.size));
        lines.push(format!("  root  {}", report.root));
    }
    for check in &report.checks {
        let mark = if check.findings == 0 { "ok" } else { "!!" };
        lines.push(format!("  {mark}  {}: {}", check.name, check.detail));
    }
    lines.extend(report.keys.iter().map(|key| {
        let trees = match (key.first_size, key.last_size) {
            (Some(first), Some(last)) => format!("trees of {first} to {last} entries"),
            (Some(first), None) => format!("trees of {first} entries and more"),
            (None, _) => "no tree".to_owned(),
        };
        format!(
            "  key   {} ({} {}, entry {}): {trees}",
            key.id, key.provider, key.version, key.announced
        )
    }));
    lines.extend(report.findings.iter().map(|it| format!("  finding  {it}")));
    lines.extend(report.notes.iter().map(|it| format!("  note  {it}")));
    lines.push(format!(
        "  {} entries in {:.1} s",
        report.entries,
        taken.as_secs_f64()
    ));
    lines.join("\n")
}

#[allow(clippy::disallowed_methods, reason = "only shown: how long the audit took")]
fn now() -> Instant {
    Instant::now()
}
