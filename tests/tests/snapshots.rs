//! The filter in a real Envoy, fed by hand: what it does with good snapshots, bad ones, none, and a new configuration.
#![allow(clippy::expect_used)]

use std::path::Path;

use knhk_decision::{PolicyDoc, bucket};
use knhk_proto::v1::{Snapshot, SnapshotId};
use knhk_tests::envoy::{Envoy, EnvoyConfig, EnvoyOptions};
use knhk_tests::gate::{FakeGate, snapshot};
use knhk_tests::load::{Answer, Load, LoadOptions, Tally, USER, ask_each};
use knhk_tests::mesh::{FILTER, HOST, NAME, until_decided_by, user};
use knhk_tests::ports::Port;
use knhk_tests::upstream::Upstream;
use knhk_tests::wait;
use serde_json::{Value, json};

/// Two workers, and the main thread, whose instance of the plugin opens a stream too.
const STREAMS: usize = 3;
const EPOCH: u64 = 7;
const CONNECTIONS: usize = 16;

/// A policy with one rollout of v1 to v2, by user.
fn policy(n: u64, weight: f64) -> PolicyDoc {
    serde_json::from_value(json!({
        "apiVersion": "knhk.dev/v1", "kind": "Policy", "epoch": EPOCH, "n": n,
        "rollouts": [{
            "name": NAME, "generation": 1, "window": n, "weight": weight, "stable": "v1", "canary": "v2",
            "match": { "hosts": [HOST] }, "key": [ { "header": USER } ],
        }],
    }))
    .expect("a policy document")
}

fn id(n: u64) -> SnapshotId {
    SnapshotId { epoch: EPOCH, n }
}

/// A proxy with the filter, its two upstreams, and the service's address.
struct Stand {
    stable: Upstream,
    canary: Upstream,
}

impl Stand {
    async fn start() -> Self {
        Self {
            stable: Upstream::start("v1").await.expect("v1 starts"),
            canary: Upstream::start("v2").await.expect("v2 starts"),
        }
    }

    fn config(&self, gate: std::net::SocketAddr) -> EnvoyConfig {
        let mut config = EnvoyConfig::load(FILTER).expect("the operators' configuration");
        config.set_cluster("knhk", gate).expect("a cluster");
        config
            .set_cluster("stable", self.stable.address())
            .expect("a cluster");
        config
            .set_cluster("canary", self.canary.address())
            .expect("a cluster");
        config
    }
}

async fn run(config: EnvoyConfig) -> Envoy {
    Envoy::start(config, EnvoyOptions::default())
        .await
        .expect("Envoy starts")
}

async fn ask_users(envoy: &Envoy, users: u32) -> Vec<Answer> {
    let asks = (0..users).map(|number| user(&format!("user-{number}"))).collect();
    ask_each(envoy.address(), CONNECTIONS, asks)
        .await
        .expect("every request is answered")
}

