//! Feature flags in a decision: as gates of rollouts, and for the upstream.

use std::collections::BTreeMap;

use knhk_decision::limits::{FLAG_COST, MAX_FLAGS_COST};
use knhk_decision::spec::{KeySpec, MatchSpec};
use knhk_decision::{Decision, FlagReason, Policy, PolicyDoc, RolloutRule, Verdict, decide};
use knhk_flags::{Context, Document, FlagSet};
use serde_json::{Value, json};

use crate::support::{NOW, Request, admit, doc, routed_by, rule};

pub(crate) fn flag(rule: &Value) -> Value {
    json!({ "state": "ENABLED", "variants": { "on": true, "off": false }, "defaultVariant": "off", "targeting": rule })
}

#[allow(clippy::needless_pass_by_value, reason = "rules are written in place")]
pub(crate) fn on_if(condition: Value) -> Value {
    flag(&json!({ "if": [condition, "on", "off"] }))
}

pub(crate) fn document(flags: &Value) -> Document {
    Document::parse(json!({ "flags": flags }).to_string().as_bytes()).expect("a document")
}

pub(crate) fn compile(rules: Vec<RolloutRule>, flags: &Value) -> Policy {
    Policy::compile(doc(rules).with_flags(&document(flags))).unwrap_or_else(|error| panic!("{error}"))
}

fn gated(name: &str, flags: &[(&str, &str)]) -> RolloutRule {
    let flags = flags
        .iter()
        .map(|(key, variant)| ((*key).to_owned(), (*variant).to_owned()));
    RolloutRule {
        r#match: MatchSpec {
            flags: flags.collect(),
            ..MatchSpec::default()
        },
        ..rule(name)
    }
}

fn telling(name: &str, flags: &[&str]) -> RolloutRule {
    RolloutRule {
        flags: flags.iter().map(|&key| key.to_owned()).collect(),
        ..rule(name)
    }
}

fn request() -> Request {
    Request::get("Shop.example.com:8443", "/api/carts?user=1").with("x-user-id", "alice")
}

fn read<'p>(decision: &Decision<'p>) -> Vec<(&'p str, &'p str, Option<&'p str>, FlagReason)> {
    let reads = decision.flags.iter();
    reads
        .map(|it| (it.rollout, it.flag, it.variant, it.reason))
        .collect()
}

#[test]
fn a_flag_gates_a_rollout() {
    let flags = json!({ "beta": on_if(json!({ "==": [{ "var": "headers.x-plan" }, "pro"] })) });
    let policy = compile(vec![gated("gated", &[("beta", "on")]), rule("other")], &flags);
    let pro = request().with("x-plan", "pro");
    let decision = decide(&policy, &pro);
    assert_eq!(routed_by(&decision), Some("gated"));
    assert_eq!(
        read(&decision),
        [("gated", "beta", Some("on"), FlagReason::TargetingMatch)]
    );
    let (free, none) = (request().with("x-plan", "free"), request());
    for request in [&free, &none] {
        let decision = decide(&policy, request);
        assert_eq!(routed_by(&decision), Some("other"));
        assert_eq!(
            read(&decision),
            [("gated", "beta", Some("off"), FlagReason::TargetingMatch)]
        );
        assert_eq!(decision.flags_header(), None, "a gate is not told");
    }
    // The first value counts, and the client's own headers of ours do not.
    let twice = free.with("x-plan", "pro");
    assert_eq!(routed_by(&decide(&policy, &twice)), Some("other"));
}

#[test]
fn the_upstream_is_told_what_its_rollout_asks_for_and_only_that_is_evaluated() {
    let flags = json!({
        "checkout": flag(&json!({ "fractional": [["on", 1], ["off", 1]] })),
        "banner": { "state": "ENABLED", "variants": { "blue sky": "b", "red": "r" }, "defaultVariant": "blue sky" },
        "away": { "state": "DISABLED", "variants": { "on": true }, "defaultVariant": "on" },
        "broken": flag(&json!({ "if": [{ "/": [1, 0] }, "on"] })),
        "unasked": on_if(json!({ "<": [{ "var": "$flagd.timestamp" }, 1] })),
    });
    let asked = ["banner", "away", "broken", "checkout"];
    let policy = compile(vec![telling("shop", &asked)], &flags);
    let request = request();
    let decision = decide(&policy, &request);
    let share = FlagSet::compile(&document(&flags)).expect("flags");
    let share = share
        .evaluate("checkout", &Context::at(NOW).for_key("alice"))
        .expect("a variant");
    let checkout = share.chosen.expect("a variant").variant;
    assert_eq!(
        read(&decision),
        [
            ("shop", "banner", Some("blue sky"), FlagReason::Static),
            ("shop", "away", None, FlagReason::Disabled),
            ("shop", "broken", None, FlagReason::Error),
            ("shop", "checkout", Some(checkout), FlagReason::TargetingMatch),
        ]
    );
    assert_eq!(
        decision.flags_header(),
        Some(format!("banner=blue%20sky,checkout={checkout}"))
    );
    assert_eq!(
        request.time_asked.get(),
        0,
        "no flag that is asked for reads the time"
    );

    let denied = RolloutRule {
        admit: Some(admit(&["spiffe://example.org/*"])),
        ..telling("shop", &asked)
    };
    let policy = compile(vec![denied], &flags);
    let decision = decide(&policy, &request);
    assert!(matches!(decision.verdict, Verdict::Denied(_)));
    assert_eq!((read(&decision), decision.flags_header()), (vec![], None));
}

