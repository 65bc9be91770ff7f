//! A client that sends x-knhk-* itself gains nothing: not while the filter decides, not when it has failed open, and not
//! when there is no filter any more.
#![allow(clippy::expect_used)]

use knhk_decision::PolicyDoc;
use knhk_proto::v1::SnapshotId;
use knhk_tests::envoy::{Envoy, EnvoyConfig, EnvoyOptions};
use knhk_tests::gate::{FakeGate, snapshot};
use knhk_tests::load::{Answer, Ask, USER, ask_each};
use knhk_tests::mesh::{EXT_AUTHZ, FILTER, HOST, Mesh, NAME, user};
use serde_json::json;

/// Every header of the contract, and one that a later version may add.
const HEADERS: [&str; 7] = [
    "x-knhk-variant",
    "x-knhk-rollout",
    "x-knhk-flags",
    "x-knhk-class",
    "x-knhk-policy",
    "x-knhk-receipt",
    "x-knhk-anything-new",
];

/// The same request with every header forged, in two spellings, twice.
fn forged(ask: Ask) -> Ask {
    HEADERS.iter().fold(ask, |ask, name| {
        ask.header(name, "canary")
            .header(name, "R1")
            .header(&name.to_uppercase(), "canary")
    })
}

async fn ask_users(envoy: &Envoy, ask: impl Fn(Ask) -> Ask) -> Vec<Answer> {
    let asks = (0..300)
        .map(|number| ask(user(&format!("user-{number}"))))
        .collect();
    ask_each(envoy.address(), 8, asks)
        .await
        .expect("every request is answered")
}

/// What the upstream saw of each header.
fn seen(answer: &Answer) -> Vec<Option<String>> {
    HEADERS
        .iter()
        .map(|name| answer.seen(name.trim_start_matches("x-knhk-")).map(str::to_owned))
        .collect()
}

async fn start(config: EnvoyConfig) -> Envoy {
    Envoy::start(config, EnvoyOptions::default())
        .await
        .expect("Envoy starts")
}

