//! Evidence is enough to decide again, and a change to it shows.

use knhk_decision::spec::KeySpec;
use knhk_decision::{
    Admission, Evidence, Policy, PolicyDoc, ReplayError, ReplayedVerdict, RolloutRule, SpiffeId, Variant,
    Verdict, decide, evidence, replay,
};
use proptest::prelude::*;

use crate::support::{Request, admit, any_policy, any_request, doc, policy, rule, rule_for};

fn same(replayed: &ReplayedVerdict, verdict: &Verdict<'_>) -> bool {
    match (replayed, verdict) {
        (ReplayedVerdict::NoRollout, Verdict::NoRollout) => true,
        (ReplayedVerdict::Routed(a), Verdict::Routed(b))
        | (ReplayedVerdict::Denied(a), Verdict::Denied(b)) => {
            (&a.name, a.generation, a.bucket, a.variant)
                == (&b.rule.name, b.rule.generation, b.bucket, b.variant)
        }
        _ => false,
    }
}

/// What was recorded as decided, wiped: a replay must not need it.
fn without_the_outcome(evidence: &Evidence) -> Evidence {
    let mut evidence = evidence.clone();
    if let Some(route) = &mut evidence.rollout {
        route.generation = u64::MAX;
        route.variant = match route.variant {
            Variant::Stable => Variant::Canary,
            Variant::Canary => Variant::Staging,
            Variant::Staging => Variant::Stable,
        };
    }
    evidence.admission = match evidence.admission {
        Admission::Admitted => Admission::Denied,
        Admission::Denied => Admission::Admitted,
    };
    evidence
}

fn asks_for_the_caller(policy: &Policy, request: &Request) -> bool {
    let request = request.clone();
    request.peer_asked.set(0);
    decide(policy, &request);
    request.peer_asked.get() > 0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_replay_is_the_decision(
        policy in any_policy(),
        requests in prop::collection::vec(any_request(), 10),
    ) {
        for request in &requests {
            let verdict = decide(&policy, request);
            let evidence = evidence(&policy, request, &verdict);
            let replayed = replay(&policy, &evidence);
            prop_assert!(replayed.as_ref().is_ok_and(|replayed| same(replayed, &verdict.verdict)), "{:?} {:?} {:?}", request, evidence, replayed);
            prop_assert!(replayed.as_ref().is_ok_and(|replayed| replayed.agrees_with(&evidence)));
            let wiped = without_the_outcome(&evidence);
            prop_assert_eq!(&replay(&policy, &wiped), &replayed);
            prop_assert!(!replayed.is_ok_and(|replayed| replayed.agrees_with(&wiped)));
            // The caller is recorded if and only if he was asked for.
            let caller = request.peer.as_deref().and_then(SpiffeId::parse).map(SpiffeId::as_str);
            prop_assert_eq!(evidence.subject.as_deref(), caller.filter(|_| asks_for_the_caller(&policy, request)));
        }
    }

    #[test]
    fn every_change_of_what_was_read_shows(
        policy in any_policy(),
        requests in prop::collection::vec(any_request(), 10),
    ) {
        for request in &requests {
            let verdict = decide(&policy, request);
            let evidence = evidence(&policy, request, &verdict);
            let unchanged = |evidence: &Evidence| replay(&policy, evidence).is_ok_and(|replayed| same(&replayed, &verdict.verdict));
            for i in 0..evidence.conditions.len() {
                let mut flipped = evidence.clone();
                flipped.conditions[i].holds ^= true;
                prop_assert!(!unchanged(&flipped), "condition {} of {:?}", i, evidence);
                let mut missing = evidence.clone();
                missing.conditions.remove(i);
                prop_assert!(!unchanged(&missing), "condition {} of {:?}", i, evidence);
            }
            if !asks_for_the_caller(&policy, request) {
                let mut named = evidence.clone();
                named.subject = Some("spiffe://example.org/web".to_owned());
                prop_assert!(!unchanged(&named), "{:?}", evidence);
            }
            let Some(route) = &evidence.rollout else { continue };
            if route.bucket.is_some() {
                let mut moved = evidence.clone();
                moved.rollout.as_mut().expect("a route").bucket = Some((route.bucket.expect("a bucket") + 1) % 1_000_000);
                prop_assert!(!unchanged(&moved), "{:?}", evidence);
            }
            let winner = policy.rules().iter().find(|rule| rule.name == route.name).expect("the winner");
            let path = match (&winner.r#match.path, &winner.r#match.path_prefix) {
                (Some(path), _) => format!("={path}"),
                (None, Some(prefix)) if prefix != "/" => prefix.trim_end_matches('/').to_owned(),
                _ => continue,
            };
            let mut pathless = evidence.clone();
            pathless.paths.retain(|recorded| *recorded != path);
            prop_assert_eq!(pathless.paths.len() + 1, evidence.paths.len());
            prop_assert!(!unchanged(&pathless), "{:?}", evidence);
        }
    }
}

