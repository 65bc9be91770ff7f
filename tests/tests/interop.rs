//! Others verify our receipts by the standard alone: `scitt-cose` (Python) reads RFC 9942 COSE receipts of a real log.
#![allow(clippy::expect_used)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use knhk_receipts::payload::samples;
use knhk_receipts::testing::TestSigner;
use knhk_receipts::{CoseReceipt, DiskStorage, Env, Log, LogOptions, ReceiptFile, SigningKey};
use knhk_tests::peer::NotRun;

/// Sizes of the trees that receipts are taken from: odd ones, tiles that are full, and the second level.
const SIZES: [u64; 7] = [2, 3, 5, 256, 257, 700, 1025];

/// What the verifier is asked, a line each.
#[derive(Default)]
struct Questions(String);

impl Questions {
    fn ask(&mut self, receipt: &[u8], file: &ReceiptFile, pem: &Path) {
        let hex = |bytes: &[u8]| {
            bytes.iter().fold(String::new(), |mut text, byte| {
                write!(text, "{byte:02x}").expect("a String takes every character");
                text
            })
        };
        let line = format!("{} {} {}\n", hex(receipt), hex(&file.entry), pem.display());
        self.0.push_str(&line);
    }

    /// The verifier's answers, a line each.
    fn answers(&self, verifier: &Verifier) -> Vec<String> {
        let directory = tempfile::tempdir().expect("a directory");
        let questions = directory.path().join("questions");
        std::fs::write(&questions, &self.0).expect("writes");
        let output = Command::new(&verifier.python)
            .arg(&verifier.script)
            .stdin(std::fs::File::open(&questions).expect("opens"))
            .stderr(Stdio::inherit())
            .output()
            .expect("python runs");
        assert!(output.status.success(), "the verifier failed: {}", output.status);
        let text = String::from_utf8(output.stdout).expect("text");
        let answers: Vec<_> = text.lines().map(str::to_owned).collect();
        assert_eq!(
            answers.len(),
            self.0.lines().count(),
            "an answer to each question"
        );
        answers
    }
}

struct Verifier {
    python: PathBuf,
    script: PathBuf,
}

impl Verifier {
    fn install() -> Result<Self, NotRun> {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let output = Command::new(peers.join("scitt.sh"))
            .output()
            .map_err(NotRun::because("scitt-cose"))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(NotRun::new(
                "scitt-cose",
                why.lines().last().unwrap_or("no reason"),
            ));
        }
        Ok(Self {
            python: PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()),
            script: peers.join("scitt/verify.py"),
        })
    }
}

async fn open(data: &Path) -> Log {
    let storage = Arc::new(DiskStorage::open(data).expect("a directory"));
    let options = LogOptions {
        flush: Duration::from_secs(60),
        ..LogOptions::new("test")
    };
    let signer = Arc::new(TestSigner::new(1));
    Log::open(storage, options, signer, Env::system())
        .await
        .expect("opens")
}

/// Appends up to `size` entries, and signs.
async fn grow(log: &Log, size: u64) {
    let payloads: Vec<_> = (log.size()..size).map(samples::decision).collect();
    log.append(payloads).await.expect("appends");
    log.flush_now().await.expect("signs");
}

fn pem(directory: &Path, key: &SigningKey) -> PathBuf {
    let path = directory.join(format!("{}.pem", key.version));
    std::fs::write(&path, key.public.pem()).expect("writes");
    path
}

/// First, last, and some between.
async fn some_receipts(log: &Log) -> Vec<ReceiptFile> {
    let size = log.checkpoint().expect("signed").size();
    let mut receipts = Vec::new();
    for index in [0, 1, size / 3, size / 2, size - 2, size - 1] {
        receipts.push(log.receipt(index).await.expect("a receipt"));
    }
    receipts
}

#[tokio::test(flavor = "multi_thread")]
async fn another_verifier_accepts_receipts_of_every_size_before_and_after_a_rotation() {
    let verifier = Verifier::install().expect("the peer");
    let directory = tempfile::tempdir().expect("a directory");
    let log = open(&directory.path().join("data")).await;
    let (first, second) = (TestSigner::key_of(1), TestSigner::key_of(2));
    let (old, new) = (pem(directory.path(), &first), pem(directory.path(), &second));

    let (mut good, mut bad) = (Questions::default(), Questions::default());
    for size in SIZES {
        grow(&log, size).await;
        for file in some_receipts(&log).await {
            good.ask(&file.cose.to_bytes(), &file, &old);
            bad.ask(&file.cose.to_bytes(), &file, &new);
        }
    }
    log.rotate(second, "test").await.expect("rotates");
    for more in [1, 2, 300] {
        grow(&log, log.size() + more).await;
        for file in some_receipts(&log).await {
            good.ask(&file.cose.to_bytes(), &file, &new);
            bad.ask(&file.cose.to_bytes(), &file, &old);
        }
    }
    log.close().await.expect("closes");
    let answers = good.answers(&verifier);
    assert!(answers.len() > 50);
    assert!(answers.iter().all(|answer| answer == "verified"), "{answers:?}");
    let answers = bad.answers(&verifier);
    assert!(
        answers.iter().all(|answer| answer.starts_with("refused")),
        "{answers:?}"
    );
}

/// The file with this COSE receipt, if all that is changed in that is the size of the tree.
fn resized(changed: &[u8], file: &ReceiptFile) -> Option<ReceiptFile> {
    let cose = CoseReceipt::from_bytes(changed).ok()?;
    let tree_size = file.cose.tree_size;
    let only_the_size = cose.tree_size != tree_size
        && CoseReceipt {
            tree_size,
            ..cose.clone()
        } == file.cose;
    only_the_size.then(|| ReceiptFile { cose, ..file.clone() })
}

#[tokio::test(flavor = "multi_thread")]
async fn another_verifier_refuses_a_receipt_with_a_byte_changed() {
    let verifier = Verifier::install().expect("the peer");
    let directory = tempfile::tempdir().expect("a directory");
    let log = open(&directory.path().join("data")).await;
    let key = pem(directory.path(), &TestSigner::key_of(1));
    grow(&log, 700).await;
    let file = log.receipt(345).await.expect("a receipt");
    log.close().await.expect("closes");

    let bytes = file.cose.to_bytes();
    let mut questions = Questions::default();
    questions.ask(&bytes, &file, &key);
    let (mut asked, mut of_another_size) = (0, 0);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        // The standard signs the root and not the size: only what has the checkpoint too sees that one.
        if let Some(resized) = resized(&changed, &file) {
            let error = resized
                .verify(&[TestSigner::key_of(1).public])
                .expect_err("changed");
            assert_eq!(error.label(), "cose");
            of_another_size += 1;
            continue;
        }
        questions.ask(&changed, &file, &key);
        asked += 1;
    }
    assert!(
        asked > 200 && of_another_size <= 2,
        "{asked} and {of_another_size}"
    );
    let mut other_entry = file.clone();
    other_entry.entry[0] ^= 1;
    questions.ask(&bytes, &other_entry, &key);
    let answers = questions.answers(&verifier);
    assert_eq!(answers[0], "verified");
    let accepted: Vec<_> = (0..)
        .zip(&answers[1..])
        .filter(|(_, it)| *it == "verified")
        .collect();
    assert!(accepted.is_empty(), "changed bytes went unseen: {accepted:?}");
}
