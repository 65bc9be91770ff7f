//! What an evaluation costs, from a flag without a rule to the worst that the bounds allow: `cargo bench -p knhk-flags`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use knhk_flags::{Context, FlagSet, Object};
use serde_json::{Value, json};

const NOW: i64 = 1_795_000_000;

fn parse(rule: &Value) -> FlagSet {
    let file = json!({ "flags": { "flag": {
        "state": "ENABLED", "variants": { "on": true, "off": false }, "defaultVariant": "off", "targeting": rule,
    } } });
    FlagSet::parse(file.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

/// Rules as people write them.
fn usual() -> Vec<(&'static str, Value)> {
    let email = json!({ "var": "email" });
    vec![
        ("no rule", json!({})),
        (
            "==",
            json!({ "if": [{ "==": [{ "var": "plan" }, "pro"] }, "on", "off"] }),
        ),
        (
            "ends_with and in",
            json!({ "if": [
            { "and": [{ "ends_with": [email, "@example.com"] }, { "in": [{ "var": "country" }, ["de", "fr", "it", "es"]] }] }, "on", "off"] }),
        ),
        (
            "sem_ver",
            json!({ "if": [{ "sem_ver": [{ "var": "version" }, ">=", "2.1.0"] }, "on", "off"] }),
        ),
        (
            "fractional by targetingKey",
            json!({ "fractional": [["on", 5], ["off", 95]] }),
        ),
        (
            "fractional by cat",
            json!({ "fractional": [{ "cat": [{ "var": "$flagd.flagKey" }, { "var": "email" }] }, ["on", 5], ["off", 95]] }),
        ),
    ]
}

/// Rules made to cost all that an evaluation may: each ends at the bound. What is done to each item of a list is done many
/// times over, as nothing inside a loop reads the context's lists.
fn worst() -> Vec<(&'static str, Value)> {
    let item = || json!({ "var": "" });
    let forever = |list: &str, body: Value| {
        let bodies: Vec<Value> = (0..100).map(|_| json!({ "and": [body, false] })).collect();
        json!({ "some": [{ "var": list }, { "or": bodies }] })
    };
    vec![
        ("loops", forever("numbers", item())),
        (
            "numbers",
            forever("numbers", json!({ "+": [item(), 1.5, "2.5"] })),
        ),
        ("texts made", forever("texts", json!({ "cat": [item(), item()] }))),
        (
            "numbers made into texts",
            forever("numbers", json!({ "cat": [5e-324, 1.797_693_134_862_315_7e308] })),
        ),
        (
            "versions",
            forever(
                "versions",
                json!({ "sem_ver": [item(), "=", "1.2.3-a.b.c.d.e.f.g.h.i.j.k.m"] }),
            ),
        ),
        (
            "hashes",
            forever("texts", json!({ "fractional": [item(), ["on", 1], ["off", 1]] })),
        ),
        ("objects", forever("objects", json!({ "===": [item(), item()] }))),
        (
            "hashes of objects",
            forever(
                "objects",
                json!({ "fractional": [item(), ["on", 1], ["off", 1]] }),
            ),
        ),
        ("searches", forever("texts", json!({ "in": ["1", item()] }))),
        ("parts", forever("texts", json!({ "substr": [item(), -1, 1] }))),
        (
            "lists made",
            forever("numbers", json!({ "merge": [[1], [2], item()] })),
        ),
    ]
}

fn facts() -> Object {
    let numbers: Vec<u32> = (0..1000).collect();
    let texts: Vec<String> = (0..500).map(|number| format!("{number:031}")).collect();
    let versions: Vec<String> = (0..500)
        .map(|number| format!("1.2.{number}-a.b.c.d.e.f.g.h.i"))
        .collect();
    let objects: Vec<Value> = (0..500)
        .map(|number| json!({ "a": number, "b": true, "c": "d" }))
        .collect();
    let facts = json!({
        "targetingKey": "user-0001234", "email": "somebody@example.com", "country": "it", "plan": "pro", "version": "2.3.4",
        "path": "/api/v1/carts/1234/items", "numbers": numbers, "texts": texts, "versions": versions, "objects": objects,
    });
    Context::read(facts.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

fn flags(criterion: &mut Criterion) {
    let facts = facts();
    let context = Context::at(NOW).with_all(&facts);
    for (group, rules, stops) in [("usual", usual(), false), ("worst", worst(), true)] {
        let mut group = criterion.benchmark_group(group);
        for (name, rule) in rules {
            let set = parse(&rule);
            assert_eq!(set.evaluate("flag", &context).is_err(), stops, "{name}");
            group.bench_function(name, |bencher| {
                bencher.iter(|| set.evaluate(black_box("flag"), &context).is_ok());
            });
        }
    }
}

criterion_group!(benches, flags);
criterion_main!(benches);
