//! The stream to the service, and what comes down it.

use knhk_filter::vm::TICK_MILLIS;
use knhk_proto::v1;
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use v1::up::Message as Up;

use crate::fake::{Worker, request_of, rule, snapshot};
use crate::said::{hellos, id, reports};

#[test]
fn hello_comes_first_and_a_good_snapshot_is_acknowledged() {
    let (mut worker, plugin) = Worker::new(r#"{"cluster":"gate"}"#);
    assert!(
        worker.host.streams.is_empty(),
        "nothing is opened while a configuration is tried"
    );
    worker.tick(plugin);
    let token = worker.stream(plugin).expect("a stream");
    assert_eq!(worker.host.streams[&token].cluster, "gate");
    let sent = worker.sent(plugin);
    let [Up::Hello(hello), Up::Report(report)] = sent.as_slice() else {
        panic!("{sent:?}")
    };
    assert_eq!(
        (hello.node.as_str(), hello.vm_nonce.len(), hello.last),
        ("proxy-1", 16, None)
    );
    assert_eq!((report.seq, report.running, report.requests), (1, None, 0));

    worker.deliver_snapshot(plugin, &snapshot(4, &[rule(5, 1)]));
    assert_eq!(worker.sent(plugin), [Up::Ack(v1::Ack { id: Some(id(4)) })]);
    worker.tick(plugin);
    assert_eq!(worker.host.metric("knhk_policy_version"), 4);
}

#[test]
fn a_bad_snapshot_is_refused_and_the_last_good_one_stays() {
    let (mut worker, plugin) = Worker::running(&[rule(100, 1)]);
    let good = snapshot(2, &[rule(0, 2)]);
    let with = |change: fn(&mut v1::Snapshot)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad
    };
    let resum = |mut bad: v1::Snapshot, policy: &[u8]| {
        bad.sha256 = Sha256::digest(policy).to_vec();
        bad.policy = policy.to_vec();
        bad
    };
    let mut never = rule(0, 2);
    never.r#match.path = Some("no-slash".to_owned());
    let mut other_thresholds = rule(0, 1);
    other_thresholds.thresholds = vec![1];
    let bad = [
        (with(|bad| bad.id = None), "malformed", "id: missing"),
        (with(|bad| bad.sha256[0] ^= 1), "checksum", "sha256"),
        (with(|bad| bad.policy[0] ^= 1), "checksum", "sha256"),
        (
            with(|bad| bad.id = Some(v1::SnapshotId { epoch: 7, n: 3 })),
            "invalid",
            "7.2",
        ),
        (resum(good.clone(), b"{}"), "malformed", "policy"),
        (resum(good.clone(), &vec![b' '; 3 << 20]), "too_large", "bound"),
        (snapshot(2, &[never]), "invalid", "checkout"),
        (snapshot(2, &[other_thresholds]), "invalid", "window"),
    ];
    for (count, (bad, label, part)) in (1..).zip(bad) {
        worker.sent(plugin);
        worker.deliver_snapshot(plugin, &bad);
        let sent = worker.sent(plugin);
        let [Up::Nack(nack)] = sent.as_slice() else {
            panic!("{label}: {sent:?}")
        };
        assert_eq!(
            (nack.id, nack.reason.as_str()),
            (bad.id, label),
            "{}",
            nack.detail
        );
        assert!(
            nack.detail.contains(part) && !nack.detail.contains('\n'),
            "{}",
            nack.detail
        );
        worker.request(plugin, request_of("ann"));
        assert_eq!(
            worker.host.header("x-knhk-variant").as_deref(),
            Some("canary"),
            "{label}"
        );
        assert_eq!(
            worker.host.header("x-knhk-policy").as_deref(),
            Some("7.1"),
            "{label}"
        );
        worker.tick(plugin);
        assert_eq!(worker.host.metric("knhk_snapshots_refused"), count);
        assert_eq!(
            reports(&worker.sent(plugin)).last().expect("a report").running,
            Some(id(1))
        );
    }

    worker.deliver_bytes(plugin, vec![0x0a, 0xff]);
    let sent = worker.sent(plugin);
    assert!(
        matches!(sent.as_slice(), [Up::Nack(nack)] if nack.reason == "malformed"),
        "{sent:?}"
    );
    // The stream goes on.
    worker.deliver_snapshot(plugin, &good);
    assert_eq!(worker.sent(plugin), [Up::Ack(v1::Ack { id: Some(id(2)) })]);
}

#[test]
fn a_changed_configuration_keeps_snapshot_counts_and_identity() {
    let (mut worker, old) = Worker::running(&[rule(100, 1)]);
    let nonce = hellos(&worker.sent(old))[0].vm_nonce.clone();
    let long = worker.request(old, request_of("ann"));
    let short = worker.request(old, request_of("ann"));
    worker.finish(short, Some(200), 1_000);

    let new = worker.configure(r#"{"failMode":"closed"}"#).expect("valid");
    worker.request(new, request_of("ann"));
    assert_eq!(
        worker.host.header("x-knhk-variant").as_deref(),
        Some("canary"),
        "nobody changes version"
    );

    worker.tick(new);
    worker.tick(old);
    assert_eq!(
        worker.stream(old),
        None,
        "the old plugin's stream ends while requests keep the plugin alive"
    );
    assert_eq!(worker.host.streams.len(), 1);
    worker.finish(long, Some(500), 1_000);
    worker.tick(new);
    let sent = worker.sent(new);
    let hello = &hellos(&sent)[0];
    assert_eq!((&hello.vm_nonce, hello.last), (&nonce, Some(id(1))));
    let observed = reports(&sent).pop().expect("a report").observed.remove(0);
    assert_eq!((observed.requests, observed.errors), (2, 1), "counts go on");

    // When the new plugin goes away, the old one speaks again.
    worker.host.streams.clear();
    worker.vm.on_delete(&mut worker.host, new);
    worker.tick(old);
    assert!(worker.stream(old).is_some());
}

#[test]
fn silence_is_broken_every_five_seconds() {
    let (mut worker, plugin) = Worker::running(&[rule(5, 1)]);
    worker.tick(plugin);
    worker.sent(plugin);
    let ticks = 60_000 / TICK_MILLIS;
    (0..ticks).for_each(|_| worker.tick(plugin));
    let sent = worker.sent(plugin);
    assert_eq!(reports(&sent).len(), 12);
    assert_eq!(sent.len(), 12);
}

proptest! {
    #[test]
    fn any_bytes_from_the_service_are_survived(messages: Vec<Vec<u8>>) {
        let (mut worker, plugin) = Worker::running(&[rule(100, 1)]);
        for bytes in messages {
            worker.deliver_bytes(plugin, bytes);
        }
        worker.request(plugin, request_of("ann"));
        prop_assert_eq!(worker.host.header("x-knhk-variant"), Some("canary".to_owned()));
    }
}
