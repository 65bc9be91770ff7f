//! Flags in decisions by a reference: each flag evaluated by itself, for a context in JSON that has everything.

use std::collections::BTreeMap;

use knhk_decision::spec::{KeySpec, StagingSpec};
use knhk_decision::{Policy, RolloutRule, SpiffeId, StagingRule, Variant, Verdict, decide};
use knhk_flags::{Context, Document, FlagSet};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use crate::flags::{compile, document, flag, on_if};
use crate::reference::key_of_rule;
use crate::support::{NOW, Request, admit, any_request, doc, rule_for};

fn any_flags() -> impl Strategy<Value = Value> {
    let conditions = vec![
        json!({ "==": [{ "var": "headers.x-a" }, "1"] }),
        json!({ "in": [{ "var": "method" }, ["GET", "PUT"]] }),
        json!({ "starts_with": [{ "var": "path" }, "/a"] }),
        json!({ "ends_with": [{ "var": "host" }, ".com"] }),
        json!({ "starts_with": [{ "var": "peerSpiffeId" }, "spiffe://example.org/"] }),
        json!({ "==": [{ "var": "targetingKey" }, "1"] }),
        json!({ "var": "headers" }),
        json!({ "missing": ["headers.x-b", "targetingKey"] }),
        json!({ "var": { "cat": ["headers.x-", "c"] } }),
        json!({ "/": [1, 0] }),
    ];
    let rule = prop_oneof![
        4 => select(conditions).prop_map(on_if),
        2 => Just(flag(&json!({ "fractional": [["on", 1], ["off", 1]] }))),
        1 => Just(flag(&json!({}))),
        1 => Just(json!({ "state": "DISABLED", "variants": { "on": true, "off": false } })),
        1 => Just(json!({ "state": "ENABLED", "variants": { "on": true, "off": false }, "targeting": { "if": [{ "var": "headers.x-a" }, "on"] } })),
    ];
    prop::collection::vec(rule, 3).prop_map(|flags| {
        let named = flags
            .into_iter()
            .enumerate()
            .map(|(n, flag)| (format!("f{n}"), flag));
        Value::Object(named.collect())
    })
}

fn any_gate() -> impl Strategy<Value = BTreeMap<String, String>> {
    let gate = (select(vec!["f0", "f1", "f2"]), select(vec!["on", "off"]));
    prop::collection::btree_map(
        gate.0.prop_map(str::to_owned),
        gate.1.prop_map(str::to_owned),
        0..3,
    )
}

fn any_told() -> impl Strategy<Value = Vec<String>> {
    prop::sample::subsequence(vec!["f0".to_owned(), "f1".to_owned(), "f2".to_owned()], 0..3).prop_shuffle()
}

/// Rules of which the more specific ones have gates, so that a request falls through them.
pub(crate) fn any_policy_with_flags() -> impl Strategy<Value = (Policy, Document)> {
    let keys = prop_oneof![
        Just(vec![KeySpec::Header("x-user-id".to_owned())]),
        Just(vec![KeySpec::PeerSpiffeId {}, KeySpec::RequestId {}]),
        Just(vec![
            KeySpec::Cookie("session".to_owned()),
            KeySpec::Query("u id".to_owned())
        ]),
    ];
    let places = select(vec![
        "{}",
        "{hosts: ['*.com']}",
        "{hosts: [a.com, '*.a.com']}",
        "{pathPrefix: /a}",
        "{methods: [GET]}",
    ]);
    let admitted = prop::option::weighted(0.2, Just(admit(&["spiffe://example.org/*"])));
    let staged = prop::option::weighted(0.5, any_gate());
    let rule = (places, any_gate(), staged, any_told(), keys, admitted);
    (prop::collection::vec(rule, 1..8), any_flags()).prop_map(|(rules, flags)| {
        let mut kept = Vec::new();
        for (n, (place, gates, staged, told, key, admit)) in rules.into_iter().enumerate() {
            let mut next = rule_for(&format!("r{n}"), place);
            next.r#match.flags = gates;
            kept.push(RolloutRule {
                staging: staged.map(|flags| StagingRule {
                    active: true,
                    r#match: StagingSpec {
                        flags,
                        ..StagingSpec::default()
                    },
                }),
                flags: told,
                key,
                admit,
                ..next
            });
            if Policy::compile(doc(kept.clone()).with_flags(&document(&flags))).is_err() {
                kept.pop();
            }
        }
        (compile(kept, &flags), document(&flags))
    })
}

