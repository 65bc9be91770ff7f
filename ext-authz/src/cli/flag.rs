//! `knhk flag`: the definitions that the service has, and what a flag gives for a context, offline, by the code that filters
//! run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use knhk_flags::limits::{MAX_CONTEXT_BYTES, MAX_FLAGS_BYTES};
use knhk_flags::{Asked, Context, Document, EvaluationError, FlagSet, Json, Object, Resolution};
use reqwest::Method;
use serde::Serialize;

use super::client::Client;
use super::{Failure, OutputArgs, ServerArgs, failed, input, output};
use crate::api::{FlagsApplied, in_one_line};
use crate::app::clock::wall_ms;

/// What stands for standard input.
const STDIN: &str = "-";

#[derive(Debug, Subcommand)]
pub(crate) enum FlagVerb {
    /// Put flag definitions in the place of those in force.
    Apply {
        /// All definitions in flagd's schema, as JSON or YAML; `-` reads standard input.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List the flags that are defined.
    List {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Evaluate a flag: its value, its variant and the reason, as flagd gives them.
    Eval(Eval),
}

#[derive(Debug, Args)]
pub(crate) struct Eval {
    /// Flag definitions in flagd's schema, as JSON or YAML; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    flags: PathBuf,
    /// The flag's key.
    #[arg(long, value_name = "KEY")]
    flag: String,
    /// Facts that rules read, as a JSON object with `targetingKey` for who it is; `-` reads standard input.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    context: String,
    /// Refuse a value of another type.
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    asked: Option<AskedType>,
    /// `$flagd.timestamp`, in seconds since 1970, instead of the time now.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    timestamp: Option<i64>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AskedType {
    Boolean,
    String,
    Integer,
    Float,
    Object,
}

/// What a flag gives. Without a variant the caller's own default holds.
#[derive(Debug, Serialize)]
struct Evaluated<'s> {
    flag: &'s str,
    value: Option<&'s Json>,
    variant: Option<&'s str>,
    reason: &'static str,
    metadata: BTreeMap<&'s str, &'s Json>,
}

pub(crate) async fn run(verb: FlagVerb) -> Result<(), Failure> {
    match verb {
        FlagVerb::Apply { file, server, output } => apply(&file, &server, output).await,
        FlagVerb::List { server, output } => list(&server, output).await,
        FlagVerb::Eval(eval) => evaluate(&eval),
    }
}

/// What is wrong with the file is said here already, by its name.
async fn apply(file: &Path, server: &ServerArgs, format: OutputArgs) -> Result<(), Failure> {
    let text = input::text(file, MAX_FLAGS_BYTES)?;
    crate::flags::read(&text).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    let client = Client::new(server).await?;
    let request = client.request(Method::PUT, "/v1/flags");
    let request = request.header("content-type", "application/yaml").body(text);
    let applied: FlagsApplied = client.json(request).await?;
    output::print(format, &applied, || {
        format!("{} flags defined, policy {}", applied.flags, applied.policy)
    })
}

/// In JSON the definitions themselves, fit for `apply`.
async fn list(server: &ServerArgs, format: OutputArgs) -> Result<(), Failure> {
    let client = Client::new(server).await?;
    let bytes = client.bytes(client.request(Method::GET, "/v1/flags")).await?;
    let document = Document::parse(&bytes).map_err(failed)?;
    let set = FlagSet::compile(&document).map_err(failed)?;
    output::print(format, &document, || {
        let rows = set.keys().map(|(key, kind)| {
            let (state, default) = shown(document.definition(key));
            let variants: Vec<_> = set.variants(key).into_iter().flatten().collect();
            let rule = if set.may_fail(key) { "rule" } else { "" };
            [
                key.to_owned(),
                state,
                kind.label().to_owned(),
                default,
                variants.join(", "),
                rule.to_owned(),
            ]
            .map(|cell| in_one_line(&cell))
        });
        output::table(
            ["FLAG", "STATE", "KIND", "DEFAULT", "VARIANTS", "TARGETING"],
            rows,
        )
    })
}

/// State and default variant of a definition.
fn shown(definition: Option<&Json>) -> (String, String) {
    let text = |name: &str| match definition {
        Some(Json::Object(members)) => match members.get(name) {
            Some(Json::Text(text)) => text.to_string(),
            _ => "-".to_owned(),
        },
        _ => "-".to_owned(),
    };
    (text("state"), text("defaultVariant"))
}

fn evaluate(eval: &Eval) -> Result<(), Failure> {
    if eval.flags == Path::new(STDIN) && eval.context == STDIN {
        let message =
            "--flags and --context cannot both be standard input: give a file, or the context as it is";
        return Err(Failure::new(message));
    }
    let located = |what: &str| Failure::new(format!("{}: {what}", eval.flags.display()));
    let file = input::text(&eval.flags, MAX_FLAGS_BYTES)?;
    let document = crate::flags::read(&file).map_err(|error| located(&error.to_string()))?;
    let set = FlagSet::compile(&document).map_err(|error| located(&error.to_string()))?;
    let facts = facts(&eval.context)?;
    let context = Context::at(eval.timestamp.unwrap_or_else(now)).with_all(&facts);
    let resolution = resolve(&set, eval, &context)
        .map_err(|error| located(&format!("flag {:?}: {}: {error}", eval.flag, error.label())))?;
    let evaluated = Evaluated {
        flag: &eval.flag,
        value: resolution.chosen.map(|chosen| chosen.value),
        variant: resolution.chosen.map(|chosen| chosen.variant),
        reason: resolution.reason.as_str(),
        metadata: set.metadata(&eval.flag),
    };
    let value = evaluated
        .value
        .map(serde_json::to_string)
        .transpose()
        .map_err(failed)?;
    output::print(eval.output, &evaluated, || text(&evaluated, value.as_deref()))
}

fn resolve<'s>(
    set: &'s FlagSet,
    eval: &Eval,
    context: &Context<'_>,
) -> Result<Resolution<'s>, EvaluationError> {
    match eval.asked {
        Some(asked) => set.evaluate_as(&eval.flag, asked.into(), context),
        None => set.evaluate(&eval.flag, context),
    }
}

fn facts(given: &str) -> Result<Object, Failure> {
    let read = |bytes: &[u8]| Context::read(bytes).map_err(|error| Failure::new(format!("--{error}")));
    if given == STDIN {
        read(&input::bytes(Path::new(STDIN), MAX_CONTEXT_BYTES)?)
    } else {
        read(given.as_bytes())
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    i64::try_from(wall_ms() / 1000).unwrap_or(i64::MAX)
}

fn text(evaluated: &Evaluated<'_>, value: Option<&str>) -> String {
    format!(
        "{}\t{}\t{}",
        value.unwrap_or("-"),
        evaluated.variant.unwrap_or("-"),
        evaluated.reason
    )
}

impl From<AskedType> for Asked {
    fn from(asked: AskedType) -> Self {
        match asked {
            AskedType::Boolean => Self::Boolean,
            AskedType::String => Self::String,
            AskedType::Integer => Self::Integer,
            AskedType::Float => Self::Float,
            AskedType::Object => Self::Object,
        }
    }
}
