//! One of four identities lies: what the service does, shows and records.

use std::sync::Arc;
use std::time::Duration;

use knhk_decision::spec::Weight;
use knhk_promotion::{Command, Finding, LOOK_EVERY_MS, Rollout, RolloutSpec};
use knhk_proto::ordered::{MAX_ORDERED, Outcome, Run};
use knhk_proto::v1::{Observed, Ordered, Variant};
use knhk_receipts::{ActionReceipt, Payload};

use super::{Ending, Running, SPEC};
use crate::app::evidence::Origin;

const HONEST: [&str; 3] = [
    "spiffe://example.org/ns/shop/sa/web",
    "spiffe://example.org/ns/shop/sa/app",
    "spiffe://example.org/ns/shop/sa/search",
];
const LIAR: &str = "spiffe://example.org/ns/shop/sa/liar";

/// Requests and errors.
type Said = (u64, u64);

/// What an identity says for the `nth` time, from 1: each time the same again, and counts are cumulative.
fn report_again(service: &Running, rollout: &str, nth: u64, identity: &str, stable: Said, canary: Said) {
    let window = service.app.rollouts.get(rollout).expect("applied").window();
    let from = Origin {
        identity: Some(Arc::from(identity)),
        // All workers have one name: it is theirs to choose.
        nonce: [1; 16],
    };
    let observed = |variant: Variant, (requests, errors): Said| Observed {
        rollout: rollout.to_owned(),
        window,
        variant: variant.into(),
        requests: nth * requests,
        errors: nth * errors,
        ..Observed::default()
    };
    let told = Observed {
        ordered: Some(Ordered {
            after_canary: (nth - 1) * canary.0,
            after_stable: (nth - 1) * stable.0,
            run: in_order(stable, canary),
        }),
        ..observed(Variant::Canary, canary)
    };
    let rows = [observed(Variant::Stable, stable), told];
    service.app.evidence.observe(&from, &rows).expect("taken");
}

/// The first of the canary's requests, its errors spread evenly over them, beside good ones of stable.
fn in_order((stable, errors): Said, (canary, canary_errors): Said) -> Vec<u64> {
    let mut run = Run::new();
    let told = canary.min(MAX_ORDERED as u64);
    for index in 0..told {
        let failed_before = |index: u64| index * canary_errors / canary;
        let outcome = Outcome {
            group: (index % 16) as u8,
            failed: failed_before(index + 1) > failed_before(index),
            ..Outcome::default()
        };
        run.push(outcome, (stable - errors) / told, std::iter::once(0));
    }
    run.take()
}

fn report(service: &Running, rollout: &str, identity: &str, stable: Said, canary: Said) {
    report_again(service, rollout, 1, identity, stable, canary);
}

/// The liar speaks first, then the others say what they saw of the canary.
fn four_report(service: &Running, rollout: &str, nth: u64, lie: (Said, Said), truth: [Said; 3]) {
    report_again(service, rollout, nth, LIAR, lie.0, lie.1);
    for (identity, canary) in HONEST.into_iter().zip(truth) {
        report_again(service, rollout, nth, identity, (9_000, 9), canary);
    }
}

/// Reports again and again until a rollout is rolled back: one look is never enough for that.
async fn until_rolled_back(service: &Running, rollout: &str, mut report: impl FnMut(u64)) {
    let gone = rolled_back(service, rollout);
    tokio::pin!(gone);
    let mut beat = tokio::time::interval(Duration::from_millis(2 * LOOK_EVERY_MS));
    let mut told = 0;
    loop {
        tokio::select! {
            () = &mut gone => return,
            _ = beat.tick() => {
                told += 1;
                report(told);
            }
        }
    }
}

/// A second rollout, which is looked at after `checkout`.
async fn apply_search(service: &Running) {
    let spec = SPEC
        .replace("name: checkout", "name: search")
        .replace("checkout.example.com", "search.example.com");
    let spec = RolloutSpec::from_yaml(&spec).expect("valid");
    let rollouts = &service.app.rollouts;
    rollouts
        .command("search".into(), "someone".into(), Command::Apply(spec))
        .await
        .expect("applied");
}

async fn rolled_back(service: &Running, rollout: &str) {
    let mut snapshots = service.app.snapshots.subscribe();
    let gone = |rules: &[knhk_decision::RolloutRule]| {
        rules
            .iter()
            .any(|rule| rule.name == rollout && rule.weight == Weight::ZERO)
    };
    snapshots
        .wait_for(|newest| gone(newest.policy.rules()))
        .await
        .expect("the service runs");
}

