//! Flags of two regions that tell each other what they know, and the rollouts that ask for them.

use knhk_decision::{PolicyDoc, RolloutRule};
use knhk_promotion::Command;
use knhk_receipts::Payload;
use knhk_regions::wire::FlagsState;

use super::flags::{BETA, gated};
use super::regions::{EU, US, both, directories, hear, meet, region, regions, state, tell};
use super::{Running, SPEC};
use crate::app::rollouts::{CommandError, InUse};

/// The flags in force, as a flag file.
pub(super) fn flags(of: &Running) -> String {
    String::from_utf8(of.app.rollouts.flags().to_bytes()).expect("text")
}

/// A flag, and a rollout that asks for it.
async fn apply_gated(at: &Running) {
    at.apply_flags(BETA).await.expect("applied");
    at.apply(&gated()).await.expect("applied");
}

fn rules(of: &Running) -> Vec<RolloutRule> {
    of.app.snapshots.newest().policy.rules().to_vec()
}

#[tokio::test]
async fn flags_are_the_same_in_all_regions_and_so_is_what_they_gate() {
    let [at_eu, at_us] = directories();
    let (eu, us) = both(&at_eu, &at_us).await;
    apply_gated(&eu).await;
    meet(&eu, &us).await;
    assert_eq!(flags(&us), flags(&eu));
    assert_eq!(
        (rules(&us).len(), rules(&us)),
        (1, rules(&eu)),
        "filters decide alike"
    );
    let refused = us.apply_flags("flags: {}").await.expect_err("it is in use");
    assert!(matches!(&refused, CommandError::FlagsInUse(_)), "{refused}");

    let changed = BETA.replace("defaultVariant: off", "defaultVariant: on");
    us.apply_flags(&changed).await.expect("any region may");
    us.end(at_us.path(), super::Ending::Killed).await;
    let us = region(at_us.path(), US).await;
    meet(&eu, &us).await;
    assert_eq!(flags(&eu), flags(&us));
    assert!(flags(&eu).contains(r#""defaultVariant":"on""#), "{}", flags(&eu));
    let followed = eu.flag_actions();
    let last = followed.last().expect("a receipt");
    assert_eq!(
        (last.what.as_str(), last.who.as_str(), last.reason.as_str()),
        (
            "flags.followed",
            "region:us-east-1",
            "applied in us-east-1: changed beta"
        )
    );
}

#[tokio::test]
async fn flags_of_two_operators_who_act_at_once_end_in_one_state() {
    let [at_eu, at_us] = directories();
    let (eu, us) = both(&at_eu, &at_us).await;
    eu.apply_flags(BETA).await.expect("applied");
    meet(&eu, &us).await;
    for (of, variant) in [(&us, "on"), (&eu, "off")] {
        let theirs = BETA
            .replace("other:", "another:")
            .replace("defaultVariant: off", &format!("defaultVariant: {variant}"));
        of.apply_flags(&theirs).await.expect("applied");
    }
    meet(&eu, &us).await;
    assert_eq!(flags(&eu), flags(&us));
    assert!(
        flags(&eu).contains(r#""defaultVariant":"on""#),
        "the larger name of a region wins"
    );
    // Whoever acts then comes behind both.
    eu.apply_flags("flags: {}").await.expect("applied");
    meet(&us, &eu).await;
    assert_eq!(
        (flags(&us), flags(&eu)),
        (r#"{"flags":{}}"#.to_owned(), r#"{"flags":{}}"#.to_owned())
    );
}

/// Neither region could refuse what the other did: the rollout waits in both for what it asks for.
#[tokio::test]
async fn a_rollout_that_lost_its_flags_to_another_region_waits_for_them() {
    let [at_eu, at_us] = directories();
    let (eu, us) = both(&at_eu, &at_us).await;
    apply_gated(&eu).await;
    us.apply_flags(&BETA.replace("beta:", "gamma:"))
        .await
        .expect("applied");
    meet(&eu, &us).await;
    assert_eq!((flags(&us), state(&us)), (flags(&eu), state(&eu)), "all is known");
    assert!(
        rules(&eu).is_empty() && rules(&us).is_empty(),
        "and it routes nothing"
    );
    let cart = SPEC
        .replace("name: checkout", "name: cart")
        .replace("checkout.example.com", "cart.example.com");
    us.apply(&cart).await.expect("the others go on");

    us.end(at_us.path(), super::Ending::Killed).await;
    let us = region(at_us.path(), US).await;
    us.apply_flags(BETA).await.expect("applied");
    meet(&eu, &us).await;
    assert_eq!(
        (rules(&us).len(), rules(&us)),
        (2, rules(&eu)),
        "filters decide alike"
    );
}

#[tokio::test]
async fn a_rollout_that_waits_for_its_flags_can_be_aborted() {
    let [at_eu, at_us] = directories();
    let (eu, us) = both(&at_eu, &at_us).await;
    apply_gated(&eu).await;
    us.apply_flags("flags: { a: { state: ENABLED, variants: { b: 1 } } }")
        .await
        .expect("applied");
    meet(&eu, &us).await;
    us.command(Command::Abort).await.expect("aborted");
    meet(&eu, &us).await;
    assert_eq!(state(&us), state(&eu));
    assert_eq!(state(&eu).expect("there").0.reason(), Some("aborted"));
}

/// The numbers of rollouts in every policy that was ever published.
fn routed(of: &Running) -> Vec<usize> {
    let entries = of.app.log.scan(0).map(|entry| entry.expect("readable").1);
    let policies = entries.filter_map(|payload| match payload {
        Payload::Policy(policy) => serde_json::from_slice::<PolicyDoc>(&policy.bytes).ok(),
        _ => None,
    });
    policies.map(|policy| policy.rollouts.len()).collect()
}

/// What asks for a flag and what no longer does may come in one message with the flags.
#[tokio::test]
async fn no_rollout_is_left_out_on_the_way_from_some_flags_to_others() {
    let [at_eu, at_us] = directories();
    let (eu, us) = both(&at_eu, &at_us).await;
    apply_gated(&eu).await;
    tell(&eu, &us).await;
    assert_eq!(routed(&us), [0, 1], "flags and rollout at once");

    eu.apply(SPEC).await.expect("it asks for none any more");
    eu.apply_flags("flags: {}").await.expect("applied");
    tell(&eu, &us).await;
    eu.apply_flags(BETA).await.expect("applied");
    eu.apply(&gated()).await.expect("it asks for one again");
    tell(&eu, &us).await;
    let routed = routed(&us);
    assert!(routed[1..].iter().all(|rollouts| *rollouts == 1), "{routed:?}");
    assert_eq!((flags(&us), state(&us)), (flags(&eu), state(&eu)));
}

/// Whoever is told in an answer that a rollout is at another place gets the flags with it.
#[tokio::test]
async fn an_answer_has_the_flags_that_its_rollouts_ask_for() {
    let [at_eu, at_us] = directories();
    let (eu, us) = both(&at_eu, &at_us).await;
    eu.apply(SPEC).await.expect("applied");
    tell(&eu, &us).await;
    let old = regions(&us).replication().to_tell(EU);
    apply_gated(&eu).await;
    let answer = regions(&eu).replicated(old, &eu.app).await.expect("an answer");
    hear(&us, &answer).await.expect("followed");
    assert_eq!((flags(&us), state(&us)), (flags(&eu), state(&eu)));
}

#[tokio::test]
async fn flags_in_another_form_are_not_followed_and_keep_nothing_from_being_so() {
    let [at_eu, at_us] = directories();
    let (eu, us) = both(&at_eu, &at_us).await;
    eu.apply(SPEC).await.expect("applied");
    let mut message = regions(&eu).replication().to_tell(US);
    for document in [r#"{ "flags": {} }"#, r#"{"flags":{"a":1}}"#, "{"] {
        let state = FlagsState {
            revision: 9,
            region: EU.to_owned(),
            document: document.into(),
        };
        message.flags = Some(state.clone());
        hear(&us, &message).await.expect("the rest is followed");
        let refused = us
            .app
            .rollouts
            .follow_flags(EU, state, InUse::MayGo)
            .await
            .expect_err("refused");
        assert_eq!(refused.label(), "unreadable");
        assert!(!refused.to_string().contains('\n'), "{refused}");
    }
    assert_eq!(state(&us), state(&eu));
    assert!(us.flag_actions().is_empty());
}
