//! What passes between the filter and the service.

use std::collections::BTreeMap;

use knhk_decision::RolloutRule;
use knhk_decision::spec::{AdmitSpec, Record, Weight};
use knhk_filter::in_flight::ContextId;
use knhk_filter::record::MAX_WAITING_BYTES;
use knhk_filter::vm::TICK_MILLIS;
use knhk_proto::v1;
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use v1::down::Message as Down;
use v1::up::Message as Up;

use crate::fake::{Worker, request_of, rule, snapshot};

fn id(n: u64) -> v1::SnapshotId {
    v1::SnapshotId { epoch: 7, n }
}

fn hellos(sent: &[Up]) -> Vec<v1::Hello> {
    sent.iter()
        .filter_map(|up| {
            if let Up::Hello(hello) = up {
                Some(hello.clone())
            } else {
                None
            }
        })
        .collect()
}

fn reports(sent: &[Up]) -> Vec<v1::Report> {
    sent.iter()
        .filter_map(|up| {
            if let Up::Report(report) = up {
                Some(report.clone())
            } else {
                None
            }
        })
        .collect()
}

fn batches(sent: &[Up]) -> Vec<v1::DecisionBatch> {
    sent.iter()
        .filter_map(|up| {
            if let Up::Decisions(batch) = up {
                Some(batch.clone())
            } else {
                None
            }
        })
        .collect()
}

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

#[test]
fn how_a_request_ends_is_what_is_counted() {
    let (mut worker, plugin) = Worker::running(&[rule(0, 1)]);
    let ends = [
        (Some(200), 1_000, 0, 0),
        (Some(499), 250_000, 0, 0),
        (Some(500), 250_001, 1, 1),
        (Some(503), 1_000, 1, 0),
        (None, 300_000, 0, 1),
        (None, 1_000, 0, 0),
    ];
    let (mut requests, mut errors, mut over) = (0, 0, 0);
    for (status, after_us, error, slow) in ends {
        let request = worker.request(plugin, request_of("ann"));
        worker.finish(request, status, after_us);
        worker.tick(plugin);
        (requests, errors, over) = (requests + 1, errors + error, over + slow);
        let observed = reports(&worker.sent(plugin)).pop().expect("a report").observed;
        let [stable] = observed.as_slice() else {
            panic!("{observed:?}")
        };
        assert_eq!(stable.variant(), v1::Variant::Stable);
        assert_eq!(
            (stable.requests, stable.errors, stable.over.as_slice()),
            (requests, errors, &[over][..])
        );
        assert_eq!(stable.histogram.iter().sum::<u64>(), requests);
    }
}

#[test]
fn a_request_counts_once_whichever_callback_comes_first() {
    let (mut worker, plugin) = Worker::running(&[rule(0, 1)]);
    let request = worker.request(plugin, request_of("ann"));
    worker.host.status = Some(500);
    worker.vm.on_delete(&mut worker.host, request);
    worker.vm.on_log(&mut worker.host, request);
    worker.tick(plugin);
    let observed = reports(&worker.sent(plugin)).pop().expect("a report").observed;
    assert_eq!((observed[0].requests, observed[0].errors), (1, 1));
}

#[test]
fn what_the_service_refused_or_was_not_there_to_allow_says_nothing_about_a_version() {
    let (mut worker, plugin) = Worker::running(&[rule(0, 1)]);
    let answers = [
        (503, "ext_authz_error", false),
        (403, "ext_authz_denied", false),
        (500, "ext_proc_error_gRPC_error_14", false),
        (504, "ext_proc_error_per-message_timeout_exceeded", false),
        (503, "knhk_not_recorded", false),
        (
            503,
            "upstream_reset_before_response_started{connection_failure}",
            true,
        ),
        (500, "via_upstream", true),
        (403, "via_upstream", true),
    ];
    for (status, details, _) in answers {
        let request = worker.request(plugin, request_of("ann"));
        worker.host.details = Some(details.to_owned());
        worker.finish(request, Some(status), 1_000);
    }
    worker.tick(plugin);
    let observed = reports(&worker.sent(plugin)).pop().expect("a report").observed;
    let counted = answers.iter().filter(|(_, _, counts)| *counts).count();
    assert_eq!((observed[0].requests, observed[0].errors), (counted as u64, 2));
}

