//! Three regions with 40 ms round trips: how long a quorum takes, how much goes through, and what one slow region does to that.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::{judged, proxy, us};
use crate::Error;
use crate::gate::{Worker, connect};
use crate::load::Latencies;
use crate::mesh::{NAME, RolloutFile};
use crate::recorded::{check_as_proxy, check_with_quorum};
use crate::regions::Regions;
use crate::regions::link::Line;

/// Between each two regions, there and back.
const ROUND_TRIP: Duration = Duration::from_millis(40);
/// The round trip of the slow one.
const SLOW: Duration = Duration::from_secs(5);
/// Who waits for a quorum hurries the flush: two are not closer to each other.
const FLUSH: Duration = Duration::from_millis(20);
/// Who waits for a quorum at a time.
const WAITING: usize = 16;
/// Who records at a time, to see how much goes through.
const RECORDING: usize = 256;
/// Connections, as many as a proxy with four workers has.
const CONNECTIONS: usize = 4;
/// The targets of p50 and p99, in round trips beside a flush.
const TARGETS: [f64; 2] = [1.2, 3.0];
/// How much one slow region may add to the others' p99.
const MAY_ADD: f64 = 0.1;

/// How often a rollout is aborted in one region while a filter in another one waits for it.
const ABORTS: usize = 20;
/// The weight that is taken away, in percent.
const WEIGHT: f64 = 20.0;
/// How long the abort may take.
const ABORTED_WITHIN: Duration = Duration::from_secs(1);

/// What replication costs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Replication {
    round_trip_ms: f64,
    flush_ms: f64,
    commit: Commit,
    commit_beside_a_slow_region: Commit,
    sustained: Sustained,
    abort_elsewhere: AbortElsewhere,
}

/// From an operator's command in one region, its process included, to the snapshot in a filter of another one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AbortElsewhere {
    p50_us: f64,
    max_us: f64,
}

/// From a request to the answer that a quorum holds its receipt.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Commit {
    waits: u64,
    p50_us: f64,
    p99_us: f64,
}

/// Receipts that are recorded without waiting for a quorum.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Sustained {
    receipts_per_second: f64,
    /// Entries that the farthest peer had not acknowledged, in the middle and at the end.
    lag_entries: [u64; 2],
}

pub(super) async fn measure(seconds: u64) -> Result<Replication, Error> {
    let scratch = proxy::scratch()?;
    let regions = Regions::start_in(&vec![scratch.path().to_owned(); 3]).await?;
    let length = Duration::from_secs(seconds.max(1));
    regions.every_line(Line::round_trip(ROUND_TRIP));
    let abort_elsewhere = aborts(&regions).await?;
    let grpc = regions.at(0).addresses().grpc;
    // The first second warms up.
    commits(grpc, Duration::from_secs(1)).await?;
    let commit = commits(grpc, length).await?;
    regions.lines_of(2, Line::round_trip(SLOW));
    let beside = commits(grpc, length).await?;
    regions.every_line(Line::round_trip(ROUND_TRIP));
    regions.until_equal(&[0, 1, 2]).await?;
    let sustained = sustained(&regions, length).await?;
    Ok(Replication {
        round_trip_ms: ms(ROUND_TRIP),
        flush_ms: ms(FLUSH),
        commit,
        commit_beside_a_slow_region: beside,
        sustained,
        abort_elsewhere,
    })
}

/// The home begins the rollout, the second region has the filter, the third one aborts.
async fn aborts(regions: &Regions) -> Result<AbortElsewhere, Error> {
    regions.apply(0, &RolloutFile::at(WEIGHT)).await?;
    let mut worker = Worker::greet(regions.at(1).addresses().grpc, "edge", [7; 16]).await?;
    let mut times = Latencies::new();
    for generation in 1..=ABORTS as u64 {
        worker.until_weight(WEIGHT).await?;
        regions
            .until_rollout(2, "the generation to abort", |it| {
                it.generation == generation && it.weight > 0.0
            })
            .await?;
        let began = Instant::now();
        regions.at(2).cli()?.json(&["rollout", "abort", NAME]).await?;
        worker.until_weight(0.0).await?;
        times.add(began.elapsed());
        regions
            .until_rollout(0, "the abort at home", |it| it.phase == "Failed")
            .await?;
        regions.at(0).cli()?.json(&["rollout", "retry", NAME]).await?;
    }
    Ok(AbortElsewhere {
        p50_us: us(times.quantile(0.5)),
        max_us: us(times.max()),
    })
}

