//! What is counted of requests that are over, and what the service comes to know of it.

use std::collections::BTreeMap;

use knhk_decision::RolloutRule;
use knhk_filter::in_flight::ContextId;
use knhk_proto::v1;
use proptest::prelude::*;

use crate::fake::{Worker, request_of, rule, snapshot, testers};
use crate::said::reports;

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

/// Requests, errors and requests over the threshold, by window and variant.
type Books = BTreeMap<(u64, String), [u64; 3]>;

/// A rule that is in staging.
fn staging_rule(weight: u32, window: u64) -> RolloutRule {
    RolloutRule {
        staging: Some(testers()),
        ..rule(weight, window)
    }
}

/// The service's books: what a report says of a window and variant replaces what the one before it said.
fn read(worker: &mut Worker, plugin: ContextId, told: &mut Books) {
    for observed in reports(&worker.sent(plugin))
        .into_iter()
        .flat_map(|report| report.observed)
    {
        let variant = match observed.variant() {
            v1::Variant::Stable => "stable",
            v1::Variant::Canary => "canary",
            v1::Variant::Staging => "staging",
            v1::Variant::Unspecified => panic!("{observed:?}"),
        };
        let key = (observed.window, variant.to_owned());
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
        let (mut worker, plugin) = Worker::running(&[staging_rule(50, 1)]);
        let (mut truth, mut told) = (Books::new(), Books::new());
        // Snapshot and window have the same number.
        let mut n = 1;
        let mut seen = 0;
        let mut lost = false;
        for happening in happenings.into_iter().chain([Happening::Tick, Happening::Read]) {
            match happening {
                Happening::Request { user, status, after_us } => {
                    seen += 1;
                    let mut headers = request_of(&format!("user-{user}"));
                    if user % 4 == 0 {
                        headers.push((b"x-tester".to_vec(), b"1".to_vec()));
                    }
                    let request = worker.request(plugin, headers);
                    let variant = worker.host.header("x-knhk-variant").expect("it is routed");
                    prop_assert_eq!(variant == "staging", user % 4 == 0);
                    worker.finish(request, Some(status), after_us);
                    let [requests, errors, over] = truth.entry((n, variant)).or_default();
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
                    worker.deliver_snapshot(plugin, &snapshot(n, &[staging_rule(weight, n)]));
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
}
