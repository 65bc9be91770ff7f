//! What each role may do, and nothing else: operators over HTTP, proxies over gRPC.
#![allow(clippy::expect_used)]

use std::path::Path;
use std::time::Duration;

use knhk_identity::Connector;
use knhk_proto::v1;
use knhk_proto::v1::gate_client::GateClient;
use knhk_tests::cli::{Cli, Credentials};
use knhk_tests::gate::{Worker, connect_as, connector};
use knhk_tests::mesh::{HOST, NAME, RolloutFile};
use knhk_tests::recorded::check_as_proxy;
use knhk_tests::service::Service;
use knhk_tests::spiffe::{AUDITOR, Cast, DEPLOYER, HOUR, KEY_ADMIN, PROXY};
use knhk_tests::wait;
use serde_json::{Value, json};
use tonic::Code;

/// How long a test waits for what comes within seconds.
const LATEST: Duration = Duration::from_secs(60);
/// Another host than the shop's, and its rollout.
const OTHER_HOST: &str = "pay.test";
const OTHER: &str = "pay";
/// A proxy of that host.
const OTHER_PROXY: &str = "/pay-proxy";

async fn service_of(cast: &Cast) -> Service {
    let filters = json!([
        { "id": cast.spire.id(PROXY), "hosts": [HOST] },
        { "id": cast.spire.id(OTHER_PROXY), "hosts": [OTHER_HOST] },
    ]);
    let mut service = Service::stopped().expect("a service");
    service.identify_by(cast.identities_with(&filters));
    service.up().await.expect("it is ready");
    service
}

fn cli_of(cast: &Cast, service: &Service, path: &str) -> (Cli, Credentials) {
    let credentials = cast.somebody(path).expect("minted");
    (service.cli_as(&credentials).expect("a command line"), credentials)
}

async fn apply(cli: &Cli, service: &Service, spec: &RolloutFile) -> knhk_tests::cli::Output {
    let file = spec.write(service).expect("a file");
    let arguments = [
        "rollout".as_ref(),
        "apply".as_ref(),
        "-f".as_ref(),
        file.as_os_str(),
    ];
    cli.run(&arguments).await.expect("it runs")
}

/// The rows of actions whose summary has all of these.
async fn actions(auditor: &Cli, parts: &[&str]) -> Result<Vec<Value>, String> {
    let list = auditor
        .json(&["receipt", "list", "--kind", "action", "--limit", "1000"])
        .await
        .map_err(|error| error.to_string())?;
    let rows = list["receipts"].as_array().cloned().unwrap_or_default();
    let has = |row: &Value| {
        let summary = row["summary"].as_str().unwrap_or_default();
        parts.iter().all(|part| summary.contains(part)) && row["signed"] == true
    };
    Ok(rows.into_iter().filter(has).collect())
}

async fn until_action(auditor: &Cli, parts: &[&str]) -> Value {
    let what = format!("a signed receipt with {parts:?}");
    let found = wait::until(&what, LATEST, || async {
        let mut rows = actions(auditor, parts).await?;
        rows.pop().ok_or_else(|| "there is none".to_owned())
    });
    found.await.expect("it is recorded")
}

