//! `knhk receipt audit` on the log of a real service, while it runs and after.
#![allow(clippy::expect_used)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use knhk_tests::cli::{Cli, Output};
use knhk_tests::gate::connect;
use knhk_tests::mesh::RolloutFile;
use knhk_tests::recorded::{Recording, check};
use knhk_tests::service::{REGION, Service};
use knhk_tests::small_disk::SmallDisk;
use knhk_tests::wait;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tokio::net::TcpListener;

/// Changed bits in each of the tests below.
const FLIPS: usize = 40;

async fn audit(target: &str, more: &[&str]) -> Output {
    let mut arguments = vec!["receipt", "audit", target, "-o", "json"];
    arguments.extend(more);
    Cli::offline()
        .expect("the command line")
        .run(&arguments)
        .await
        .expect("it runs")
}

/// The answer of an audit that found nothing.
async fn clean(target: &str, more: &[&str]) -> Value {
    let output = audit(target, more).await;
    assert_eq!(
        (output.code, output.stderr.as_str()),
        (0, ""),
        "{}",
        output.stdout
    );
    let answer: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(answer["clean"], true);
    answer
}

async fn more_than(recording: &Recording, count: u64) {
    wait::until("acknowledged receipts", wait::SOON, || async {
        let now = recording.count();
        if now > count {
            Ok(())
        } else {
            Err(format!("{now}"))
        }
    })
    .await
    .expect("traffic flows");
}

/// A service that recorded decisions, an operator's action and a rotation. It still runs.
async fn with_a_life() -> Service {
    let service = Service::start().await.expect("the service starts");
    let file = RolloutFile::at(20.0).write(&service).expect("a rollout");
    let cli = service.cli().expect("the command line");
    let apply = [
        "rollout".as_ref(),
        "apply".as_ref(),
        "-f".as_ref(),
        file.as_os_str(),
    ];
    cli.json(&apply).await.expect("it is applied");
    std::fs::write(
        first_key(&service),
        cli.text(&["key", "show"]).await.expect("a key"),
    )
    .expect("written");
    let recording = Recording::start(service.addresses().grpc, "life")
        .await
        .expect("it connects");
    more_than(&recording, 300).await;
    cli.json(&["key", "rotate"]).await.expect("it rotates");
    more_than(&recording, 900).await;
    recording.finish().await;
    // Fetching the newest receipt waits until it is signed: nothing is left to be.
    let list = cli
        .json(&["receipt", "list", "--limit", "1"])
        .await
        .expect("a list");
    let newest = list["receipts"][0]["id"].as_str().expect("an ID").to_owned();
    cli.json(&["receipt", "get", &newest])
        .await
        .expect("it is signed");
    service
}

