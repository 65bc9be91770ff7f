//! A rollout in its staging stage: what the upstream and the service are told.

use knhk_decision::spec::Record;
use knhk_decision::{RolloutRule, headers};
use knhk_proto::v1;

use crate::fake::{Worker, request_of, rule, snapshot, testers};
use crate::said::{batches, reports};

fn in_staging(weight: u32) -> RolloutRule {
    RolloutRule {
        staging: Some(testers()),
        record: Record::All,
        ..rule(weight, 1)
    }
}

fn tester(user: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut headers = request_of(user);
    headers.push((b"x-tester".to_vec(), b"1".to_vec()));
    headers
}

fn variant(worker: &Worker) -> Option<String> {
    worker.host.header(headers::VARIANT)
}

#[test]
fn what_it_picks_is_led_to_staging_and_counted_apart() {
    let (mut worker, plugin) = Worker::running(&[in_staging(0)]);
    for (headers, expected, status) in [
        (tester("ann"), "staging", 200),
        (request_of("ann"), "stable", 200),
        (tester("bob"), "staging", 500),
    ] {
        let request = worker.request(plugin, headers);
        assert_eq!(variant(&worker).as_deref(), Some(expected));
        worker.finish(request, Some(status), 1_000);
    }
    worker.tick(plugin);
    let sent = worker.sent(plugin);
    let observed = reports(&sent).pop().expect("a report").observed;
    let counts: Vec<_> = observed
        .iter()
        .map(|row| (row.variant(), row.requests, row.errors, row.ordered.is_some()))
        .collect();
    assert_eq!(
        counts,
        [
            (v1::Variant::Stable, 1, 0, false),
            (v1::Variant::Staging, 2, 1, false)
        ]
    );
    let decisions = batches(&sent).pop().expect("a batch").decisions;
    let recorded: Vec<_> = decisions
        .iter()
        .map(|decision| (decision.variant(), decision.conditions[0].holds))
        .collect();
    assert_eq!(
        recorded,
        [
            (v1::Variant::Staging, true),
            (v1::Variant::Stable, false),
            (v1::Variant::Staging, true)
        ]
    );
    assert!(decisions.iter().all(|decision| decision.bucket.is_some()));
}

#[test]
fn what_it_does_not_pick_keeps_its_weight() {
    let (mut worker, plugin) = Worker::running(&[in_staging(100)]);
    worker.request(plugin, request_of("ann"));
    assert_eq!(variant(&worker).as_deref(), Some("canary"));
    worker.request(plugin, tester("ann"));
    assert_eq!(variant(&worker).as_deref(), Some("staging"));
}

#[test]
fn a_request_without_a_key_is_no_keyless_one_where_it_is_picked() {
    let (mut worker, plugin) = Worker::running(&[in_staging(50)]);
    for (mut headers, expected) in [(tester("ann"), "staging"), (request_of("ann"), "stable")] {
        headers.retain(|(name, _)| name != b"x-user-id");
        worker.request(plugin, headers);
        assert_eq!(variant(&worker).as_deref(), Some(expected));
    }
    worker.tick(plugin);
    assert_eq!(worker.host.metric("knhk_requests_keyless"), 1);
}

#[test]
fn it_ends_with_its_stage() {
    let mut over = in_staging(0);
    over.window = 2;
    over.staging.as_mut().expect("staging").active = false;
    let (mut worker, plugin) = Worker::running(&[in_staging(0)]);
    let request = worker.request(plugin, tester("ann"));
    assert_eq!(variant(&worker).as_deref(), Some("staging"));
    worker.deliver_snapshot(plugin, &snapshot(2, &[over]));
    // It counts by the decision that it was routed by.
    worker.finish(request, Some(200), 1_000);
    worker.request(plugin, tester("ann"));
    assert_eq!(variant(&worker).as_deref(), Some("stable"));
    worker.tick(plugin);
    let observed = reports(&worker.sent(plugin)).pop().expect("a report").observed;
    assert_eq!(
        (observed[0].window, observed[0].variant()),
        (1, v1::Variant::Staging)
    );
}

#[test]
fn a_stage_that_it_cannot_decide_is_refused_before_it_begins() {
    let mut bad = in_staging(0);
    let staging = bad.staging.as_mut().expect("staging");
    staging.active = false;
    staging.r#match.flags.insert("beta".to_owned(), "on".to_owned());
    let (mut worker, plugin) = Worker::running(&[rule(0, 1)]);
    worker.deliver_snapshot(plugin, &snapshot(2, &[bad]));
    let nack = worker.sent(plugin).into_iter().find_map(|up| match up {
        v1::up::Message::Nack(nack) => Some(nack),
        _ => None,
    });
    let detail = nack.expect("a refusal").detail;
    assert!(
        detail.contains("staging.match.flags.beta: there is no flag"),
        "{detail}"
    );
    worker.request(plugin, tester("ann"));
    assert_eq!(
        variant(&worker).as_deref(),
        Some("stable"),
        "the last good one stays"
    );
}
