//! Feature flags in the filter: gates, what the upstream is told, what is recorded, and definitions that are bad.

use knhk_decision::spec::Record;
use knhk_decision::{PolicyDoc, PolicyId, RolloutRule, headers};
use knhk_filter::in_flight::ContextId;
use knhk_flags::Document;
use knhk_proto::v1;
use serde_json::{Value, json};

use crate::fake::{Worker, of_document, request_of, rule};

fn document(n: u64, rules: &[RolloutRule], flags: &Value) -> PolicyDoc {
    let flags = Document::parse(json!({ "flags": flags }).to_string().as_bytes()).expect("a document");
    PolicyDoc::new(PolicyId { epoch: 7, n }, rules.to_vec()).with_flags(&flags)
}

fn flag(rule: &Value) -> Value {
    json!({ "state": "ENABLED", "variants": { "on": true, "off": false }, "defaultVariant": "off", "targeting": rule })
}

fn pro() -> Value {
    flag(&json!({ "if": [{ "==": [{ "var": "headers.x-plan" }, "pro"] }, "on", "off"] }))
}

/// The rollout of the other tests, gated by `beta`, that tells `beta` and `banner`.
fn gated() -> RolloutRule {
    let mut gated = rule(100, 1);
    gated.r#match.flags.insert("beta".to_owned(), "on".to_owned());
    gated.flags = vec!["banner".to_owned(), "beta".to_owned()];
    gated.record = Record::All;
    gated
}

fn running(document: &PolicyDoc) -> (Worker, ContextId) {
    let (mut worker, plugin) = Worker::new("");
    worker.tick(plugin);
    worker.deliver_snapshot(plugin, &of_document(document));
    (worker, plugin)
}

fn ask(worker: &mut Worker, plugin: ContextId, plan: &str) -> ContextId {
    let mut headers = request_of("ann");
    headers.push((b"x-plan".to_vec(), plan.into()));
    headers.push((b"x-knhk-flags".to_vec(), b"beta=on".to_vec()));
    worker.request(plugin, headers)
}

#[test]
fn a_flag_gates_a_rollout_and_the_upstream_is_told_the_variants() {
    let flags = json!({ "beta": pro(), "banner": flag(&json!({})) });
    let (mut worker, plugin) = running(&document(1, &[gated()], &flags));
    let request = ask(&mut worker, plugin, "pro");
    assert_eq!(worker.host.header(headers::VARIANT).as_deref(), Some("canary"));
    assert_eq!(
        worker.host.header(headers::FLAGS).as_deref(),
        Some("banner=off,beta=on")
    );
    worker.finish(request, Some(200), 1);
    worker.tick(plugin);
    let recorded = decisions(&mut worker, plugin);
    let of = |key: &str, variant: &str, reason: v1::FlagReason| v1::Flag {
        rollout: "checkout".to_owned(),
        key: key.to_owned(),
        variant: Some(variant.to_owned()),
        reason: reason.into(),
    };
    assert_eq!(
        recorded[0].flags,
        [
            of("beta", "on", v1::FlagReason::TargetingMatch),
            of("banner", "off", v1::FlagReason::Static)
        ]
    );

    // The client's own copy is gone, whether it would be right or not.
    ask(&mut worker, plugin, "free");
    assert_eq!(
        (
            worker.host.header(headers::VARIANT),
            worker.host.header(headers::FLAGS)
        ),
        (None, None)
    );

    // Other definitions come with a snapshot.
    let flags = json!({ "beta": flag(&json!({ "if": [true, "on"] })), "banner": { "state": "DISABLED", "variants": { "a": 1 } } });
    worker.deliver_snapshot(plugin, &of_document(&document(2, &[gated()], &flags)));
    ask(&mut worker, plugin, "free");
    assert_eq!(worker.host.header(headers::FLAGS).as_deref(), Some("beta=on"));
}

