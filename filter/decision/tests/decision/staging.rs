//! The staging stage in a decision: what it picks goes to the version, what it does not goes by its weight.

use knhk_decision::spec::{KeySpec, Weight};
use knhk_decision::{
    Admission, Policy, PolicyDoc, ReplayedVerdict, RolloutRule, Variant, decide, evidence, replay,
};
use serde_json::json;

use crate::flags::{compile, on_if};
use crate::support::{Request, admit, doc, policy, rule, rule_for, staged};

const TESTERS: &str = "{headers: [{name: X-Tester, present: true}]}";

/// At this weight nobody sees the version.
fn at_zero(rule: RolloutRule) -> RolloutRule {
    RolloutRule {
        weight: Weight::ZERO,
        ..rule
    }
}

fn user() -> Request {
    Request::get("a.com", "/").with("x-user-id", "alice")
}

fn variant(policy: &Policy, request: &Request) -> Variant {
    decide(policy, request).routed().expect("a rollout").variant
}

#[test]
fn what_is_picked_goes_to_the_version_and_the_rest_by_its_weight() {
    let policy = policy(vec![staged(rule("shop"), TESTERS)]);
    let tester = |request: Request| request.with("x-tester", "1");
    for n in 0..200 {
        let request = Request::get("a.com", "/").with("x-user-id", &n.to_string());
        let by_weight = decide(&policy, &request).routed().copied().expect("a rollout");
        let bucket = by_weight.bucket.expect("a key");
        let expected = if bucket < 500_000 {
            Variant::Canary
        } else {
            Variant::Stable
        };
        assert_eq!(by_weight.variant, expected);
        let picked = tester(request);
        let picked = decide(&policy, &picked).routed().copied().expect("a rollout");
        assert_eq!((picked.variant, picked.bucket), (Variant::Staging, Some(bucket)));
        assert_eq!(picked.group, by_weight.group);
    }
    // It needs no key.
    let keyless = tester(Request::get("a.com", "/"));
    let routed = decide(&policy, &keyless).routed().copied().expect("a rollout");
    assert_eq!(
        (routed.variant, routed.bucket, routed.key),
        (Variant::Staging, None, None)
    );
    assert_eq!(Variant::Staging.as_str(), "staging");
    assert_eq!(Variant::Staging.version(routed.rule), "v2");
}

#[test]
fn all_its_conditions_have_to_hold() {
    let flags = json!({ "beta": on_if(json!({ "==": [{ "var": "headers.x-plan" }, "pro"] })) });
    let picked = "{headers: [{name: x-tester, exact: '1'}], peers: ['spiffe://example.org/qa/*'], flags: {beta: 'on'}}";
    let policy = compile(vec![at_zero(staged(rule("shop"), picked))], &flags);
    let request = |tester: &str, peer: &str, plan: &str| {
        let request = user().with("x-tester", tester).with("x-plan", plan);
        request.with_peer(peer)
    };
    let qa = "spiffe://example.org/qa/robot";
    assert_eq!(variant(&policy, &request("1", qa, "pro")), Variant::Staging);
    for other in [
        request("2", qa, "pro"),
        request("1", "spiffe://example.org/web", "pro"),
        request("1", qa, "free"),
    ] {
        assert_eq!(variant(&policy, &other), Variant::Stable);
    }
    // Who is asked for, and which flags, is what its conditions say, in their order.
    let unread = request("2", qa, "pro");
    assert!(decide(&policy, &unread).flags.is_empty());
    assert_eq!(unread.peer_asked.get(), 0);
    assert!(policy.reads_peer());
}

#[test]
fn before_and_after_its_stage_it_picks_nothing() {
    let mut waiting = staged(rule("shop"), TESTERS);
    waiting.staging.as_mut().expect("staging").active = false;
    let with = policy(vec![at_zero(waiting)]);
    assert_eq!(variant(&with, &user().with("x-tester", "1")), Variant::Stable);
    assert!(!with.reads_peer());
    let request = user().with("x-tester", "1");
    assert!(
        evidence(&with, &request, &decide(&with, &request))
            .conditions
            .is_empty()
    );
}

#[test]
fn it_has_no_say_in_which_rollout_routes() {
    let policy = policy(vec![
        rule_for("one", "{hosts: [a.com], headers: [{name: x-a, present: true}]}"),
        at_zero(staged(rule_for("two", "{hosts: [a.com]}"), TESTERS)),
    ]);
    let both = user().with("x-tester", "1").with("x-a", "1");
    assert_eq!(
        decide(&policy, &both).routed().expect("a rollout").rule.name,
        "one"
    );
    assert_eq!(variant(&policy, &user().with("x-tester", "1")), Variant::Staging);
}

