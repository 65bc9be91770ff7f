//! The comparison with flagd's own evaluator.

use std::cell::RefCell;
use std::collections::BTreeMap;

use knhk_flags::{Asked, Context, EvaluationError, FlagSet, Json, Resolution};
use knhk_tests::peer::flagd::{Answer, Ask, Flagd, Questions};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use crate::generate::{self, Case};

/// Flag files that are generated, each with some contexts.
const FILES: u32 = 3000;
/// When all is evaluated.
const TIMESTAMP: i64 = 1_795_000_000;

#[test]
fn flagd_agrees_on_generated_flags_and_contexts() {
    let mut flagd = Flagd::start().unwrap_or_else(|not_run| panic!("{not_run}"));
    let config = Config {
        cases: FILES,
        failure_persistence: None,
        ..Config::default()
    };
    let asked = RefCell::new((&mut flagd, BTreeMap::new()));
    let agreed = TestRunner::new(config).run(&generate::case(), |case| {
        let (flagd, outcomes) = &mut *asked.borrow_mut();
        agree(flagd, &case, outcomes)
    });
    if let Err(error) = agreed {
        panic!("{error}");
    }
    // What was compared covers every way that an evaluation can end, and mostly shows what a rule computed.
    let (_, outcomes) = asked.into_inner();
    let all: usize = outcomes.values().sum();

    for outcome in [
        "STATIC",
        "DISABLED",
        "DEFAULT",
        "GENERAL",
        "TYPE_MISMATCH",
        "FLAG_NOT_FOUND",
    ] {
        assert!(
            outcomes.get(outcome).is_some_and(|count| count * 1000 > all),
            "{outcomes:?}"
        );
    }
    assert!(outcomes["TARGETING_MATCH"] * 3 > all, "{outcomes:?}");
}

/// Both evaluate all that is asked, and say the same.
fn agree(
    flagd: &mut Flagd,
    case: &Case,
    outcomes: &mut BTreeMap<String, usize>,
) -> Result<(), TestCaseError> {
    let questions = Questions {
        flags: case.file.to_string(),
        timestamp: TIMESTAMP,
        asks: asks(case),
    };
    let set = FlagSet::parse(questions.flags.as_bytes())
        .map_err(|error| TestCaseError::fail(format!("refused: {error}")))?;
    let theirs = flagd
        .ask(&questions)
        .map_err(|error| TestCaseError::fail(format!("flagd refuses: {error}")))?;
    for (ask, theirs) in questions.asks.iter().zip(&theirs) {
        let ours = ours(&set, ask);
        let outcome = ours.code.as_ref().unwrap_or(&ours.reason);
        *outcomes.entry(outcome.clone()).or_default() += 1;
        prop_assert!(
            same(&ours, theirs),
            "{}\n  ours:   {ours:?}\n  flagd:  {theirs:?}\n  flags:  {}\n  asked:  {}",
            ask.flag,
            case.file,
            json!({ "type": ask.asked, "context": ask.context })
        );
    }
    Ok(())
}

fn asks(case: &Case) -> Vec<Ask> {
    let keys = case.file["flags"].as_object().into_iter().flat_map(Map::keys);
    keys.map(String::as_str)
        .chain(["not-there"])
        .flat_map(|key| {
            case.contexts.iter().map(move |context| Ask {
                flag: key.to_owned(),
                asked: case.asked,
                context: context.clone(),
            })
        })
        .collect()
}

fn ours(set: &FlagSet, ask: &Ask) -> Answer {
    let document = Value::Object(ask.context.clone()).to_string();
    let document = Context::read(document.as_bytes()).expect("a context within bounds");
    let context = Context::at(TIMESTAMP).with_all(&document);
    match set.evaluate_as(&ask.flag, asked(ask.asked), &context) {
        Ok(resolution) => answer(set, &ask.flag, resolution),
        Err(error) => Answer {
            variant: None,
            value: Value::Null,
            reason: EvaluationError::REASON.to_owned(),
            code: Some(error.label().to_owned()),
            metadata: Map::new(),
        },
    }
}

fn answer(set: &FlagSet, key: &str, resolution: Resolution<'_>) -> Answer {
    let json = |json: &Json| serde_json::to_value(json).expect("JSON");
    let metadata = set.metadata(key).into_iter();
    Answer {
        variant: resolution.chosen.map(|chosen| chosen.variant.to_owned()),
        value: resolution.chosen.map_or(Value::Null, |chosen| json(chosen.value)),
        reason: resolution.reason.as_str().to_owned(),
        code: None,
        metadata: metadata
            .map(|(name, value)| (name.to_owned(), json(value)))
            .collect(),
    }
}

/// Numbers are the same when they are equal: a call for a float makes floats of whole ones.
fn same(ours: &Answer, theirs: &Answer) -> bool {
    let equal = match (&ours.value, &theirs.value) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    };
    equal
        && (&ours.variant, &ours.reason, &ours.code, &ours.metadata)
            == (&theirs.variant, &theirs.reason, &theirs.code, &theirs.metadata)
}

pub(crate) fn asked(label: &str) -> Asked {
    [
        Asked::Boolean,
        Asked::String,
        Asked::Integer,
        Asked::Float,
        Asked::Object,
    ]
    .into_iter()
    .find(|asked| asked.label() == label)
    .expect("a type of OpenFeature's calls")
}