async fn commits(grpc: SocketAddr, length: Duration) -> Result<Commit, Error> {
    let times = load(grpc, WAITING, length, |channel, path| async move {
        check_with_quorum(channel, &path, "15s").await
    });
    let times = times.await?;
    Ok(Commit {
        waits: times.count(),
        p50_us: us(times.quantile(0.5)),
        p99_us: us(times.quantile(0.99)),
    })
}

async fn sustained(regions: &Regions, length: Duration) -> Result<Sustained, Error> {
    let grpc = regions.at(0).addresses().grpc;
    let half = || {
        load(grpc, RECORDING, length, |channel, path| async move {
            check_as_proxy(channel, &path).await
        })
    };
    let began = Instant::now();
    let first = half().await?;
    let middle = lag(regions).await?;
    let second = half().await?;
    #[allow(clippy::cast_precision_loss)]
    let receipts_per_second = (first.count() + second.count()) as f64 / began.elapsed().as_secs_f64();
    Ok(Sustained {
        receipts_per_second,
        lag_entries: [middle, lag(regions).await?],
    })
}

async fn lag(regions: &Regions) -> Result<u64, Error> {
    let status = regions.status(0).await?;
    let peers = status["peers"].as_array().map_or(&[][..], Vec::as_slice);
    let lags = peers.iter().filter_map(|peer| peer["lag_entries"].as_u64());
    Ok(lags.max().unwrap_or_default())
}

/// So many ask again and again. Every answer has to have a receipt.
async fn load<F, Fut>(
    grpc: SocketAddr,
    at_a_time: usize,
    length: Duration,
    ask: F,
) -> Result<Latencies, Error>
where
    F: Fn(Channel, String) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<Option<String>, tonic::Status>> + Send,
{
    let end = Instant::now() + length;
    let mut askers = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let channel = connect(grpc).await?;
        for slot in 0..at_a_time / CONNECTIONS {
            let (channel, ask) = (channel.clone(), ask.clone());
            askers.spawn(async move {
                let mut times = Latencies::new();
                for number in 0_u64.. {
                    let began = Instant::now();
                    if began >= end {
                        break;
                    }
                    let answer = ask(channel.clone(), format!("/{connection}/{slot}/{number}")).await;
                    match answer {
                        Ok(Some(_)) => times.add(began.elapsed()),
                        Ok(None) => return Err(wrong("an answer without a receipt".to_owned())),
                        Err(status) => return Err(wrong(status.to_string())),
                    }
                }
                Ok(times)
            });
        }
    }
    let mut all = Latencies::new();
    while let Some(asker) = askers.join_next().await {
        all.merge(&asker.map_err(|error| wrong(error.to_string()))??);
    }
    Ok(all)
}

fn wrong(reason: String) -> Error {
    Error::Contract {
        what: "Check".to_owned(),
        reason,
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl Commit {
    /// How many round trips it took beside a flush, p50 and p99.
    fn round_trips(self) -> [f64; 2] {
        [self.p50_us, self.p99_us].map(|time| (time - us(FLUSH)) / us(ROUND_TRIP))
    }
}

impl fmt::Display for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trips = self.commit.round_trips();
        let met = trips.iter().zip(TARGETS).all(|(trips, target)| *trips <= target);
        let (commit, beside) = (self.commit, self.commit_beside_a_slow_region);
        let added = beside.p99_us / commit.p99_us - 1.0;
        let [middle, end] = self.sustained.lag_entries;
        write!(
            f,
            "\nThree regions, {:.0} ms round trips, {WAITING} at a time that wait for a quorum: p50 {:.1} ms (flush + {:.2} round trips), \
             p99 {:.1} ms (flush + {:.2}). Targets {:.1} and {:.1}: {}.\n\
             With one of them {} s away: p50 {:.1} ms, p99 {:.1} ms ({:+.1} %). Target 10 %: {}.\n\
             {RECORDING} at a time that do not wait: {:.0} receipts/s; the farthest peer lags {middle} entries in the middle and {end} at the end.\n\
             From `knhk rollout abort` in one region to a filter in another one, {ABORTS} times: p50 {:.0} ms, max {:.0} ms. Target {} s: {}.",
            self.round_trip_ms,
            commit.p50_us / 1e3,
            trips[0],
            commit.p99_us / 1e3,
            trips[1],
            TARGETS[0],
            TARGETS[1],
            judged(met),
            SLOW.as_secs(),
            beside.p50_us / 1e3,
            beside.p99_us / 1e3,
            added * 100.0,
            judged(added < MAY_ADD),
            self.sustained.receipts_per_second,
            self.abort_elsewhere.p50_us / 1e3,
            self.abort_elsewhere.max_us / 1e3,
            ABORTED_WITHIN.as_secs(),
            judged(self.abort_elsewhere.max_us <= us(ABORTED_WITHIN)),
        )
    }
}
