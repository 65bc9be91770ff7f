//! How long a rollback takes to reach a fleet: from `abort` to the last of 1,000 workers.

use std::fmt;
use std::time::Duration;

use knhk_proto::v1;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{judged, proxy, us};
use crate::Error;
use crate::gate::Worker;
use crate::load::Latencies;
use crate::mesh::{NAME, RolloutFile};
use crate::process::Process;
use crate::rollout::Status;
use crate::service::Service;
use crate::wait::SOON;

/// Streams, each on a connection of its own as a proxy's worker has it.
const WORKERS: usize = 1_000;
/// Aborts that are measured.
const ROUNDS: usize = 100;
/// The target for the p99, in microseconds.
const TARGET_US: f64 = 20_000.0;

/// From sending the command to the acknowledgement of the last worker.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Propagation {
    workers: usize,
    aborts: usize,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    /// The service's processor time for one snapshot to one worker, its acknowledgement included.
    service_cpu_us_per_worker: f64,
}

/// A worker has acknowledged snapshot `n`.
struct Acknowledged {
    n: u64,
    at: Instant,
}

pub(super) async fn measure() -> Result<Propagation, Error> {
    allow_files()?;
    let scratch = proxy::scratch()?;
    let mut service = Service::stopped_in(scratch.path())?;
    service.up().await?;
    let file = RolloutFile::at(20.0).write(&service)?;
    service
        .cli()?
        .json(&[
            "rollout".as_ref(),
            "apply".as_ref(),
            "-f".as_ref(),
            file.as_os_str(),
        ])
        .await?;
    let operator = Operator::of(&service)?;

    let (acknowledge, mut acknowledged) = mpsc::unbounded_channel();
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let worker = Worker::greet(service.addresses().grpc, &format!("edge-{number}"), nonce).await?;
        workers.spawn(follow(worker, acknowledge.clone()));
    }
    let mut newest = operator.status().await?;
    until_all(&mut acknowledged, &newest).await?;

    let cpu = || service.process().map_or(Ok(Duration::ZERO), Process::cpu_time);
    let (mut times, before) = (Latencies::new(), cpu()?);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        newest = operator.act("abort").await?;
        let last = until_all(&mut acknowledged, &newest).await?;
        times.add(last - began);
        newest = operator.act("retry").await?;
        until_all(&mut acknowledged, &newest).await?;
    }
    let spent = cpu()?.saturating_sub(before);
    // Each round sends two snapshots, one for the abort and one for the retry.
    #[allow(clippy::cast_precision_loss)]
    let snapshots = (2 * ROUNDS * WORKERS) as f64;
    Ok(Propagation {
        workers: WORKERS,
        aborts: ROUNDS,
        p50_us: us(times.quantile(0.5)),
        p99_us: us(times.quantile(0.99)),
        max_us: us(times.max()),
        service_cpu_us_per_worker: us(spent) / snapshots,
    })
}

/// Acknowledges what comes, for as long as the stream lives.
async fn follow(mut worker: Worker, acknowledged: mpsc::UnboundedSender<Acknowledged>) {
    while let Ok(snapshot) = worker.snapshot().await {
        let n = snapshot.id.map_or(0, |id| id.n);
        if worker
            .say(v1::up::Message::Ack(v1::Ack { id: snapshot.id }))
            .is_err()
        {
            return;
        }
        // Nobody listens any more once the measurement is over.
        let _ = acknowledged.send(Acknowledged {
            n,
            at: Instant::now(),
        });
    }
}

/// When the last worker had acknowledged the newest snapshot.
async fn until_all(
    acknowledged: &mut mpsc::UnboundedReceiver<Acknowledged>,
    newest: &Status,
) -> Result<Instant, Error> {
    let wanted: u64 = newest
        .policy
        .split_once('.')
        .and_then(|(_, n)| n.parse().ok())
        .ok_or_else(|| wrong(format!("the status has policy {:?}", newest.policy)))?;
    let collect = async {
        let mut missing = WORKERS;
        loop {
            let Some(Acknowledged { n, at }) = acknowledged.recv().await else {
                return Err(wrong("every stream has ended".to_owned()));
            };
            missing -= usize::from(n == wanted);
            if missing == 0 {
                return Ok(at);
            }
        }
    };
    tokio::time::timeout(SOON, collect).await.map_err(|_| {
        wrong(format!(
            "snapshot {wanted} did not reach every worker within {SOON:?}"
        ))
    })?
}

/// Commands through the service's socket, without the time that starting a command line takes.
struct Operator {
    client: reqwest::Client,
}

impl Operator {
    fn of(service: &Service) -> Result<Self, Error> {
        let client = reqwest::Client::builder()
            .unix_socket(service.data().join("knhk.sock"))
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self { client })
    }

    async fn status(&self) -> Result<Status, Error> {
        answer(self.client.get(format!("http://knhk/v1/rollouts/{NAME}"))).await
    }

    async fn act(&self, verb: &str) -> Result<Status, Error> {
        answer(self.client.post(format!("http://knhk/v1/rollouts/{NAME}/{verb}"))).await
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Status, Error> {
    let http = |error: reqwest::Error| wrong(error.to_string());
    request
        .send()
        .await
        .map_err(http)?
        .error_for_status()
        .map_err(http)?
        .json()
        .await
        .map_err(http)
}

/// Both ends of every connection are files, and the service inherits the limit.
fn allow_files() -> Result<(), Error> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).map_err(|errno| Error::io("the limit of open files")(errno.into()))
}

fn wrong(reason: String) -> Error {
    Error::Contract {
        what: "abort".to_owned(),
        reason,
    }
}

impl fmt::Display for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: f64| us / 1e3;
        write!(
            f,
            "\nFrom abort to the acknowledgement of the last of {} connected workers, {} times: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms.\n\
             At most {} ms at p99: {}. The service spends {:.1} us of CPU on each worker; the workers here share its machine.",
            self.workers,
            self.aborts,
            ms(self.p50_us),
            ms(self.p99_us),
            ms(self.max_us),
            TARGET_US / 1e3,
            judged(self.p99_us <= TARGET_US),
            self.service_cpu_us_per_worker
        )
    }
}
