//! Whole documents: rules beside each other, heads and shapes.

use knhk_decision::{Policy, PolicyDoc};

use super::refused;
use crate::support::{doc, rule, rule_for};

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
