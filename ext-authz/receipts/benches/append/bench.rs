//! The log that is measured.

use std::path::Path;
use std::sync::Arc;

use knhk_receipts::payload::samples;
use knhk_receipts::testing::TestSigner;
use knhk_receipts::{DiskStorage, Env, Log, LogOptions, Payload};

use crate::counted::{Counted, Counts};

/// Bytes of a payload.
pub(crate) const PAYLOAD_BYTES: usize = 300;

/// A log on the real disk with our defaults, and what it costs the disk and the KMS.
pub(crate) struct Bench {
    pub(crate) log: Log,
    counts: Arc<Counts>,
    signer: Arc<TestSigner>,
}

/// What a log cost, from one moment on.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) syncs: u64,
    pub(crate) flushes: u64,
    pub(crate) signatures: u64,
}

impl Cost {
    /// Signatures of each flush.
    pub(crate) fn signatures_a_flush(&self) -> f64 {
        self.signatures as f64 / self.flushes as f64
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            syncs: self.syncs - before.syncs,
            flushes: self.flushes - before.flushes,
            signatures: self.signatures - before.signatures,
        }
    }
}

impl Bench {
    pub(crate) async fn open(dir: &Path) -> Self {
        let (counts, signer) = (Arc::default(), Arc::new(TestSigner::new(1)));
        let disk = DiskStorage::open(dir).expect("a directory");
        let storage = Counted {
            disk,
            counts: Arc::clone(&counts),
        };
        let log = Log::open(
            Arc::new(storage),
            options(),
            Arc::clone(&signer) as _,
            Env::system(),
        )
        .await
        .expect("opens");
        Self { log, counts, signer }
    }

    /// So far.
    pub(crate) fn cost(&self) -> Cost {
        Cost {
            syncs: self.counts.syncs(),
            flushes: self.counts.flushes(),
            signatures: self.signer.signatures(),
        }
    }

    /// Ends the log after a last flush, and says what it cost in all.
    pub(crate) async fn close(self) -> Cost {
        let Self { log, counts, signer } = self;
        log.close().await.expect("closes");
        Cost {
            syncs: counts.syncs(),
            flushes: counts.flushes(),
            signatures: signer.signatures(),
        }
    }
}

pub(crate) fn options() -> LogOptions {
    LogOptions::new("test")
}

/// A decision of [`PAYLOAD_BYTES`].
pub(crate) fn payload(seq: u64) -> Payload {
    let Payload::Decision(mut decision) = samples::decision(seq) else {
        panic!("the sample is a decision");
    };
    let missing = PAYLOAD_BYTES.saturating_sub(Payload::Decision(decision.clone()).to_bytes().len());
    decision.evidence.host.extend(std::iter::repeat_n('x', missing));
    Payload::Decision(decision)
}