#[test]
fn recorded_decisions_are_sent_until_they_are_acknowledged() {
    let mut recorded = rule(100, 1);
    recorded.record = Record::All;
    let good = snapshot(1, std::slice::from_ref(&recorded));
    let (mut worker, plugin) = Worker::running(&[recorded]);
    for user in 0..3 {
        let request = worker.request(plugin, request_of(&format!("user-{user}")));
        worker.finish(request, Some(200 + user), 1_500);
    }
    worker.tick(plugin);
    let batch = batches(&worker.sent(plugin)).pop().expect("a batch");
    assert_eq!((batch.first, batch.decisions.len()), (1, 3));
    let decision = &batch.decisions[2];
    assert_eq!(
        (decision.rollout.as_str(), decision.status, decision.duration_us),
        ("checkout", 202, 1_500)
    );
    assert_eq!(
        (decision.variant(), decision.policy),
        (v1::Variant::Canary, Some(id(1)))
    );
    assert_eq!(decision.policy_sha256, good.sha256);
    worker.tick(plugin);
    assert_eq!(batches(&worker.sent(plugin)), [], "not again on the same stream");

    worker.deliver(plugin, Down::BatchAck(v1::BatchAck { through: 2 }));
    worker.remote_close(plugin, 14);
    worker.reconnect(plugin);
    let batch = batches(&worker.sent(plugin)).pop().expect("a batch");
    assert_eq!(
        (batch.first, batch.decisions.len()),
        (3, 1),
        "what was not acknowledged is sent again"
    );
    worker.deliver(plugin, Down::BatchAck(v1::BatchAck { through: 3 }));
    worker.remote_close(plugin, 0);
    worker.reconnect(plugin);
    assert_eq!(batches(&worker.sent(plugin)), []);
}

/// A request that is denied is no version's: it is recorded, and counted for none.
#[test]
fn denials_are_recorded_where_the_rule_says_so_and_are_no_observation() {
    let shop = "spiffe://example.org/ns/shop/sa/web";
    // Where an `ext_authz` behind the filter records, it does not see who was denied.
    let elsewhere = r#"{"record":"none"}"#;
    for (record, config, denials, all) in [
        (Record::None, "", 0, 0),
        (Record::Denials, "", 1, 1),
        (Record::All, "", 1, 2),
        (Record::None, elsewhere, 0, 0),
        (Record::Denials, elsewhere, 1, 1),
        (Record::All, elsewhere, 1, 1),
    ] {
        let guarded = RolloutRule {
            admit: Some(AdmitSpec {
                peers: vec![shop.to_owned()],
            }),
            record,
            ..rule(100, 1)
        };
        let (mut worker, plugin) = Worker::new(config);
        worker.tick(plugin);
        worker.deliver_snapshot(plugin, &snapshot(1, &[guarded]));
        let other = "spiffe://example.org/ns/other/sa/web";
        for (peer, status) in [(shop, 200), (other, 403)] {
            worker.host.peer = Some(peer.to_owned());
            let request = worker.request(plugin, request_of("ann"));
            worker.host.details = Some("knhk_peer_not_allowed".to_owned()).filter(|_| status == 403);
            worker.finish(request, Some(status), 1_500);
        }
        worker.tick(plugin);
        let sent = worker.sent(plugin);
        let recorded: Vec<_> = batches(&sent)
            .into_iter()
            .flat_map(|batch| batch.decisions)
            .collect();
        let denied: Vec<_> = recorded
            .iter()
            .filter(|decision| decision.admission() == v1::Admission::Denied)
            .collect();
        assert_eq!((denied.len(), recorded.len()), (denials, all), "{record:?}");
        for decision in denied {
            assert_eq!(
                (
                    decision.rollout.as_str(),
                    decision.subject.as_str(),
                    decision.status
                ),
                ("checkout", other, 403)
            );
            assert!(decision.bucket.is_some() && decision.duration_us == 1_500);
        }
        let observed = &reports(&sent).pop().expect("a report").observed;
        let counted: u64 = observed.iter().map(|observed| observed.requests).sum();
        assert_eq!(counted, 1, "{record:?}");
    }
}

