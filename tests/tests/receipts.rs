//! Receipts from end to end: recorded by `ext_authz` and by the filter, fetched, verified offline, replayed.
#![allow(clippy::expect_used)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use knhk_tests::cli::Cli;
use knhk_tests::envoy::Envoy;
use knhk_tests::load::{Answer, ask_each};
use knhk_tests::mesh::{BOTH, EXT_AUTHZ, FILTER, Mesh, NAME, RolloutFile, user};
use knhk_tests::service::REGION;
use knhk_tests::wait;
use serde_json::{Value, json};

async fn ask_users(envoy: &Envoy, users: usize) -> Vec<Answer> {
    let asks = (0..users).map(|number| user(&secret(number))).collect();
    ask_each(envoy.address(), 8, asks)
        .await
        .expect("every request is answered")
}

/// A key that a receipt must not give away.
fn secret(number: usize) -> String {
    format!("very-secret-user-{number}")
}

/// Receipts of decisions, newest first, as the command line lists them.
async fn decisions(cli: &Cli) -> Vec<Value> {
    let list = cli
        .json(&[
            "receipt",
            "list",
            "--rollout",
            NAME,
            "--kind",
            "decision",
            "--limit",
            "1000",
        ])
        .await
        .expect("a list");
    list["receipts"].as_array().expect("receipts").clone()
}

async fn key(cli: &Cli, directory: &Path) -> PathBuf {
    let file = directory.join("key.pem");
    std::fs::write(&file, cli.text(&["key", "show"]).await.expect("a key")).expect("it can be written");
    file
}

