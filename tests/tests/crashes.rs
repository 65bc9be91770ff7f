//! The service killed (`kill -9`) at random moments under load: what was acknowledged is there, and the log contradicts nothing
//! that anybody saw of it.
#![allow(clippy::expect_used)]

use std::collections::{BTreeMap, HashSet};
use std::io::Write as _;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use knhk_receipts::audit::{Audit, Directory, Report, audit};
use knhk_receipts::{Payload, PublicKey, ReceiptFile, SignedCheckpoint};
use knhk_tests::recorded::{Acknowledged, Recording};
use knhk_tests::service::{REGION, Service};
use knhk_tests::wait;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

/// Acknowledged receipts after which the service is killed, at most.
const MOST_BEFORE: u64 = 250;

/// The whole log is audited after each of the first rounds, and then after so many.
const AUDIT_EVERY: usize = 25;

/// Receipts that are fetched at a time.
const FETCHED_AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_it_loses_nothing_and_contradicts_nothing() {
    kill_and_restart(36, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes seven minutes: make soak"]
async fn killed_a_thousand_times_it_loses_nothing_and_contradicts_nothing() {
    kill_and_restart(1_000, 2).await;
}

async fn kill_and_restart(rounds: usize, schedule: u64) {
    let mut random = StdRng::seed_from_u64(schedule);
    let mut service = Service::stopped().expect("a service");
    let (mut acknowledged, mut seen) = (Vec::new(), BTreeMap::new());
    for round in 0..rounds {
        service.up().await.expect("it starts on what the last kill left");
        if round < AUDIT_EVERY || round % AUDIT_EVERY == 0 {
            let report = whole_log(&service.data(), &seen);
            assert!(report.is_clean(), "round {round}: {report:#?}");
        }
        let recording = Recording::start(service.addresses().grpc, &round.to_string())
            .await
            .expect("it connects");
        let watching = CancellationToken::new();
        let watch = tokio::spawn(watch(checkpoint_url(&service), watching.clone()));
        let before_kill = random.random_range(1..=MOST_BEFORE);
        wait::until("acknowledged receipts", wait::SOON, || async {
            let count = recording.count();
            if count >= before_kill {
                Ok(())
            } else {
                Err(format!("{count}"))
            }
        })
        .await
        .expect("traffic flows");
        if round % 9 == 4 {
            // A rotation under way is killed too, the first one or the one after it.
            let cli = service.cli().expect("the command line");
            let rotating = tokio::spawn(async move {
                for _ in 0..2 {
                    cli.run(&["key", "rotate"]).await.expect("it runs");
                }
            });
            let more = recording.count() + random.random_range(1..=20);
            let _ = wait::until("some more", wait::SOON, || async {
                if recording.count() >= more {
                    Ok(())
                } else {
                    Err(String::new())
                }
            })
            .await;
            service.kill();
            rotating.await.expect("no panic");
        } else {
            service.kill();
        }
        acknowledged.extend(recording.finish().await);
        watching.cancel();
        seen.extend(watch.await.expect("no panic"));
        if round % 4 == 1 {
            tear(&service.data(), &mut random);
        }
    }
    service.up().await.expect("it starts");
    let ids: HashSet<_> = acknowledged.iter().map(|it| &it.id).collect();
    assert_eq!(ids.len(), acknowledged.len(), "no ID is given twice");
    assert!(acknowledged.len() >= rounds, "{} receipts", acknowledged.len());
    assert!(seen.len() >= rounds / 4, "{} checkpoints", seen.len());
    all_are_there(&service, &acknowledged).await;
    let report = whole_log(&service.data(), &seen);
    assert!(report.is_clean(), "{report:#?}");
    assert!(service.terminate(wait::SOON).await.expect("it ends").success());
    let report = whole_log(&service.data(), &seen);
    assert!(
        report.is_clean() && report.notes.iter().all(|note| note.contains(".new")),
        "{report:#?}"
    );
}

fn checkpoint_url(service: &Service) -> String {
    format!("http://{}/v1/log/{REGION}/checkpoint", service.addresses().http)
}

/// Keeps every checkpoint that the service shows, as somebody outside does.
async fn watch(url: String, end: CancellationToken) -> BTreeMap<u64, SignedCheckpoint> {
    let (client, mut seen) = (reqwest::Client::new(), BTreeMap::new());
    while !end.is_cancelled() {
        let Ok(answer) = client.get(&url).send().await else {
            break;
        };
        if !answer.status().is_success() {
            continue;
        }
        let Ok(bytes) = answer.bytes().await else { break };
        let checkpoint = SignedCheckpoint::from_bytes(&bytes).expect("a checkpoint");
        let size = checkpoint.size();
        let before = seen.insert(size, checkpoint.clone());
        assert!(
            before.is_none_or(|it: SignedCheckpoint| it.root() == checkpoint.root()),
            "two roots of {size} entries"
        );
    }
    seen
}

/// What a write leaves that the kernel had only a part of.
fn tear(data: &Path, random: &mut StdRng) {
    let segments = std::fs::read_dir(data.join("log/segments")).expect("segments");
    let paths = segments.map(|entry| entry.expect("a name").path());
    let last = paths
        .filter(|path| path.extension().is_some_and(|it| it == "seg"))
        .max()
        .expect("a segment");
    let mut torn = vec![0; random.random_range(1..600)];
    random.fill(&mut torn[..]);
    // The beginning of a record: a length that fits one, and not all of what it says.
    for (byte, of_length) in torn.iter_mut().zip(1_000_u32.to_le_bytes()) {
        *byte = of_length;
    }
    let mut file = std::fs::File::options().append(true).open(last).expect("opens");
    file.write_all(&torn).expect("writes");
}

fn whole_log(data: &Path, seen: &BTreeMap<u64, SignedCheckpoint>) -> Report {
    let since: Vec<_> = seen
        .iter()
        .map(|(size, it)| (format!("seen at {size}"), it.clone()))
        .collect();
    let asked = Audit {
        threads: std::thread::available_parallelism().map_or(1, NonZero::get),
        pinned: &[],
        since: &since,
        progress: &|_| {},
    };
    let path: PathBuf = data.to_owned();
    let source = Directory::open(&path).expect("a log");
    match audit(&source, &asked) {
        Ok(report) => report,
        // Killed before the first checkpoint was signed.
        Err(error) if error.label() == "nothing_signed" && seen.is_empty() => Report::default(),
        Err(error) => panic!("{error}"),
    }
}

/// Every acknowledged receipt is in the log, with the request that it was given for, and verifies.
async fn all_are_there(service: &Service, acknowledged: &[Acknowledged]) {
    let http = service.addresses().http;
    let client = reqwest::Client::new();
    let get = async |path: String| {
        let answer = client
            .get(format!("http://{http}{path}"))
            .send()
            .await
            .expect("answers");
        let status = answer.status();
        let bytes = answer.bytes().await.expect("a body");
        assert!(status.is_success(), "{path}: {}", String::from_utf8_lossy(&bytes));
        bytes
    };
    let set: Value = serde_json::from_slice(&get("/v1/keys".to_owned()).await).expect("JSON");
    let pems: String = set["keys"]
        .as_array()
        .expect("keys")
        .iter()
        .map(|key| key["pem"].as_str().expect("PEM"))
        .collect();
    let keys = PublicKey::from_pem(&pems).expect("keys");
    futures::stream::iter(acknowledged)
        .for_each_concurrent(FETCHED_AT_ONCE, async |it| {
            let bytes = get(format!("/v1/receipts/{}", it.id)).await;
            let receipt = ReceiptFile::from_bytes(&bytes).expect("a receipt");
            let verified = receipt.verify(&keys).expect("it verifies");
            assert_eq!(verified.id.to_string(), it.id);
            let Payload::Decision(decision) = verified.payload else {
                panic!("{} is no decision", it.id);
            };
            let path: [u8; 32] = Sha256::digest(&it.path).into();
            assert_eq!(
                decision.evidence.path_sha256, path,
                "{} is of another request",
                it.id
            );
        })
        .await;
}
