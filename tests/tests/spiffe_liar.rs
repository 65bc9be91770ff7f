//! One of four proxies lies about what it saw. It neither takes a good version back nor keeps a bad one.
#![allow(clippy::expect_used)]

use std::time::Duration;

use knhk_identity::Connector;
use knhk_proto::ordered::{GROUPS, Outcome, Run};
use knhk_proto::v1;
use knhk_tests::gate::{Worker, connector};
use knhk_tests::mesh::{HOST, NAME, RolloutFile};
use knhk_tests::rollout::Status;
use knhk_tests::service::Service;
use knhk_tests::spiffe::{Cast, HOUR};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// How long a rollout may take. Its steps last a second each.
const LATEST: Duration = Duration::from_secs(60);
/// Proxies, the liar among them.
const PROXIES: u8 = 4;
/// Between two reports of one proxy.
const BEAT: Duration = Duration::from_millis(50);

/// What a proxy says of each version in a beat.
#[derive(Clone, Copy)]
struct Tale {
    requests: u64,
    canary_errors: u64,
}

/// Everything is well.
const WELL: Tale = Tale {
    requests: 10,
    canary_errors: 0,
};
/// The canary fails three of ten.
const BAD: Tale = Tale {
    requests: 10,
    canary_errors: 3,
};

fn path(number: u8) -> String {
    format!("/edge/{number}")
}

/// Runs a rollout that these proxies report on, the first of them the liar's tale, until `wanted` holds. Gives its status, and
/// as the command line shows it.
async fn rollout_with(
    spec: &RolloutFile,
    liar: Tale,
    others: Tale,
    what: &str,
    wanted: impl Fn(&Status) -> bool,
) -> (Status, String) {
    let cast = Cast::start(HOUR).await.expect("SPIRE");
    let mut service = Service::stopped().expect("a service");
    let filters = json!([{ "id": cast.spire.id("/edge/*"), "hosts": [HOST] }]);
    service.identify_by(cast.identities_with(&filters));
    service.up().await.expect("it is ready");

    let mut edges = JoinSet::new();
    for number in 0..PROXIES {
        let minted = cast.spire.mint(&path(number), HOUR).expect("minted");
        let who = connector(&minted).expect("a connector");
        let tale = if number == 0 { liar } else { others };
        edges.spawn(tell(who, service.addresses().grpc, number, tale));
    }
    let file = spec.write(&service).expect("a file");
    let cli = service.cli().expect("a command line");
    cli.json(&[
        "rollout".as_ref(),
        "apply".as_ref(),
        "-f".as_ref(),
        file.as_os_str(),
    ])
    .await
    .expect("it is applied");
    let status = service.rollouts().until(NAME, what, LATEST, wanted).await;
    let status = status.expect("it comes to that");
    let shown = cli.text(&["rollout", "status", NAME]).await.expect("its status");
    edges.shutdown().await;
    (status, shown)
}

/// One proxy: follows the policy, and tells its tale of each window.
async fn tell(who: Connector, grpc: std::net::SocketAddr, number: u8, tale: Tale) {
    let mut worker = Worker::greet_as(&who, grpc, &path(number), [number; 16])
        .await
        .expect("it gets in");
    let mut beat = tokio::time::interval(BEAT);
    let (mut running, mut window, mut told, mut all, mut seq) = (None, None, 0, 0, 0);
    loop {
        tokio::select! {
            snapshot = worker.snapshot() => {
                let snapshot = snapshot.expect("the stream lives");
                let policy: Value = serde_json::from_slice(&snapshot.policy).expect("JSON");
                let newest = policy.pointer("/rollouts/0/window").and_then(Value::as_u64);
                if newest != window {
                    (window, told) = (newest, 0);
                }
                running = snapshot.id;
                worker.say(v1::up::Message::Ack(v1::Ack { id: running })).expect("it is sent");
            }
            _ = beat.tick() => {
                let Some(window) = window else { continue };
                (told, all, seq) = (told + 1, all + 1, seq + 1);
                let before = (told - 1) * tale.requests;
                let ordered = v1::Ordered {
                    after_canary: before,
                    after_stable: before,
                    run: in_order(tale),
                };
                let of = |variant: v1::Variant, errors: u64| v1::Observed {
                    rollout: NAME.to_owned(),
                    window,
                    variant: variant.into(),
                    requests: told * tale.requests,
                    errors: told * errors,
                    ..v1::Observed::default()
                };
                let report = v1::Report {
                    seq,
                    running,
                    requests: all * 2 * tale.requests,
                    observed: vec![
                        of(v1::Variant::Stable, 0),
                        v1::Observed {
                            ordered: Some(ordered),
                            ..of(v1::Variant::Canary, tale.canary_errors)
                        },
                    ],
                    ..v1::Report::default()
                };
                worker.say(v1::up::Message::Report(report)).expect("it is sent");
            }
        }
    }
}

/// A beat's outcomes of the canary, the errors first, each behind one of stable.
fn in_order(tale: Tale) -> Vec<u64> {
    let mut run = Run::new();
    for (index, group) in (0..tale.requests).zip((0..GROUPS).cycle()) {
        let outcome = Outcome {
            group,
            failed: index < tale.canary_errors,
            ..Outcome::default()
        };
        run.push(outcome, 1, std::iter::once(0));
    }
    run.take()
}

/// Two steps of a second each.
fn quick() -> RolloutFile {
    RolloutFile::new(&[(20.0, "1s"), (50.0, "1s")])
}

fn ended(status: &Status) -> bool {
    status.phase == "Succeeded" || status.phase == "Failed"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_claims_failures_takes_no_good_version_back() {
    // As loud as the others, and a hundred times as loud.
    for requests in [10, 1_000] {
        let liar = Tale {
            requests,
            canary_errors: requests,
        };
        let (status, _) = rollout_with(&quick(), liar, WELL, "a good version's end", ended).await;
        assert_eq!(status.phase, "Succeeded", "{}", status.shown());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_claims_success_keeps_no_bad_version() {
    for requests in [10, 1_000] {
        let liar = Tale {
            requests,
            canary_errors: 0,
        };
        let (status, _) = rollout_with(&quick(), liar, BAD, "a bad version's end", ended).await;
        assert_eq!(
            (status.phase.as_str(), status.reason.as_deref()),
            ("Failed", Some("slo-violated")),
            "{}",
            status.shown()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_set_aside_is_shown() {
    let liar = Tale {
        requests: 10,
        canary_errors: 10,
    };
    let set_aside = |status: &Status| {
        let first = status.explanation.pointer("/reporters/setAside/0/identity");
        first.and_then(Value::as_str) == Some("spiffe://example.org/edge/0")
    };
    let (status, shown) = rollout_with(
        &RolloutFile::at(20.0),
        liar,
        WELL,
        "the liar to be set aside",
        set_aside,
    )
    .await;
    assert_eq!(status.phase, "Progressing", "{}", status.shown());
    assert!(
        shown.contains("set aside: spiffe://example.org/edge/0"),
        "{shown}"
    );
    let counted = status
        .explanation
        .pointer("/reporters/counted")
        .and_then(Value::as_array);
    let counted = counted.expect("the others count");
    assert!(
        counted
            .iter()
            .all(|one| one["identity"] != "spiffe://example.org/edge/0"),
        "{counted:?}"
    );
}
