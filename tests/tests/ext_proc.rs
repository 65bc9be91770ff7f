//! `ext_proc` from end to end: a real Envoy, real upstreams, and receipts that say how each request went.
#![allow(clippy::expect_used)]

use std::collections::HashSet;
use std::time::Duration;

use knhk_decision::bucket;
use knhk_tests::cli::Cli;
use knhk_tests::envoy::EXT_PROC as PROCESS_FILTER;
use knhk_tests::ext_proc::{
    ask, counter, decisions, filter, newest_of, outcomes, patient, payload, receipt, start, until_asked,
    until_outcomes, until_recorded, until_refused,
};
use knhk_tests::load::{Ask, Client, USER, ask_each};
use knhk_tests::mesh::{HOST, Mesh, NAME, RolloutFile, user};
use knhk_tests::service::REGION;
use knhk_tests::small_disk::SmallDisk;
use knhk_tests::wait::SOON;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Longer than any test: who waits for this is cut off first.
const NEVER: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_a_receipt_with_its_outcome_that_verifies_and_replays() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = start(patient(&mesh)).await;
    mesh.apply(&RolloutFile::at(50.0)).await.expect("it is applied");
    mesh.canary.fail(1.0);
    let key = |number: usize| format!("very-secret-user-{number}");
    let asks = (0..60).map(|number| user(&key(number))).collect();
    let answers = ask_each(envoy.address(), 8, asks)
        .await
        .expect("every request is answered");
    let (cli, directory) = (
        mesh.cli().expect("the command line"),
        tempfile::tempdir().expect("a directory"),
    );
    let pem = directory.path().join("key.pem");
    std::fs::write(&pem, cli.text(&["key", "show"]).await.expect("a key")).expect("it can be written");
    let mut ids = HashSet::new();
    for (number, answer) in answers.iter().enumerate() {
        let canary = bucket(NAME, key(number).as_bytes()) < 500_000;
        let (variant, version, status) = if canary {
            ("canary", "v2", 500)
        } else {
            ("stable", "v1", 200)
        };
        assert_eq!((answer.status, answer.version()), (status, version), "{number}");
        assert_eq!(answer.seen("variant"), Some(variant));
        assert_eq!(answer.seen("rollout"), Some(NAME));
        assert_eq!(
            answer.seen("receipt"),
            None,
            "the upstream sees it before there is one"
        );
        let id = receipt(answer).expect("a receipt");
        assert!(id.starts_with(&format!("{REGION}/")), "{id}");
        if number % 10 == 0 {
            let payload = payload(&cli, &id).await;
            assert_eq!(
                (&payload["via"], &payload["status"]),
                (&json!("ext_proc"), &json!(status))
            );
            assert!(payload["durationUs"].as_u64().expect("a duration") > 0);
            assert!(!payload.to_string().contains("very-secret"), "no raw key");
            let file = cli.fetch(&id, directory.path()).await.expect("a file");
            let replayed = cli.replay(&file).await.expect("it replays");
            assert_eq!(
                (&replayed["same"], replayed["variant"].as_str()),
                (&json!(true), Some(variant))
            );
            let verify = ["receipt".as_ref(), "verify".as_ref(), file.as_os_str()];
            let verified = Cli::offline()
                .expect("the command line")
                .json(&[&verify[..], &["--key".as_ref(), pem.as_os_str()]].concat())
                .await
                .expect("it verifies");
            assert_eq!(verified["verified"], true);
        }
        ids.insert(id);
    }
    assert_eq!((ids.len(), decisions(&cli).await.len()), (60, 60), "one each");
    assert_eq!(outcomes(&mesh, "recorded").await, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_headers_change_nothing_with_and_without_envoys_own_deletion() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    mesh.apply(&RolloutFile::at(50.0)).await.expect("it is applied");
    for own_deletion in [true, false] {
        let mut config = patient(&mesh);
        if !own_deletion {
            let manager = config.connection_manager().expect("the connection manager");
            let fields = manager.as_object_mut().expect("an object");
            fields
                .remove("early_header_mutation_extensions")
                .expect("it is there");
        }
        let envoy = start(config).await;
        for number in 0..20 {
            let key = format!("user-{number}");
            let forged = ["variant", "rollout", "flags", "class", "policy", "receipt"]
                .into_iter()
                .fold(user(&key), |ask, name| {
                    let name = format!("x-knhk-{name}");
                    ask.header(&name, "canary").header(&name, &format!("{REGION}/1"))
                });
            let answer = ask(&envoy, forged).await;
            let canary = bucket(NAME, key.as_bytes()) < 500_000;
            assert_eq!(answer.version(), if canary { "v2" } else { "v1" }, "{key}");
            let seen = ["rollout", "flags", "class", "receipt"].map(|name| answer.seen(name));
            assert_eq!(seen, [Some(NAME), None, None, None], "{key}");
            assert!(
                receipt(&answer).is_some(),
                "a forged receipt saves nobody from a record"
            );
        }
        // No rollout matches: no forged header may route it.
        let other = Ask::get("other.test", "/").header("x-knhk-variant", "canary");
        assert_eq!(ask(&envoy, other).await.version(), "v1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_what_is_recorded_and_a_wrong_value_is_refused_by_name() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    mesh.apply(&RolloutFile::at(100.0)).await.expect("it is applied");
    let mut config = patient(&mesh);
    let metadata = |option: &str, value: &str| {
        json!({ PROCESS_FILTER: {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
            "overrides": { "grpc_initial_metadata": [ { "key": option, "value": value } ] },
        } })
    };
    let route = |prefix: &str, overrides: Value| json!({ "match": { "prefix": prefix }, "route": { "cluster": "stable" }, "typed_per_filter_config": overrides });
    let routes = config
        .at("/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes")
        .expect("routes")
        .as_array_mut()
        .expect("a list");
    routes.insert(0, route("/none", metadata("record", "none")));
    routes.insert(0, route("/typo", metadata("wait_timeout", "soon")));
    routes.insert(0, route("/other", metadata("x-team", "a")));
    let envoy = start(config).await;
    let at = |path: &str| Ask::get(HOST, path).header(USER, "u1");

    assert!(receipt(&ask(&envoy, at("/")).await).is_some());
    let other = ask(&envoy, at("/other")).await;
    assert!(receipt(&other).is_some(), "metadata of others is let be");
    let unrecorded = ask(&envoy, at("/none")).await;
    assert_eq!((unrecorded.status, receipt(&unrecorded)), (200, None));
    assert_eq!(unrecorded.seen("variant"), Some("canary"), "decided all the same");
    let refused = ask(&envoy, at("/typo")).await;
    assert_eq!(
        (refused.status, refused.header("x-knhk-reason"), refused.version()),
        (503, Some("bad_route_option"), "")
    );
    let text = reqwest::Client::new()
        .get(format!("http://{}/typo", envoy.address()))
        .send()
        .await
        .expect("an answer")
        .text()
        .await
        .expect("a body");
    assert!(
        text.starts_with("grpc_initial_metadata.wait_timeout: `soon`"),
        "{text}"
    );
    assert_eq!(decisions(&mesh.cli().expect("the command line")).await.len(), 2);
    until_outcomes(&mesh, "not_recorded", 1).await;
    until_outcomes(&mesh, "failed_closed", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_upstream_answered_is_recorded_as_the_client_saw_it() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    mesh.apply(&RolloutFile::at(100.0)).await.expect("it is applied");
    let mut config = patient(&mesh);
    let nobody = knhk_tests::ports::Port::reserve().expect("a free port");
    config.set_cluster("canary", nobody.address()).expect("a cluster");
    let envoy = start(config).await;
    let answer = ask(&envoy, user("u1")).await;
    assert_eq!((answer.status, answer.version()), (503, ""), "Envoy's own answer");
    let id = receipt(&answer).expect("a receipt all the same");
    let cli = mesh.cli().expect("the command line");
    let payload = payload(&cli, &id).await;
    assert_eq!(payload["status"], 503);
    assert_eq!(payload["evidence"]["rollout"]["variant"], "canary");
    assert_eq!(decisions(&cli).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_client_goes_away_is_recorded_without_a_status() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = start(patient(&mesh)).await;
    mesh.apply(&RolloutFile::at(100.0)).await.expect("it is applied");
    mesh.canary.delay(NEVER);
    let mut client = TcpStream::connect(envoy.address()).await.expect("Envoy listens");
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n{USER}: u1\r\n\r\n");
    client
        .write_all(request.as_bytes())
        .await
        .expect("it can be sent");
    until_asked(&mesh, 1).await;
    drop(client);
    let cli = mesh.cli().expect("the command line");
    let payload = newest_of(&cli, 1).await;
    assert_eq!(payload["via"], "ext_proc");
    assert_eq!(
        (&payload["status"], &payload["durationUs"]),
        (&Value::Null, &Value::Null)
    );
    until_outcomes(&mesh, "recorded_unfinished", 1).await;
    assert_eq!(counter(&mesh, "knhk_exchanges_open").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_under_a_request_or_away_is_envoys_to_decide() {
    for allow in [false, true] {
        let mut mesh = Mesh::start().await.expect("the mesh starts");
        let mut config = patient(&mesh);
        filter(&mut config)["failure_mode_allow"] = json!(allow);
        let envoy = start(config).await;
        mesh.apply(&RolloutFile::at(100.0)).await.expect("it is applied");
        mesh.canary.delay(Duration::from_secs(1));
        let address = envoy.address();
        let under_way = tokio::spawn(async move { Client::new(address).ask(&user("u1")).await });
        until_asked(&mesh, 1).await;
        mesh.service.kill();
        let answer = under_way.await.expect("no panic").expect("it is answered");
        assert_eq!(receipt(&answer), None);
        // Decided before, so it is the canary's where it goes on.
        let expected = if allow { (200, "v2") } else { (503, "") };
        assert_eq!((answer.status, answer.version()), expected, "allowed: {allow}");

        let away = ask(&envoy, user("u1").header("x-knhk-variant", "canary")).await;
        let expected = if allow { (200, "v1") } else { (503, "") };
        assert_eq!(
            (away.status, away.version(), receipt(&away)),
            (expected.0, expected.1, None)
        );

        mesh.canary.delay(Duration::ZERO);
        mesh.service.up().await.expect("it starts again on its data");
        until_recorded(&envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_answer_is_envoys_to_decide() {
    for allow in [false, true] {
        let mesh = Mesh::start().await.expect("the mesh starts");
        mesh.apply(&RolloutFile::at(100.0)).await.expect("it is applied");
        let mut config = patient(&mesh);
        filter(&mut config)["failure_mode_allow"] = json!(allow);
        filter(&mut config)["message_timeout"] = json!("1s");
        let envoy = start(config).await;
        until_recorded(&envoy).await;
        let frozen = mesh
            .service
            .process()
            .expect("it runs")
            .freeze()
            .await
            .expect("it stops");
        let answer = ask(&envoy, user("u2")).await;
        // Envoy's own status of a timeout: `status_on_error` is not for this.
        let expected = if allow { (200, "v1") } else { (504, "") };
        assert_eq!((answer.status, answer.version()), expected, "allowed: {allow}");
        assert_eq!(receipt(&answer), None);
        drop(frozen);
        until_recorded(&envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_end_the_service_records_what_is_under_way() {
    let mut mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = start(patient(&mesh)).await;
    mesh.apply(&RolloutFile::at(100.0)).await.expect("it is applied");
    mesh.canary.delay(Duration::from_secs(1));
    let address = envoy.address();
    let under_way = tokio::spawn(async move { Client::new(address).ask(&user("u1")).await });
    until_asked(&mesh, 1).await;
    let status = mesh.service.terminate(SOON).await.expect("it ends");
    assert!(status.success(), "{status}");
    let answer = under_way.await.expect("no panic").expect("it is answered");
    let id = receipt(&answer).expect("a receipt");
    mesh.service.up().await.expect("it starts again");
    let cli = mesh.cli().expect("the command line");
    assert_eq!(payload(&cli, &id).await["status"], 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_answered_as_the_route_says_and_forgotten_when_there_is_room() {
    let disk = SmallDisk::mount().expect("a small disk");
    let mut mesh = Mesh::without_service().await.expect("the mesh starts");
    mesh.service = knhk_tests::service::Service::stopped_in(disk.path()).expect("a directory");
    mesh.service.up().await.expect("the service starts");
    mesh.apply(&RolloutFile::at(100.0)).await.expect("it is applied");
    let closed = start(patient(&mesh)).await;
    let mut config = patient(&mesh);
    config
        .set_process_option("on_error", "open")
        .expect("the options");
    let open = start(config).await;
    assert!(receipt(&ask(&closed, user("u1")).await).is_some());

    disk.fill().expect("it is full");
    until_refused(&closed).await;
    let refused = ask(&closed, user("u1")).await;
    assert_eq!(
        (refused.status, refused.header("x-knhk-reason"), receipt(&refused)),
        (503, Some("not_recorded"), None)
    );
    let passed = ask(&open, user("u1")).await;
    assert_eq!(
        (passed.status, passed.version(), receipt(&passed)),
        (200, "v2", None)
    );
    assert!(outcomes(&mesh, "failed_closed").await >= 1 && outcomes(&mesh, "failed_open").await == 1);

    disk.free().expect("there is room");
    for envoy in [&closed, &open] {
        until_recorded(envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_observability_mode_requests_are_recorded_and_never_wait() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    mesh.apply(&RolloutFile::at(100.0)).await.expect("it is applied");
    let mut config = patient(&mesh);
    filter(&mut config)["observability_mode"] = json!(true);
    let envoy = start(config).await;
    let answer = ask(&envoy, user("u1")).await;
    assert_eq!(
        (answer.status, answer.version(), receipt(&answer)),
        (200, "v1", None),
        "nothing that was decided reaches the request"
    );
    let payload = newest_of(&mesh.cli().expect("the command line"), 1).await;
    assert_eq!(payload["status"], 200);
}
