//! Every refusal is one line that names rollout, field, reason and what would be right.

use knhk_decision::limits::{
    MAX_HEADERS, MAX_HOSTS, MAX_KEYS, MAX_METHODS, MAX_PEERS, MAX_POLICY_BYTES, MAX_ROLLOUTS,
    MAX_ROLLOUTS_PER_PLACE, MAX_THRESHOLDS,
};
use knhk_decision::spec::{AdmitSpec, HeaderMatch, KeySpec, ValueMatch};
use knhk_decision::{Policy, PolicyDoc, PolicyError, RolloutRule};

use crate::support::{admit, doc, rule, rule_for};

fn refused(rollouts: Vec<RolloutRule>) -> PolicyError {
    let error = Policy::compile(doc(rollouts)).expect_err("a refusal");
    let line = error.to_string();
    assert!(line.len() < 700 && !line.contains('\n'), "{line}");
    error
}

/// What `check` alone says about a rule whose fault is its own.
fn own_fault(rule: &RolloutRule) -> (String, &'static str) {
    let error = rule.check().expect_err("a refusal");
    assert_eq!(refused(vec![rule.clone()]), error);
    (error.to_string(), error.label())
}

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

#[test]
fn rules_that_another_one_always_comes_before() {
    let get =
        "{hosts: [a.com, b.com], pathPrefix: /x/, methods: [POST, GET], headers: [{name: x-a, prefix: a}]}";
    let narrower =
        "{hosts: [c.com, B.com], pathPrefix: /x, methods: [GET], headers: [{name: X-A, exact: ab}]}";
    let error = refused(vec![rule_for("b", narrower), rule_for("a", get)]);
    assert_eq!(error.label(), "shadowed");
    assert_eq!(
        error.to_string(),
        "rollout \"b\": match.hosts[1]: never gets a request for host b.com and path \"/x\": rollout \"a\" has the same \
         ones, its conditions hold whenever these do, and it comes first by name: change one of the two matches"
    );
    let error = refused(vec![rule_for("b", "{}"), rule_for("a", "{pathPrefix: /}")]);
    assert!(
        error
            .to_string()
            .starts_with("rollout \"b\": match: never gets a request for any host"),
        "{error}"
    );
    let error = refused(vec![
        rule_for("b", "{peers: ['spiffe://a/b/c', 'spiffe://a/b/d/*']}"),
        rule_for("a", "{peers: ['spiffe://a/b/*', 'spiffe://b/*']}"),
    ]);
    assert_eq!(error.label(), "shadowed", "{error}");
    // The other way round each gets some.
    Policy::compile(doc(vec![rule_for("a", narrower), rule_for("b", get)])).expect("a policy");
    let error = refused(vec![
        rule_for("a", "{hosts: [a.com]}"),
        rule_for("a", "{hosts: [b.com]}"),
    ]);
    assert_eq!(error.label(), "duplicate");
    assert_eq!(
        error.to_string(),
        "rollout \"a\": name: another rollout has the same name: rename or remove one"
    );
}

#[test]
fn the_heads_of_documents_are_checked() {
    let with = |change: fn(&mut PolicyDoc)| {
        let mut doc = doc(Vec::new());
        change(&mut doc);
        Policy::compile(doc).expect_err("a refusal").to_string()
    };
    assert_eq!(
        with(|doc| doc.api_version = "knhk.dev/v2".into()),
        "policy: apiVersion: \"knhk.dev/v2\" is not understood: write knhk.dev/v1"
    );
    assert_eq!(
        with(|doc| doc.kind = "Rollout".into()),
        "policy: kind: \"Rollout\" is no policy: write Policy"
    );
}

#[test]
fn shapes_that_are_wrong_are_named_with_their_place() {
    let good = String::from_utf8(doc(vec![rule("shop")]).to_bytes()).expect("text");
    for (from, to, says) in [
        (
            "\"weight\":50",
            "\"weight\":50.00001",
            "rollout \"shop\": weight: 50.00001 is too fine",
        ),
        (
            "\"weight\":50",
            "\"weight\":\"50\"",
            "rollout \"shop\": weight: invalid type: string \"50\", expected a weight",
        ),
        (
            "\"weight\":50",
            "\"wait\":50",
            "rollout \"shop\": wait: unknown field `wait`",
        ),
        (
            "\"weight\":50,",
            "",
            "rollout \"shop\": fields: missing field `weight`",
        ),
        (
            "\"match\":{}",
            "\"match\":{\"host\":[]}",
            "rollout \"shop\": match.host: unknown field `host`, expected one of `hosts`",
        ),
        (
            "\"match\":{}",
            "\"match\":{\"headers\":[{\"name\":\"x\"}]}",
            "rollout \"shop\": match.headers[0]: header \"x\" has no condition",
        ),
        (
            "{\"header\":\"x-user-id\"}",
            "{\"heeder\":\"x\"}",
            "rollout \"shop\": key[0]: unknown variant `heeder`",
        ),
        (
            "\"window\":1",
            "\"window\":-1",
            "rollout \"shop\": window: invalid value: integer `-1`",
        ),
        (
            "\"window\":1",
            "\"window\":1,\"window\":1",
            "rollout \"shop\": fields: duplicate field `window`",
        ),
        (
            "\"name\":\"shop\"",
            "\"name\":7",
            "rollout rollouts[0]: name: invalid type: integer `7`",
        ),
        ("\"n\":7", "\"m\\n7\":7", "policy: m 7: unknown field `m 7`"),
        ("\"rollouts\":[{", "\"rollouts\":[[{", "rollout rollouts[0]"),
        ("]}", "]} x", "policy: document: trailing characters"),
        ("\"kind\"", "kind", "policy: document: key must be a string"),
    ] {
        assert!(good.contains(from), "{from} in {good}");
        let bad = good.replacen(from, to, 1);
        let error = Policy::parse(bad.as_bytes()).expect_err(to);
        let line = error.to_string();
        assert!(line.contains(says), "{line}");
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(error.label(), "malformed");
    }
    for bytes in [&b""[..], b"null", b"[]", b"\xff\xfe", b"{"] {
        assert_eq!(
            Policy::parse(bytes).expect_err("no document").label(),
            "malformed"
        );
    }
}