fn last_action(service: &Running) -> ActionReceipt {
    let entries = service.app.log.scan(0).map(|entry| entry.expect("readable").1);
    let actions = entries.filter_map(|payload| match payload {
        Payload::Action(action) => Some(action),
        _ => None,
    });
    actions.last().expect("an action")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_does_not_hide_a_bad_version_and_the_receipt_says_who_reported() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let service = Running::start(&data).await;
    service.apply(SPEC).await.expect("applied");
    let lie = ((1_000_000, 1_000_000), (1_000_000_000, 0));
    until_rolled_back(&service, "checkout", |nth| {
        four_report(&service, "checkout", nth, lie, [(60, 18), (60, 18), (500, 150)]);
    })
    .await;

    let receipt = last_action(&service);
    assert_eq!(receipt.what, "rollout.rolled_back");
    assert!(
        receipt.reason.contains("4 identities report") && receipt.reason.ends_with("1 set aside"),
        "{}",
        receipt.reason
    );
    let after: Rollout = serde_json::from_slice(&receipt.after.expect("a state")).expect("a rollout");
    let entry = after.history().last().expect("an entry");
    let reporters = entry.reporters.as_ref().expect("proven identities");
    let mut named: Vec<_> = reporters
        .counted
        .iter()
        .filter_map(|it| it.identity.as_deref())
        .collect();
    named.sort_unstable();
    let mut honest = HONEST;
    honest.sort_unstable();
    assert_eq!(named, honest);
    let canary: Vec<_> = reporters.counted.iter().map(|it| it.canary).collect();
    let most = canary.last().expect("three of them").reported;
    assert_eq!(
        canary.iter().map(|it| it.reported).collect::<Vec<_>>(),
        [most / 60 * 500, most, most]
    );
    assert!(canary.iter().all(|it| it.counted == most), "{canary:?}");
    assert_eq!(reporters.set_aside[0].identity.as_deref(), Some(LIAR));
    service.end(&data, Ending::Killed).await;

    // The log gives all of it back.
    let again = Running::start(&data).await;
    let rollout = again.app.rollouts.get("checkout").expect("there");
    assert_eq!(rollout.history().last(), Some(entry));
    again.end(&data, Ending::Orderly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_takes_no_good_version_back_and_is_shown() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let service = Running::start(&data).await;
    service.apply(SPEC).await.expect("applied");
    apply_search(&service).await;
    let lie = ((9_000, 0), (1_000_000, 1_000_000));
    // Everybody finds the other version bad. When it is gone, both have been looked at.
    until_rolled_back(&service, "search", |nth| {
        four_report(&service, "checkout", nth, lie, [(500, 1); 3]);
        four_report(&service, "search", nth, ((9_000, 9), (500, 150)), [(500, 150); 3]);
    })
    .await;

    let status = service.app.rollout_status("checkout").expect("there");
    assert_eq!(status.summary.phase, "Progressing");
    assert_eq!(status.explanation.metrics[0].finding, Finding::Met);
    let reporters = status.explanation.reporters.expect("proven identities");
    assert_eq!((reporters.identities, reporters.canary_reporting), (4, 3));
    assert_eq!(reporters.set_aside[0].identity.as_deref(), Some(LIAR));
    let metrics = service.app.expose_metrics();
    for (rollout, expected) in [("checkout", 1), ("search", 0)] {
        let sample = format!("knhk_rollout_reporters_set_aside{{rollout=\"{rollout}\"}} {expected}");
        assert!(metrics.contains(&sample), "{sample} in {metrics}");
    }
    service.end(&data, Ending::Orderly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_identities_are_believed_and_status_says_that_there_is_no_cap() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let service = Running::start(&data).await;
    service.apply(SPEC).await.expect("applied");
    report(&service, "checkout", HONEST[0], (9_000, 9), (500, 0));
    report(&service, "checkout", HONEST[1], (9, 0), (5, 0));
    let status = service.app.rollout_status("checkout").expect("there");
    let reporters = status.explanation.reporters.expect("proven identities");
    assert_eq!(
        reporters.to_string(),
        "2 identities report, no cap: 2 reporting on the canary, 3 are needed"
    );
    assert_eq!(status.explanation.metrics[0].canary.requests, 505);
    service.end(&data, Ending::Orderly).await;
}
