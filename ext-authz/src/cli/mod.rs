//! The command line: arguments in, one answer or one line of error out.

mod audit;
mod client;
mod credentials;
mod decide;
mod flag;
mod identity;
mod input;
mod key;
mod output;
mod published;
mod receipt;
mod region;
mod rollout;
mod trusted;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use self::credentials::CredentialArgs;
use crate::config::Config;
use crate::serve;

/// Canary rollouts for Envoy and Istio, decided in the proxy, with receipts that anyone can verify.
#[derive(Debug, Parser)]
#[command(
    name = "knhk",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the service.
    Serve {
        /// The service's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// What is logged: error, warn, info, debug, trace, or a list such as `info,knhk=debug`.
        #[arg(long, value_name = "FILTER", default_value = "info", env = "KNHK_LOG")]
        log: String,
        /// Set the log in `data` aside, and begin a new one as this region: when it was lost or forked, and is not to be restored.
        #[arg(long, value_name = "NAME")]
        new_log: Option<String>,
    },
    /// Work with the service's configuration.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Roll a version out, watch it, stop it.
    #[command(subcommand)]
    Rollout(rollout::RolloutVerb),
    /// Say which variant a key gets: offline, by the filter's own code.
    Decide(decide::Decide),
    /// Define feature flags, and evaluate them offline, as flagd does.
    #[command(subcommand)]
    Flag(flag::FlagVerb),
    /// Fetch, verify and replay receipts; audit their log.
    #[command(subcommand)]
    Receipt(receipt::ReceiptVerb),
    /// Show and rotate the keys that sign receipts.
    #[command(subcommand)]
    Key(key::KeyVerb),
    /// Watch the other regions.
    #[command(subcommand)]
    Region(region::RegionVerb),
    /// Show the service's own identity.
    #[command(subcommand)]
    Identity(identity::IdentityVerb),
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Check a configuration without starting anything.
    Check {
        /// The configuration.
        file: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// Where the service is, and who asks.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// The service: `unix:PATH` of its socket, `https://HOST:PORT`, or without `spiffe` `http://HOST:PORT`.
    #[arg(
        long,
        value_name = "URL",
        default_value = "unix:./data/knhk.sock",
        env = "KNHK_SERVER",
        global = true
    )]
    server: String,
    #[command(flatten)]
    credentials: CredentialArgs,
}

impl ServerArgs {
    /// As if `--server` named this one.
    fn to(server: &str, credentials: &CredentialArgs) -> Self {
        Self {
            server: server.to_owned(),
            credentials: credentials.clone(),
        }
    }
}

/// How the answer is printed.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// `text` for people, `json` for programs.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Text, global = true)]
    output: Format,
}

/// Forms of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Why a verb failed: one line for the user.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Turns any error into the one line that the user sees.
pub(crate) fn failed(error: impl std::fmt::Display) -> Failure {
    Failure(error.to_string())
}

/// Parses the arguments and runs the verb. Exit code 1 on failure, 2 on wrong usage.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return report(&failed(error)),
    };
    let done = runtime.block_on(dispatch(cli.verb));
    // Not waited for: a thread that a disk holds would keep the process from ending.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

async fn dispatch(verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Serve { config, log, new_log } => serve::serve(&config, &log, new_log.as_deref())
            .await
            .map_err(failed),
        Verb::Config(ConfigVerb::Check { file, output }) => check_config(&file, output),
        Verb::Rollout(verb) => rollout::run(verb).await,
        Verb::Decide(decide) => decide::run(&decide),
        Verb::Flag(verb) => flag::run(verb).await,
        Verb::Receipt(verb) => receipt::run(verb).await,
        Verb::Key(verb) => key::run(verb).await,
        Verb::Region(verb) => region::run(verb).await,
        Verb::Identity(verb) => identity::run(verb).await,
    }
}

fn check_config(file: &std::path::Path, format: OutputArgs) -> Result<(), Failure> {
    let config = Config::load(file).map_err(failed)?;
    let answer = serde_json::json!({
        "valid": true,
        "region": config.region,
        "listen": { "grpc": config.listen.grpc, "http": config.listen.http, "probe": config.listen.probe },
        "data": config.data,
    });
    output::print(format, &answer, || {
        format!("{}: valid, region {}", file.display(), config.region)
    })
}

fn report(failure: &Failure) -> ExitCode {
    let line: Vec<&str> = failure.0.split_whitespace().collect();
    eprintln!("knhk: {}", line.join(" "));
    ExitCode::FAILURE
}