/// Two rollouts that differ by one header, so that flipping its truth makes the other one win.
fn beta_and_shop() -> (knhk_decision::Policy, Evidence) {
    let policy = policy(vec![
        rule_for("shop", "{hosts: [shop.com]}"),
        rule_for(
            "beta",
            "{hosts: [shop.com], headers: [{name: x-beta, present: true}]}",
        ),
    ]);
    let request = Request::get("Shop.com:80", "/cart?secret=1").with("x-user-id", "alice");
    let verdict = decide(&policy, &request);
    let evidence = evidence(&policy, &request, &verdict);
    (policy, evidence)
}

#[test]
fn another_rollout_has_no_bucket_in_the_record() {
    let (policy, mut evidence) = beta_and_shop();
    assert_eq!(evidence.host, "shop.com");
    assert_eq!(
        evidence.rollout.as_ref().map(|route| route.name.as_str()),
        Some("shop")
    );
    evidence.conditions[0].holds = true;
    let error = replay(&policy, &evidence).expect_err("beta wins now");
    assert_eq!(
        error,
        ReplayError::MissingBucket {
            rollout: "beta".into(),
            recorded: Some("shop".into())
        }
    );
    evidence.conditions.clear();
    let error = replay(&policy, &evidence).expect_err("beta's condition is unknown");
    assert_eq!(
        error,
        ReplayError::MissingCondition {
            rollout: "beta".into(),
            index: 0
        }
    );
}

#[test]
fn a_bucket_across_the_weight_gives_the_other_variant() {
    let (policy, mut evidence) = beta_and_shop();
    for (bucket, variant) in [(499_999, Variant::Canary), (500_000, Variant::Stable)] {
        evidence.rollout.as_mut().expect("a route").bucket = Some(bucket);
        let Ok(ReplayedVerdict::Routed(route)) = replay(&policy, &evidence) else {
            panic!("routed")
        };
        assert_eq!(route.variant, variant);
    }
    evidence.rollout.as_mut().expect("a route").bucket = Some(1_000_000);
    assert_eq!(
        replay(&policy, &evidence).expect_err("no bucket").label(),
        "contradiction"
    );
}

#[test]
fn evidence_for_another_policy_is_refused() {
    let (policy, evidence) = beta_and_shop();
    let other = |change: fn(&mut Evidence)| {
        let mut evidence = evidence.clone();
        change(&mut evidence);
        replay(&policy, &evidence).expect_err("of another policy").label()
    };
    assert_eq!(
        other(|evidence| evidence.paths.push("/other".into())),
        "not_in_policy"
    );
    assert_eq!(
        other(|evidence| evidence.conditions[0].rollout = "gone".into()),
        "not_in_policy"
    );
    assert_eq!(
        other(|evidence| evidence.conditions[0].index = 9),
        "not_in_policy"
    );
    assert_eq!(
        other(|evidence| evidence.rollout.as_mut().expect("a route").key = Some(9)),
        "not_in_policy"
    );
}

#[test]
fn the_subjects_bucket_is_computed_again() {
    let policy = policy(vec![RolloutRule {
        key: vec![KeySpec::PeerSpiffeId {}],
        ..rule("shop")
    }]);
    let request = Request::get("a.com", "/").with_peer("spiffe://example.org/web");
    let verdict = decide(&policy, &request);
    let evidence = evidence(&policy, &request, &verdict);
    assert_eq!(evidence.subject.as_deref(), Some("spiffe://example.org/web"));
    let label = |change: fn(&mut Evidence)| {
        let mut evidence = evidence.clone();
        change(&mut evidence);
        replay(&policy, &evidence).expect_err("a contradiction").label()
    };
    assert_eq!(label(|evidence| evidence.subject = None), "contradiction");
    assert_eq!(
        label(|evidence| evidence.subject = Some("spiffe://example.org/db".into())),
        "contradiction"
    );
    assert_eq!(
        label(|evidence| evidence.rollout.as_mut().expect("a route").bucket = None),
        "contradiction"
    );
}

