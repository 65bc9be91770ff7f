//! Signing that fails or hangs, and flushes that do not wait for the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::rig::{Promised, Rig, check};
use super::service::{NEVER, options};
use crate::payload::samples;
use crate::storage::ModelStorage;
use crate::testing::{TestSigner, still_env};
use crate::{Log, LogOptions, Signer, SignerError, SigningKey};

/// Answers for its first key only when it is let.
struct Gated {
    signer: TestSigner,
    lets: Semaphore,
    asked: AtomicU64,
}

#[async_trait]
impl Signer for Gated {
    async fn newest(&self) -> Result<SigningKey, SignerError> {
        self.signer.newest().await
    }

    async fn sign_digest(&self, key: &SigningKey, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if *key == self.signer.key() {
            self.lets.acquire().await.expect("never closed").forget();
        }
        self.signer.sign_digest(key, digest).await
    }
}

async fn open(signer: Arc<dyn Signer>, options: LogOptions) -> Log {
    Log::open(Arc::new(ModelStorage::new()), options, signer, still_env())
        .await
        .expect("opens")
}

#[tokio::test]
async fn a_flush_comes_by_count_before_its_time() {
    let few = LogOptions {
        flush_entries: 100,
        ..options(NEVER)
    };
    let log = open(Arc::new(TestSigner::new(1)), few).await;
    log.append((0..10).map(samples::decision).collect())
        .await
        .expect("appends");
    // The first tick is at the start.
    tokio::task::yield_now().await;
    log.append((10..200).map(samples::decision).collect())
        .await
        .expect("appends");
    let checkpoint = log
        .covered(150)
        .await
        .expect("covered, though the next tick is far");
    assert!(checkpoint.size() >= 101);
}

/// While the signer hangs, appends go on, and what is under no signature shows.
#[tokio::test]
async fn appends_do_not_wait_for_a_signer_that_hangs() {
    let signer = Arc::new(Gated {
        signer: TestSigner::new(1),
        lets: Semaphore::new(0),
        asked: AtomicU64::new(0),
    });
    let few = LogOptions {
        flush_entries: 10,
        ..options(NEVER)
    };
    let log = open(Arc::clone(&signer) as _, few).await;
    for round in 0..50 {
        log.append((0..20).map(|i| samples::decision(round * 20 + i)).collect())
            .await
            .expect("appends");
    }
    let status = log.status();
    assert_eq!(
        (status.size, status.signed_size, status.unsigned),
        (1001, 0, 1001)
    );
    signer.lets.add_permits(1000);
    let checkpoint = log.covered(1000).await.expect("signing catches up");
    assert_eq!(checkpoint.size(), 1001);
    assert_eq!(log.status().unsigned, 0);
    assert!(
        signer.asked.load(Ordering::SeqCst) <= 4,
        "two signatures a flush, however many entries"
    );
}

/// Rotations that nobody waits for any more are done all the same, each after the one before it.
#[tokio::test]
async fn rotations_whose_askers_are_gone_follow_each_other() {
    let signer = Arc::new(Gated {
        signer: TestSigner::new(1),
        lets: Semaphore::new(0),
        asked: AtomicU64::new(0),
    });
    let log = open(Arc::clone(&signer) as _, options(NEVER)).await;
    // The flusher hangs in its first flush with something to sign.
    log.append(vec![samples::decision(1)]).await.expect("appends");
    let flushing = tokio::spawn({
        let log = log.clone();
        async move { log.flush_now().await }
    });
    while signer.asked.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    for seed in [2, 3, 3] {
        // Its proof is signed, and it waits for its turn; then it is dropped.
        tokio::select! {
            biased;
            rotated = log.rotate(TestSigner::key_of(seed), "test") => panic!("{rotated:?}"),
            () = std::future::ready(()) => {}
        }
    }
    signer.lets.add_permits(1_000);
    flushing.await.expect("ends").expect("signs");
    // The last one is answered after those that were dropped.
    log.rotate(TestSigner::key_of(4), "test").await.expect("rotates");
    let keys = log.keys();
    let found: Vec<_> = keys
        .iter()
        .map(|it| (it.version.as_str(), it.state.as_str()))
        .collect();
    let states = ["retired", "retired", "retired", "active"];
    assert_eq!(
        found,
        ["k1", "k2", "k3", "k4"]
            .into_iter()
            .zip(states)
            .collect::<Vec<_>>()
    );
    for pair in keys.windows(2) {
        assert_eq!(pair[1].previous, Some(pair[0].key.key_id()));
        assert!(pair[0].announced < pair[1].announced);
    }
    assert_eq!(log.size(), 5, "each key is announced once");
}

