//! Flag files of one flag.

use knhk_flags::{Context, EvaluationError, FlagSet, Resolution};
use serde_json::{Value, json};

/// When everything is evaluated.
pub(crate) const NOW: i64 = 1_795_000_000;

/// A file with one flag, `flag`, whose variants are `names`, each its own value, the first the default.
pub(crate) fn file(names: &[&str], rule: &Value) -> Value {
    let variants: Value = names
        .iter()
        .map(|name| ((*name).to_owned(), json!(name)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    json!({ "flags": { "flag": { "state": "ENABLED", "variants": variants, "defaultVariant": names[0], "targeting": rule } } })
}

pub(crate) fn parse(file: &Value) -> FlagSet {
    FlagSet::parse(file.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}\n{file}"))
}

/// The variant and the reason, or the code of the error.
pub(crate) fn shown<'s>(result: &Result<Resolution<'s>, EvaluationError>) -> (Option<&'s str>, &'static str) {
    match result {
        Ok(resolution) => (
            resolution.chosen.map(|chosen| chosen.variant),
            resolution.reason.as_str(),
        ),
        Err(error) => (None, error.label()),
    }
}

/// What the flag of a file gives for a context in JSON.
pub(crate) fn evaluate(set: &FlagSet, context: &Value) -> (Option<String>, &'static str) {
    let document = Context::read(context.to_string().as_bytes()).expect("a context");
    let result = set.evaluate("flag", &Context::at(NOW).with_all(&document));
    let (variant, reason) = shown(&result);
    (variant.map(str::to_owned), reason)
}
