//! Who may call: admission by the caller's SPIFFE ID, which a proxy in front has forwarded, in the filter, through
//! `ext_authz` and through `ext_proc`.
#![allow(clippy::expect_used)]

use knhk_decision::bucket;
use knhk_tests::cli::Cli;
use knhk_tests::envoy::{Envoy, EnvoyConfig, EnvoyOptions};
use knhk_tests::ext_proc::{ask, decisions, newest_of, payload, receipt};
use knhk_tests::load::{Ask, USER};
use knhk_tests::mesh::{EXT_AUTHZ, EXT_PROC, FILTER, HOST, Mesh, NAME, RolloutFile};
use serde_json::{Value, json};

const SHOP: &str = "spiffe://example.org/ns/shop/sa/web";
const OTHER: &str = "spiffe://example.org/ns/other/sa/web";
/// What the rollout guards; the rest of the host is open.
const PATH: &str = "/guarded/cart";

/// Everything below `/guarded` to v2, for callers of the shop; denials are recorded.
fn guarded() -> RolloutFile {
    RolloutFile::at(100.0)
        .with("match", json!({ "hosts": [HOST], "pathPrefix": "/guarded" }))
        .with("admit", json!({ "peers": ["spiffe://example.org/ns/shop/*"] }))
        .with("record", json!("denials"))
}

/// A proxy whose client is another proxy, which forwards whom it has seen.
async fn behind_a_proxy(mut config: EnvoyConfig) -> Envoy {
    config.connection_manager().expect("the connection manager")["forward_client_cert_details"] =
        json!("ALWAYS_FORWARD_ONLY");
    Envoy::start(config, EnvoyOptions::default())
        .await
        .expect("Envoy starts")
}

/// As Envoy forwards it; the subject is one that has to be quoted.
fn element(peer: &str) -> String {
    format!("By=spiffe://example.org/gw;Hash=00;Subject=\"O=a\\, b;CN=\\\"c\\\"\";URI={peer};DNS=a.test")
}

fn called(forwarded: Option<&str>) -> Ask {
    let ask = Ask::get(HOST, PATH).header(USER, "alice");
    match forwarded {
        Some(forwarded) => ask.header("x-forwarded-client-cert", forwarded),
        None => ask,
    }
}

/// What was forwarded, and whether the rollout admits it.
fn callers() -> [(Option<String>, bool); 6] {
    [
        (Some(element(SHOP)), true),
        (Some(format!("{},{}", element(OTHER), element(SHOP))), true),
        (Some(format!("{},{}", element(SHOP), element(OTHER))), false),
        (Some(element("https://example.org/ns/shop/sa/web")), false),
        (Some(format!("By=\"open,{}", element(SHOP))), false),
        (None, false),
    ]
}

/// Each caller gets what it should.
async fn each_is_admitted_or_denied(envoy: &Envoy) {
    for (forwarded, admitted) in callers() {
        let answer = ask(envoy, called(forwarded.as_deref())).await;
        let expected = if admitted {
            (200, "v2", None)
        } else {
            (403, "", Some("peer_not_allowed"))
        };
        assert_eq!(
            (answer.status, answer.version(), answer.header("x-knhk-reason")),
            expected,
            "{forwarded:?}"
        );
    }
    let elsewhere = ask(envoy, Ask::get(HOST, "/open").header(USER, "alice")).await;
    assert_eq!((elsewhere.status, elsewhere.version()), (200, "v1"));
}

/// The receipt of a denial says who was denied, and gives the same verdict again.
async fn says_who_was_denied(cli: &Cli, id: &str, via: &str, subject: Option<&str>) -> Value {
    let payload = payload(cli, id).await;
    assert_eq!(
        (&payload["via"], &payload["evidence"]["admission"]),
        (&json!(via), &json!("denied"))
    );
    assert_eq!(payload["evidence"]["subject"].as_str(), subject);
    assert_eq!(
        payload["evidence"]["rollout"]["bucket"],
        json!(bucket(NAME, b"alice"))
    );
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("denial.receipt");
    let file = file.to_str().expect("text");
    cli.json(&["receipt", "get", id, "--out", file])
        .await
        .expect("a file");
    let replayed = cli.json(&["receipt", "replay", file]).await.expect("it replays");
    assert_eq!(
        (&replayed["same"], &replayed["admission"]),
        (&json!(true), &json!("denied"))
    );
    payload
}

