//! How fast appends become durable, receipts available and verified, beside what the disk itself and Tessera's POSIX driver
//! can do; and what the log costs as it grows.
//!
//! `cargo bench -p knhk-receipts --features testing --bench append -- [--tessera PROGRAM] [DIR]`: DIR is on the disk to
//! measure, else the build's own, since the system's temporary directory may be memory; PROGRAM is what
//! `tests/peers/tessera.sh` prints. About 40 s, and 20 s for Tessera.
//!
//! `... --bench append -- --growth [DIR]`: a log of 10^4 to 10^7 entries, its costs at each size, and the memory of the process.
//! About 5 GB, deleted at the end; some minutes. `--entries N` stops at N entries.
//!
//! It uses the cores that it may: `taskset -c 0` measures one.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark looks at the clock, prints, and rounds"
)]

mod bench;
mod counted;
mod growth;
mod tessera;
mod times;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use knhk_receipts::Log;
use knhk_receipts::testing::TestSigner;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use bench::{Bench, payload};
use tessera::Settings;
use times::Times;

const RUN: Duration = Duration::from_secs(4);
const APPENDERS: [u64; 5] = [1, 16, 128, 1024, 8192];
/// Those that Tessera is measured with too: with fewer it waits for its batches.
const WITH_TESSERA: [u64; 2] = [1024, 8192];
const RAW_SYNCS: usize = 2000;
/// About one record, and one page: a file system has more to do where a block is new.
const RAW_BYTES: [usize; 2] = [400, 4096];
const VERIFIED: usize = 2000;
/// Of the paced appends one in so many waits for its receipt too.
const RECEIPT_SAMPLE: u64 = 97;

/// What the command line asks for.
struct Asked {
    root: PathBuf,
    /// The most entries of a growing log; none where that is not asked for.
    growth: Option<u64>,
    /// The program that measures Tessera.
    tessera: Option<PathBuf>,
}

impl Asked {
    fn read() -> Self {
        let (mut growth, mut most) = (false, growth::MOST);
        let (mut root, mut tessera) = (PathBuf::from(env!("CARGO_TARGET_TMPDIR")), None);
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                // What cargo passes.
                "--bench" => {}
                "--growth" => growth = true,
                "--entries" => {
                    let given = arguments.next().and_then(|number| number.parse().ok());
                    most = given.expect("--entries takes a number");
                }
                "--tessera" => tessera = Some(arguments.next().expect("--tessera takes a program").into()),
                other if other.starts_with('-') => {
                    panic!("`{other}`: give --growth, --entries N, --tessera PROGRAM or a directory")
                }
                directory => root = directory.into(),
            }
        }
        Self {
            root,
            growth: growth.then_some(most),
            tessera,
        }
    }
}

fn main() {
    let asked = Asked::read();
    let dir = tempfile::tempdir_in(&asked.root).expect("a directory to measure in");
    let cores = std::thread::available_parallelism().expect("some cores");
    println!("{cores} cores, payloads of {} bytes", payload(1).to_bytes().len());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    match asked.growth {
        Some(most) => runtime.block_on(growth::measure(dir.path(), most)),
        None => rates(dir.path(), &runtime, asked.tessera.as_deref()),
    }
}

fn rates(dir: &Path, runtime: &Runtime, tessera: Option<&Path>) {
    let [raw, _] = RAW_BYTES.map(|bytes| {
        let times = raw_syncs(dir, bytes);
        println!(
            "raw write of {bytes:>4} bytes and fdatasync, one by one:  {}",
            times.line()
        );
        times
    });

    let ours = APPENDERS.map(|appenders| (appenders, full(dir, runtime, appenders)));
    if let Some(program) = tessera {
        beside_tessera(dir, program, &ours);
    }

    let best = ours.iter().fold(0.0_f64, |best, (_, rate)| best.max(*rate));
    let bench = runtime.block_on(Bench::open(&dir.join("paced")));
    let (durable, receipt) = runtime.block_on(pace(&bench.log, best / 2.0));
    println!("paced at half of the best, append to durable: {}", durable.line());
    println!("paced at half of the best, append to receipt: {}", receipt.line());
    println!(
        "p99 append to durable is {:.1} raw syncs' p99; p99 append to receipt is a flush of {} ms and {:.1} ms",
        durable.percentile(0.99) / raw.percentile(0.99),
        bench::options().flush.as_millis(),
        (receipt.percentile(0.99) - bench::options().flush.as_secs_f64()) * 1e3,
    );

    let verify = runtime.block_on(verify(&bench.log));
    println!("verify, one thread: {}", verify.line());
    runtime.block_on(bench.close());
}

