//! What a log costs as it grows.

use std::path::Path;
use std::time::{Duration, Instant};

use knhk_receipts::Log;
use tokio::task::JoinSet;

use crate::bench::{Bench, payload};
use crate::times::Times;

/// About 5 GB.
pub(crate) const MOST: u64 = 10_000_000;

const FIRST: u64 = 10_000;

/// Appenders that fill the log, and payloads in each of their appends.
const FILLERS: u64 = 32;
const AT_ONCE: u64 = 64;

/// Single appends, and receipts, that are measured at each size.
const SAMPLES: usize = 500;

/// Flushes that are measured at each size, and entries that each of them covers: few, since the log grows by them; and those
/// of one flush as a busy log has it.
const FLUSHES: usize = 100;
const SMALL_FLUSH: u64 = 10;
const LARGE_FLUSH: u64 = 10_000;

/// Fills a log, tenfold each time, and measures it at each size.
pub(crate) async fn measure(dir: &Path, most: u64) {
    println!(
        "{:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "entries",
        "fill/s",
        "append p50",
        "p99 ms",
        "flush p50",
        "p99 ms",
        "10,000 ms",
        "signs each",
        "receipt ms",
        "start ms",
        "RSS MiB"
    );
    let dir = dir.join("growth");
    let mut bench = Bench::open(&dir).await;
    let mut memory = Vec::new();
    let mut size = FIRST;
    while size <= most {
        let filled = fill(&bench.log, size).await;
        let resident = resident_mib();
        memory.push(resident);
        let appends = appends(&bench.log).await;
        let flushes = flushes(&bench.log).await;
        let large = flush(&bench.log, LARGE_FLUSH).await;
        let receipts = receipts(&bench.log).await;
        let cost = bench.close().await;
        let begun = Instant::now();
        bench = Bench::open(&dir).await;
        let start = begun.elapsed();
        let ms = |seconds: f64| seconds * 1e3;
        println!(
            "{size:>10} {filled:>10.0} {:>10.3} {:>9.3} {:>9.2} {:>9.2} {:>9.2} {:>10.2} {:>10.3} {:>9.1} {resident:>9.1}",
            ms(appends.percentile(0.5)),
            ms(appends.percentile(0.99)),
            ms(flushes.percentile(0.5)),
            ms(flushes.percentile(0.99)),
            ms(large.as_secs_f64()),
            cost.signatures_a_flush(),
            ms(receipts.percentile(0.5)),
            ms(start.as_secs_f64()),
        );
        size *= 10;
    }
    bench.close().await;
    if let (Some(first), Some(last)) = (memory.first(), memory.last()) {
        println!("memory that is not of files: {first:.1} MiB at first, {last:.1} MiB at last");
    }
}

/// Appends up to `size`, and says how many a second.
async fn fill(log: &Log, size: u64) -> f64 {
    let (begun, before) = (Instant::now(), log.size());
    let mut running = JoinSet::new();
    for _ in 0..FILLERS {
        let log = log.clone();
        running.spawn(async move {
            while log.size() + FILLERS * AT_ONCE < size {
                let payloads = (0..AT_ONCE).map(payload).collect();
                log.append(payloads).await.expect("appends");
            }
        });
    }
    running.join_all().await;
    log.append((log.size()..size).map(payload).collect())
        .await
        .expect("appends");
    (size - before) as f64 / begun.elapsed().as_secs_f64()
}

async fn appends(log: &Log) -> Times {
    let begun = Instant::now();
    let mut times = Vec::new();
    for i in 0..SAMPLES as u64 {
        let begun = Instant::now();
        log.append(vec![payload(i)]).await.expect("appends");
        times.push(begun.elapsed());
    }
    Times::new(times, begun.elapsed())
}

/// Flushes of few entries each.
async fn flushes(log: &Log) -> Times {
    let begun = Instant::now();
    let mut times = Vec::new();
    for _ in 0..FLUSHES {
        times.push(flush(log, SMALL_FLUSH).await);
    }
    Times::new(times, begun.elapsed())
}

/// How long a flush takes that covers so many entries.
async fn flush(log: &Log, entries: u64) -> Duration {
    log.append((0..entries).map(payload).collect())
        .await
        .expect("appends");
    let begun = Instant::now();
    log.flush_now().await.expect("flushes");
    begun.elapsed()
}

async fn receipts(log: &Log) -> Times {
    let size = log.checkpoint().expect("signed").size();
    let begun = Instant::now();
    let mut times = Vec::new();
    for i in 0..SAMPLES as u64 {
        let begun = Instant::now();
        log.receipt(i * 7_919 * 7_919 % size).await.expect("a receipt");
        times.push(begun.elapsed());
    }
    Times::new(times, begun.elapsed())
}

/// Memory that is not backed by files.
fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(f64::NAN);
    kib / 1024.0
}
