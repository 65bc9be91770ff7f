//! Rules of every operation.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::values::{leaf, literal, name};

/// What may stand inside an operation.
type Inner = BoxedStrategy<Value>;

/// An operation.
pub(crate) fn rule() -> Inner {
    operation(
        leaf()
            .prop_recursive(3, 24, 3, |inner| operation(inner.boxed()))
            .boxed(),
    )
}

fn operation(inner: Inner) -> Inner {
    prop_oneof![
        6 => logic(inner.clone()),
        5 => comparisons(inner.clone()),
        4 => numbers(inner.clone()),
        6 => lists(inner.clone()),
        5 => texts(inner.clone()),
        2 => sem_ver(inner.clone()),
        2 => fractional(inner),
    ]
    .boxed()
}

fn logic(inner: Inner) -> Inner {
    prop_oneof![
        3 => var(inner.clone()),
        2 => of(&["if", "and", "or"], vec(inner.clone(), 1..5)),
        1 => of(&["!", "!!"], vec(inner.clone(), 1)),
        // Without a list around it.
        1 => (select(vec!["!", "!!"]), inner.prop_map(as_operation)).prop_map(|(name, value)| one(name, value)),
    ]
    .boxed()
}

fn comparisons(inner: Inner) -> Inner {
    let big = Just(json!({ "var": "big" }));
    prop_oneof![
        4 => of(&["==", "!=", "<", "<=", ">", ">="], vec(inner.clone(), 2)),
        1 => of(&["<", "<="], vec(inner.clone(), 3)),
        // A list on both sides might have something in it that is no number.
        2 => (select(vec!["===", "!=="]), inner.clone(), leaf()).prop_map(|(name, a, b)| many(name, vec![a, b])),
        1 => (select(vec!["==", "<", ">="]), big, inner).prop_map(|(name, a, b)| many(name, vec![a, b])),
    ]
    .boxed()
}

fn numbers(inner: Inner) -> Inner {
    prop_oneof![
        3 => of(&["+", "min", "max"], vec(inner.clone(), 1..4)),
        2 => of(&["-"], vec(inner.clone(), 1..3)),
        2 => of(&["/", "%"], vec(inner, 2)),
        1 => of(&["*"], vec(leaf(), 2)),
    ]
    .boxed()
}

fn lists(inner: Inner) -> Inner {
    let loops = vec!["map", "filter", "all", "some", "none"];
    let keys = prop_oneof![vec(name(), 0..4).prop_map(Value::from), leaf()];
    prop_oneof![
        3 => (select(loops), list(inner.clone()), inner.clone()).prop_map(|(name, list, body)| many(name, vec![list, body])),
        2 => reduce(),
        2 => (inner.clone(), prop_oneof![list(leaf()), leaf()]).prop_map(|(needle, haystack)| many("in", vec![needle, haystack])),
        1 => of(&["merge"], vec(inner, 1..3)),
        1 => of(&["missing"], vec(prop_oneof![name(), leaf()], 1..4)),
        1 => (leaf(), keys).prop_map(|(needed, keys)| many("missing_some", vec![needed, keys])),
    ]
    .boxed()
}

fn texts(inner: Inner) -> Inner {
    // What is written must be a text there.
    let text = inner.clone().prop_map(|value| match value {
        Value::Object(_) | Value::String(_) => value,
        other => Value::from(other.to_string()),
    });
    prop_oneof![
        2 => of(&["cat"], vec(inner.clone(), 1..4)),
        2 => of(&["substr"], vec(inner, 2..4)),
        1 => of(&["starts_with", "ends_with"], vec(text, 2)),
    ]
    .boxed()
}

fn var(inner: Inner) -> Inner {
    let others = vec![
        json!(""),
        Value::Null,
        json!(0),
        json!(1),
        json!(1.0),
        json!(-1),
        json!(1.5),
        json!(true),
    ];
    prop_oneof![
        6 => name().prop_map(|name| json!({ "var": name })),
        2 => (name(), inner.clone()).prop_map(|(name, default)| json!({ "var": [name, default] })),
        1 => select(others).prop_map(|key| json!({ "var": [key] })),
        1 => inner.prop_map(|key| json!({ "var": [key, "other"] })),
    ]
    .boxed()
}