/// As many appends under way as there are appenders. Says how many a second became durable.
fn full(dir: &Path, runtime: &Runtime, appenders: u64) -> f64 {
    let bench = runtime.block_on(Bench::open(&dir.join(format!("full-{appenders}"))));
    let (processor, before) = (cpu_seconds(), bench.cost());
    let times = runtime.block_on(saturate(&bench.log, appenders));
    let processor = (cpu_seconds() - processor) / times.count() * 1e6;
    let syncs = times.per_second(bench.cost().since(before).syncs);
    let cost = runtime.block_on(bench.close());
    println!(
        "{appenders:>5} appenders, append to durable: {}  CPU {processor:.1} us  {syncs:.0} syncs/s  {:.2} signatures a flush",
        times.line(),
        cost.signatures_a_flush(),
    );
    times.rate()
}

fn beside_tessera(dir: &Path, program: &Path, ours: &[(u64, f64)]) {
    let both = ours
        .iter()
        .filter(|(appenders, _)| WITH_TESSERA.contains(appenders));
    for &(adders, rate) in both {
        for (n, settings) in Settings::ALL.into_iter().enumerate() {
            let dir = dir.join(format!("tessera-{adders}-{n}"));
            let name = settings.name();
            match tessera::measure(program, &dir, settings, adders, RUN) {
                Ok(its) => println!(
                    "{adders:>5} adders, Tessera, {name}: {:.0}/s  p50 {:.3} ms  p99 {:.3} ms; ours is {:.1} times that",
                    its.rate,
                    its.p50_ms,
                    its.p99_ms,
                    rate / its.rate
                ),
                Err(why) => println!("{adders:>5} adders, Tessera, {name}: not run: {why}"),
            }
        }
    }
}

fn raw_syncs(dir: &Path, bytes: usize) -> Times {
    let mut file = OpenOptions::new()
        .create_new(true)
        .append(true)
        .open(dir.join(format!("raw-{bytes}")))
        .expect("a file");
    let block = vec![7; bytes];
    let start = Instant::now();
    let times: Vec<_> = (0..RAW_SYNCS)
        .map(|_| {
            let start = Instant::now();
            file.write_all(&block).expect("writes");
            file.sync_data().expect("syncs");
            start.elapsed()
        })
        .collect();
    Times::new(times, start.elapsed())
}

/// Processor time of this process, in user and kernel. The kernel counts it in hundredths of a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = behind_name.split_whitespace().skip(11).take(2);
    ticks.map(|it| it.parse().unwrap_or(f64::NAN)).sum::<f64>() / 100.0
}

/// Each appender appends one decision after the other.
async fn saturate(log: &Log, appenders: u64) -> Times {
    let start = Instant::now();
    let mut running = JoinSet::new();
    for appender in 0..appenders {
        let log = log.clone();
        running.spawn(async move {
            let mut times = Vec::new();
            while start.elapsed() < RUN {
                let begun = Instant::now();
                log.append(vec![payload(appender)]).await.expect("appends");
                times.push(begun.elapsed());
            }
            times
        });
    }
    let times = running.join_all().await.concat();
    Times::new(times, start.elapsed())
}

/// Appends come at a fixed rate, whatever happens to those before. Times count from when one was due.
async fn pace(log: &Log, rate: f64) -> (Times, Times) {
    let start = Instant::now();
    let due = |n: u64| start + Duration::from_secs_f64(n as f64 / rate);
    let (mut running, mut n) = (JoinSet::new(), 0);
    while start.elapsed() < RUN {
        while due(n) <= Instant::now() {
            let (log, due, sampled) = (log.clone(), due(n), n.is_multiple_of(RECEIPT_SAMPLE));
            running.spawn(async move {
                let indexes = log.append(vec![payload(n)]).await.expect("appends");
                let durable = due.elapsed();
                if !sampled {
                    return (durable, None);
                }
                log.covered(indexes[0]).await.expect("is covered");
                log.receipt(indexes[0]).await.expect("a receipt");
                (durable, Some(due.elapsed()))
            });
            n += 1;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let over = start.elapsed();
    let (durable, receipt): (Vec<_>, Vec<_>) = running.join_all().await.into_iter().unzip();
    (
        Times::new(durable, over),
        Times::new(receipt.into_iter().flatten(), over),
    )
}

async fn verify(log: &Log) -> Times {
    let keys = [TestSigner::new(1).public_key()];
    let size = log.checkpoint().expect("published").size();
    let mut files = Vec::new();
    for i in 0..VERIFIED as u64 {
        files.push(log.receipt(i * 7919 % size).await.expect("covered").to_bytes());
    }
    let start = Instant::now();
    let times: Vec<_> = files
        .iter()
        .map(|bytes| {
            let start = Instant::now();
            let file = knhk_receipts::ReceiptFile::from_bytes(bytes).expect("a receipt");
            file.verify(&keys).expect("genuine");
            start.elapsed()
        })
        .collect();
    Times::new(times, start.elapsed())
}