#[test]
fn a_flag_that_gates_and_is_told_is_evaluated_once() {
    let flags = json!({ "beta": on_if(json!({ "<": [1000, { "var": "$flagd.timestamp" }] })) });
    let rule = RolloutRule {
        flags: vec!["beta".to_owned()],
        r#match: MatchSpec {
            hosts: vec!["shop.example.com".to_owned(), "*.example.com".to_owned()],
            ..gated("shop", &[("beta", "on")]).r#match
        },
        ..rule("shop")
    };
    let policy = compile(vec![rule], &flags);
    let request = request();
    let decision = decide(&policy, &request);
    assert_eq!(decision.flags_header().as_deref(), Some("beta=on"));
    assert_eq!((read(&decision).len(), request.time_asked.get()), (1, 1));
}

#[test]
fn a_rule_sees_the_request_by_these_names() {
    let names = [
        ("targetingKey", json!("alice")),
        ("method", json!("GET")),
        ("host", json!("shop.example.com")),
        ("path", json!("/api/carts")),
        ("peerSpiffeId", json!("spiffe://example.org/web")),
        ("headers.accept", json!("*/*")),
        ("headers", json!({ "accept": "*/*", "x-user-id": "alice" })),
        ("$flagd.timestamp", json!(NOW)),
        ("$flagd.flagKey", json!("flag")),
        ("$flagd", json!({ "flagKey": "flag", "timestamp": NOW })),
        ("headers.x-empty", json!(null)),
        ("headers.x-bytes", json!(null)),
        ("headers.host", json!(null)),
        ("query", json!(null)),
    ];
    let mut request = request()
        .with("accept", "*/*")
        .with("x-empty", "")
        .with("host", "h")
        .with("x-knhk-variant", "canary")
        .with_peer("spiffe://example.org/web");
    request.headers.push(("x-bytes".to_owned(), vec![0xff]));
    request.headers.push(("x-bytes".to_owned(), b"text".to_vec()));
    for (name, value) in names {
        // The expected value is what a context in JSON has there, so the two are compared as rules compare.
        for rule in [
            json!({ "if": [{ "===": [{ "var": name }, { "var": "expected" }] }, "same", "other"] }),
            json!({ "if": [{ "missing": [name] }, "missing", "there"] }),
            json!({ "fractional": [{ "cat": [{ "var": name }, "x"] }, ["a", 1], ["b", 1], ["c", 1]] }),
            json!({ "if": [{ "===": [{ "var": { "cat": [name] } }, { "var": [name] }] }, "same", "other"] }),
        ] {
            let variants: BTreeMap<_, _> = ["same", "other", "missing", "there", "a", "b", "c"]
                .map(|name| (name, name))
                .into();
            let flags = json!({ "flag": { "state": "ENABLED", "variants": variants, "targeting": rule } });
            let policy = compile(vec![telling("shop", &["flag"])], &flags);
            let decision = decide(&policy, &request);
            let context = json!({
                "targetingKey": "alice", "method": "GET", "host": "shop.example.com", "path": "/api/carts",
                "peerSpiffeId": "spiffe://example.org/web",
                "headers": { "accept": "*/*", "x-user-id": "alice" },
            });
            let context = Context::read(context.to_string().as_bytes()).expect("a context");
            let expected = FlagSet::compile(&document(&flags)).expect("flags");
            let expected = expected
                .evaluate("flag", &Context::at(NOW).with_all(&context))
                .expect("a variant");
            assert_eq!(
                decision.flags[0].variant,
                expected.chosen.map(|it| it.variant),
                "{name}: {rule}"
            );
            if rule["if"][0].get("missing").is_some() {
                let there = value != json!(null);
                assert_eq!(
                    decision.flags[0].variant,
                    Some(if there { "there" } else { "missing" }),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn a_flag_is_evaluated_for_the_rollouts_own_key() {
    let keys = [
        (vec![KeySpec::Header("x-user-id".to_owned())], "alice"),
        (vec![KeySpec::Cookie("session".to_owned())], "s1"),
        (vec![KeySpec::Query("u id".to_owned())], "A b"),
        (vec![KeySpec::PeerSpiffeId {}], "spiffe://example.org/web"),
        // As in the bucket, the nibble that tracing rewrites is read as 0.
        (
            vec![KeySpec::RequestId {}],
            "5f2e8c1a-9b3d-0c7e-8a1f-0d2b4c6e8f90",
        ),
        (
            vec![
                KeySpec::Header("x-none".to_owned()),
                KeySpec::Header("x-user-id".to_owned()),
            ],
            "alice",
        ),
        (vec![KeySpec::Header("x-bytes".to_owned())], ""),
    ];
    let mut request = Request::get("a.com", "/?u+id=%41+b")
        .with("x-user-id", "alice")
        .with("cookie", "session=\"s1\"")
        .with("x-request-id", "5f2e8c1a-9b3d-4c7e-8a1f-0d2b4c6e8f90")
        .with_peer("spiffe://example.org/web");
    request.headers.push(("x-bytes".to_owned(), vec![0xff]));
    for (key, expected) in keys {
        let rule = RolloutRule {
            key,
            ..telling("shop", &["flag"])
        };
        let variants: BTreeMap<_, _> = [("key", 1), ("none", 2), ("other", 3)].into();
        let targeting = json!({ "if": [{ "==": [{ "var": "targetingKey" }, expected] }, "key", { "!": { "var": "targetingKey" } }, "none", "other"] });
        let flags = json!({ "flag": { "state": "ENABLED", "variants": variants, "targeting": targeting } });
        let policy = compile(vec![rule], &flags);
        let variant = if expected.is_empty() { "none" } else { "key" };
        assert_eq!(
            decide(&policy, &request).flags[0].variant,
            Some(variant),
            "{expected}"
        );
    }
}

#[test]
fn the_caller_and_the_time_are_asked_for_only_where_a_flag_reads_them() {
    let flags = json!({
        "peer": on_if(json!({ "==": [{ "var": "peerSpiffeId" }, "spiffe://example.org/web"] })),
        "time": on_if(json!({ ">": [{ "var": "$flagd.timestamp" }, 7] })),
        "plan": on_if(json!({ "==": [{ "var": "headers.x-plan" }, "pro"] })),
        "all": on_if(json!({ "var": "" })),
    });
    for (flag, peer, time) in [
        ("peer", true, false),
        ("time", false, true),
        ("plan", false, false),
        ("all", true, true),
    ] {
        let policy = compile(vec![telling("shop", &[flag])], &flags);
        let request = request().with_peer("spiffe://example.org/web");
        decide(&policy, &request);
        assert_eq!(policy.reads_peer(), peer, "{flag}");
        assert_eq!(request.peer_asked.get() > 0, peer, "{flag}");
        assert_eq!(request.time_asked.get() > 0, time, "{flag}");
    }
}

#[test]
fn all_flags_of_a_decision_share_a_budget() {
    let ands: Vec<_> = (1..=700).collect();
    let flags: BTreeMap<String, Value> = (0..64)
        .map(|n| (format!("f{n:02}"), on_if(json!({ "and": ands.clone() }))))
        .collect();
    let rules: Vec<_> = (0..64)
        .map(|n| gated(&format!("r{n:02}"), &[(&format!("f{n:02}"), "off")]))
        .collect();
    let policy = compile(rules, &json!(flags));
    let request = request();
    let decision = decide(&policy, &request);
    assert_eq!((decision.verdict, decision.flags.len()), (Verdict::NoRollout, 64));
    let evaluated = decision
        .flags
        .iter()
        .take_while(|it| it.reason == FlagReason::TargetingMatch)
        .count();
    let each = ands.len() + FLAG_COST;
    assert!(
        (MAX_FLAGS_COST / each - 2..=MAX_FLAGS_COST / each).contains(&evaluated),
        "{evaluated}"
    );
    let rest = decision.flags.iter().skip(evaluated);
    assert!(
        rest.into_iter()
            .all(|it| (it.variant, it.reason) == (None, FlagReason::Error))
    );
    assert_eq!(decide(&policy, &request), decision, "the same again");
}

#[test]
fn a_rule_for_a_flag_comes_before_one_without_and_never_hides_one_by_another_key() {
    let flags = json!({ "beta": flag(&json!({ "fractional": [["on", 1], ["off", 1]] })) });
    let mut by_session = gated("b", &[("beta", "on")]);
    by_session.key = vec![KeySpec::Cookie("session".to_owned())];
    let policy = compile(
        vec![rule("a"), gated("c", &[("beta", "on")]), by_session.clone()],
        &flags,
    );
    assert_eq!(policy.rules().len(), 3);
    let refused = |rules| {
        Policy::compile(doc(rules).with_flags(&document(&flags)))
            .expect_err("refused")
            .label()
    };
    let twice = vec![gated("c", &[("beta", "on")]), gated("d", &[("beta", "on")])];
    assert_eq!(refused(twice), "shadowed");
}

#[test]
fn a_document_has_only_the_flags_that_its_rollouts_ask_for() {
    let all = document(&json!({ "a": on_if(json!(1)), "b": on_if(json!(1)), "c": on_if(json!(1)) }));
    let keys = |doc: &PolicyDoc| {
        doc.flags
            .as_ref()
            .map(|flags| flags.keys().map(str::to_owned).collect::<Vec<_>>())
    };
    let asks = doc(vec![gated("x", &[("c", "on")]), telling("y", &["a"])]).with_flags(&all);
    assert_eq!(keys(&asks), Some(vec!["a".to_owned(), "c".to_owned()]));
    assert_eq!(keys(&doc(vec![rule("x")]).with_flags(&all)), None);
    let bytes = asks.to_bytes();
    assert_eq!(PolicyDoc::parse(&bytes).expect("a document").to_bytes(), bytes);
}