/// What a rollout's flag gives, by the whole context in JSON.
fn reference(flags: &Document, rule: &RolloutRule, key: &str, request: &Request) -> Option<String> {
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec())
            .ok()
            .filter(|text| !text.is_empty())
    };
    let authority = text(&request.authority).unwrap_or_default().to_ascii_lowercase();
    let host = match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => &authority,
    };
    let path = text(&request.path).unwrap_or_default();
    let peer = request
        .peer
        .as_deref()
        .and_then(SpiffeId::parse)
        .map(|id| id.as_str().to_owned());
    let mut headers = serde_json::Map::new();
    for (name, value) in request.headers.iter().rev() {
        match text(value) {
            Some(value) => headers.insert(name.clone(), json!(value)),
            None => headers.remove(name),
        };
    }
    let mut context = serde_json::Map::from_iter([("headers".to_owned(), Value::Object(headers))]);
    let facts = [
        ("method", text(&request.method)),
        ("host", Some(host.to_owned()).filter(|host| !host.is_empty())),
        (
            "path",
            path.split(['?', '#'])
                .next()
                .filter(|path| !path.is_empty())
                .map(str::to_owned),
        ),
        ("peerSpiffeId", peer),
        (
            "targetingKey",
            key_of_rule(rule, request).and_then(|key| text(&key)),
        ),
    ];
    for (name, value) in facts {
        if let Some(value) = value {
            context.insert(name.to_owned(), json!(value));
        }
    }
    let context = Context::read(Value::Object(context).to_string().as_bytes()).expect("a context");
    let set = FlagSet::compile(flags).expect("flags");
    let resolution = set.evaluate(key, &Context::at(NOW).with_all(&context)).ok()?;
    resolution.chosen.map(|chosen| chosen.variant.to_owned())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Without flags the model is another test's: here a request is routed by the first rule whose gates all hold.
    #[test]
    fn gates_hold_and_the_upstream_is_told_as_the_reference_says(
        (policy, flags) in any_policy_with_flags(),
        requests in prop::collection::vec(any_request(), 10),
    ) {
        for request in &requests {
            let decision = decide(&policy, request);
            for read in &decision.flags {
                let rule = policy.rules().iter().find(|rule| rule.name == read.rollout).expect("a rule");
                let expected = reference(&flags, rule, read.flag, request);
                prop_assert_eq!(read.variant, expected.as_deref(), "{:?} {:?}", read, request);
            }
            if let Some(routed) = decision.routed() {
                for (key, wanted) in &routed.rule.r#match.flags {
                    let given = reference(&flags, routed.rule, key, request);
                    prop_assert_eq!(given.as_ref(), Some(wanted));
                }
                let staged = routed.rule.staging.as_ref().map(|staging| &staging.r#match.flags);
                let is_staged = staged.is_some_and(|gates| gates.iter().all(|(key, wanted)| reference(&flags, routed.rule, key, request).as_ref() == Some(wanted)));
                prop_assert_eq!(routed.variant == Variant::Staging, is_staged);
                let told: Vec<_> = match decision.verdict {
                    Verdict::Routed(_) => routed.rule.flags.iter().filter_map(|key| Some((key.clone(), reference(&flags, routed.rule, key, request)?))).collect(),
                    _ => Vec::new(),
                };
                let found: Vec<_> = decision.told().map(|(key, variant)| (key.to_owned(), variant.to_owned())).collect();
                prop_assert_eq!(found, told);
            }
            // Whoever is without gates, and whose other conditions hold, is not passed over by more than gates that fail.
            let ungated = Policy::compile(doc(policy.rules().iter().map(|rule| {
                let mut rule = rule.clone();
                let held = rule.r#match.flags.iter().all(|(key, wanted)| reference(&flags, &rule, key, request).as_ref() == Some(wanted));
                rule.flags.clear();
                rule.r#match.flags.clear();
                rule.staging = None;
                (held, rule)
            }).filter(|(held, _)| *held).map(|(_, rule)| rule).collect()));
            // Without their gates two rules may be the same.
            if let Ok(ungated) = ungated {
                prop_assert_eq!(decision.routed().is_some(), decide(&ungated, request).routed().is_some());
            }
        }
    }
}
