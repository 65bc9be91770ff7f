//! How fast a whole log is audited, and receipts are verified.
//!
//! `cargo bench -p knhk-receipts --features testing --bench audit [-- DIR [ENTRIES]]`: DIR is on the disk to read from, else the
//! system's temporary directory; a million entries unless given.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark looks at the clock, prints, and rounds"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use knhk_receipts::audit::{Audit, Directory, Pin, audit};
use knhk_receipts::payload::samples;
use knhk_receipts::testing::TestSigner;
use knhk_receipts::{DiskStorage, Env, Log, LogOptions, ReceiptFile};

const ENTRIES: u64 = 1_000_000;
/// Entries of one append.
const AT_ONCE: u64 = 10_000;
const VERIFIED: u64 = 20_000;
const THREADS: [usize; 2] = [1, 2];

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|it| !it.starts_with('-'))
        .collect();
    let root = arguments.first().map_or_else(std::env::temp_dir, PathBuf::from);
    let entries = arguments
        .get(1)
        .map_or(ENTRIES, |it| it.parse().expect("a number of entries"));
    let dir = tempfile::tempdir_in(root).expect("a directory to measure in");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");

    let begun = Instant::now();
    let receipts = runtime.block_on(fill(dir.path(), entries));
    println!(
        "{entries} entries of {} bytes appended and signed: {}",
        payload_bytes(),
        rate(entries, begun.elapsed())
    );

    for threads in THREADS {
        let source = Directory::open(dir.path()).expect("a log");
        let asked = Audit {
            threads,
            pinned: &[Pin::Key(TestSigner::new(1).public_key())],
            since: &[],
            progress: &|_| {},
        };
        let (begun, processor) = (Instant::now(), processor_time());
        let report = audit(&source, &asked).expect("a report");
        let (taken, processor) = (begun.elapsed(), processor_time().saturating_sub(processor));
        assert!(report.is_clean(), "{report:#?}");
        println!(
            "audit, {threads} threads: {}, of processor time {}; {} tiles, {} checkpoints, peak memory so far {} MiB",
            rate(report.entries, taken),
            rate(report.entries, processor),
            report.tiles,
            report.checkpoints,
            peak_memory_mib()
        );
    }
    for threads in THREADS {
        let (begun, processor) = (Instant::now(), processor_time());
        verify(&receipts, threads);
        let (taken, processor) = (begun.elapsed(), processor_time().saturating_sub(processor));
        let count = receipts.len() as u64;
        println!(
            "verify, {threads} threads: {}, of processor time {}",
            rate(count, taken),
            rate(count, processor)
        );
    }
}

/// Makes the log, and fetches receipts from all over it.
async fn fill(dir: &Path, entries: u64) -> Vec<Vec<u8>> {
    let storage = Arc::new(DiskStorage::open(dir).expect("a directory"));
    let signer = Arc::new(TestSigner::new(1));
    let log = Log::open(storage, LogOptions::new("test"), signer, Env::system())
        .await
        .expect("opens");
    for first in (0..entries).step_by(usize::try_from(AT_ONCE).expect("small")) {
        let batch = (first..entries.min(first + AT_ONCE))
            .map(samples::decision)
            .collect();
        log.append(batch).await.expect("appends");
    }
    let size = log
        .flush_now()
        .await
        .expect("flushes")
        .expect("a checkpoint")
        .size();
    let mut receipts = Vec::new();
    for i in 0..VERIFIED.min(size) {
        receipts.push(log.receipt(i * 7919 % size).await.expect("covered").to_bytes());
    }
    log.close().await.expect("closes");
    receipts
}

/// As `knhk receipt verify` does it, from bytes to verdict.
fn verify(receipts: &[Vec<u8>], threads: usize) {
    let keys = [TestSigner::new(1).public_key()];
    thread::scope(|scope| {
        for share in receipts.chunks(receipts.len().div_ceil(threads)) {
            let keys = &keys;
            scope.spawn(move || {
                for bytes in share {
                    let file = ReceiptFile::from_bytes(bytes).expect("a receipt");
                    file.verify(keys).expect("genuine");
                }
            });
        }
    });
}

fn payload_bytes() -> usize {
    samples::decision(ENTRIES).to_bytes().len()
}

fn rate(count: u64, taken: Duration) -> String {
    format!(
        "{:.0}/s ({:.1} s)",
        count as f64 / taken.as_secs_f64(),
        taken.as_secs_f64()
    )
}

/// Processor time of this process so far, in steps of 10 ms: what other processes take does not count.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, fields) = stat.rsplit_once(") ").expect("the name in parentheses");
    let ticks = |field: usize| fields.split(' ').nth(field).and_then(|it| it.parse::<u64>().ok());
    Duration::from_millis(10 * (ticks(11).expect("user") + ticks(12).expect("system")))
}

fn peak_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
}