fn list(items: Inner) -> Inner {
    prop_oneof![
        2 => select(vec!["list", "user.list", "s", "a"]).prop_map(|name| json!({ "var": name })),
        2 => vec(items, 0..4).prop_map(Value::from),
        1 => vec(leaf(), 0..3).prop_map(|of| json!({ "merge": [{ "var": "list" }, of] })),
    ]
    .boxed()
}

/// Bodies read `current` and `accumulator` only by their names, not both at once.
fn reduce() -> Inner {
    let read = select(vec![
        "current",
        "accumulator",
        "current.x",
        "current.0",
        "accumulator.length",
        "a",
    ]);
    let operand = prop_oneof![3 => read.prop_map(|name| json!({ "var": name })), 1 => literal()];
    let body = of(
        &["+", "*", "cat", "merge", "max", "-", "==", "if", "substr"],
        vec(operand, 2),
    );
    let start = prop_oneof![4 => literal(), 1 => vec(literal(), 0..3).prop_map(Value::from)];
    (list(leaf()), body, start)
        .prop_map(|(list, body, start)| many("reduce", vec![list, body, start]))
        .boxed()
}

fn sem_ver(inner: Inner) -> Inner {
    let ranges = select(vec!["=", "!=", "<", "<=", ">", ">=", "^", "~"]);
    let versions = [
        "1.0.0",
        "v1",
        "1.2",
        "2.0.0-rc.1",
        "2.0.0-rc.2",
        "2.0.0+build",
        "V1.2.3-a.1+b",
    ];
    let version = select(versions.to_vec()).prop_map(Value::from);
    let given = prop_oneof![
        4 => Just(json!({ "var": "version" })),
        2 => version.clone(),
        1 => inner.prop_map(as_operation),
    ];
    (given, ranges, version)
        .prop_map(|(given, range, wanted)| json!({ "sem_ver": [given, range, wanted] }))
        .boxed()
}

fn fractional(inner: Inner) -> Inner {
    let weight = prop_oneof![
        6 => (0..100_i64).prop_map(Value::from),
        1 => Just(json!({ "+": [2_147_483_647_i64, 0] })),
        2 => inner.clone().prop_map(as_operation),
    ];
    let variant = prop_oneof![
        6 => select(vec!["v0", "v1", "v2", "on"]).prop_map(Value::from),
        2 => literal(),
        1 => inner.clone().prop_map(as_operation),
    ];
    let share = prop_oneof![
        9 => (variant, option::of(weight)).prop_map(|(variant, weight)| [variant].into_iter().chain(weight).collect::<Value>()),
        1 => (name(), 0..9_i64).prop_map(|(name, weight)| json!({ "merge": [name, weight] })),
    ];
    let by = prop_oneof![
        3 => name().prop_map(|name| json!({ "var": name })),
        1 => Just(json!({ "var": "big" })),
        1 => inner.prop_filter("a list is a share, null is refused", |by| !by.is_array() && !by.is_null()),
    ];
    (option::weighted(0.6, by), vec(share, 1..5))
        .prop_map(|(by, shares)| one("fractional", by.into_iter().chain(shares).collect()))
        .boxed()
}

/// One of the operations, on these values.
fn of(names: &[&'static str], values: impl Strategy<Value = Vec<Value>> + 'static) -> Inner {
    (select(names.to_vec()), values)
        .prop_map(|(name, values)| many(name, values))
        .boxed()
}

fn many(name: &str, values: Vec<Value>) -> Value {
    one(name, Value::from(values))
}

fn one(name: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(name.to_owned(), value)]))
}

/// Where no value may be written.
fn as_operation(value: Value) -> Value {
    if value.is_object() {
        value
    } else {
        many("or", vec![value])
    }
}