async fn verify(file: &Path, key: &Path) -> knhk_tests::cli::Output {
    Cli::offline()
        .expect("the command line")
        .run(&[
            "receipt".as_ref(),
            "verify".as_ref(),
            file.as_os_str(),
            "--key".as_ref(),
            key.as_os_str(),
            "-o".as_ref(),
            "json".as_ref(),
        ])
        .await
        .expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_checked_request_has_a_receipt_that_verifies_offline_and_replays_to_the_same_verdict() {
    let mut mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.patient_proxy(EXT_AUTHZ).await.expect("Envoy starts");
    mesh.apply(&RolloutFile::at(50.0)).await.expect("it is applied");
    let answers = ask_users(&envoy, 100).await;
    let ids: Vec<String> = answers
        .iter()
        .map(|answer| {
            assert_eq!(answer.status, 200);
            answer
                .seen("receipt")
                .expect("a receipt before the upstream saw the request")
                .to_owned()
        })
        .collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 100, "each has its own");
    assert!(
        ids.iter().all(|id| id.starts_with(&format!("{REGION}/"))),
        "{ids:?}"
    );

    let (cli, directory) = (
        mesh.cli().expect("the command line"),
        tempfile::tempdir().expect("a directory"),
    );
    let listed: HashSet<String> = decisions(&cli)
        .await
        .iter()
        .map(|row| row["id"].as_str().expect("an ID").to_owned())
        .collect();
    assert!(
        ids.iter().all(|id| listed.contains(id)),
        "every receipt is listed"
    );
    let mut files = Vec::new();
    for (id, answer) in ids.iter().zip(&answers).step_by(10) {
        let file = cli.fetch(id, directory.path()).await.expect("a receipt");
        let replayed = cli.replay(&file).await.expect("it replays");
        assert_eq!(replayed["same"], true);
        assert_eq!(replayed["variant"].as_str(), answer.seen("variant"), "{id}");
        assert_eq!(replayed["policy"].as_str(), answer.seen("policy"), "{id}");
        let bytes = std::fs::read(&file).expect("it can be read");
        assert!(
            !bytes.windows(11).any(|part| part == b"very-secret"),
            "no raw key in {id}"
        );
        files.push((id, file));
    }
    let key = key(&cli, directory.path()).await;
    mesh.service.kill();
    for (id, file) in files {
        let output = verify(&file, &key).await;
        assert_eq!(output.code, 0, "{}", output.stderr);
        let answer: Value = serde_json::from_str(&output.stdout).expect("JSON");
        assert_eq!(
            (&answer["verified"], answer["id"].as_str()),
            (&json!(true), Some(id.as_str()))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_changed_byte_of_a_receipt_and_no_other_key_is_accepted() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    mesh.apply(&RolloutFile::at(50.0)).await.expect("it is applied");
    let (cli, directory) = (
        mesh.cli().expect("the command line"),
        tempfile::tempdir().expect("a directory"),
    );
    let list = cli
        .json(&["receipt", "list", "--rollout", NAME, "--kind", "action"])
        .await
        .expect("a list");
    let id = list["receipts"][0]["id"]
        .as_str()
        .expect("the receipt of the apply")
        .to_owned();
    let (file, key) = (
        cli.fetch(&id, directory.path()).await.expect("a receipt"),
        key(&cli, directory.path()).await,
    );
    assert_eq!(verify(&file, &key).await.code, 0);

    let bytes = std::fs::read(&file).expect("it can be read");
    // A process a byte is slow; a stride that is coprime to any structure's size visits every part.
    for position in (0..bytes.len()).step_by(37) {
        let mut forged = bytes.clone();
        forged[position] ^= 1 << (position % 8);
        let path = directory.path().join("forged");
        std::fs::write(&path, forged).expect("it can be written");
        let output = verify(&path, &key).await;
        assert_eq!(
            (output.code, output.stderr.lines().count()),
            (1, 1),
            "byte {position}: {output:?}"
        );
    }
    let other = Mesh::start().await.expect("another service");
    let other_directory = tempfile::tempdir().expect("a directory");
    let other_key = self::key(&other.cli().expect("the command line"), other_directory.path()).await;
    assert_eq!(verify(&file, &other_key).await.code, 1, "another service's key");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_filters_decisions_are_recorded_once_each() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    mesh.apply(&RolloutFile::at(50.0).with("record", json!("all")))
        .await
        .expect("it is applied");
    mesh.until_current(&envoy, NAME).await.expect("the filter has it");
    // Waiting for the snapshot took some requests, which may have been recorded as well.
    let cli = mesh.cli().expect("the command line");
    let before = settled(&cli).await;
    ask_users(&envoy, 400).await;
    wait::until("400 more receipts", wait::SOON, || async {
        let count = decisions(&cli).await.len() - before;
        if count == 400 {
            Ok(())
        } else {
            Err(format!("{count}"))
        }
    })
    .await
    .expect("each decision is recorded");
    assert_eq!(settled(&cli).await, before + 400, "and none twice");
    let directory = tempfile::tempdir().expect("a directory");
    for row in decisions(&cli).await.iter().step_by(50) {
        let file = cli
            .fetch(row["id"].as_str().expect("an ID"), directory.path())
            .await
            .expect("a receipt");
        let replayed = cli.replay(&file).await.expect("it replays");
        assert_eq!(replayed["same"], true);
    }
}

/// How many decisions are recorded once the count stays for some reports' time.
async fn settled(cli: &Cli) -> usize {
    let last = tokio::sync::Mutex::new((usize::MAX, tokio::time::Instant::now()));
    wait::until("no more receipts to come", wait::SOON, || async {
        let count = decisions(cli).await.len();
        let mut last = last.lock().await;
        if last.0 != count {
            *last = (count, tokio::time::Instant::now());
        }
        // Batches leave the filter with its ticks, at most some 250 ms apart.
        if last.1.elapsed() >= Duration::from_secs(1) {
            Ok(count)
        } else {
            Err(format!("{count}"))
        }
    })
    .await
    .expect("it settles")
}

#[tokio::test(flavor = "multi_thread")]
async fn with_both_filters_check_follows_the_first_and_alone_records() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.patient_proxy(BOTH).await.expect("Envoy starts");
    mesh.apply(&RolloutFile::at(50.0).with("record", json!("all")))
        .await
        .expect("it is applied");
    let status = mesh.until_current(&envoy, NAME).await.expect("the filter has it");
    let cli = mesh.cli().expect("the command line");
    let before = settled(&cli).await;
    let answers = ask_users(&envoy, 200).await;
    let mut ids = HashSet::new();
    for (number, answer) in answers.iter().enumerate() {
        let canary = knhk_decision::bucket(NAME, secret(number).as_bytes()) < 500_000;
        let (variant, version) = if canary {
            ("canary", "v2")
        } else {
            ("stable", "v1")
        };
        assert_eq!(
            (answer.status, answer.seen("variant"), answer.version()),
            (200, Some(variant), version)
        );
        assert_eq!(answer.seen("policy"), Some(status.policy.as_str()));
        ids.insert(answer.seen("receipt").expect("a receipt"));
    }
    assert_eq!(ids.len(), 200);
    assert_eq!(settled(&cli).await, before + 200, "one receipt a request");
}
