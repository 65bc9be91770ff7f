//! Nothing makes it panic, run long or overflow its stack: not any bytes, nor rules that are made to.

use knhk_flags::{Context, EvaluationError, FlagSet, Stop, limits};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{NOW, evaluate, file, parse};

/// What a filter's virtual machine has for its stack, at least.
const STACK: usize = 256 * 1024;

fn on_a_small_stack(run: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(run);
    thread.expect("a thread").join().expect("it ends well");
}

fn stop(set: &FlagSet, context: &Value) -> Stop {
    let document = Context::read(context.to_string().as_bytes()).expect("a context");
    let result = set.evaluate("flag", &Context::at(NOW).with_all(&document));
    match result.expect_err("it has no result") {
        EvaluationError::Stopped(stop) => stop,
        other => panic!("another error: {other}"),
    }
}

#[test]
fn the_deepest_rule_and_context_fit_a_small_stack() {
    on_a_small_stack(|| {
        let mut rule = json!({ "var": "a" });
        let mut given = json!([1]);
        // An operation is one level here: what stands alone needs no list.
        for _ in 0..limits::MAX_DEPTH - 5 {
            rule = json!({ "!": rule });
            given = json!([given]);
        }
        let set = parse(&file(&["false", "true"], &rule));
        assert_eq!(evaluate(&set, &json!({ "a": given })).1, "TARGETING_MATCH");
        let text = json!({ "if": [{ "==": [{ "cat": { "var": "a" } }, "1"] }, "true", { "fractional": [{ "cat": [{ "var": "a" }] }, ["false", 1]] }] });
        let set = parse(&file(&["false", "true"], &text));
        assert_eq!(evaluate(&set, &json!({ "a": given })).0.as_deref(), Some("true"));
    });
}

#[test]
fn lists_that_hold_themselves_twice_cost_what_they_seem_to() {
    on_a_small_stack(|| {
        let twice =
            json!({ "reduce": [{ "var": "a" }, [{ "var": "accumulator" }, { "var": "accumulator" }], "x"] });
        let many: Vec<u8> = vec![0; 40];
        for read in [
            json!({ "cat": [twice] }),
            json!({ "===": [twice, twice] }),
            json!({ "in": ["y", twice] }),
            json!({ "fractional": [{ "in": [twice, [1]] }, ["on", 1]] }),
        ] {
            assert_eq!(
                stop(&parse(&file(&["on"], &read)), &json!({ "a": many })),
                Stop::TooCostly,
                "{read}"
            );
        }
    });
}

#[test]
fn lists_in_lists_end_at_their_bound() {
    on_a_small_stack(|| {
        let nested = json!({ "reduce": [{ "var": "a" }, [{ "var": "accumulator" }], "x"] });
        let set = parse(&file(&["on"], &nested));
        let of = |count: usize| json!({ "a": vec![0; count] });
        assert_eq!(evaluate(&set, &of(limits::MAX_MADE_DEPTH)).1, "GENERAL");
        assert_eq!(stop(&set, &of(limits::MAX_MADE_DEPTH + 1)), Stop::TooDeep);
    });
}

#[test]
fn loops_in_loops_and_texts_that_grow_end_at_the_bound() {
    let list: Vec<u8> = vec![1; 200];
    let every = |body: Value| json!({ "all": [list, body] });
    let loops = every(every(every(json!(true))));
    assert_eq!(stop(&parse(&file(&["on"], &loops)), &json!({})), Stop::TooCostly);
    let grows =
        json!({ "reduce": [list, { "cat": [{ "var": "accumulator" }, { "var": "accumulator" }] }, "x"] });
    assert_eq!(stop(&parse(&file(&["on"], &grows)), &json!({})), Stop::TooCostly);
    let letters = json!({ "all": [list, { "var": ["x", { "substr": [{ "var": "" }, -1] }] }] });
    assert_eq!(
        evaluate(&parse(&file(&["false", "true"], &letters)), &json!({})).1,
        "TARGETING_MATCH"
    );
}

#[test]
fn everything_at_once_is_no_value_in_reduce() {
    let whole = json!({ "reduce": [[1], { "var": { "var": "nothing" } }, 0] });
    assert_eq!(stop(&parse(&file(&["on"], &whole)), &json!({})), Stop::WholeFold);
}

#[test]
fn a_split_in_a_loop_needs_somebody() {
    let split = json!({ "fractional": [["on", 1]] });
    let set = parse(&file(
        &["off", "on"],
        &json!({ "if": [{ "all": [{ "var": "a" }, split] }, "on", "off"] }),
    ));
    assert_eq!(
        evaluate(&set, &json!({ "a": [{ "targetingKey": "somebody" }] }))
            .0
            .as_deref(),
        Some("on")
    );
    assert_eq!(evaluate(&set, &json!({ "a": [{}] })).0.as_deref(), Some("off"));
    assert_eq!(stop(&set, &json!({ "a": ["text"] })), Stop::NoContext);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = FlagSet::parse(&bytes) {
            prop_assert!(!error.to_string().contains('\n'));
        }
        if let Err(error) = Context::read(&bytes) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }

    /// Names, brackets and numbers of rules in any order come further than bytes do.
    #[test]
    fn any_rule_is_refused_or_evaluated(rule in rule()) {
        let text = file(&["on", "off"], &rule).to_string();
        match FlagSet::parse(text.as_bytes()) {
            Err(error) => prop_assert!(!error.to_string().contains('\n'), "{}", error),
            Ok(set) => {
                let (_, reason) = evaluate(&set, &json!({ "a": [1, { "b": "c" }], "targetingKey": "k" }));
                prop_assert!(["TARGETING_MATCH", "DEFAULT", "GENERAL", "STATIC"].contains(&reason));
            }
        }
    }
}

fn rule() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "var",
        "missing",
        "missing_some",
        "if",
        "and",
        "or",
        "!",
        "!!",
        "==",
        "!=",
        "===",
        "!==",
        "<",
        "<=",
        ">",
        ">=",
        "+",
        "*",
        "-",
        "/",
        "%",
        "min",
        "max",
        "map",
        "filter",
        "all",
        "some",
        "none",
        "reduce",
        "merge",
        "in",
        "cat",
        "substr",
        "fractional",
        "starts_with",
        "ends_with",
        "sem_ver",
        "$ref",
        "log",
        "",
    ]);
    let leaf = prop_oneof![
        prop::sample::select(vec![
            "on",
            "",
            "a",
            "a.0",
            "a.1.b",
            "current",
            "$flagd.timestamp",
            "1.2.3",
            ">=",
            "\n"
        ])
        .prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            4 => (names.clone(), prop::collection::vec(inner, 0..4))
                .prop_map(|(name, of)| Value::Object([(name.to_owned(), Value::from(of))].into_iter().collect())),
        ]
    })
}
