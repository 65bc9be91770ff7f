//! Flag files and contexts, made so that what a rule computes shows in the variant that comes out.
//!
//! What flagd's own evaluators do not agree on among themselves, or what docs/flags.md says is different here, is left out:
//! whole numbers that leave 64 bits, lists with something in them that is no number, `var` of everything in `reduce`.

mod rules;
mod values;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use self::rules::rule;
use self::values::{context, text};

/// A flag file, contexts for it, and with which call its flags are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) file: Value,
    pub(crate) contexts: Vec<Map<String, Value>>,
    pub(crate) asked: &'static str,
}

/// Values that a rule may give by itself and that are variants, by their names.
const NAMES: [&str; 12] = [
    "on", "off", "true", "false", "True", "1", "2.0", "1.5", "0", "nan", "-0.0", "1e+20",
];
/// Variants of the shares that show what a value is.
const SHARES: usize = 32;

pub(crate) fn case() -> impl Strategy<Value = Case> {
    let kinds = select(vec!["boolean", "string", "number", "object"]);
    let evaluators = vec(rule(), 0..3);
    (
        kinds,
        evaluators,
        vec(flag(), 1..4),
        vec(context(), 1..5),
        any::<u8>(),
        metadata(),
    )
        .prop_map(|(kind, evaluators, flags, contexts, asked, metadata)| {
            let shared: Map<String, Value> = (0..)
                .zip(evaluators)
                .map(|(number, rule)| (format!("e{number}"), rule))
                .collect();
            let count = shared.len();
            let flags: Map<String, Value> = (0..)
                .zip(flags)
                .map(|(number, flag)| (format!("flag-{number}"), flag.definition(kind, count)))
                .collect();
            let mut file = json!({ "flags": flags, "$evaluators": shared });
            if let Some(metadata) = metadata {
                file["metadata"] = metadata;
            }
            Case {
                file,
                contexts,
                asked: call(kind, asked),
            }
        })
}

/// Mostly the call that fits. A boolean is never asked for as a float: there flagd for Python gives 1.0, and flagd for Go
/// and we refuse.
fn call(kind: &str, choice: u8) -> &'static str {
    match (kind, choice) {
        ("boolean", 0..=230) => "boolean",
        ("string", 0..=230) | (_, 241..=248) => "string",
        ("number", 0..=200) => "float",
        ("number", 201..=240) | ("boolean" | "string", 231..=240) => "integer",
        _ => "object",
    }
}

#[derive(Clone, Debug)]
struct FlagParts {
    enabled: bool,
    default: Option<Value>,
    targeting: Option<Value>,
    metadata: Option<Value>,
}

fn flag() -> impl Strategy<Value = FlagParts> {
    let default = option::weighted(
        0.8,
        prop_oneof![8 => select(vec!["on", "v0", "true"]).prop_map(Value::from), 1 => Just(Value::Null), 1 => Just(json!(""))],
    );
    (
        prop::bool::weighted(0.95),
        default,
        option::weighted(0.95, targeting()),
        metadata(),
    )
        .prop_map(|(enabled, default, targeting, metadata)| FlagParts {
            enabled,
            default,
            targeting,
            metadata,
        })
}

impl FlagParts {
    fn definition(self, kind: &str, evaluators: usize) -> Value {
        let shares = (0..SHARES).map(|number| format!("v{number}"));
        let names = NAMES.iter().map(|name| (*name).to_owned()).chain(shares);
        let variants: Map<String, Value> = names
            .enumerate()
            .map(|(number, name)| (name, variant(kind, number)))
            .collect();
        let state = if self.enabled { "ENABLED" } else { "DISABLED" };
        let mut flag = json!({ "state": state, "variants": variants });
        if let Some(default) = self.default {
            flag["defaultVariant"] = default;
        }
        if let Some(mut targeting) = self.targeting {
            resolve(&mut targeting, evaluators);
            flag["targeting"] = targeting;
        }
        if let Some(metadata) = self.metadata {
            flag["metadata"] = metadata;
        }
        flag
    }
}

fn variant(kind: &str, number: usize) -> Value {
    match kind {
        "boolean" => json!(number.is_multiple_of(2)),
        "string" => json!(format!("value {number} \u{e9}")),
        // Whole ones and others.
        "number" if number.is_multiple_of(3) => json!(number),
        "number" => json!(f64::from(u32::try_from(number).expect("few")) / 4.0),
        _ => json!({ "number": number, "inside": [1, { "null": null }] }),
    }
}

/// References are made before it is known how many evaluators there are: those that point nowhere become a value.
fn resolve(rule: &mut Value, evaluators: usize) {
    match rule {
        Value::Object(members) if members.contains_key("$ref") => {
            let known = (0..evaluators).any(|number| members["$ref"] == format!("e{number}"));
            if !known {
                *rule = json!("on");
            }
        }
        Value::Object(members) => members.values_mut().for_each(|value| resolve(value, evaluators)),
        Value::Array(items) => items.iter_mut().for_each(|value| resolve(value, evaluators)),
        _ => {}
    }
}

/// A rule whose result shows what `rule` gives: by the hash of its text or of itself, or by its name.
fn targeting() -> impl Strategy<Value = Value> {
    let referring = prop_oneof![9 => rule(), 1 => reference()];
    (referring, 0..5_u8).prop_map(|(rule, how)| match how {
        0 | 1 => split(json!({ "cat": ["=", rule] })),
        2 => split(rule),
        3 => json!({ "if": [rule, "v0", "v1"] }),
        // A rule is always an operation.
        _ if rule.is_object() => rule,
        _ => json!({ "or": [rule] }),
    })
}

fn split(by: Value) -> Value {
    let shares = (0..SHARES).map(|number| json!([format!("v{number}")]));
    json!({ "fractional": std::iter::once(by).chain(shares).collect::<Vec<_>>() })
}

fn reference() -> impl Strategy<Value = Value> {
    (0..2_u8).prop_map(|number| json!({ "if": [{ "$ref": format!("e{number}") }, "on", { "cat": [{ "$ref": format!("e{number}") }] }] }))
}

fn metadata() -> impl Strategy<Value = Option<Value>> {
    option::weighted(
        0.3,
        (text(), any::<bool>(), 0..5_i64).prop_map(
            |(text, truth, number)| json!({ "text": text, "truth": truth, (format!("n{number}")): number }),
        ),
    )
}