#[test]
fn nothing_is_recorded_where_another_filter_does() {
    let mut recorded = rule(100, 1);
    recorded.record = Record::All;
    let (mut worker, _) = Worker::running(&[recorded]);
    let plugin = worker.configure(r#"{"record":"none"}"#).expect("valid");
    let request = worker.request(plugin, request_of("ann"));
    worker.finish(request, Some(200), 1);
    worker.tick(plugin);
    assert_eq!(batches(&worker.sent(plugin)), []);
}

#[test]
fn a_sample_is_the_share_it_says() {
    let mut sampled = rule(0, 1);
    sampled.record = Record::Sample(Weight::from_ppm(100_000).expect("10 %"));
    let (mut worker, plugin) = Worker::running(&[sampled]);
    for n in 0..4_000 {
        let mut headers = request_of("ann");
        // Half of them have no request ID: then chance decides.
        if n % 2 == 0 {
            headers.push((b"x-request-id".to_vec(), format!("{n:08x}").into_bytes()));
        }
        let request = worker.request(plugin, headers);
        worker.finish(request, Some(200), 1);
    }
    worker.tick(plugin);
    let recorded: usize = batches(&worker.sent(plugin))
        .iter()
        .map(|batch| batch.decisions.len())
        .sum();
    assert!((300..=500).contains(&recorded), "{recorded} of 4000 at 10 %");
}

#[test]
fn waiting_decisions_are_bounded_and_the_gap_shows() {
    let mut recorded = rule(100, 1);
    recorded.record = Record::All;
    let (mut worker, plugin) = Worker::running(&[recorded]);
    let record = |worker: &mut Worker, count: usize| {
        for _ in 0..count {
            let request = worker.request(plugin, request_of("ann"));
            worker.finish(request, Some(200), 1);
        }
    };
    record(&mut worker, 20_000);
    worker.tick(plugin);
    let sent = worker.sent(plugin);
    let waiting: Vec<_> = batches(&sent);
    let kept: u64 = waiting.iter().map(|batch| batch.decisions.len() as u64).sum();
    let bytes: usize = waiting
        .iter()
        .flat_map(|batch| &batch.decisions)
        .map(prost::Message::encoded_len)
        .sum();
    assert!(
        bytes <= MAX_WAITING_BYTES && bytes > MAX_WAITING_BYTES / 2,
        "{bytes}"
    );
    let dropped = 20_000 - kept;
    assert_eq!(
        reports(&sent).last().expect("a report").decisions_dropped,
        dropped
    );
    assert_eq!(worker.host.metric("knhk_decisions_dropped"), dropped);

    worker.deliver(plugin, Down::BatchAck(v1::BatchAck { through: kept }));
    record(&mut worker, 1);
    worker.tick(plugin);
    let sent = worker.sent(plugin);
    assert_eq!(batches(&sent)[0].first, 20_001, "dropped ones have their numbers");
}

/// What can happen to a worker that talks to a service.
#[derive(Clone, Debug)]
enum Happening {
    Request {
        user: u8,
        status: u16,
        after_us: u64,
    },
    Tick,
    /// The service reads what was sent.
    Read,
    /// What was sent and not read is lost.
    StreamLost,
    /// A new snapshot; the window changes with the weight.
    Weight(u32),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        6 => (any::<u8>(), prop::sample::select(vec![200_u16, 404, 500, 503]), 0..600_000_u64)
            .prop_map(|(user, status, after_us)| Happening::Request { user, status, after_us }),
        3 => Just(Happening::Tick),
        3 => Just(Happening::Read),
        1 => Just(Happening::StreamLost),
        1 => (0..=100_u32).prop_map(Happening::Weight),
    ];
    prop::collection::vec(one, 1..120)
}

/// Requests, errors and requests over the threshold, by window and whether of the canary.
type Books = BTreeMap<(u64, bool), [u64; 3]>;

/// The service's books: what a report says of a window and variant replaces what the one before it said.
fn read(worker: &mut Worker, plugin: ContextId, told: &mut Books) {
    for observed in reports(&worker.sent(plugin))
        .into_iter()
        .flat_map(|report| report.observed)
    {
        let key = (observed.window, observed.variant() == v1::Variant::Canary);
        let counts = [observed.requests, observed.errors, observed.over[0]];
        let before = told.insert(key, counts).unwrap_or_default();
        assert!(
            before.iter().zip(counts).all(|(before, now)| *before <= now),
            "{before:?} {counts:?}"
        );
    }
}

proptest! {
    #[test]
    fn the_service_comes_to_the_true_counts_whatever_is_lost(happenings in happenings()) {
        let (mut worker, plugin) = Worker::running(&[rule(50, 1)]);
        let (mut truth, mut told) = (Books::new(), Books::new());
        // Snapshot and window have the same number.
        let mut n = 1;
        let mut seen = 0;
        let mut lost = false;
        for happening in happenings.into_iter().chain([Happening::Tick, Happening::Read]) {
            match happening {
                Happening::Request { user, status, after_us } => {
                    seen += 1;
                    let request = worker.request(plugin, request_of(&format!("user-{user}")));
                    let canary = worker.host.header("x-knhk-variant").as_deref() == Some("canary");
                    worker.finish(request, Some(status), after_us);
                    let [requests, errors, over] = truth.entry((n, canary)).or_default();
                    *requests += 1;
                    *errors += u64::from(status >= 500);
                    *over += u64::from(after_us > 250_000);
                }
                Happening::Tick => worker.tick(plugin),
                Happening::Read => read(&mut worker, plugin, &mut told),
                Happening::StreamLost => {
                    worker.remote_close(plugin, 14);
                    worker.reconnect(plugin);
                    lost = true;
                }
                Happening::Weight(weight) => {
                    n += 1;
                    worker.deliver_snapshot(plugin, &snapshot(n, &[rule(weight, n)]));
                }
            }
        }
        // What a lost stream carried of a window that no snapshot names any more cannot be told again.
        let kept = |window: u64| !lost || window + 1 >= n;
        for (key, counts) in &truth {
            prop_assert!(told.get(key) == Some(counts) || !kept(key.0), "{:?}: {:?} {:?}", key, told.get(key), counts);
        }
        prop_assert!(told.keys().all(|key| truth.contains_key(key)));
        prop_assert_eq!(worker.host.metric("knhk_requests"), seen);
        prop_assert_eq!(worker.host.streams.len(), 1, "the proxy has let go of every stream that was lost");
    }

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