/// Everyone is on stable, and the upstream sees no forged header.
async fn nothing_gained(envoy: &Envoy) {
    for answer in ask_users(envoy, forged).await {
        assert_eq!((answer.status, answer.version()), (200, "v1"));
        assert!(seen(&answer).iter().all(Option::is_none), "{:?}", seen(&answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_filter_decides_forged_headers_change_nothing() {
    let mesh = Mesh::without_service().await.expect("the mesh starts");
    let gate = FakeGate::start().expect("the fake starts");
    let policy: PolicyDoc = serde_json::from_value(json!({
        "apiVersion": "knhk.dev/v1", "kind": "Policy", "epoch": 1, "n": 1,
        "rollouts": [{
            "name": NAME, "generation": 1, "window": 1, "weight": 50, "stable": "v1", "canary": "v2",
            "match": { "hosts": [HOST] }, "key": [ { "header": USER } ],
        }],
    }))
    .expect("a policy document");
    gate.send(snapshot(&policy));
    // Once with Envoy's own deletion, once with the filter's alone.
    for own_deletion in [true, false] {
        let mut config = mesh.config(FILTER).expect("the operators' configuration");
        config.set_cluster("knhk", gate.address()).expect("a cluster");
        if !own_deletion {
            let manager = config.connection_manager().expect("the connection manager");
            let fields = manager.as_object_mut().expect("an object");
            fields
                .remove("early_header_mutation_extensions")
                .expect("it is there");
        }
        let envoy = start(config).await;
        gate.until_acked(SnapshotId { epoch: 1, n: 1 }, if own_deletion { 3 } else { 6 })
            .await
            .expect("it is taken");
        let honest = ask_users(&envoy, |ask| ask).await;
        let forged = ask_users(&envoy, forged).await;
        assert!(
            honest.iter().any(|answer| answer.version() == "v2")
                && honest.iter().any(|answer| answer.version() == "v1")
        );
        for (number, (honest, forged)) in honest.iter().zip(&forged).enumerate() {
            assert_eq!(honest.version(), forged.version(), "user-{number}");
            // The filter knows the contract's headers; the prefix is Envoy's.
            let known = if own_deletion {
                HEADERS.len()
            } else {
                HEADERS.len() - 1
            };
            assert_eq!(seen(honest)[..known], seen(forged)[..known], "user-{number}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_never_had_a_snapshot_cannot_be_spoofed_round() {
    let mesh = Mesh::without_service().await.expect("the mesh starts");
    nothing_gained(&mesh.proxy(FILTER).await.expect("Envoy starts")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_without_the_filter_cannot_be_spoofed_round() {
    let mesh = Mesh::without_service().await.expect("the mesh starts");
    let mut config = mesh.config(FILTER).expect("the operators' configuration");
    config
        .http_filters()
        .expect("the filters")
        .retain(|filter| filter["name"] != "knhk");
    nothing_gained(&start(config).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_dies_of_each_request_and_fails_open_cannot_be_spoofed_round() {
    let mesh = Mesh::without_service().await.expect("the mesh starts");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let trapping = directory.path().join("trapping.wasm");
    std::fs::write(&trapping, trapping_filter()).expect("it can be written");
    let mut config = mesh.config(FILTER).expect("the operators' configuration");
    config.set_filter_file(&trapping).expect("the filter");
    let plugin = config.plugin().expect("the filter");
    plugin["failure_policy"] = json!("FAIL_OPEN");
    plugin.as_object_mut().expect("an object").remove("reload_config");
    let envoy = start(config).await;
    // The request that the VM dies of is lost with it, one a worker.
    let first = ask_users(&envoy, forged).await;
    assert!(
        first.iter().all(|answer| ["", "v1"].contains(&answer.version())),
        "nobody reaches the canary"
    );
    assert!(
        envoy.process().log().contains("unreachable"),
        "the filter did trap: {}",
        envoy.process().log()
    );
    nothing_gained(&envoy).await;
}

/// The smallest module that Envoy takes for a filter; a request's headers make it trap.
fn trapping_filter() -> Vec<u8> {
    // Types of functions: () -> (), (i32) -> i32, (i32 i32) -> (), (i32 i32 i32) -> i32, (i32 i32) -> i32.
    let types: [&[u8]; 5] = [
        b"\x60\0\0",
        b"\x60\x01\x7f\x01\x7f",
        b"\x60\x02\x7f\x7f\0",
        b"\x60\x03\x7f\x7f\x7f\x01\x7f",
        b"\x60\x02\x7f\x7f\x01\x7f",
    ];
    // Name, type and body, each body without locals: nothing, `i32.const 4096`, `unreachable`, `i32.const 1`.
    let functions: [(&str, u8, &[u8]); 6] = [
        ("proxy_abi_version_0_2_1", 0, b"\0\x0b"),
        ("proxy_on_memory_allocate", 1, b"\0\x41\x80\x20\x0b"),
        ("proxy_on_context_create", 2, b"\0\x0b"),
        ("proxy_on_request_headers", 3, b"\0\0\x0b"),
        ("proxy_on_vm_start", 4, b"\0\x41\x01\x0b"),
        ("proxy_on_configure", 4, b"\0\x41\x01\x0b"),
    ];
    // Everything here is shorter than 128 bytes or counted in two, so lengths are written in two bytes throughout.
    let length = |n: usize| {
        [
            u8::try_from(n & 0x7f).expect("seven bits") | 0x80,
            u8::try_from(n >> 7).expect("short"),
        ]
    };
    let sized = |bytes: &[u8]| [&length(bytes.len())[..], bytes].concat();
    let vector = |items: Vec<Vec<u8>>| [&length(items.len())[..], &items.concat()].concat();
    let section = |id: u8, items: Vec<Vec<u8>>| [&[id][..], &sized(&vector(items))].concat();
    let exports = (0_u8..)
        .zip(&functions)
        .map(|(index, (name, ..))| [sized(name.as_bytes()), vec![0, index]].concat())
        .chain([[sized(b"memory"), vec![2, 0]].concat()]);
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, types.iter().map(|of| of.to_vec()).collect()),
        section(3, functions.iter().map(|(_, of, _)| vec![*of]).collect()),
        section(5, vec![vec![0, 17]]),
        section(7, exports.collect()),
        section(10, functions.iter().map(|(.., body)| sized(body)).collect()),
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn ext_authz_whose_service_is_away_cannot_be_spoofed_round() {
    let mesh = Mesh::without_service().await.expect("the mesh starts");
    let mut config = mesh.config(EXT_AUTHZ).expect("the operators' configuration");
    let filter = config
        .http_filter("envoy.filters.http.ext_authz")
        .expect("the filter");
    // The operators' file answers 503 then.
    filter["typed_config"]["failure_mode_allow"] = json!(true);
    nothing_gained(&start(config).await).await;
}