/// The key that the log began with.
fn first_key(service: &Service) -> PathBuf {
    service.directory().join("first.pem")
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_clean_while_it_grows_and_after_on_disk_and_over_the_network() {
    let mut service = with_a_life().await;
    let (data, url) = (
        shown(&service.data()),
        format!("http://{}", service.addresses().http),
    );
    let socket = format!("unix:{}/knhk.sock", service.data().display());
    let first = shown(&first_key(&service));
    let recording = Recording::start(service.addresses().grpc, "grows")
        .await
        .expect("it connects");
    let begin = clean(&data, &[]).await["size"].as_u64().expect("a size");
    let mut last = begin;
    for round in 1..=5 {
        more_than(&recording, round * 200).await;
        for target in [&data, &url, &socket] {
            let answer = clean(target, &["--key", &first]).await;
            let size = answer["size"].as_u64().expect("a size");
            assert!(size >= last, "it never shrinks: {last}, then {size}");
            assert_eq!(
                (answer["pinned"].as_bool(), answer["entries"].as_u64()),
                (Some(true), Some(size))
            );
            last = size;
        }
    }
    assert!(last > begin, "it grew meanwhile");
    let kept = service.directory().join("kept");
    let checkpoint = format!("{url}/v1/log/{REGION}/checkpoint");
    let bytes = reqwest::get(&checkpoint)
        .await
        .expect("answers")
        .bytes()
        .await
        .expect("a checkpoint");
    std::fs::write(&kept, bytes).expect("written");
    more_than(&recording, 1_200).await;
    recording.finish().await;
    let named = format!("{url}/v1/log/{REGION}");
    clean(&named, &["--since", &shown(&kept)]).await;

    let status = service.terminate(wait::SOON).await.expect("it ends");
    assert!(status.success(), "{status}");
    let answer = clean(&data, &["--key", &first, "--since", &shown(&kept)]).await;
    assert_eq!(answer["keys"].as_array().expect("keys").len(), 2);
    assert_eq!(answer["notes"].as_array().expect("notes").len(), 0, "{answer:#}");

    // Another log's key and checkpoint.
    let other = with_a_life().await;
    let output = audit(&data, &["--key", &shown(&first_key(&other))]).await;
    assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{output:?}");
    let of_other = shown(&other.data().join("log/checkpoint"));
    assert_eq!(
        audit(&data, &["--since", &of_other]).await.code,
        1,
        "another history"
    );
    assert_eq!(audit(&shown(service.directory()), &[]).await.code, 1, "no log");
}

/// What a key set says of the keys has to be so: a key that it lists as retired cannot be the one that signs.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_from_before_a_rotation_is_not_the_one_of_a_key_set_from_after_it() {
    let mut service = with_a_life().await;
    assert!(service.terminate(wait::SOON).await.expect("it ends").success());
    let (log, mut files) = (service.data().join("log"), Vec::new());
    list(&log, &log, &mut files);
    let before = tempfile::tempdir().expect("a directory");
    for file in files {
        let to = before.path().join("log").join(&file);
        std::fs::create_dir_all(to.parent().expect("a directory")).expect("made");
        std::fs::copy(log.join(&file), to).expect("copied");
    }
    let before = shown(before.path());
    service.up().await.expect("it starts");
    let cli = service.cli().expect("the command line");
    let set = service.directory().join("set.json");
    let fetch = async || {
        let keys = cli.json(&["key", "list"]).await.expect("keys");
        std::fs::write(&set, keys.to_string()).expect("written");
    };
    fetch().await;
    clean(&before, &["--key", &shown(&set)]).await;
    cli.json(&["key", "rotate"]).await.expect("it rotates");
    fetch().await;
    let answer = clean(&shown(&service.data()), &["--key", &shown(&set)]).await;
    assert_eq!(answer["pinned"], true);
    let output = audit(&before, &["--key", &shown(&set)]).await;
    assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{output:?}");
    let answer: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(
        (&answer["pinned"], &answer["findings"][0]["label"]),
        (&false.into(), &"keys".into()),
        "{answer:#}"
    );
    clean(&before, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_bit_on_disk_is_found_and_its_file_named() {
    let mut service = with_a_life().await;
    assert!(service.terminate(wait::SOON).await.expect("it ends").success());
    let (log, mut files) = (service.data().join("log"), Vec::new());
    list(&log, &log, &mut files);
    files.sort_unstable();
    let mut random = StdRng::seed_from_u64(4);
    for flip in 0..FLIPS {
        // Each file once, then any.
        let file = files
            .get(flip)
            .unwrap_or_else(|| &files[random.random_range(0..files.len())]);
        let before = std::fs::read(log.join(file)).expect("read");
        let mut after = before.clone();
        let at = random.random_range(0..after.len());
        after[at] ^= 1 << random.random_range(0..8);
        std::fs::write(log.join(file), &after).expect("written");
        let output = audit(&shown(&service.data()), &[]).await;
        std::fs::write(log.join(file), &before).expect("written");
        assert_named(&output, file, at);
    }
    clean(&shown(&service.data()), &[]).await;
}

fn assert_named(output: &Output, file: &str, at: usize) {
    assert_eq!(
        (output.code, output.stderr.lines().count()),
        (1, 1),
        "{file}, byte {at}: {output:?}"
    );
    let answer: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let findings = answer["findings"].as_array().expect("findings");
    assert!(
        findings.iter().any(|it| it["file"] == file),
        "{file}, byte {at}: {findings:#?}"
    );
}

fn list(root: &Path, dir: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("a name").path();
        if path.is_dir() {
            list(root, &path, files);
        } else {
            files.push(shown(path.strip_prefix(root).expect("below it")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_bit_on_the_way_is_found_and_its_file_named() {
    let service = with_a_life().await;
    let between = Between::start(service.addresses().http).await;
    let url = format!("http://{}/v1/log/{REGION}", between.address);
    // Nothing new is signed from here on, so every audit reads the same files.
    let before = clean(&url, &[]).await;
    let served = between.served();
    for kind in [
        "checkpoint",
        "checkpoints/",
        "payloads/",
        "tile/entries/",
        "tile/0/",
        "tile/1/",
    ] {
        assert!(
            served.iter().any(|path| path.starts_with(kind)),
            "{kind} is read: {served:?}"
        );
    }
    let mut random = StdRng::seed_from_u64(5);
    for flip in 0..FLIPS {
        let file = served
            .get(flip)
            .unwrap_or_else(|| &served[random.random_range(0..served.len())]);
        let (at, bit) = (random.random_range(0..1_usize << 20), random.random_range(0..8));
        between.change(Some((file.clone(), at, bit)));
        assert_named(&audit(&url, &[]).await, file, at);
    }
    between.change(None);
    assert_eq!(clean(&url, &[]).await["size"], before["size"]);
    let gone = format!("http://{}/v1/log/elsewhere", between.address);
    assert_eq!(audit(&gone, &[]).await.code, 1, "no such region");
}

/// Waits for a receipt, which there is none of before a checkpoint.
async fn signed_once(service: &Service) {
    let channel = connect(service.addresses().grpc)
        .await
        .expect("the service is there");
    let id = check(channel, "/first").await.expect("a receipt");
    let file = service.directory().join("first.receipt");
    let out = file.display().to_string();
    let got = service
        .cli()
        .expect("the command line")
        .run(&["receipt", "get", &id, "--out", &out])
        .await
        .expect("it runs");
    assert_eq!((got.code, got.stderr.as_str()), (0, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_full_leaves_a_log_that_is_clean_and_whole() {
    let disk = SmallDisk::mount().expect("a small disk");
    let mut service = Service::stopped_in(disk.path()).expect("a directory");
    service.up().await.expect("the service starts");
    let recording = Recording::start(service.addresses().grpc, "before")
        .await
        .expect("it connects");
    more_than(&recording, 300).await;
    signed_once(&service).await;
    // Full in the midst of appends, signatures and tiles; and again, and again.
    let mut acknowledged = Vec::new();
    let mut recording = Some(recording);
    for round in 0..4 {
        disk.fill().expect("it is full");
        let channel = connect(service.addresses().grpc)
            .await
            .expect("the service is there");
        wait::until("the log to refuse", wait::SOON, || async {
            match check(channel.clone(), "/full").await {
                None => Ok(()),
                Some(id) => Err(id),
            }
        })
        .await
        .expect("there is no room for receipts");
        acknowledged.extend(recording.take().expect("one is under way").finish().await);
        disk.free().expect("there is room");
        wait::until("a receipt again", wait::SOON, || async {
            check(channel.clone(), "/free")
                .await
                .ok_or_else(|| "none".to_owned())
        })
        .await
        .expect("it records again");
        let next = Recording::start(service.addresses().grpc, &round.to_string())
            .await
            .expect("it connects");
        let next = recording.insert(next);
        more_than(next, 300).await;
        clean(&shown(&service.data()), &[]).await;
    }
    acknowledged.extend(recording.take().expect("one is under way").finish().await);
    let newest = acknowledged
        .iter()
        .map(|it| number_of(&it.id))
        .max()
        .expect("receipts");
    assert!(service.terminate(wait::SOON).await.expect("it ends").success());
    let report = clean(&shown(&service.data()), &[]).await;
    assert!(
        report["entries"].as_u64().expect("a count") > newest,
        "nothing acknowledged is lost"
    );
}

/// The index in a receipt's ID.
fn number_of(id: &str) -> u64 {
    let (_, index) = id.rsplit_once('/').expect("REGION/INDEX");
    index.parse().expect("a number")
}

/// Which bit of which file is changed: a byte, modulo the file's length.
type Change = Option<(String, usize, u8)>;

/// A proxy that changes one bit.
struct Between {
    address: SocketAddr,
    change: Arc<Mutex<Change>>,
    served: Arc<Mutex<Vec<String>>>,
}

impl Between {
    async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (change, served) = (
            Arc::<Mutex<Change>>::default(),
            Arc::<Mutex<Vec<String>>>::default(),
        );
        let (changed, noted) = (Arc::clone(&change), Arc::clone(&served));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (change, served) = (Arc::clone(&changed), Arc::clone(&noted));
                let service =
                    service_fn(move |request| pass(to, request, Arc::clone(&change), Arc::clone(&served)));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self {
            address,
            change,
            served,
        }
    }

    fn change(&self, change: Change) {
        *self.change.lock().expect("no panic") = change;
    }

    /// Every file that was read, by its path in the log.
    fn served(&self) -> Vec<String> {
        let mut served = self.served.lock().expect("no panic").clone();
        served.sort_unstable();
        served.dedup();
        served
    }
}

async fn pass(
    to: SocketAddr,
    request: Request<Incoming>,
    change: Arc<Mutex<Change>>,
    served: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let answer = reqwest::get(format!("http://{to}{path}"))
        .await
        .expect("the service answers");
    let status = answer.status();
    let mut bytes = answer.bytes().await.expect("a body").to_vec();
    if let Some(file) = path
        .strip_prefix(&format!("/v1/log/{REGION}/"))
        .filter(|_| status.is_success())
    {
        served.lock().expect("no panic").push(file.to_owned());
        let change = change.lock().expect("no panic");
        if let Some((_, at, bit)) = change.as_ref().filter(|(changed, ..)| changed == file) {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        }
    }
    let answer = Response::builder()
        .status(status.as_u16())
        .body(Full::new(Bytes::from(bytes)));
    Ok(answer.expect("an answer"))
}
