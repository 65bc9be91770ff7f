//! `knhk flag`: what a flag gives for a context, offline, by the code that filters run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use knhk_flags::limits::{MAX_CONTEXT_BYTES, MAX_FLAGS_BYTES};
use knhk_flags::{Asked, Context, EvaluationError, FlagSet, Json, Object, Resolution};
use serde::Serialize;

use super::{Failure, OutputArgs, failed, input, output};
use crate::app::clock::wall_ms;

/// What stands for standard input.
const STDIN: &str = "-";

#[derive(Debug, Subcommand)]
pub(crate) enum FlagVerb {
    /// Evaluate a flag: its value, its variant and the reason, as flagd gives them.
    Eval(Eval),
}

#[derive(Debug, Args)]
pub(crate) struct Eval {
    /// Flag definitions in flagd's schema (JSON); `-` reads standard input.
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

pub(crate) fn run(verb: &FlagVerb) -> Result<(), Failure> {
    match verb {
        FlagVerb::Eval(eval) => evaluate(eval),
    }
}

fn evaluate(eval: &Eval) -> Result<(), Failure> {
    if eval.flags == Path::new(STDIN) && eval.context == STDIN {
        let message =
            "--flags and --context cannot both be standard input: give a file, or the context as it is";
        return Err(Failure::new(message));
    }
    let located = |what: &str| Failure::new(format!("{}: {what}", eval.flags.display()));
    let file = input::bytes(&eval.flags, MAX_FLAGS_BYTES)?;
    let set = FlagSet::parse(&file).map_err(|error| located(&error.to_string()))?;
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
