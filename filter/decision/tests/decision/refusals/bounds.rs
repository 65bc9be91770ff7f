//! Bounds, each in the message of who meets it.

use knhk_decision::limits::{
    MAX_HEADERS, MAX_HOSTS, MAX_KEYS, MAX_METHODS, MAX_PEERS, MAX_POLICY_BYTES, MAX_ROLLOUTS,
    MAX_ROLLOUTS_PER_PLACE, MAX_THRESHOLDS,
};
use knhk_decision::spec::{AdmitSpec, HeaderMatch, KeySpec, ValueMatch};
use knhk_decision::{Policy, RolloutRule};

use super::{own_fault, refused};
use crate::support::{rule, rule_for};

#[test]
fn bounds_are_in_the_message() {
    let headers = |count| {
        (0..count).map(|i| HeaderMatch {
            name: format!("x-{i}"),
            value: ValueMatch::Present(true),
        })
    };
    let with = |change: &dyn Fn(&mut RolloutRule)| {
        let mut rule = rule("shop");
        change(&mut rule);
        own_fault(&rule)
    };
    let many = |count: usize, word: &str| (0..count).map(|i| format!("{word}{i}")).collect::<Vec<_>>();
    for ((message, label), says) in [
        (
            with(&|rule| rule.r#match.hosts = many(MAX_HOSTS + 1, "h")),
            "match.hosts: 65 hosts are above the bound of 64",
        ),
        (
            with(&|rule| rule.r#match.methods = many(MAX_METHODS + 1, "M")),
            "match.methods: 17 methods are above the bound of 16",
        ),
        (
            with(&|rule| rule.r#match.headers = headers(MAX_HEADERS + 1).collect()),
            "match.headers: 17 headers are above the bound of 16",
        ),
        (
            with(&|rule| rule.r#match.peers = many(MAX_PEERS + 1, "spiffe://a/")),
            "match.peers: 65 patterns are above the bound of 64",
        ),
        (
            with(&|rule| {
                rule.admit = Some(AdmitSpec {
                    peers: many(MAX_PEERS + 1, "spiffe://a/"),
                });
            }),
            "admit.peers: 65 patterns are above the bound of 64",
        ),
        (
            with(&|rule| rule.r#match.peers = vec![format!("spiffe://a/{}", "b".repeat(2048))]),
            "match.peers[0]: 2059 bytes are above the bound of 2048",
        ),
        (
            with(&|rule| rule.key = many(MAX_KEYS + 1, "k").into_iter().map(KeySpec::Cookie).collect()),
            "key: 9 keys are above the bound of 8",
        ),
        (
            with(&|rule| rule.thresholds = (1..).take(MAX_THRESHOLDS + 1).collect()),
            "thresholds: 9 thresholds are above the bound of 8",
        ),
        (
            with(&|rule| rule.thresholds = vec![3_600_000_001]),
            "thresholds[0]: 3600000001 microseconds are above the bound of 3600000000",
        ),
    ] {
        assert!(message.contains(says), "{message}");
        assert_eq!(label, "above_bound", "{message}");
    }
}

#[test]
fn bounds_of_names_and_values_are_in_the_message() {
    let with = |change: fn(&mut RolloutRule)| {
        let mut rule = rule("shop");
        change(&mut rule);
        own_fault(&rule)
    };
    for ((message, label), says) in [
        (
            with(|rule| rule.name = "n".repeat(64)),
            "name: 64 bytes are above the bound of 63",
        ),
        (
            with(|rule| rule.canary = "n".repeat(129)),
            "canary: 129 bytes are above the bound of 128",
        ),
        (
            with(|rule| rule.salt = Some("n".repeat(129))),
            "salt: 129 bytes are above the bound of 128",
        ),
        (
            with(|rule| rule.r#match.hosts = vec!["n".repeat(254)]),
            "match.hosts[0]: 254 bytes are above the bound of 253",
        ),
        (
            with(|rule| rule.r#match.path = Some("/".repeat(1025))),
            "match.path: 1025 bytes are above the bound of 1024",
        ),
        (
            with(|rule| rule.r#match.methods = vec!["M".repeat(33)]),
            "match.methods[0]: 33 bytes are above the bound of 32",
        ),
        (
            with(|rule| rule.key = vec![KeySpec::Cookie("n".repeat(129))]),
            "key[0].cookie: 129 bytes are above the bound of 128",
        ),
        (
            with(|rule| rule.key = vec![KeySpec::Query("n".repeat(129))]),
            "key[0].query: 129 bytes are above the bound of 128",
        ),
        (
            with(|rule| rule.key = vec![KeySpec::Header("n".repeat(129))]),
            "key[0].header: 129 bytes are above the bound of 128",
        ),
        (
            with(|rule| {
                rule.r#match.headers = vec![HeaderMatch {
                    name: "x-a".into(),
                    value: ValueMatch::Exact("n".repeat(1025)),
                }];
            }),
            "match.headers[0].exact: 1025 bytes are above the bound of 1024",
        ),
    ] {
        assert!(message.contains(says), "{message}");
        assert_eq!(label, "above_bound", "{message}");
    }
}

#[test]
fn bounds_of_whole_policies_are_in_the_message() {
    let rollouts = (0..=MAX_ROLLOUTS)
        .map(|i| rule_for(&format!("r{i}"), &format!("{{hosts: [h{i}]}}")))
        .collect();
    assert_eq!(
        refused(rollouts).to_string(),
        "policy: rollouts: 1025 rollouts are above the bound of 1024: remove those that are over"
    );
    let crowd = (0..=MAX_ROLLOUTS_PER_PLACE)
        .map(|i| {
            rule_for(
                &format!("r{i}"),
                &format!("{{headers: [{{name: x-a, exact: v{i}}}]}}"),
            )
        })
        .collect();
    assert!(
        refused(crowd)
            .to_string()
            .contains("for any host and path \"/\" than the bound of 64")
    );
    let error = Policy::parse(&vec![b' '; MAX_POLICY_BYTES + 1]).expect_err("too large");
    assert_eq!(error.label(), "too_large");
    assert!(
        error
            .to_string()
            .contains("2097153 bytes are above the bound of 2097152"),
        "{error}"
    );
}