/// While signing fails, it is tried again at each tick and count, not with each append.
#[tokio::test]
async fn an_outage_is_not_made_worse_by_load() {
    struct Down(TestSigner, AtomicU64);
    #[async_trait]
    impl Signer for Down {
        async fn newest(&self) -> Result<SigningKey, SignerError> {
            self.0.newest().await
        }
        async fn sign_digest(&self, key: &SigningKey, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.sign_digest(key, digest).await
        }
    }
    let signer = Arc::new(Down(TestSigner::new(1), AtomicU64::new(0)));
    let few = LogOptions {
        flush_entries: 100,
        ..options(NEVER)
    };
    let log = open(Arc::clone(&signer) as _, few).await;
    signer.0.set_failing(true);
    for round in 0..100 {
        log.append((0..10).map(|i| samples::decision(round * 10 + i)).collect())
            .await
            .expect("appends");
    }
    log.flush_now().await.expect_err("no signature");
    let asked = signer.1.load(Ordering::SeqCst);
    // One flush for each hundred entries, one for the first tick, one that was asked for.
    assert!(asked <= 2 * 12, "{asked} signatures were asked for");
    assert_eq!(log.status().unsigned, 1001);
    assert_eq!(log.status().last_flush_error.expect("it fails").label(), "sign");
    signer.0.set_failing(false);
    log.flush_now().await.expect("signs again");
    let status = log.status();
    assert_eq!((status.unsigned, status.last_flush_error.is_none()), (0, true));
    let file = log.receipt(500).await.expect("covered");
    file.verify(&[TestSigner::new(1).public_key()]).expect("genuine");
}

/// While nothing is signed each flush makes partial tiles anew. They do not add up, and those of published checkpoints stay.
#[test]
fn an_outage_leaves_no_tiles_behind() {
    let (storage, mut promised) = (ModelStorage::new(), Promised::new());
    let mut rig = Rig::open(&storage, 64 * 1024).expect("opens");
    rig.keep(&mut promised).expect("reads");
    for _ in 0..3 {
        rig.append(2, &mut promised).expect("appends");
        rig.flush(&mut promised).expect("signs");
    }
    let tiles = || -> Vec<_> {
        let paths = storage.paths().into_iter();
        paths.filter(|path| path.contains("/tile/")).collect()
    };
    let published = tiles();
    assert!(published.iter().any(|it| it.ends_with(".p/3")), "{published:?}");
    let mut check_all = |rig: &mut Rig, entries: u64, most: usize| {
        for _ in 0..entries {
            rig.append(1, &mut promised).expect("appends");
            rig.prepare().expect("there is something to sign");
            let now = tiles();
            assert!(published.iter().all(|it| now.contains(it)), "{now:?}");
            assert!(now.len() <= published.len() + most, "{now:?}");
        }
    };
    // Two kinds of tile, the newest form of each.
    check_all(&mut rig, 52, 2);
    drop(rig);
    let mut rig = Rig::open(&storage, 64 * 1024).expect("opens");
    check_all(&mut rig, 1, 2);
    // Past a full tile, and two forms of the next one, whose hash is in a third one.
    check_all(&mut rig, 300, 5);
    rig.flush(&mut promised).expect("signs again");
    check(&rig, &storage, &promised);
    let now = tiles();
    assert!(now.len() == 5, "{now:?}");
}
