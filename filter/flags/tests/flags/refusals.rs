//! What is refused when a file is read: by its place, with the reason and what would be right.

use knhk_flags::{Context, Fault, FlagSet, FlagsError, limits};
use serde_json::{Value, json};

use crate::support::file;

fn refusal(bytes: &[u8]) -> (String, Fault, String) {
    match FlagSet::parse(bytes).expect_err("it is refused") {
        FlagsError::Refused(refusal) => {
            let line = refusal.to_string();
            assert!(!line.contains('\n'), "one line: {line}");
            (refusal.path, refusal.fault, refusal.reason)
        }
        other => panic!("another refusal: {other}"),
    }
}

/// A rule of one flag is refused at that place below `targeting`.
fn refused_rule(rule: &Value, place: &str, fault: Fault, part: &str) {
    let (path, given, reason) = refusal(file(&["on", "off"], rule).to_string().as_bytes());
    assert_eq!(
        (path.as_str(), given),
        (format!("flags.flag.targeting{place}").as_str(), fault),
        "{rule}: {reason}"
    );
    assert!(reason.contains(part), "{rule}: {reason}");
}

#[test]
#[allow(clippy::too_many_lines, reason = "one table")]
fn rules_are_refused_where_they_are_wrong() {
    use Fault::{AboveBound, BadForm, Dangling, UnknownOperation};
    for (rule, place, fault, part) in [
        (json!({ "log": ["on"] }), ".log", UnknownOperation, "leave it out"),
        (json!({ "?:": [true, "on"] }), ".?:", UnknownOperation, "write if"),
        (
            json!({ "if": [{ "is_friday": [] }, "on"] }),
            ".if[0].is_friday",
            UnknownOperation,
            "docs/flags.md",
        ),
        (
            json!({ "if": [{ "a\n.b": 1 }, "on"] }),
            ".if[0][\"a\\n.b\"]",
            UnknownOperation,
            "a\\n.b",
        ),
        (json!({ "==": [1, 2], "!=": [1, 2] }), "", BadForm, "2 members"),
        (json!({ "if": [{}, "on"] }), ".if[0]", BadForm, "0 members"),
        (json!("on"), "", BadForm, "is a string"),
        (json!(["on"]), "", BadForm, "is a list"),
        (json!({ "==": [1] }), ".==", BadForm, "takes 2 values, and 1"),
        (
            json!({ "==": [1, 2, 3] }),
            ".==",
            BadForm,
            "takes 2 values, and 3",
        ),
        (json!({ ">": [1, 2, 3] }), ".>", BadForm, "takes 2 values"),
        (json!({ "<": 1 }), ".<", BadForm, "takes 2 to 3 values, and 1"),
        (json!({ "if": [] }), ".if", BadForm, "takes 1 or more"),
        (
            json!({ "var": "$flagd.region" }),
            ".var",
            BadForm,
            "$flagd.timestamp",
        ),
        (
            json!({ "var": ["$flagd.region", 1] }),
            ".var[0]",
            BadForm,
            "$flagd.timestamp",
        ),
        (
            json!({ "reduce": [[1], { "var": "current" }, { "var": "a" }] }),
            ".reduce[2]",
            BadForm,
            "write a value",
        ),
        (
            json!({ "starts_with": [1, "a"] }),
            ".starts_with[0]",
            BadForm,
            "is a number",
        ),
        (
            json!({ "sem_ver": [{ "var": "v" }, "=>", "1.0.0"] }),
            ".sem_ver[1]",
            BadForm,
            "= != <",
        ),
        (
            json!({ "sem_ver": [{ "var": "v" }, ">=", "1.x"] }),
            ".sem_ver[2]",
            BadForm,
            "\"1.x\" is no version",
        ),
        (
            json!({ "fractional": [["on", 1.5], ["off", 1]] }),
            ".fractional[0][1]",
            BadForm,
            "whole number",
        ),
        (
            json!({ "fractional": [{ "var": "a" }, ["on", -1]] }),
            ".fractional[1][1]",
            BadForm,
            "whole number from 0",
        ),
        (
            json!({ "fractional": [["on", 1, 2]] }),
            ".fractional[0]",
            BadForm,
            "1 or 2 values",
        ),
        (
            json!({ "fractional": [{ "var": "a" }, "on"] }),
            ".fractional[1]",
            BadForm,
            "is a string",
        ),
        (
            json!({ "fractional": [null, ["on"]] }),
            ".fractional[0]",
            BadForm,
            "targetingKey",
        ),
        (
            json!({ "fractional": [[["on"], 1]] }),
            ".fractional[0][0]",
            BadForm,
            "names no variant",
        ),
        (
            json!({ "fractional": [["on", 2_147_483_647], ["off", 1]] }),
            ".fractional",
            AboveBound,
            "2147483648",
        ),
        (
            json!({ "if": [{ "$ref": "isStaff" }, "on"] }),
            ".if[0].$ref",
            Dangling,
            "it is empty",
        ),
        (json!({ "$ref": 1 }), ".$ref", BadForm, "name of an evaluator"),
    ] {
        refused_rule(&rule, place, fault, part);
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "one table")]
fn definitions_are_refused_where_they_are_wrong() {
    use Fault::{BadForm, Dangling, Missing, UnknownField};
    let flag = |change: &str, to: Value| {
        let mut file = file(&["on", "off"], &json!({}));
        file["flags"]["flag"][change] = to;
        file
    };
    for (file, place, fault, part) in [
        (json!([]), "$", BadForm, "write an object"),
        (json!({}), "flags", Missing, "is missing"),
        (json!({ "flags": [] }), "flags", BadForm, "by their keys"),
        (
            json!({ "flags": {}, "flagz": {} }),
            "flagz",
            UnknownField,
            "$evaluators",
        ),
        (
            json!({ "flags": { "": {} } }),
            "flags[\"\"]",
            BadForm,
            "is no key",
        ),
        (
            json!({ "flags": { "a.b": 1 } }),
            "flags[\"a.b\"]",
            BadForm,
            "is a number",
        ),
        (
            json!({ "flags": { "a": { "variants": { "on": true } } } }),
            "flags.a.state",
            Missing,
            "ENABLED",
        ),
        (
            flag("state", json!("enabled")),
            "flags.flag.state",
            BadForm,
            "ENABLED or DISABLED",
        ),
        (
            flag("variants", json!({})),
            "flags.flag.variants",
            BadForm,
            "at least one",
        ),
        (
            flag("variants", json!({ "on": null })),
            "flags.flag.variants.on",
            BadForm,
            "is null",
        ),
        (
            flag("variants", json!({ "on": [1] })),
            "flags.flag.variants.on",
            BadForm,
            "is a list",
        ),
        (
            flag("variants", json!({ "a": true, "b": "x" })),
            "flags.flag.variants.b",
            BadForm,
            "all one kind",
        ),
        (
            flag("variants", json!({ "on": { "x": { "$ref": "e" } } })),
            "flags.flag.variants.on.x",
            BadForm,
            "another shape",
        ),
        (
            flag("defaultVariant", json!("yes")),
            "flags.flag.defaultVariant",
            Dangling,
            "write one of \"off\", \"on\"",
        ),
        (
            flag("defaultVariant", json!(true)),
            "flags.flag.defaultVariant",
            BadForm,
            "is a boolean",
        ),
        (
            flag("metadata", json!({ "a": null })),
            "flags.flag.metadata.a",
            BadForm,
            "is null",
        ),
        (
            flag("owner", json!("me")),
            "flags.flag.owner",
            UnknownField,
            "metadata",
        ),
        (
            json!({ "flags": {}, "metadata": 1 }),
            "metadata",
            BadForm,
            "write an object",
        ),
        (
            json!({ "flags": {}, "$evaluators": { "a": { "$ref": "b" }, "b": { "!": 1 } } }),
            "$evaluators.a.$ref",
            BadForm,
            "write the rule out",
        ),
        (
            json!({ "flags": {}, "$evaluators": { "a": true } }),
            "$evaluators.a",
            BadForm,
            "write an operation",
        ),
    ] {
        let (path, given, reason) = refusal(file.to_string().as_bytes());
        assert_eq!((path.as_str(), given), (place, fault), "{file}: {reason}");
        assert!(reason.contains(part), "{file}: {reason}");
    }
}

