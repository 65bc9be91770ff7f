//! How fast a peer that begins from nothing catches up with a log: batches as they are sent, from the log's disk to the mirror's.
//!
//! `cargo bench -p knhk-regions --bench catch_up -- [--entries N] [DIR]`: DIR is on the disk to measure, else the build's own, since the
//! system's temporary directory may be memory. About 1 GB for 1,000,000 entries, deleted at the end.
//!
//! Source and mirror are two machines in life, and one thread after the other here: the whole is what one core does of both.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark looks at the clock, prints, and rounds"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use knhk_receipts::payload::samples;
use knhk_receipts::testing::TestSigner;
use knhk_receipts::{DiskStorage, Env, Log, LogOptions, Payload, SignedCheckpoint};
use knhk_regions::source::{Order, pack};
use knhk_regions::wire::{Batch, MAX_ITEMS_BYTES};
use knhk_regions::{AckSigner, Mirror, Mirrored};

const ENTRIES: u64 = 1_000_000;

/// Bytes of a payload: those of a usual decision.
const PAYLOAD_BYTES: usize = 300;

/// So many entries are appended at a time.
const APPENDED: u64 = 10_000;

fn main() {
    let (mut entries, mut root) = (ENTRIES, PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // What cargo passes.
            "--bench" => {}
            "--entries" => {
                let given = arguments.next().and_then(|number| number.parse().ok());
                entries = given.expect("--entries takes a number");
            }
            other if other.starts_with('-') => panic!("`{other}`: give --entries N or a directory"),
            directory => root = directory.into(),
        }
    }
    let dir = tempfile::tempdir_in(&root).expect("a directory to measure in");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let log = runtime.block_on(grown(&dir.path().join("log"), entries));
    let spent = caught_up(&log, &dir.path().join("mirror"));
    spent.print(log.checkpoint().expect("signed").size());
    runtime.block_on(log.close()).expect("closes");
}

/// A log of decisions.
async fn grown(dir: &Path, entries: u64) -> Log {
    let disk = DiskStorage::open(dir).expect("a directory");
    let signer = Arc::new(TestSigner::new(1));
    let log = Log::open(Arc::new(disk), LogOptions::new("us"), signer, Env::system());
    let log = log.await.expect("opens");
    for from in (0..entries).step_by(usize::try_from(APPENDED).expect("small")) {
        let payloads = (from..entries.min(from + APPENDED)).map(decision);
        log.append(payloads.collect()).await.expect("appends");
    }
    log.flush_now().await.expect("signs");
    log
}

fn decision(number: u64) -> Payload {
    let Payload::Decision(mut decision) = samples::decision(number) else {
        panic!("the sample is a decision");
    };
    let missing = PAYLOAD_BYTES.saturating_sub(Payload::Decision(decision.clone()).to_bytes().len());
    decision.evidence.host.extend(std::iter::repeat_n('x', missing));
    Payload::Decision(decision)
}

/// What the parts of it took.
#[derive(Default)]
struct Spent {
    batches: u32,
    bytes: usize,
    packing: Duration,
    receiving: Duration,
    answering: Duration,
}

fn caught_up(log: &Log, dir: &Path) -> Spent {
    let disk = Arc::new(DiskStorage::open(dir).expect("a directory"));
    let random = |bytes: &mut [u8]| bytes.fill(7);
    let acks = AckSigner::open(disk.as_ref(), "eu", &random).expect("a key");
    let of = Mirrored {
        region: "us".to_owned(),
        origin: log.checkpoint().expect("signed").origin().to_owned(),
        pin: log.active_key().key.key_id(),
    };
    let mut mirror = Mirror::open(disk, &of).expect("opens");
    let size = log.checkpoint().expect("signed").size();
    let mut spent = Spent::default();
    while mirror.checkpoint().is_none_or(|it| it.size() < size) {
        let order = Order {
            from: mirror.held(),
            covered: mirror.checkpoint().map_or(0, SignedCheckpoint::size),
            trusted: Some(of.pin),
            most_bytes: MAX_ITEMS_BYTES,
        };
        let begun = Instant::now();
        let packed = pack(log, order).expect("reads").expect("something is signed");
        spent.packing += begun.elapsed();
        let begun = Instant::now();
        let batch = Batch::from_bytes(&packed.bytes).expect("a batch");
        mirror.receive(&batch, 1).expect("taken");
        spent.receiving += begun.elapsed();
        let begun = Instant::now();
        assert_eq!(mirror.answer(None, &acks).held, packed.end);
        spent.answering += begun.elapsed();
        spent.batches += 1;
        spent.bytes += packed.bytes.len();
    }
    spent
}

impl Spent {
    fn print(&self, entries: u64) {
        let Self { batches, bytes, .. } = self;
        let whole = self.packing + self.receiving + self.answering;
        let rate = |spent: Duration| entries as f64 / spent.as_secs_f64();
        println!(
            "{entries} entries of {PAYLOAD_BYTES} bytes in {batches} batches, {} MiB",
            bytes >> 20
        );
        println!("the log packs      {:>9.0} entries a second", rate(self.packing));
        println!(
            "the mirror takes   {:>9.0} entries a second, verified and durable",
            rate(self.receiving)
        );
        println!(
            "one after another  {:>9.0} entries a second, {:.2} s in all",
            rate(whole),
            whole.as_secs_f64()
        );
        println!("an answer takes    {:?}", self.answering / (*batches).max(1));
    }
}
