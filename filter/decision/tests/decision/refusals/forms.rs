//! Fields whose form is wrong, and rules that no request could satisfy.

use knhk_decision::RolloutRule;
use knhk_decision::spec::KeySpec;

use super::own_fault;
use crate::support::{admit, rule, rule_for};

#[test]
fn matches_that_can_never_hold() {
    for (r#match, line) in [
        (
            "{hosts: [a.com, 'B.com:80']}",
            "match.hosts[1]: \"B.com:80\" can never match: ports are ignored: write \"b.com\"",
        ),
        (
            "{pathPrefix: api}",
            "match.pathPrefix: \"api\" can never match: a path begins with a slash",
        ),
        (
            "{path: '/a?b=c'}",
            "match.path: \"/a?b=c\" can never match: the query is not part of the path",
        ),
        (
            "{path: /b, pathPrefix: /a}",
            "match.path: \"/b\" lies outside match.pathPrefix: leave out one of them",
        ),
        (
            "{methods: [GET, post]}",
            "match.methods[1]: \"post\" can never match: methods are in upper case, write POST",
        ),
        (
            "{headers: [{name: X-Knhk-Class, exact: a}]}",
            "match.headers[0].name: \"X-Knhk-Class\" is never there: x-knhk- headers are removed before anything is decided",
        ),
        (
            "{headers: [{name: x-a, exact: ' a'}]}",
            "match.headers[0].exact: \" a\" can never match: blanks around a header's value are dropped",
        ),
        (
            "{headers: [{name: x-a, exact: 'a '}]}",
            "match.headers[0].exact: \"a \" can never match: blanks around a header's value are dropped",
        ),
        (
            "{headers: [{name: x-a, prefix: \"a\\nb\"}]}",
            "match.headers[0].prefix: \"a\\nb\" can never match: header values have no control characters",
        ),
        (
            "{headers: [{name: x-a, exact: a}, {name: X-A, exact: b}]}",
            "match.headers[1]: \"X-A\" contradicts another condition on that header: keep one",
        ),
        (
            "{headers: [{name: x-a, exact: a}, {name: x-a, present: false}]}",
            "match.headers[1]: \"x-a\" contradicts another condition on that header: keep one",
        ),
        (
            "{headers: [{name: x-a, prefix: a}, {name: x-a, exact: ab}]}",
            "match.headers[1]: \"x-a\" says nothing that another condition on that header does not: keep the stricter one",
        ),
    ] {
        let (message, label) = own_fault(&rule_for("shop", r#match));
        assert_eq!(message, format!("rollout \"shop\": {line}"));
        assert_eq!(label, "never_matches", "{message}");
    }
    // A prefix may end in a blank: something follows it.
    rule_for("shop", "{headers: [{name: authorization, prefix: 'Bearer '}]}")
        .check()
        .expect("a rule");
}

#[test]
fn forms_that_are_wrong() {
    for (r#match, says) in [
        (
            "{hosts: ['*']}",
            "match.hosts[0]: \"*\" is no host: leave hosts out for any host",
        ),
        ("{methods: ['G T']}", "match.methods[0]: \"G T\" is no method"),
        ("{methods: ['']}", "match.methods[0]: \"\" is no method"),
        (
            "{headers: [{name: ':path', exact: a}]}",
            "match.headers[0].name: \":path\" is no header here: use hosts, path",
        ),
        (
            "{headers: [{name: Host, exact: a}]}",
            "match.headers[0].name: \"Host\" is no header here",
        ),
        (
            "{headers: [{name: 'x a', exact: a}]}",
            "match.headers[0].name: \"x a\" is no header name",
        ),
        (
            "{headers: [{name: '', present: true}]}",
            "match.headers[0].name: \"\" is no header name",
        ),
        (
            "{headers: [{name: x-a, exact: ''}]}",
            "match.headers[0].exact: an empty value counts as absent",
        ),
    ] {
        let (message, label) = own_fault(&rule_for("shop", r#match));
        assert!(message.contains(says), "{message}");
        assert_eq!(label, "bad_form", "{message}");
    }
    let with = |change: fn(&mut RolloutRule)| {
        let mut rule = rule("shop");
        change(&mut rule);
        own_fault(&rule)
    };
    for ((message, label), says) in [
        (
            with(|rule| rule.name = "Shop".into()),
            "rollout \"Shop\": name: \"Shop\" is no name: write lower-case",
        ),
        (
            with(|rule| rule.name = String::new()),
            "rollout \"\": name: \"\" is no name",
        ),
        (with(|rule| rule.name = "-a".into()), "name: \"-a\" is no name"),
        (
            with(|rule| rule.stable = String::new()),
            "stable: \"\" is no version",
        ),
        (
            with(|rule| rule.canary = "v 2".into()),
            "canary: \"v 2\" is no version",
        ),
        (
            with(|rule| rule.salt = Some("a\0b".into())),
            "salt: \"a\\0b\" is no salt",
        ),
        (
            with(|rule| rule.salt = Some(String::new())),
            "salt: \"\" is no salt",
        ),
        (
            with(|rule| rule.thresholds = vec![5, 5]),
            "thresholds[1]: 5 is not above 5: write microseconds in ascending",
        ),
        (
            with(|rule| rule.thresholds = vec![0]),
            "thresholds[0]: 0 is not above 0",
        ),
        (
            with(|rule| rule.key = vec![KeySpec::Header("X-Request-ID".into())]),
            "key[0].header: tracing rewrites",
        ),
        (
            with(|rule| rule.key = vec![KeySpec::Header(":path".into())]),
            "key[0].header: \":path\" is no header here",
        ),
        (
            with(|rule| rule.key = vec![KeySpec::Cookie("a=b".into())]),
            "key[0].cookie: \"a=b\" is no cookie name",
        ),
        (
            with(|rule| rule.key = vec![KeySpec::Query(String::new())]),
            "key[0].query: \"\" is no parameter name",
        ),
    ] {
        assert!(message.contains(says), "{message}");
        assert_eq!(label, "bad_form", "{message}");
    }
}

#[test]
fn keys_that_can_never_be_used() {
    let none = RolloutRule {
        key: Vec::new(),
        ..rule("shop")
    };
    let (message, label) = own_fault(&none);
    assert!(
        message.contains("key: no key, so every request would go to stable"),
        "{message}"
    );
    assert_eq!(label, "never_matches");
    let key = vec![
        KeySpec::Header("x-a".into()),
        KeySpec::RequestId {},
        KeySpec::Header("X-A".into()),
    ];
    let (message, label) = own_fault(&RolloutRule { key, ..rule("shop") });
    assert!(message.contains("key[2]: is there twice"), "{message}");
    assert_eq!(label, "duplicate");
}

#[test]
fn patterns_of_callers_that_are_none() {
    for (r#match, says) in [
        (
            "{peers: ['spiffe://a/b', 'https://a/b']}",
            "match.peers[1]: \"https://a/b\" is no SPIFFE ID: write one as in spiffe://example.org/ns/prod/sa/web",
        ),
        (
            "{peers: ['spiffe://a/../b']}",
            "match.peers[0]: \"spiffe://a/../b\" is no SPIFFE ID",
        ),
        (
            "{peers: ['spiffe://a']}",
            "match.peers[0]: \"spiffe://a\" has no path: name a workload, or write spiffe://a/* for a whole trust domain",
        ),
        (
            "{peers: ['spiffe://a/*/b']}",
            "match.peers[0]: \"spiffe://a/*/b\" has a star that is not its last segment",
        ),
        (
            "{peers: ['spiffe://a/b*']}",
            "match.peers[0]: \"spiffe://a/b*\" has a star that is not its last segment",
        ),
        ("{peers: ['*']}", "match.peers[0]: \"*\" has a star"),
        ("{peers: ['']}", "match.peers[0]: \"\" is no SPIFFE ID"),
    ] {
        let (message, label) = own_fault(&rule_for("shop", r#match));
        assert!(message.contains(says), "{message}");
        assert_eq!(label, "bad_form", "{message}");
    }
}

#[test]
fn admissions_that_nobody_passes() {
    let with = |r#match: &str, peers: &[&str]| {
        own_fault(&RolloutRule {
            admit: Some(admit(peers)),
            ..rule_for("shop", r#match)
        })
    };
    let (message, label) = with("{}", &[]);
    assert_eq!(
        message,
        "rollout \"shop\": admit.peers: no caller, so every request would be denied: name some, or leave admit out"
    );
    assert_eq!(label, "never_matches");
    let (message, label) = with(
        "{peers: ['spiffe://a/b/*', 'spiffe://a/c']}",
        &["spiffe://a/b", "spiffe://b/*"],
    );
    assert_eq!(
        message,
        "rollout \"shop\": admit.peers: no caller that match.peers has, so every request would be denied: change one of the two"
    );
    assert_eq!(label, "never_matches");
    let (message, label) = with("{}", &["spiffe://a/b", "spiffe://A/b"]);
    assert!(
        message.contains("admit.peers[1]: \"spiffe://A/b\" is there twice: keep one"),
        "{message}"
    );
    assert_eq!(label, "duplicate");
    let (message, label) = with("{}", &["spiffe://a"]);
    assert!(
        message.contains("admit.peers[0]: \"spiffe://a\" has no path"),
        "{message}"
    );
    assert_eq!(label, "bad_form");
    for admitted in ["spiffe://a/b/c", "spiffe://a/*"] {
        RolloutRule {
            admit: Some(admit(&[admitted])),
            ..rule_for("shop", "{peers: ['spiffe://a/b/*']}")
        }
        .check()
        .expect("somebody passes");
    }
}
