//! A region's own log, and batches of it.

use std::sync::Arc;

use knhk_receipts::storage::{ModelStorage, Storage};
use knhk_receipts::testing::{TestSigner, still_env};
use knhk_receipts::{ActionReceipt, Log, LogOptions, MAX_FLUSH, Payload, PublicKey};
use knhk_regions::Mirrored;
use knhk_regions::source::{Order, Packed, pack};
use tokio::runtime::{Builder, Runtime};

/// Everything of a test runs on one thread, but for what blocks.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

pub(crate) fn origin(region: &str) -> String {
    format!("knhk.dev/log/{region}")
}

/// Opens the log of a region whose first key is that of this number. It flushes only when it is told to.
pub(crate) async fn open(storage: &ModelStorage, region: &str, key: u8) -> Log {
    open_on(Arc::new(storage.clone()), region, key).await
}

pub(crate) async fn open_on(storage: Arc<dyn Storage>, region: &str, key: u8) -> Log {
    let options = LogOptions {
        flush: MAX_FLUSH,
        ..LogOptions::new(region)
    };
    let signer = Arc::new(TestSigner::new(key));
    Log::open(storage, options, signer, still_env())
        .await
        .expect("opens")
}

pub(crate) fn action(region: &str, number: u64) -> Payload {
    Payload::Action(ActionReceipt {
        region: region.to_owned(),
        time_unix_ms: number,
        who: "test".to_owned(),
        what: "rollout.apply".to_owned(),
        target: format!("rollout-{number}"),
        before: None,
        after: None,
        reason: "x".repeat(usize::try_from(number % 50).expect("small")),
    })
}

/// Appends so many entries and signs them.
pub(crate) async fn grow(log: &Log, entries: u64) {
    let from = log.size();
    let payloads = (from..from + entries).map(|number| action(log.region(), number));
    log.append(payloads.collect()).await.expect("appends");
    log.flush_now().await.expect("signs");
}

pub(crate) async fn rotate(log: &Log, key: u8) {
    log.rotate(TestSigner::key_of(key), "test")
        .await
        .expect("rotates");
}

pub(crate) fn key(seed: u8) -> PublicKey {
    TestSigner::new(seed).public_key()
}

pub(crate) fn mirrored(region: &str, pin: u8) -> Mirrored {
    Mirrored {
        region: region.to_owned(),
        origin: origin(region),
        pin: key(pin).key_id(),
    }
}

pub(crate) fn packed(log: &Log, from: u64, trusted: Option<u8>, most_bytes: usize) -> Packed {
    let order = Order {
        from,
        covered: from,
        trusted: trusted.map(|seed| key(seed).key_id()),
        most_bytes,
    };
    pack(log, order).expect("reads").expect("something is signed")
}