#[test]
fn whom_the_rollout_does_not_admit_staging_does_not_either() {
    let policy = policy(vec![RolloutRule {
        admit: Some(admit(&["spiffe://example.org/*"])),
        ..staged(rule("shop"), TESTERS)
    }]);
    let request = user().with("x-tester", "1");
    let denied = decide(&policy, &request);
    assert_eq!(denied.admission(), Admission::Denied);
    let recorded = evidence(&policy, &request, &denied);
    let replayed = replay(&policy, &recorded).expect("a verdict");
    assert!(matches!(&replayed, ReplayedVerdict::Denied(route) if route.variant == Variant::Staging));
    assert!(replayed.agrees_with(&recorded));
}

#[test]
fn a_receipt_has_the_truth_of_what_was_read_and_replays() {
    let picked = "{headers: [{name: x-tester, present: true}, {name: x-team, prefix: qa-}]}";
    let policy = policy(vec![at_zero(staged(
        rule_for("shop", "{methods: [GET]}"),
        picked,
    ))]);
    let recorded = |request: &Request| evidence(&policy, request, &decide(&policy, request));
    let truths = |request: &Request| -> Vec<(u32, bool)> {
        recorded(request)
            .conditions
            .iter()
            .map(|truth| (truth.index, truth.holds))
            .collect()
    };
    let picked = user().with("x-tester", "1").with("x-team", "qa-1");
    assert_eq!(truths(&picked), [(0, true), (1, true), (2, true)]);
    assert_eq!(truths(&user()), [(0, true), (1, false)]);
    assert_eq!(
        truths(&user().with("x-tester", "1")),
        [(0, true), (1, true), (2, false)]
    );

    let evidence = recorded(&picked);
    let route = evidence.rollout.as_ref().expect("a route");
    assert_eq!((route.variant, route.bucket.is_some()), (Variant::Staging, true));
    assert!(
        replay(&policy, &evidence)
            .expect("a verdict")
            .agrees_with(&evidence)
    );
    let mut lie = evidence.clone();
    lie.rollout.as_mut().expect("a route").variant = Variant::Canary;
    assert!(!replay(&policy, &lie).expect("a verdict").agrees_with(&lie));
    let mut lie = evidence.clone();
    lie.conditions.truncate(2);
    assert_eq!(
        replay(&policy, &lie).expect_err("it was read").label(),
        "missing_condition"
    );
    let mut lie = recorded(&user());
    lie.conditions.push(evidence.conditions[2].clone());
    assert_eq!(
        replay(&policy, &lie).expect_err("never read").label(),
        "contradiction"
    );
}

#[test]
fn who_the_caller_is_is_recorded_where_staging_asks() {
    let policy = policy(vec![RolloutRule {
        key: vec![KeySpec::Header("x-user-id".to_owned())],
        ..at_zero(staged(rule("shop"), "{peers: ['spiffe://example.org/qa/*']}"))
    }]);
    let request = user().with_peer("spiffe://example.org/qa/robot");
    let recorded = evidence(&policy, &request, &decide(&policy, &request));
    assert_eq!(recorded.subject.as_deref(), Some("spiffe://example.org/qa/robot"));
    assert!(
        replay(&policy, &recorded)
            .expect("a verdict")
            .agrees_with(&recorded)
    );
    let mut other = recorded.clone();
    other.subject = Some("spiffe://example.org/web".to_owned());
    assert_eq!(
        replay(&policy, &other).expect_err("another caller").label(),
        "contradiction"
    );
}

#[test]
fn the_document_comes_back_and_an_older_one_is_read() {
    let rules = vec![staged(
        rule("shop"),
        "{headers: [{name: x-tester, present: true}], flags: {beta: 'on'}}",
    )];
    let document = doc(rules);
    let bytes = document.to_bytes();
    let text = String::from_utf8(bytes.clone()).expect("text");
    let expected = r#""staging":{"active":true,"match":{"headers":[{"name":"x-tester","present":true}],"flags":{"beta":"on"}}}"#;
    assert!(text.contains(expected), "{text}");
    assert_eq!(PolicyDoc::parse(&bytes), Ok(document.clone()));
    assert!(document.rollouts[0].asks_for().any(|flag| flag == "beta"));
    let without = doc(vec![rule("shop")]).to_bytes();
    assert!(!String::from_utf8(without).expect("text").contains("staging"));
}

#[test]
fn a_rule_says_offline_what_it_picks() {
    let rule = staged(
        rule("shop"),
        "{headers: [{name: x-tester, present: true}], flags: {beta: 'on'}}",
    );
    let tester = user().with("x-tester", "1");
    assert_eq!(
        rule.picks(&tester, |flag| (flag == "beta").then_some("on")),
        Ok(true)
    );
    assert_eq!(rule.picks(&tester, |_| None), Ok(false));
    assert_eq!(rule.picks(&user(), |_| Some("on")), Ok(false));
}
