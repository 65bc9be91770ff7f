//! Values that rules hold, and contexts that they read.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

/// Names that contexts have, and some that they do not.
pub(crate) fn name() -> BoxedStrategy<Value> {
    select(vec![
        "a",
        "b",
        "n",
        "s",
        "list",
        "user",
        "user.name",
        "user.list.0",
        "user.list.1.x",
        "list.0",
        "list.1",
        "list.00",
        "list.length",
        "s.0",
        "s.length",
        "s.length.x",
        "version",
        "x",
        "not.there",
        "$flagd",
        "$flagd.flagKey",
        "$flagd.timestamp",
        "targetingKey",
        "0",
        "",
    ])
    .prop_map(Value::from)
    .boxed()
}

pub(crate) fn leaf() -> BoxedStrategy<Value> {
    prop_oneof![
        3 => literal(),
        3 => name().prop_map(|name| json!({ "var": name })),
        1 => vec(literal(), 0..3).prop_map(Value::from),
    ]
    .boxed()
}

pub(crate) fn literal() -> BoxedStrategy<Value> {
    prop_oneof![
        4 => text().prop_map(Value::from),
        3 => (-20..50_i64).prop_map(Value::from),
        2 => float().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ]
    .boxed()
}

/// Without what Python would take for more than text where `$evaluators` are put in: no backslash, only ASCII.
pub(crate) fn text() -> impl Strategy<Value = &'static str> {
    select(vec![
        "",
        "a",
        "on",
        "off",
        "abc",
        "abcdef",
        "A",
        "0",
        "1",
        "-1",
        "1.5",
        " 2 ",
        "1_0",
        "1__0",
        "_1",
        "1e3",
        "1e400",
        ".5",
        "5.",
        "+3",
        "inf",
        "-Inf",
        "Infinity",
        "-infinity",
        "nan",
        "NaN",
        "0x10",
        "true",
        "True",
        "null",
        "1,2",
        "[object Object]",
        "1.2.3",
        "v2",
        "2.0.0-rc.1",
        "user@example.com",
        "10",
        "9",
        "v0",
    ])
}

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => select(vec![
            0.0, -0.0, 1.0, 2.0, 1.5, -0.5, 0.1, 1e20, 1e16, 1e15, 999_999_999_999_999.5, 123_456_789_012_345.6, 100_000_000_000_000.5, 1e-4, 1e-5, 1e-7,
            5e-324, 1.797_693_134_862_315_7e308, 65504.0, 65505.5, 65520.0, 0.000_061_035_156_25, 5.960_464_477_539_063e-8, 16_777_217.5, 1.1,
            9_223_372_036_854_775_808.0, -9_223_372_036_854_775_808.0, 18_446_744_073_709_551_616.0, 18_446_744_073_709_549_568.0, -9_223_372_036_854_777_856.0,
        ]),
        2 => (-1000_i32..1000).prop_map(|quarter| f64::from(quarter) / 4.0),
        2 => any::<f64>().prop_filter("JSON has no others", |float| float.is_finite()),
    ]
}

pub(crate) fn context() -> impl Strategy<Value = Map<String, Value>> {
    let names = select(vec!["a", "b", "n", "s", "x", "0", "$flagd"]);
    let targeting_key = prop_oneof![6 => "[a-z\u{e9}\u{4e2d}\u{1f600}]{1,40}".prop_map(Value::from), 1 => Just(json!("")), 1 => Just(Value::Null)];
    let version = prop_oneof![
        5 => "[vV]?[0-2](\\.[0-2](\\.[0-2](-(rc|a)\\.[0-2])?(\\+b)?)?)?",
        1 => select(vec!["1.02.0".to_owned(), "1.2.3.4".to_owned(), "vv1".to_owned(), "1.2-".to_owned(), "-1".to_owned(), "1.".to_owned()]),
    ];
    (
        vec((names, document(2)), 0..6),
        option::weighted(0.8, targeting_key),
        option::weighted(0.7, version),
        option::weighted(0.8, user()),
        option::weighted(0.7, vec(document(1), 0..4)),
        option::weighted(0.5, "[a-z0-9\u{e9}\u{1f600}]{0,12}"),
        option::weighted(0.5, -(1_i64 << 53)..(1_i64 << 53)),
    )
        .prop_map(|(others, key, version, user, list, text, big)| {
            let mut context: Map<String, Value> = others
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            let more = [
                ("targetingKey", key),
                ("version", version.map(Value::from)),
                ("user", user),
                ("list", list.map(Value::from)),
                ("s", text.map(Value::from)),
                ("big", big.map(Value::from)),
            ];
            for (name, value) in more {
                if let Some(value) = value {
                    context.insert(name.to_owned(), value);
                }
            }
            context
        })
}

fn user() -> impl Strategy<Value = Value> {
    (document(1), vec(document(1), 0..3))
        .prop_map(|(name, list)| json!({ "name": name, "list": list, "targetingKey": "of the item" }))
}

/// Any JSON, with numbers that can be multiplied some times: only `big` is greater, which nothing multiplies.
fn document(depth: u32) -> BoxedStrategy<Value> {
    let unicode = "[a-z\u{e9}\u{4e2d}\u{1f600}\"\\\\ ]{0,8}".prop_map(Value::from);
    prop_oneof![4 => literal(), 1 => unicode, 1 => (-(1_i64 << 13)..(1_i64 << 13)).prop_map(Value::from)]
        .prop_recursive(depth, 8, 3, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map(
                    select(vec!["x", "name", "yy", "\u{e9}", "targetingKey"]),
                    inner,
                    0..3
                )
                .prop_map(|members| Value::Object(
                    members
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect()
                )),
            ]
        })
        .boxed()
}