#[tokio::test(flavor = "multi_thread")]
async fn the_filter_admits_by_the_forwarded_id_and_records_denials() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let mut config = mesh.config(FILTER).expect("the operators' configuration");
    config
        .configure_filter(&json!({ "cluster": "knhk", "peer": "xfcc" }))
        .expect("the filter");
    let envoy = behind_a_proxy(config).await;
    mesh.apply(&guarded()).await.expect("it is applied");
    mesh.until_current(&envoy, NAME)
        .await
        .expect("every worker has it");
    let cli = mesh.cli().expect("the command line");

    let denied = ask(&envoy, called(Some(&element(OTHER)))).await;
    assert_eq!(denied.status, 403);
    newest_of(&cli, 1).await;
    let id = decisions(&cli).await.remove(0);
    let payload = says_who_was_denied(&cli, &id, "filter", Some(OTHER)).await;
    assert_eq!(payload["status"], 403);

    each_is_admitted_or_denied(&envoy).await;
    // Of the six that were asked, four were denied; who was admitted is not recorded.
    newest_of(&cli, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ext_authz_admits_by_the_forwarded_id_where_the_route_says_so() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    mesh.apply(&guarded()).await.expect("it is applied");
    let mut config = mesh.config(EXT_AUTHZ).expect("the operators' configuration");
    config.make_patient().expect("the filter");
    let options = config.check_options().expect("options");
    options["record"] = json!("denials");
    options["peer"] = json!("xfcc");
    let envoy = behind_a_proxy(config).await;
    let cli = mesh.cli().expect("the command line");

    let denied = ask(&envoy, called(Some(&element(OTHER)))).await;
    assert_eq!(denied.status, 403);
    let id = receipt(&denied).expect("a receipt");
    says_who_was_denied(&cli, &id, "ext_authz", Some(OTHER)).await;

    each_is_admitted_or_denied(&envoy).await;
    assert_eq!(decisions(&cli).await.len(), 5);
    let metrics = mesh.service.metrics().await.expect("metrics");
    assert!(
        metrics.contains("knhk_checks_total{outcome=\"denied\"} 5"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ext_proc_admits_by_the_forwarded_id_where_the_route_says_so() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    mesh.apply(&guarded()).await.expect("it is applied");
    let mut config = mesh.config(EXT_PROC).expect("the operators' configuration");
    config.make_patient().expect("the filter");
    for (option, value) in [("record", "denials"), ("peer", "xfcc")] {
        config.set_process_option(option, value).expect("an option");
    }
    let envoy = behind_a_proxy(config).await;
    let cli = mesh.cli().expect("the command line");

    let denied = ask(&envoy, called(None)).await;
    assert_eq!(denied.status, 403);
    let id = receipt(&denied).expect("a receipt");
    says_who_was_denied(&cli, &id, "ext_proc", None).await;

    each_is_admitted_or_denied(&envoy).await;
    assert_eq!(decisions(&cli).await.len(), 5);
    assert_eq!(knhk_tests::ext_proc::outcomes(&mesh, "denied").await, 5);
    assert_eq!(mesh.canary.requests(), 2, "no upstream has seen who was denied");
}

/// What is read by default is the certificate of the connection: here there is none, whatever is forwarded.
#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_id_counts_for_nothing_where_nobody_has_configured_it() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    mesh.apply(&guarded()).await.expect("it is applied");
    for file in [FILTER, EXT_AUTHZ, EXT_PROC] {
        let mut config = mesh.config(file).expect("the operators' configuration");
        config.make_patient().expect("the filters");
        let envoy = behind_a_proxy(config).await;
        if file == FILTER {
            mesh.until_current(&envoy, NAME)
                .await
                .expect("every worker has it");
        }
        let answer = ask(&envoy, called(Some(&element(SHOP)))).await;
        assert_eq!(
            (answer.status, answer.header("x-knhk-reason")),
            (403, Some("peer_not_allowed")),
            "{file}"
        );
    }
    assert_eq!(mesh.canary.requests(), 0);
}
