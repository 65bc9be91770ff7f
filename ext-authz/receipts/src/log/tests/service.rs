//! The log as the service uses it: threads, tasks, real disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::payload::samples;
use crate::storage::ModelStorage;
use crate::testing::{TestSigner, still_env};
use crate::{
    DiskStorage, Log, LogError, LogOptions, MAX_APPEND_BYTES, MAX_PAYLOAD_BYTES, Payload, PolicyReceipt,
    ReceiptFile, SignerError, SigningKey,
};

/// Flushes come when a test asks for them, or not at all.
pub(super) const NEVER: Duration = Duration::from_secs(60);

pub(super) fn options(flush: Duration) -> LogOptions {
    LogOptions {
        flush,
        ..LogOptions::new("test")
    }
}

async fn open(dir: &Path, flush: Duration, signer: &Arc<TestSigner>) -> Result<Log, LogError> {
    let storage = Arc::new(DiskStorage::open(dir).expect("a directory"));
    let signer: Arc<TestSigner> = Arc::clone(signer);
    Log::open_with_segments(storage, options(flush), signer, still_env(), 40_000, None).await
}

pub(super) struct Fixture {
    dir: tempfile::TempDir,
    pub(super) signer: Arc<TestSigner>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
            signer: Arc::new(TestSigner::new(1)),
        }
    }

    pub(super) async fn open(&self) -> Log {
        self.try_open().await.expect("opens")
    }

    pub(super) async fn try_open(&self) -> Result<Log, LogError> {
        open(self.dir.path(), NEVER, &self.signer).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_appends_get_unique_contiguous_indexes_and_survive_a_restart() {
    let fixture = Fixture::new();
    let log = fixture.open().await;
    let mut appenders = JoinSet::new();
    for appender in 0..64_u64 {
        let log = log.clone();
        appenders.spawn(async move {
            let mut got = Vec::new();
            for i in 0..10 {
                let seqs: Vec<_> = (0..=i % 3).map(|n| appender * 1000 + i * 10 + n).collect();
                let payloads = seqs.iter().copied().map(samples::decision).collect();
                let indexes = log.append(payloads).await.expect("appends");
                assert!(
                    indexes.windows(2).all(|pair| pair[0] + 1 == pair[1]),
                    "{indexes:?}"
                );
                assert!(
                    indexes[0] > got.last().map_or(0, |&(last, _)| last),
                    "later appends come later"
                );
                got.extend(indexes.into_iter().zip(seqs));
            }
            got
        });
    }
    let mut all = appenders.join_all().await.concat();
    all.sort_unstable();
    let size = log.size();
    let indexes: Vec<_> = all.iter().map(|&(index, _)| index).collect();
    assert_eq!(
        indexes,
        (1..size).collect::<Vec<_>>(),
        "unique, contiguous, behind the genesis"
    );
    let check = |log: &Log| {
        let found: Vec<_> = log.scan(0).collect::<Result<_, _>>().expect("reads");
        assert_eq!(found.len() as u64, size);
        assert_eq!(found[0].1.kind(), "genesis");
        for ((index, seq), (found_at, payload)) in all.iter().zip(&found[1..]) {
            assert_eq!((index, &samples::decision(*seq)), (found_at, payload));
        }
        for (index, seq) in all.iter().step_by(7) {
            assert_eq!(log.payload(*index).expect("reads"), samples::decision(*seq));
        }
    };
    check(&log);
    log.close().await.expect("closes");
    let log = fixture.open().await;
    check(&log);
    assert_eq!(log.checkpoint().expect("closing flushed").size(), size);
}

#[tokio::test]
async fn signing_that_fails_delays_checkpoints_and_nothing_else() {
    let fixture = Fixture::new();
    let log = fixture.open().await;
    fixture.signer.set_failing(true);
    for i in 0..5 {
        log.append(vec![samples::decision(i)])
            .await
            .expect("appends do not need signatures");
        assert_eq!(log.flush_now().await.expect_err("no signature").label(), "sign");
    }
    let status = log.status();
    assert_eq!((status.size, status.signed_size, status.unsigned), (6, 0, 6));
    assert_eq!(status.last_flush_error.expect("it failed").label(), "sign");
    assert!(status.last_write_error.is_none());
    fixture.signer.set_failing(false);
    assert_eq!(
        log.flush_now()
            .await
            .expect("signs again")
            .expect("a checkpoint")
            .size(),
        6
    );
    let status = log.status();
    assert_eq!((status.signed_size, status.unsigned), (6, 0));
    assert!(status.last_flush_error.is_none());
}

#[tokio::test]
async fn nothing_new_is_nothing_signed_and_one_entry_is_not_signed() {
    let fixture = Fixture::new();
    let log = fixture.open().await;
    assert_eq!(log.flush_now().await.expect("flushes"), None);
    assert_eq!(log.checkpoint(), None);
    assert_eq!(log.tile("checkpoint").expect_err("none").label(), "no_tile");
    log.append(vec![samples::decision(1)]).await.expect("appends");
    for _ in 0..3 {
        assert_eq!(
            log.flush_now()
                .await
                .expect("flushes")
                .expect("two entries")
                .size(),
            2
        );
    }
    assert_eq!(fixture.signer.signatures(), 2, "checkpoint and COSE root");
    log.close().await.expect("closes");
    let log = fixture.open().await;
    assert_eq!(
        log.flush_now()
            .await
            .expect("flushes")
            .expect("the old one")
            .size(),
        2
    );
    assert_eq!(fixture.signer.signatures(), 2, "a restart signs nothing");
}

#[tokio::test]
async fn waiting_for_a_checkpoint_ends_at_the_next_tick_and_when_the_log_closes() {
    let fixture = Fixture::new();
    let log = open(fixture.dir.path(), Duration::from_millis(5), &fixture.signer)
        .await
        .expect("opens");
    let indexes = log.append(vec![samples::decision(1)]).await.expect("appends");
    assert!(log.covered(indexes[0]).await.expect("the tick covers it").size() > indexes[0]);
    let waiting = tokio::spawn({
        let log = log.clone();
        async move { log.covered(1000).await }
    });
    let reader = log.clone();
    log.close().await.expect("closes");
    assert_eq!(
        waiting
            .await
            .expect("ends")
            .expect_err("no such entry will come")
            .label(),
        "closed"
    );
    assert_eq!(
        reader
            .append(vec![samples::decision(2)])
            .await
            .expect_err("closed")
            .label(),
        "closed"
    );
    assert_eq!(reader.flush_now().await.expect_err("closed").label(), "closed");
    assert_eq!(reader.payload(1).expect("can still read"), samples::decision(1));
    reader.close().await.expect("is closed already");
}

#[tokio::test]
async fn closing_writes_and_signs_what_waits() {
    let fixture = Fixture::new();
    let log = fixture.open().await;
    let append = tokio::spawn({
        let log = log.clone();
        async move { log.append(vec![samples::decision(1), samples::decision(2)]).await }
    });
    tokio::task::yield_now().await;
    log.close().await.expect("closes");
    let indexes = append.await.expect("ends").expect("it was in the queue");
    assert_eq!(indexes, [1, 2]);
    assert_eq!(fixture.open().await.checkpoint().expect("signed").size(), 3);
}

#[tokio::test]
async fn one_process_has_the_directory_and_the_next_one_gets_it() {
    let fixture = Fixture::new();
    let log = fixture.open().await;
    let error = open(fixture.dir.path(), NEVER, &fixture.signer)
        .await
        .map(|_| ())
        .expect_err("in use");
    assert_eq!(error.label(), "locked");
    assert!(
        error
            .to_string()
            .contains(&format!("by process {}", std::process::id())),
        "{error}"
    );
    let reader = log.clone();
    log.close().await.expect("closes");
    fixture
        .open()
        .await
        .close()
        .await
        .expect("free, though a reader is left");
    drop(reader);
}

#[tokio::test]
async fn a_dropped_log_gives_the_lock_back() {
    let storage = ModelStorage::new();
    let open = || {
        let storage = Arc::new(storage.clone());
        Log::open(storage, options(NEVER), Arc::new(TestSigner::new(1)), still_env())
    };
    drop(open().await.expect("opens"));
    // Its thread and its task end by themselves, soon.
    loop {
        match open().await {
            Ok(_) => break,
            Err(LogError::Locked { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn another_region_is_refused() {
    let fixture = Fixture::new();
    fixture.open().await.close().await.expect("closes");
    let storage = Arc::new(DiskStorage::open(fixture.dir.path()).expect("a directory"));
    let other = LogOptions {
        flush: NEVER,
        ..LogOptions::new("other")
    };
    let result = Log::open(storage, other, Arc::clone(&fixture.signer) as _, still_env()).await;
    let error = result.map(|_| ()).expect_err("another log");
    assert_eq!(error.label(), "other_log");
    assert!(
        error
            .to_string()
            .contains("`knhk.dev/log/test`, not `knhk.dev/log/other`"),
        "{error}"
    );
}

#[tokio::test]
async fn sizes_are_bounded() {
    let fixture = Fixture::new();
    let log = fixture.open().await;
    let policy = |bytes: usize| {
        let bytes = vec![b' '; bytes];
        let sha256 = <sha2::Sha256 as sha2::Digest>::digest(&bytes).into();
        let id = knhk_decision::PolicyId { epoch: 1, n: 1 };
        Payload::Policy(PolicyReceipt {
            region: "test".to_owned(),
            time_unix_ms: 0,
            id,
            sha256,
            bytes,
        })
    };
    assert_eq!(log.append(Vec::new()).await.expect_err("nothing").label(), "size");
    let error = log
        .append(vec![policy(MAX_PAYLOAD_BYTES)])
        .await
        .expect_err("with its frame it is too large");
    assert!(
        error.to_string().contains(&MAX_PAYLOAD_BYTES.to_string()),
        "{error}"
    );
    let large = policy(MAX_PAYLOAD_BYTES - 100);
    log.append(vec![large.clone()]).await.expect("a large one");
    assert_eq!(log.payload(1).expect("reads"), large);
    let many = vec![large; 1 + MAX_APPEND_BYTES / MAX_PAYLOAD_BYTES];
    assert_eq!(
        log.append(many).await.expect_err("too much at once").label(),
        "size"
    );
    assert_eq!(log.size(), 2);
    log.flush_now().await.expect("flushes");
    let file = log.receipt(1).await.expect("covered").to_bytes();
    ReceiptFile::from_bytes(&file)
        .expect("the largest payload fits")
        .verify(&[fixture.signer.public_key()])
        .expect("genuine");
}

#[tokio::test]
async fn a_signature_that_does_not_verify_is_not_published() {
    struct Wrong(TestSigner);
    #[async_trait::async_trait]
    impl crate::Signer for Wrong {
        async fn newest(&self) -> Result<SigningKey, SignerError> {
            self.0.newest().await
        }
        async fn sign_digest(&self, _: &SigningKey, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
            self.0.sign_digest(&TestSigner::key_of(2), digest).await
        }
    }
    let storage = Arc::new(ModelStorage::new());
    let signer = Arc::new(Wrong(TestSigner::new(1)));
    let log = Log::open(storage.clone(), options(NEVER), signer, still_env())
        .await
        .expect("opens");
    log.append(vec![samples::decision(1)]).await.expect("appends");
    assert_eq!(log.flush_now().await.expect_err("not its key's").label(), "sign");
    assert_eq!(log.checkpoint(), None);
    for path in ["log/checkpoint", "log/root"] {
        assert!(!storage.paths().contains(&path.to_owned()), "{path}");
    }
}
