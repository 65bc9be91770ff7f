//! Staging stages that make no sense.

use knhk_decision::RolloutRule;
use serde_json::json;

use super::own_fault;
use crate::flags::{document, on_if};
use crate::support::{admit, doc, rule, rule_for, staged};
use knhk_decision::Policy;

#[test]
fn each_names_the_condition_and_what_to_do() {
    let shop = || {
        rule_for(
            "shop",
            "{headers: [{name: x-a, prefix: a}], peers: ['spiffe://a/ns/*'], flags: {beta: 'on'}}",
        )
    };
    for (picked, says, label) in [
        (
            "{}",
            "staging.match: no condition, so staging would pick every request: write at least one",
            "bad_form",
        ),
        (
            "{headers: [{name: X-A, exact: b}]}",
            "staging.match.headers[0]: contradicts the rollout's own match, so staging would pick no request",
            "never_matches",
        ),
        (
            "{headers: [{name: x-b, exact: b}, {name: X-A, present: true}]}",
            "staging.match.headers[1]: says nothing that the rollout's own match does not: leave it out",
            "never_matches",
        ),
        (
            "{headers: [{name: x-b, exact: b}, {name: x-b, exact: c}]}",
            "staging.match.headers[1]: \"x-b\" contradicts another condition on that header",
            "never_matches",
        ),
        (
            "{headers: [{name: x-b, exact: ''}]}",
            "staging.match.headers[0].exact: an empty value counts as absent",
            "bad_form",
        ),
        (
            "{peers: ['spiffe://b/*']}",
            "staging.match.peers: contradicts the rollout's own match",
            "never_matches",
        ),
        (
            "{peers: ['spiffe://a/*']}",
            "staging.match.peers: says nothing",
            "never_matches",
        ),
        (
            "{peers: [web]}",
            "staging.match.peers[0]: \"web\" is no SPIFFE ID",
            "bad_form",
        ),
        (
            "{flags: {beta: 'off'}}",
            "staging.match.flags.beta: contradicts the rollout's own match",
            "never_matches",
        ),
        (
            "{flags: {beta: 'on'}}",
            "staging.match.flags.beta: says nothing",
            "never_matches",
        ),
    ] {
        let (message, found) = own_fault(&staged(shop(), picked));
        assert!(message.contains(says), "{picked}: {message}");
        assert_eq!(found, label, "{message}");
    }
    for fine in [
        "{headers: [{name: x-a, exact: ab}]}",
        "{headers: [{name: x-b, present: false}]}",
        "{peers: ['spiffe://a/ns/qa/*']}",
        "{flags: {other: 'on'}}",
    ] {
        staged(shop(), fine).check().expect("it makes sense");
    }
}

#[test]
fn nobody_whom_it_picks_would_be_admitted() {
    let guarded = RolloutRule {
        admit: Some(admit(&["spiffe://a/web"])),
        ..rule("shop")
    };
    let (message, label) = own_fault(&staged(guarded, "{peers: ['spiffe://a/qa/*']}"));
    assert!(
        message.contains(
            "staging.match.peers: no caller that admit.peers has, so every request of staging would be denied"
        ),
        "{message}"
    );
    assert_eq!(label, "never_matches");
}

#[test]
fn its_flags_have_to_be_there_before_it_begins() {
    let flags = document(&json!({ "beta": on_if(json!(true)) }));
    let refused = |picked: &str| {
        let mut rule = staged(rule("shop"), picked);
        rule.staging.as_mut().expect("staging").active = false;
        let refused = Policy::compile(doc(vec![rule]).with_flags(&flags));
        refused.expect_err("a refusal").to_string()
    };
    let message = refused("{flags: {gamma: 'on'}}");
    assert!(
        message.starts_with(
            "rollout \"shop\": staging.match.flags.gamma: there is no flag \"gamma\": define it"
        ),
        "{message}"
    );
    let message = refused("{flags: {beta: maybe}}");
    assert!(
        message.contains("staging.match.flags.beta: \"maybe\" is no variant of flag"),
        "{message}"
    );
}