#[test]
fn what_is_no_json_is_refused_by_its_line() {
    for (text, fault, part) in [
        ("", Fault::Malformed, "EOF"),
        ("{", Fault::Malformed, "line 1"),
        ("{\"flags\": {}} x", Fault::Malformed, "trailing"),
        ("{\"flags\": {\"a\": NaN}}", Fault::Malformed, "line 1 column"),
        (
            "{\"flags\": {\"a\": {}, \"a\": {}}}",
            Fault::Duplicate,
            "\"a\" is there twice",
        ),
    ] {
        let (_, given, reason) = refusal(text.as_bytes());
        assert_eq!(given, fault, "{text}: {reason}");
        assert!(reason.contains(part), "{text}: {reason}");
    }
}

#[test]
fn every_bound_holds() {
    let above = |file: &Value, part: &str| {
        let (_, fault, reason) = refusal(file.to_string().as_bytes());
        assert_eq!(fault, Fault::AboveBound, "{reason}");
        assert!(reason.contains(part), "{reason}");
    };
    let named = |count: usize, value: Value| -> Value {
        (0..count)
            .map(|number| (format!("n{number}"), value.clone()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let flag = json!({ "state": "ENABLED", "variants": { "on": true } });
    above(
        &json!({ "flags": named(limits::MAX_FLAGS + 1, flag.clone()) }),
        "flags",
    );
    above(
        &json!({ "flags": { ("k".repeat(limits::MAX_FLAG_KEY_BYTES + 1)): flag } }),
        "bytes",
    );
    above(
        &json!({ "flags": { "a": { "state": "ENABLED", "variants": named(limits::MAX_VARIANTS + 1, json!(1)) } } }),
        "variants",
    );
    let long = "v".repeat(limits::MAX_VARIANT_NAME_BYTES + 1);
    above(
        &json!({ "flags": { "a": { "state": "ENABLED", "variants": { long: 1 } } } }),
        "bytes",
    );
    above(
        &json!({ "flags": {}, "metadata": named(limits::MAX_METADATA + 1, json!(1)) }),
        "entries",
    );
    above(
        &json!({ "flags": {}, "$evaluators": named(limits::MAX_EVALUATORS + 1, json!({ "!": 1 })) }),
        "evaluators",
    );
    let items: Vec<Value> = vec![json!("a"); limits::MAX_RULE_VALUES];
    above(
        &file(&["on"], &json!({ "cat": items.clone() })),
        "operations and values",
    );
    above(
        &file(&["on"], &json!({ "in": ["a", items] })),
        "operations and values",
    );
    above(
        &json!({ "flags": {}, "metadata": vec![0; limits::MAX_VALUES] }),
        "values",
    );
    let mut deep = json!("on");
    for _ in 0..limits::MAX_DEPTH {
        deep = json!({ "!": deep });
    }
    above(&file(&["on"], &deep), "deeper");
    let bytes = vec![b' '; limits::MAX_FLAGS_BYTES + 1];
    assert_eq!(
        FlagSet::parse(&bytes).expect_err("too large").label(),
        "too_large"
    );
}

#[test]
fn a_context_is_an_object_within_bounds() {
    for (text, label) in [
        ("[]", "bad_form"),
        ("{", "malformed"),
        ("{\"targetingKey\": 1}", "bad_form"),
        ("{\"a\": 1, \"a\": 2}", "duplicate"),
    ] {
        let error = Context::read(text.as_bytes()).expect_err("it is refused");
        assert_eq!(error.label(), label, "{error}");
        assert!(error.to_string().starts_with("context: "), "{error}");
    }
    let bytes = vec![b' '; limits::MAX_CONTEXT_BYTES + 1];
    assert_eq!(Context::read(&bytes).expect_err("too large").label(), "too_large");
}
