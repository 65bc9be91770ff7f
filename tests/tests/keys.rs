//! A real service that signs with each key service: rotation in the middle, and a key service that is away.
#![allow(clippy::expect_used)]

use std::path::Path;

use knhk_tests::cli::{Cli, Output};
use knhk_tests::mesh::{NAME, RolloutFile};
use knhk_tests::peer::vault::Vault;
use knhk_tests::peer::{AnyPeer, Provider};
use knhk_tests::service::{REGION, Service};
use knhk_tests::wait;
use serde_json::Value;

async fn start(peer: &AnyPeer) -> Service {
    let mut service = Service::stopped().expect("a service");
    service.sign_with(peer.key_service());
    service.up().await.expect("starts");
    service
}

/// Makes receipts: of a rollout that is applied, paused and resumed.
async fn act(service: &Service) {
    let cli = service.cli().expect("the command line");
    let file = RolloutFile::at(20.0).write(service).expect("a file");
    let apply = [
        "rollout".as_ref(),
        "apply".as_ref(),
        "-f".as_ref(),
        file.as_os_str(),
    ];
    cli.json(&apply).await.expect("is applied");
    for verb in ["pause", "resume"] {
        cli.json(&["rollout", verb, NAME]).await.expect("acts");
    }
}

async fn log_size(cli: &Cli) -> u64 {
    let list = cli
        .json(&["receipt", "list", "--limit", "1"])
        .await
        .expect("a list");
    let id = list["receipts"][0]["id"].as_str().expect("an ID");
    let index: u64 = id
        .rsplit('/')
        .next()
        .expect("an index")
        .parse()
        .expect("a number");
    index + 1
}

async fn keys(cli: &Cli) -> Vec<Value> {
    let set = cli.json(&["key", "list"]).await.expect("keys");
    set["keys"].as_array().expect("keys").clone()
}

/// Fetches every receipt of the log and verifies each offline with the published keys.
async fn verify_everything(service: &Service) {
    let (cli, directory) = (service.cli().expect("the command line"), service.directory());
    let set = directory.join("keys.json");
    let fetched = cli.json(&["key", "list"]).await.expect("keys");
    std::fs::write(&set, fetched.to_string()).expect("can be written");
    for index in 0..log_size(&cli).await {
        let file = directory.join(format!("{index}.receipt"));
        let id = format!("{REGION}/{index}");
        cli.json(&[
            "receipt".as_ref(),
            "get".as_ref(),
            id.as_ref(),
            "--out".as_ref(),
            file.as_os_str(),
        ])
        .await
        .expect("a receipt");
        let output = verify(&file, &set).await;
        assert_eq!(output.code, 0, "{id}: {output:?}");
    }
}

async fn verify(file: &Path, keys: &Path) -> Output {
    Cli::offline()
        .expect("the command line")
        .run(&[
            "receipt".as_ref(),
            "verify".as_ref(),
            file.as_os_str(),
            "--key".as_ref(),
            keys.as_os_str(),
        ])
        .await
        .expect("it runs")
}

/// The audit of a data directory, with a key set that is trusted: what is wrong, and how many keys there are.
async fn audited(data: &Path, set: &Path) -> (Output, usize) {
    let output = Cli::offline()
        .expect("the command line")
        .run(&[
            "receipt".as_ref(),
            "audit".as_ref(),
            data.as_os_str(),
            "--key".as_ref(),
            set.as_os_str(),
            "-o".as_ref(),
            "json".as_ref(),
        ])
        .await
        .expect("it runs");
    let answer: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let keys = answer["keys"].as_array().map_or(0, Vec::len);
    (output, keys)
}

/// A rotation under a running service, two more after a restart with nothing between them; every receipt verifies at the end,
/// and an audit finds nothing.
async fn rotates(provider: Provider) {
    let peer = provider.start().await.expect("the peer");
    let mut service = start(&peer).await;
    act(&service).await;
    let cli = service.cli().expect("the command line");
    let first = cli.json(&["key", "show"]).await.expect("a key");
    let second = cli.json(&["key", "rotate"]).await.expect("rotates");
    assert_eq!(
        (&second["state"], &first["state"]),
        (&"active".into(), &"active".into())
    );
    assert_ne!(second["id"], first["id"]);
    act(&service).await;
    service.terminate(wait::SOON).await.expect("ends");
    service.up().await.expect("starts again");
    let shown = cli.json(&["key", "show"]).await.expect("a key");
    assert_eq!(shown["id"], second["id"], "the key is the same after a restart");
    for _ in 0..2 {
        cli.json(&["key", "rotate"]).await.expect("rotates");
    }
    act(&service).await;
    let states: Vec<_> = keys(&cli).await.iter().map(|key| key["state"].clone()).collect();
    assert_eq!(states, ["retired", "retired", "retired", "active"]);
    verify_everything(&service).await;
    let set = service.directory().join("keys.json");
    for running in [true, false] {
        if !running {
            service.terminate(wait::SOON).await.expect("ends");
        }
        let (output, keys) = audited(&service.data(), &set).await;
        assert_eq!((output.code, keys), (0, 4), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_verify_across_rotations_of_a_key_in_files() {
    rotates(Provider::Local).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_verify_across_rotations_at_aws() {
    rotates(Provider::Aws).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_verify_across_rotations_at_azure() {
    rotates(Provider::Azure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_verify_across_rotations_at_vault() {
    rotates(Provider::Vault).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_key_service_is_away_receipts_are_kept_and_it_signs_them_when_it_is_back() {
    let mut peer = AnyPeer::Vault(Box::new(Vault::start().await.expect("the peer")));
    let mut service = start(&peer).await;
    act(&service).await;
    verify_everything(&service).await;
    let AnyPeer::Vault(vault) = &mut peer else {
        unreachable!("it is a Vault")
    };
    vault.proxy().go().await;

    // What is done now is durable at once, and says that it waits.
    act(&service).await;
    let readiness = wait::until("the outage to be seen", wait::SOON, || async {
        let readiness = readiness(&service).await;
        let detail = readiness["detail"].to_string();
        if detail.contains("wait for a signature") {
            Ok(readiness)
        } else {
            Err(detail)
        }
    })
    .await
    .expect("it is seen");
    assert_eq!(
        readiness["ready"], true,
        "a service that cannot sign still decides and records"
    );
    let cli = service.cli().expect("the command line");
    let refused = cli.run(&["key", "rotate"]).await.expect("it runs");
    assert_eq!(
        (refused.code, refused.stderr.lines().count()),
        (1, 1),
        "{refused:?}"
    );
    assert!(refused.stderr.contains("the one in use goes on"), "{refused:?}");
    let shown = cli.run(&["key", "show"]).await.expect("it runs");
    assert!(
        shown.code == 0 && shown.stderr.contains("not rotated"),
        "{shown:?}"
    );

    // A start does not need the key service either.
    service.kill();
    service.up().await.expect("starts without it");
    act(&service).await;
    let size = log_size(&cli).await;
    vault.proxy().come_back().expect("it is back");
    verify_everything(&service).await;
    assert!(log_size(&cli).await >= size, "nothing was lost");
    cli.json(&["key", "rotate"]).await.expect("rotates now");
    assert!(readiness_is_clean(&service).await);
}

async fn readiness(service: &Service) -> Value {
    let url = format!("http://{}/readyz", service.addresses().probe);
    let answer = reqwest::get(url).await.expect("an answer");
    answer.json().await.expect("JSON")
}

async fn readiness_is_clean(service: &Service) -> bool {
    readiness(service).await["detail"] == serde_json::json!([])
}