/// Every user is where the bucket function says, by the snapshot `n` at `weight` percent.
async fn check_split(envoy: &Envoy, n: u64, weight: u32) {
    for (number, answer) in ask_users(envoy, 2_000).await.iter().enumerate() {
        let canary = bucket(NAME, format!("user-{number}").as_bytes()) < weight * 10_000;
        let seen = (
            answer.status,
            answer.version(),
            answer.seen("policy"),
            answer.seen("rollout"),
        );
        let policy = format!("{EPOCH}.{n}");
        let wanted = (
            200,
            if canary { "v2" } else { "v1" },
            Some(policy.as_str()),
            Some(NAME),
        );
        assert_eq!(seen, wanted, "user-{number} at {weight} %");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_does_not_validate_is_refused_and_the_last_good_one_stays() {
    let (stand, gate) = (Stand::start().await, FakeGate::start().expect("the fake starts"));
    gate.send(snapshot(&policy(1, 30.0)));
    let envoy = run(stand.config(gate.address())).await;
    gate.until_acked(id(1), STREAMS)
        .await
        .expect("the good one is taken");
    check_split(&envoy, 1, 30).await;

    let good = |n| snapshot(&policy(n, 90.0));
    let mut no_key = policy(5, 90.0);
    no_key.rollouts[0].key.clear();
    let bad: [(u64, Snapshot, &str, &str); 5] = [
        (
            2,
            Snapshot {
                sha256: vec![0; 32],
                ..good(2)
            },
            "checksum",
            "sha256",
        ),
        (3, resummed(3, b"{ not JSON".to_vec()), "malformed", ""),
        (
            4,
            resummed(4, good(4).policy.iter().copied().chain(*b" x").collect()),
            "malformed",
            "",
        ),
        (5, snapshot(&no_key), "invalid", "key"),
        (
            6,
            Snapshot {
                id: Some(id(6)),
                ..good(60)
            },
            "invalid",
            "60",
        ),
    ];
    for (n, snapshot, reason, part) in bad {
        gate.send(snapshot);
        for refusal in gate.until_refused(id(n), STREAMS).await.expect("it is refused") {
            assert_eq!(refusal.reason, reason, "{refusal:?}");
            assert!(
                refusal.detail.contains(part) && !refusal.detail.contains('\n'),
                "{refusal:?}"
            );
        }
        check_split(&envoy, 1, 30).await;
    }
    envoy
        .stats_until("refusals to be counted", |stats| {
            stats.filter("knhk_snapshots_refused") == (5 * STREAMS) as u64
                && stats.filter("knhk_policy_version") == 1
        })
        .await
        .expect("they are counted");

    gate.send(snapshot(&policy(7, 60.0)));
    gate.until_acked(id(7), STREAMS)
        .await
        .expect("a good one is still taken");
    check_split(&envoy, 7, 60).await;
}

/// A snapshot of these bytes with the digest that belongs to them.
fn resummed(n: u64, bytes: Vec<u8>) -> Snapshot {
    use sha2::{Digest as _, Sha256};
    Snapshot {
        id: Some(id(n)),
        sha256: Sha256::digest(&bytes).to_vec(),
        policy: bytes,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_plugins_configuration_flips_nobody_even_while_the_service_is_away() {
    let (stand, gate) = (Stand::start().await, FakeGate::start().expect("the fake starts"));
    let mut config = stand.config(gate.address());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let discovered = discover(&mut config, directory.path());
    gate.send(snapshot(&policy(1, 30.0)));
    let envoy = run(config).await;
    // Envoy tries a discovered configuration in a VM that it throws away, so acknowledgements do not count workers here.
    until_decided_by(&envoy, &format!("{EPOCH}.1"))
        .await
        .expect("every worker has it");
    check_split(&envoy, 1, 30).await;
    drop(gate);

    let load = Load::start(LoadOptions {
        users: 500,
        ..LoadOptions::to(envoy.address(), HOST)
    });
    // `closed`: a filter that lost its snapshot would answer 503 and not merely send everyone to stable.
    for round in 1..=3 {
        let before = load.peek(Tally::answered);
        discovered
            .write(&json!({ "cluster": "knhk", "failMode": if round % 2 == 1 { "closed" } else { "open" } }));
        envoy
            .stats_until("the new configuration", |stats| {
                stats.get("extension_config_discovery.http_filter.knhk.config_reload") > round
            })
            .await
            .expect("it is taken");
        wait::until("traffic under the new configuration", wait::SOON, || {
            let answered = load.peek(Tally::answered) - before;
            async move {
                if answered > 1_000 {
                    Ok(())
                } else {
                    Err(format!("{answered} answers"))
                }
            }
        })
        .await
        .expect("traffic goes on");
    }
    check_split(&envoy, 1, 30).await;
    let sticky = load.sticky();
    let tally = load.finish().await;
    assert_eq!(
        (tally.failed(), tally.transport_errors),
        (0, 0),
        "{:?}",
        tally.first_error
    );
    assert_eq!(sticky.flips(), 0);
    assert_eq!(
        tally.under(&format!("{EPOCH}.1")).requests,
        tally.answered(),
        "every request was decided by the snapshot"
    );
}

/// The filter's configuration in a file that Envoy watches.
struct Discovered {
    file: std::path::PathBuf,
    filter: Value,
}

fn discover(config: &mut EnvoyConfig, directory: &Path) -> Discovered {
    let file = directory.join("knhk.json");
    let filter = config.http_filter("knhk").expect("the filter");
    let discovered = Discovered {
        file: file.clone(),
        filter: filter["typed_config"].take(),
    };
    *filter = json!({
        "name": "knhk",
        "config_discovery": {
            "config_source": { "path_config_source": { "path": file }, "resource_api_version": "V3" },
            "type_urls": ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"],
        },
    });
    discovered.write(&json!({ "cluster": "knhk" }));
    discovered
}

impl Discovered {
    /// Envoy sees a file that is moved into place.
    fn write(&self, configuration: &Value) {
        let mut filter = self.filter.clone();
        filter["config"]["configuration"]["value"] = json!(configuration.to_string());
        let resource = json!({
            "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig", "name": "knhk", "typed_config": filter,
        });
        let fresh = self.file.with_extension("new");
        let response = json!({ "version_info": configuration.to_string(), "resources": [resource] });
        std::fs::write(&fresh, response.to_string()).expect("the file is written");
        std::fs::rename(&fresh, &self.file).expect("the file is moved");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn before_any_snapshot_open_is_stable_and_closed_is_503() {
    let (stand, nobody) = (Stand::start().await, Port::reserve().expect("a free port"));
    let open = run(stand.config(nobody.address())).await;
    let mut config = stand.config(nobody.address());
    config
        .configure_filter(&json!({ "failMode": "closed" }))
        .expect("a filter");
    let closed = run(config).await;
    for answer in ask_users(&open, 200).await {
        assert_eq!((answer.status, answer.version()), (200, "v1"));
    }
    for answer in ask_users(&closed, 200).await {
        assert_eq!((answer.status, answer.version()), (503, ""));
    }
    assert_eq!(stand.canary.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_in_a_row_choose_the_same_variant_for_10_000_keys() {
    let (stand, gate) = (Stand::start().await, FakeGate::start().expect("the fake starts"));
    gate.send(snapshot(&policy(1, 37.5)));
    let sidecar = run(stand.config(gate.address())).await;
    let mut config = stand.config(gate.address());
    // Both of the gateway's clusters lead to the sidecar; a header of the answer says which one it was.
    config
        .set_cluster("stable", sidecar.address())
        .expect("a cluster");
    config
        .set_cluster("canary", sidecar.address())
        .expect("a cluster");
    for (route, variant) in ["canary", "staging", "stable"].iter().enumerate() {
        let manager = config.connection_manager().expect("the connection manager");
        manager["route_config"]["virtual_hosts"][0]["routes"][route]["response_headers_to_add"] =
            json!([{ "header": { "key": "x-gateway", "value": variant } }]);
    }
    let gateway = run(config).await;
    gate.until_acked(id(1), 2 * STREAMS)
        .await
        .expect("both have the snapshot");

    let mut canaries = 0_u32;
    for (number, answer) in ask_users(&gateway, 10_000).await.iter().enumerate() {
        let variant = answer.header("x-gateway").expect("the gateway's decision");
        assert_eq!(answer.seen("variant"), Some(variant), "user-{number}");
        assert_eq!(
            answer.version(),
            if variant == "canary" { "v2" } else { "v1" },
            "user-{number}"
        );
        canaries += u32::from(variant == "canary");
    }
    // Five standard deviations of 10,000 draws at 37.5 %.
    assert!((3_508..=3_992).contains(&canaries), "{canaries} of 10,000");
}
