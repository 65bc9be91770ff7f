//! Flag definitions inside other documents, and parts of them.

use knhk_flags::{Context, Document, FlagSet};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::F64Deserializer;
use serde_json::{Value, json};

use crate::support::NOW;

fn file() -> Value {
    let flag = |rule: Value| json!({ "state": "ENABLED", "variants": { "on": true, "off": false }, "defaultVariant": "off", "targeting": rule });
    json!({
        "$schema": "https://flagd.dev/schema/v0/flags.json",
        "flags": {
            "a": flag(json!({ "if": [{ "$ref": "staff" }, "on"] })),
            "b": flag(json!({ "if": [{ "and": [{ "$ref": ["pro"] }, { "$ref": "staff" }] }, "on"] })),
            "c": flag(json!({ "fractional": [["on", 1], ["off", 1]] })),
        },
        "$evaluators": { "staff": { "var": "staff" }, "pro": { "var": "pro" }, "secret": { "var": "secret" } },
        "metadata": { "version": 1 },
    })
}

fn document(json: &Value) -> Document {
    Document::parse(json.to_string().as_bytes()).expect("a document")
}

fn shown(document: &Document) -> Value {
    serde_json::from_slice(&document.to_bytes()).expect("JSON")
}

#[test]
fn a_part_has_what_its_flags_need_and_gives_what_the_whole_gives() {
    let whole = document(&file());
    let facts = json!({ "targetingKey": "user-7", "staff": true, "pro": "yes" }).to_string();
    let facts = Context::read(facts.as_bytes()).expect("a context");
    let context = Context::at(NOW).with_all(&facts);
    let set = FlagSet::compile(&whole).expect("flags");
    for (keys, evaluators) in [
        (&["a"][..], &["staff"][..]),
        (&["b", "c"], &["pro", "staff"]),
        (&["c"], &[]),
        (&[], &[]),
    ] {
        let part = whole.only(|key| keys.contains(&key));
        assert_eq!(part.keys().collect::<Vec<_>>(), keys);
        let json = shown(&part);
        let kept: Vec<_> = json["$evaluators"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(kept, evaluators, "{json}");
        assert_eq!(json.get("metadata").or(json.get("$schema")), None);
        let part = FlagSet::compile(&part).expect("flags");
        for key in keys {
            assert_eq!(part.evaluate(key, &context), set.evaluate(key, &context), "{key}");
        }
    }
}

#[test]
fn a_document_comes_back_as_it_was_from_json_and_from_yaml() {
    let whole = document(&file());
    let nested = json!({ "inside": file() }).to_string();
    let nested: std::collections::BTreeMap<String, Document> =
        serde_json::from_str(&nested).expect("documents");
    assert_eq!(nested["inside"], whole);
    let yaml = "
flags:
  a: { state: ENABLED, variants: { on: true, off: false }, defaultVariant: off, targeting: { if: [ { $ref: staff }, on ] } }
  n: { state: ENABLED, variants: { one: 1, half: 0.5, whole: 1.0 }, defaultVariant: 'one' }
$evaluators: { staff: { var: staff } }
";
    // Variants are often called on and off, which YAML 1.1 took for booleans.
    let options = serde_saphyr::options! { strict_booleans: true };
    let from_yaml: Document = serde_saphyr::from_str_with_options(yaml, options).expect("a document");
    let json = json!({
        "flags": {
            "a": { "state": "ENABLED", "variants": { "on": true, "off": false }, "defaultVariant": "off", "targeting": { "if": [{ "$ref": "staff" }, "on"] } },
            "n": { "state": "ENABLED", "variants": { "one": 1, "half": 0.5, "whole": 1.0 }, "defaultVariant": "one" },
        },
        "$evaluators": { "staff": { "var": "staff" } },
    });
    assert_eq!(from_yaml, document(&json));
}

#[test]
fn bounds_hold_inside_other_documents_too() {
    let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
    let error = serde_json::from_str::<Document>(&deep)
        .expect_err("too deep")
        .to_string();
    assert!(error.contains("bound of 64"), "{error}");
    let twice = r#"{ "flags": {}, "flags": {} }"#;
    let error = serde_json::from_str::<Document>(twice)
        .expect_err("twice")
        .to_string();
    assert!(error.contains("twice"), "{error}");
    for number in [f64::INFINITY, f64::NAN] {
        let number: F64Deserializer<serde::de::value::Error> = number.into_deserializer();
        let error = Document::deserialize(number).expect_err("no number").to_string();
        assert!(error.contains("no number of JSON"), "{error}");
    }
}