fn decisions(worker: &mut Worker, plugin: ContextId) -> Vec<v1::Decision> {
    let batches = worker
        .sent(plugin)
        .into_iter()
        .filter_map(|message| match message {
            v1::up::Message::Decisions(batch) => Some(batch.decisions),
            _ => None,
        });
    batches.flatten().collect()
}

#[test]
fn a_snapshot_with_bad_definitions_is_refused_and_the_last_good_one_stays() {
    let flags = json!({ "beta": pro(), "banner": flag(&json!({})) });
    let (mut worker, plugin) = running(&document(1, &[gated()], &flags));
    worker.sent(plugin);
    let bad = json!({ "beta": flag(&json!({ "log": 1 })), "banner": flag(&json!({})) });
    let gone = json!({ "banner": flag(&json!({})) });
    for (n, flags, says) in [
        (2, bad, "flags.beta.targeting.log"),
        (3, gone, "no flag \"beta\""),
    ] {
        worker.deliver_snapshot(plugin, &of_document(&document(n, &[gated()], &flags)));
        let sent = worker.sent(plugin);
        let [v1::up::Message::Nack(nack)] = &sent[..] else {
            panic!("{sent:?}")
        };
        assert_eq!(nack.reason, "invalid");
        assert!(
            nack.detail.contains(says) && !nack.detail.contains('\n'),
            "{}",
            nack.detail
        );
    }
    ask(&mut worker, plugin, "pro");
    assert_eq!(
        worker.host.header(headers::FLAGS).as_deref(),
        Some("banner=off,beta=on")
    );
    assert_eq!(worker.host.header(headers::POLICY).as_deref(), Some("7.1"));
}

#[test]
fn the_clock_and_the_caller_are_asked_only_for_a_flag_that_reads_them_and_once() {
    let late = flag(&json!({ "if": [{ ">": [{ "var": "$flagd.timestamp" }, 1_600_000_000] }, "on"] }));
    let named = flag(&json!({ "if": [{ "var": "peerSpiffeId" }, "on"] }));
    let telling = |keys: &[&str]| RolloutRule {
        flags: keys.iter().map(|&key| key.to_owned()).collect(),
        ..rule(100, 1)
    };
    let flags = json!({ "late": late, "late2": late, "named": named, "named2": named, "plain": pro() });
    for (keys, clock, peer) in [
        (&["plain"][..], 0, 0),
        (&["late", "late2", "plain"], 1, 0),
        (&["named", "named2"], 0, 1),
    ] {
        let (mut worker, plugin) = running(&document(1, &[telling(keys)], &flags));
        worker.host.peer = Some("spiffe://example.org/web".to_owned());
        let before = (worker.host.clock_reads, worker.host.peer_reads);
        ask(&mut worker, plugin, "pro");
        let told: Vec<_> = keys.iter().map(|key| format!("{key}=on")).collect();
        assert_eq!(worker.host.header(headers::FLAGS), Some(told.join(",")));
        let asked = (
            worker.host.clock_reads - before.0,
            worker.host.peer_reads - before.1,
        );
        assert_eq!(asked, (clock, peer), "{keys:?}");
    }
}

#[test]
fn a_flag_that_fails_is_left_out_and_counted() {
    let failing = flag(&json!({ "if": [{ "/": [1, 0] }, "on"] }));
    let told = RolloutRule {
        flags: vec!["banner".to_owned(), "broken".to_owned()],
        ..rule(100, 1)
    };
    let flags = json!({ "banner": flag(&json!({})), "broken": failing });
    let (mut worker, plugin) = running(&document(1, &[told], &flags));
    for _ in 0..2 {
        ask(&mut worker, plugin, "pro");
        assert_eq!(worker.host.header(headers::FLAGS).as_deref(), Some("banner=off"));
    }
    worker.tick(plugin);
    assert_eq!(worker.host.metric("knhk_flags_failed"), 2);
}
