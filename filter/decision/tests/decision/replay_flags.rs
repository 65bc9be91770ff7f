//! What a receipt keeps of flags is enough to decide again, and a change to it shows.

use knhk_decision::{Evidence, FlagReason, Policy, ReplayedVerdict, RolloutRule, decide, evidence, replay};
use knhk_flags::Document;
use proptest::prelude::*;
use serde_json::json;

use crate::flags::{compile, document, flag, on_if};
use crate::flags_reference::any_policy_with_flags;
use crate::support::{Request, any_request, rule, rule_for};

fn told(replayed: &ReplayedVerdict) -> Vec<(String, String)> {
    let flags = replayed.route().into_iter().flat_map(|route| &route.flags);
    flags.map(|it| (it.flag.clone(), it.variant.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_replay_gives_the_same_route_and_the_same_flags(
        (policy, _) in any_policy_with_flags(),
        requests in prop::collection::vec(any_request(), 10),
    ) {
        for request in &requests {
            let decision = decide(&policy, request);
            let evidence = evidence(&policy, request, &decision);
            let replayed = replay(&policy, &evidence);
            prop_assert!(replayed.as_ref().is_ok_and(|it| it.agrees_with(&evidence)), "{:?} {:?} {:?}", request, evidence, replayed);
            let flags: Vec<_> = decision.told().map(|(key, variant)| (key.to_owned(), variant.to_owned())).collect();
            prop_assert_eq!(told(&replayed.expect("a verdict")), flags);
            // The caller is recorded if and only if he was asked for.
            let asked = request.clone();
            asked.peer_asked.set(0);
            decide(&policy, &asked);
            let known = request.peer.as_deref().and_then(knhk_decision::SpiffeId::parse).is_some();
            prop_assert_eq!(evidence.subject.is_some(), known && asked.peer_asked.get() > 0, "{:?}", evidence);
        }
    }

    #[test]
    fn every_change_of_a_flag_shows(
        (policy, _) in any_policy_with_flags(),
        requests in prop::collection::vec(any_request(), 10),
    ) {
        for request in &requests {
            let decision = decide(&policy, request);
            let evidence = evidence(&policy, request, &decision);
            let before = replay(&policy, &evidence).expect("a verdict");
            let shows = |changed: &Evidence| replay(&policy, changed).map_or(true, |after| after != before);
            for i in 0..evidence.flags.len() {
                let mut missing = evidence.clone();
                missing.flags.remove(i);
                prop_assert!(shows(&missing), "{:?}", evidence);
                let mut twice = evidence.clone();
                twice.flags.push(twice.flags[i].clone());
                prop_assert!(shows(&twice), "{:?}", evidence);
                let mut other = evidence.clone();
                let on = other.flags[i].variant.as_deref() == Some("on");
                other.flags[i].variant = Some(if on { "off" } else { "on" }.to_owned());
                // A gate that still fails is no change that a verdict could show.
                let rule = policy.rules().iter().find(|rule| rule.name == other.flags[i].rollout).expect("a rule");
                let flag = &other.flags[i].flag;
                let staged = rule.staging.as_ref().and_then(|staging| staging.r#match.flags.get(flag));
                let mut gates = rule.r#match.flags.get(flag).into_iter().chain(staged);
                let held = |wanted: &String| [&evidence, &other].iter().any(|it| it.flags[i].variant.as_ref() == Some(wanted));
                let fails_still = gates.next().is_some_and(|wanted| !held(wanted));
                prop_assert!(shows(&other) || fails_still, "{:?}", evidence);
                let mut unknown = evidence.clone();
                unknown.flags[i].variant = Some("no such variant".to_owned());
                prop_assert!(replay(&policy, &unknown).is_err());
            }
        }
    }
}

fn gate_and_told() -> (Policy, Document) {
    let flags = json!({
        "beta": on_if(json!({ "==": [{ "var": "headers.x-plan" }, "pro"] })),
        "banner": flag(&json!({})),
        "peer": on_if(json!({ "var": "peerSpiffeId" })),
    });
    let shop = RolloutRule {
        flags: vec!["banner".to_owned(), "beta".to_owned()],
        ..rule_for("shop", "{flags: {beta: 'on'}}")
    };
    (compile(vec![shop, rule("rest")], &flags), document(&flags))
}

fn recorded(policy: &Policy, plan: &str) -> Evidence {
    let request = Request::get("a.com", "/")
        .with("x-user-id", "alice")
        .with("x-plan", plan);
    evidence(policy, &request, &decide(policy, &request))
}

#[test]
fn the_variant_is_the_evidence_of_the_condition() {
    let (policy, _) = gate_and_told();
    let pro = recorded(&policy, "pro");
    assert_eq!(pro.flags.len(), 2);
    assert!(pro.conditions[0].holds);
    let json = serde_json::to_string(&pro).expect("JSON");
    assert!(!json.contains("x-plan") && !json.contains("alice"), "{json}");
    assert!(
        json.contains(r#"{"rollout":"shop","flag":"beta","variant":"on","reason":"TARGETING_MATCH"}"#),
        "{json}"
    );
    let free = recorded(&policy, "free");
    let route = free.rollout.as_ref().map(|it| it.name.as_str());
    assert_eq!(
        (route, free.flags.len(), free.conditions[0].holds),
        (Some("rest"), 1, false)
    );

    let label = |change: fn(&mut Evidence)| {
        let mut changed = pro.clone();
        change(&mut changed);
        replay(&policy, &changed).expect_err("refused").label()
    };
    assert_eq!(
        label(|it| it.flags[0].variant = Some("off".to_owned())),
        "contradiction"
    );
    assert_eq!(label(|it| it.conditions[0].holds = false), "contradiction");
    assert_eq!(label(|it| it.flags.clear()), "missing_flag");
    assert_eq!(label(|it| drop(it.flags.pop())), "missing_flag");
    assert_eq!(
        label(|it| it.flags[0].reason = FlagReason::Static),
        "contradiction"
    );
    assert_eq!(
        label(|it| it.flags[0].variant = Some("blue".to_owned())),
        "contradiction"
    );
    assert_eq!(label(|it| it.flags[1].variant = None), "contradiction");
    assert_eq!(
        label(|it| it.flags[0].rollout = "rest".to_owned()),
        "not_in_policy"
    );
    assert_eq!(label(|it| it.flags[0].flag = "peer".to_owned()), "not_in_policy");
    assert_eq!(
        label(|it| it.subject = Some("spiffe://example.org/web".to_owned())),
        "contradiction"
    );
    let mut more = free.clone();
    more.flags.push(pro.flags[1].clone());
    assert_eq!(
        replay(&policy, &more).expect_err("never read").label(),
        "contradiction"
    );
}