/// Fetches a receipt and verifies it with the service's keys: right after a rotation it may be under the checkpoint before.
async fn verify(auditor: &Cli, row: &Value, directory: &Path) {
    let id = row["id"].as_str().expect("an ID");
    let (file, keys) = (directory.join("one.receipt"), directory.join("keys.json"));
    let shown = |path: &Path| path.display().to_string();
    auditor
        .json(&["receipt", "get", id, "--out", &shown(&file)])
        .await
        .expect("a receipt");
    let set = auditor.json(&["key", "list"]).await.expect("the keys");
    std::fs::write(&keys, set.to_string()).expect("written");
    let verified = Cli::offline()
        .expect("a command line")
        .json(&["receipt", "verify", &shown(&file), "--key", &shown(&keys)])
        .await
        .expect("an answer");
    assert_eq!(verified["verified"], true, "{verified}");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_may_do_what_their_role_says_and_receipts_name_them() {
    let cast = Cast::start(HOUR).await.expect("SPIRE");
    let service = service_of(&cast).await;
    let deployer = service.cli().expect("a command line");
    let (auditor, _) = cli_of(&cast, &service, AUDITOR);
    let (key_admin, _) = cli_of(&cast, &service, KEY_ADMIN);
    let shop = RolloutFile::at(20.0);

    let applied = apply(&deployer, &service, &shop).await;
    assert_eq!(applied.code, 0, "{}", applied.stderr);
    let row = until_action(&auditor, &[&format!("by {}", cast.spire.id(DEPLOYER)), NAME]).await;
    verify(&auditor, &row, service.directory()).await;
    let history = service.rollouts().history(NAME).await.expect("its history");
    assert_eq!(history[0].who, cast.spire.id(DEPLOYER));

    // Everyone may look.
    for cli in [&deployer, &auditor, &key_admin] {
        for arguments in [["rollout", "list"], ["key", "list"], ["identity", "show"]] {
            cli.json(&arguments).await.expect("it may look");
        }
    }

    // Nobody may do another's work. What is refused names the ID and the role.
    let refused = apply(&auditor, &service, &shop).await;
    assert_said(&refused, &[&cast.spire.id(AUDITOR), "spiffe.allow.deployers"]);
    for (cli, arguments, who, needed) in [
        (&auditor, ["rollout", "abort", NAME], AUDITOR, "deployers"),
        (&key_admin, ["rollout", "abort", NAME], KEY_ADMIN, "deployers"),
        (&deployer, ["key", "rotate", "-ojson"], DEPLOYER, "key_admins"),
        (&auditor, ["key", "rotate", "-ojson"], AUDITOR, "key_admins"),
        (&deployer, ["receipt", "list", "-ojson"], DEPLOYER, "auditors"),
        (&key_admin, ["receipt", "list", "-ojson"], KEY_ADMIN, "auditors"),
    ] {
        let refused = cli.run(&arguments).await.expect("it runs");
        assert_said(
            &refused,
            &[&cast.spire.id(who), &format!("spiffe.allow.{needed}")],
        );
    }
    let status = service.rollouts().status(NAME).await.expect("its status");
    assert_eq!(status.phase, "Progressing", "nobody aborted it");

    key_admin.json(&["key", "rotate"]).await.expect("its own work");
    let keys = key_admin.json(&["key", "list"]).await.expect("the keys");
    assert_eq!(keys["keys"].as_array().map(Vec::len), Some(2), "{keys}");

    let who = format!("by {}", cast.spire.id(AUDITOR));
    let row = until_action(
        &auditor,
        &["access.refused", "PUT /v1/rollouts", &who, "deployers"],
    )
    .await;
    verify(&auditor, &row, service.directory()).await;
    until_action(
        &auditor,
        &["access.refused", "POST /v1/keys/rotate", &who, "key_admins"],
    )
    .await;
    let counted = service.counted("knhk_access_refused_total", &["http"]).await;
    assert_eq!(counted.expect("its metrics"), 7);

    // Through the socket of its machine one reads, and writes nothing.
    let local = service.local_cli().expect("a command line");
    local.json(&["receipt", "list"]).await.expect("it may read");
    let refused = local.run(&["rollout", "abort", NAME]).await.expect("it runs");
    assert_said(&refused, &["SPIFFE"]);
}

fn assert_said(refused: &knhk_tests::cli::Output, parts: &[&str]) {
    assert_eq!(refused.code, 1, "{refused:?}");
    for part in parts {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    assert!(!refused.stderr.contains('\n'), "{}", refused.stderr);
}

fn proxy(cast: &Cast, path: &str) -> Connector {
    connector(&cast.spire.mint(path, HOUR).expect("minted")).expect("a connector")
}

/// The names and windows of the rollouts that a worker is told of, at the newest snapshot.
async fn told(worker: &mut Worker) -> Vec<(String, u64)> {
    let snapshot = worker.snapshot().await.expect("the policy");
    let policy: Value = serde_json::from_slice(&snapshot.policy).expect("JSON");
    let rules = policy["rollouts"].as_array().expect("rollouts").clone();
    rules
        .iter()
        .map(|rule| {
            (
                rule["name"].as_str().expect("a name").to_owned(),
                rule["window"].as_u64().expect("a window"),
            )
        })
        .collect()
}

fn observed(rollout: &str, window: u64, requests: u64) -> v1::Observed {
    v1::Observed {
        rollout: rollout.to_owned(),
        window,
        variant: v1::Variant::Canary.into(),
        requests,
        ..v1::Observed::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_receives_policy_for_its_hosts_and_reports_on_them_only() {
    let cast = Cast::start(HOUR).await.expect("SPIRE");
    let service = service_of(&cast).await;
    let deployer = service.cli().expect("a command line");
    let pay = RolloutFile::at(20.0)
        .named(OTHER)
        .with("match", json!({ "hosts": [OTHER_HOST] }));
    for spec in [&RolloutFile::at(20.0), &pay] {
        let applied = apply(&deployer, &service, spec).await;
        assert_eq!(applied.code, 0, "{}", applied.stderr);
    }
    let grpc = service.addresses().grpc;
    let (mut windows, mut workers) = (Vec::new(), Vec::new());
    for (path, own, nonce) in [(PROXY, NAME, 1), (OTHER_PROXY, OTHER, 2)] {
        let mut worker = Worker::greet_as(&proxy(&cast, path), grpc, path, [nonce; 16])
            .await
            .expect("a proxy gets in");
        let seen = told(&mut worker).await;
        assert_eq!(seen.len(), 1, "{path} is told of its own rollouts only: {seen:?}");
        assert_eq!(seen[0].0, own);
        windows.push(seen[0].clone());
        workers.push(worker);
    }

    // The shop's proxy reports on both rollouts; what it says of the other one's is not counted.
    let rows = windows.iter().map(|(name, window)| observed(name, *window, 40));
    let report = v1::Report {
        seq: 1,
        requests: 80,
        observed: rows.collect(),
        ..v1::Report::default()
    };
    workers[0]
        .say(v1::up::Message::Report(report))
        .expect("it is sent");
    let ignored = wait::until("the other's to be ignored", LATEST, || async {
        let counted = service
            .counted("knhk_observations_ignored_total", &["not_its_rollout"])
            .await;
        match counted {
            Ok(0) => Err("nothing was".to_owned()),
            Ok(count) => Ok(count),
            Err(error) => Err(error.to_string()),
        }
    });
    assert_eq!(ignored.await.expect("it is"), 1);
    for (name, counted) in [(NAME, 40), (OTHER, 0)] {
        let status = service.rollouts().status(name).await.expect("its status");
        let requests = status
            .explanation
            .pointer("/metrics/0/canary/requests")
            .and_then(Value::as_u64);
        assert_eq!(requests, Some(counted), "{name}: {}", status.explanation);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_proxys_needs_a_proxys_role() {
    let cast = Cast::start(HOUR).await.expect("SPIRE");
    let service = service_of(&cast).await;
    let applied = apply(
        &service.cli().expect("a command line"),
        &service,
        &RolloutFile::at(20.0),
    )
    .await;
    assert_eq!(applied.code, 0, "{}", applied.stderr);
    let grpc = service.addresses().grpc;
    let channel = |path: &str| connect_as(proxy(&cast, path), grpc).expect("a channel");

    let up = tokio_stream::iter([v1::Up::default()]);
    let refused = GateClient::new(channel(DEPLOYER)).stream(up).await;
    let status = refused.expect_err("a deployer is no proxy");
    assert_eq!(status.code(), Code::PermissionDenied);
    for part in [cast.spire.id(DEPLOYER), "spiffe.allow.filters".to_owned()] {
        assert!(status.message().contains(&part), "{status:?}");
    }
    let status = check_as_proxy(channel(DEPLOYER), "/a")
        .await
        .expect_err("nor here");
    assert_eq!(status.code(), Code::PermissionDenied);
    let status = check_as_proxy(channel(OTHER_PROXY), "/a")
        .await
        .expect_err("it asks about a host that is not its own");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains(HOST), "{status:?}");
    let receipt = check_as_proxy(channel(PROXY), "/a").await.expect("its own host");
    assert!(receipt.is_some(), "and it is recorded");

    let (auditor, _) = cli_of(&cast, &service, AUDITOR);
    for (target, who) in [
        ("Gate/Stream", DEPLOYER),
        ("Authorization/Check", DEPLOYER),
        ("Authorization/Check about another's host", OTHER_PROXY),
    ] {
        until_action(
            &auditor,
            &["access.refused", target, &format!("by {}", cast.spire.id(who))],
        )
        .await;
    }
}