#[test]
fn a_denial_is_decided_again_from_the_subject() {
    let policy = policy(vec![RolloutRule {
        admit: Some(admit(&["spiffe://example.org/ns/shop/*"])),
        ..rule_for("shop", "{peers: ['spiffe://example.org/*']}")
    }]);
    let of = |peer: Option<&str>| {
        let request = Request {
            peer: peer.map(str::to_owned),
            ..Request::get("a.com", "/").with("x-user-id", "alice")
        };
        evidence(&policy, &request, &decide(&policy, &request))
    };
    let denied = of(Some("spiffe://example.org/web"));
    assert_eq!(denied.admission, Admission::Denied);
    let replayed = replay(&policy, &denied).expect("a verdict");
    assert!(matches!(replayed, ReplayedVerdict::Denied(_)) && replayed.agrees_with(&denied));

    // The verdict of another caller does not become his, nor his the other's.
    let mut as_other = denied.clone();
    as_other.subject = Some("spiffe://example.org/ns/shop/web".to_owned());
    let replayed = replay(&policy, &as_other).expect("a verdict");
    assert!(matches!(replayed, ReplayedVerdict::Routed(_)) && !replayed.agrees_with(&as_other));

    // Whether the condition on the caller holds is known from him.
    for subject in [None, Some("spiffe://other.org/web"), Some("CN=web")] {
        let mut other = denied.clone();
        other.subject = subject.map(str::to_owned);
        let error = replay(&policy, &other).expect_err("a contradiction");
        assert_eq!(error.label(), "contradiction", "{error}");
    }
    let nobody = of(None);
    assert_eq!((nobody.rollout.is_none(), nobody.conditions.len()), (true, 1));
    assert_eq!(replay(&policy, &nobody), Ok(ReplayedVerdict::NoRollout));
}

#[test]
fn paths_and_digest_have_to_agree() {
    let policy = policy(vec![
        rule_for("exact", "{path: /api/v1}"),
        rule_for("outer", "{pathPrefix: /api}"),
        rule_for("inner", "{pathPrefix: /api/v1/users}"),
        rule_for("else", "{pathPrefix: /web}"),
    ]);
    let of = |path: &str| {
        let request = Request::get("a.com", path).with("x-user-id", "alice");
        evidence(&policy, &request, &decide(&policy, &request))
    };
    assert_eq!(of("/api/v1?x").paths, ["/api", "=/api/v1"]);
    assert_eq!(of("/api/v1/users/7").paths, ["/api", "/api/v1/users"]);
    for (path, change) in [
        // The digest is that of the exact path.
        ("/api/v1", vec!["/api"]),
        ("/api/v2", vec!["/api", "=/api/v1"]),
        // Nothing is below /api/v1/users and not below /api; nothing is below both /api and /web.
        ("/api/v1/users", vec!["/api/v1/users"]),
        ("/api/v1/users", vec!["/api", "/web"]),
        // Nothing is exactly /api/v1 and below /api/v1/users.
        ("/api/v1", vec!["/api", "/api/v1/users", "=/api/v1"]),
    ] {
        let mut evidence = of(path);
        evidence.paths = change.into_iter().map(str::to_owned).collect();
        let error = replay(&policy, &evidence).expect_err("a contradiction");
        assert_eq!(error.label(), "contradiction", "{path}: {error}");
    }
}

#[test]
fn a_replay_goes_by_the_policy_it_is_given() {
    let (policy, evidence) = beta_and_shop();
    let newer = policy
        .rules()
        .iter()
        .map(|rule| RolloutRule {
            generation: 2,
            ..rule.clone()
        })
        .collect();
    let newer = knhk_decision::Policy::compile(PolicyDoc { n: 8, ..doc(newer) }).expect("a policy");
    let replayed = replay(&newer, &evidence).expect("a verdict");
    assert!(!replayed.agrees_with(&evidence));
}

#[test]
fn evidence_has_no_key_and_no_path_in_it() {
    let (_, evidence) = beta_and_shop();
    let json = serde_json::to_string(&evidence).expect("json");
    for raw in ["alice", "cart", "secret"] {
        assert!(!json.contains(raw), "{json}");
    }
    assert!(json.contains("\"pathSha256\":\""), "{json}");
}
