//! Recorded decisions: which ones, and how they reach the service.

use knhk_decision::RolloutRule;
use knhk_decision::spec::{AdmitSpec, Record, Weight};
use knhk_filter::record::MAX_WAITING_BYTES;
use knhk_proto::v1;
use v1::down::Message as Down;

use crate::fake::{Worker, request_of, rule, snapshot};
use crate::said::{batches, id, reports};

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
