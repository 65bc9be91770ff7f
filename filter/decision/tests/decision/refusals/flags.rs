//! Flags that are not there, that no request could have, or that are too many.

use std::collections::BTreeMap;

use knhk_decision::{Policy, RolloutRule};
use serde_json::{Value, json};

use super::own_fault;
use crate::flags::{document, flag, on_if};
use crate::support::{doc, rule, rule_for};

/// The refusal of one rollout beside these flags.
fn refused(rule: RolloutRule, flags: &Value) -> (String, &'static str) {
    let error = Policy::compile(doc(vec![rule]).with_flags(&document(flags))).expect_err("a refusal");
    let line = error.to_string();
    assert!(line.len() < 700 && !line.contains('\n'), "{line}");
    (line, error.label())
}

fn telling(flags: &[&str]) -> RolloutRule {
    RolloutRule {
        flags: flags.iter().map(|&key| key.to_owned()).collect(),
        ..rule("shop")
    }
}

#[test]
fn flags_and_variants_that_are_not_there() {
    let flags = json!({ "beta": flag(&json!({})), "a b": flag(&json!({})) });
    for ((line, label), says) in [
        (
            refused(rule_for("shop", "{flags: {bata: 'on'}}"), &flags),
            "rollout \"shop\": match.flags.bata: there is no flag \"bata\": define it (knhk flag apply)",
        ),
        (
            refused(rule_for("shop", "{flags: {'a b': 'maybe'}}"), &flags),
            "rollout \"shop\": match.flags.\"a b\": \"maybe\" is no variant of flag \"a b\": write one of \"off\", \"on\"",
        ),
        (
            refused(telling(&["beta", "gone"]), &flags),
            "rollout \"shop\": flags[1]: there is no flag \"gone\"",
        ),
    ] {
        assert!(line.starts_with(says), "{line}");
        assert_eq!(label, "dangling");
    }
    // Of a document without flags at all as well.
    let error = Policy::compile(doc(vec![telling(&["beta"])])).expect_err("a refusal");
    assert_eq!(error.label(), "dangling");
}

#[test]
fn rules_that_look_for_headers_that_are_never_there() {
    for (path, says) in [
        ("headers.X-Plan", "write headers.x-plan"),
        ("headers.x-knhk-variant", "x-knhk- headers are removed"),
    ] {
        let flags = json!({ "beta": on_if(json!({ "var": path })) });
        for rule in [telling(&["beta"]), rule_for("shop", "{flags: {beta: 'on'}}")] {
            let (line, label) = refused(rule, &flags);
            assert!(line.contains(path) && line.contains(says), "{line}");
            assert_eq!(label, "never_matches");
        }
        // Nobody asks for it here, so it may say what it likes.
        Policy::compile(doc(vec![rule("shop")]).with_flags(&document(&flags))).expect("a policy");
    }
}

#[test]
fn definitions_that_are_wrong_are_named_with_their_place() {
    let flags = json!({ "beta": on_if(json!({ "log": "x" })) });
    let (line, label) = refused(telling(&["beta"]), &flags);
    assert!(
        line.starts_with("policy: flags: flags.beta.targeting.if[0].log: "),
        "{line}"
    );
    assert_eq!(label, "flags");
    let good = doc(vec![telling(&["beta"])]).with_flags(&document(&json!({ "beta": flag(&json!({})) })));
    let good = String::from_utf8(good.to_bytes()).expect("text");
    for (from, to, says) in [
        (
            "\"state\":",
            "\"state\":1,\"state\":",
            "policy: flags.flags.beta: \"state\" is there twice",
        ),
        ("\"beta\":{", "\"beta\":[[[", "policy: "),
    ] {
        let error = Policy::parse(good.replacen(from, to, 1).as_bytes()).expect_err("a refusal");
        assert!(error.to_string().starts_with(says), "{error}");
        assert_eq!(error.label(), "malformed");
    }
}

#[test]
fn bounds_are_in_the_message() {
    let many: Vec<String> = (0..17).map(|n| format!("f{n}")).collect();
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    let (line, label) = own_fault(&telling(&names));
    assert!(
        line.contains("flags: 17 flags are above the bound of 16"),
        "{line}"
    );
    assert_eq!(label, "above_bound");
    let mut gated = rule("shop");
    gated.r#match.flags = many.iter().map(|name| (name.clone(), "on".to_owned())).collect();
    let (line, _) = own_fault(&gated);
    assert!(
        line.contains("match.flags: 17 flags are above the bound of 16"),
        "{line}"
    );
    let (line, label) = own_fault(&telling(&["beta", "alpha", "beta"]));
    assert!(
        line.contains("flags[2]: \"beta\" is there twice: keep one"),
        "{line}"
    );
    assert_eq!(label, "duplicate");

    // 12 flags of 256 bytes with a variant of as many are more than the header may have, 7 are not.
    let long = |n: usize| format!("{n:0256}");
    let flags: BTreeMap<String, Value> = (0..12)
        .map(|n| {
            (
                long(n),
                json!({ "state": "ENABLED", "variants": { long(n): 1, "b": 2 } }),
            )
        })
        .collect();
    let keys: Vec<&str> = flags.keys().map(String::as_str).collect();
    let (line, label) = refused(telling(&keys), &json!(flags));
    assert!(
        line.contains("x-knhk-flags may come to 6168 bytes, above the bound of 4096"),
        "{line}"
    );
    assert_eq!(label, "above_bound");
    let fits = doc(vec![telling(&keys[..7])]).with_flags(&document(&json!(flags)));
    Policy::compile(fits).expect("a policy");
}
