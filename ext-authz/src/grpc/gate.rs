//! `knhk.v1.Gate`: one session per worker VM. Snapshots go down, reports and recorded decisions come up.

use std::sync::Arc;
use std::time::Duration;

use knhk_decision::PolicyId;
use knhk_proto::v1::{self, DecisionBatch, Hello, Up, gate_server, up};
use knhk_telemetry::attribute::{AccessDoor, NackReason};
use prost::Message;
use rand::RngExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::downlink::{Answer, Answers, Downlink};
use crate::api::in_one_line;
use crate::app::App;
use crate::app::evidence::Origin;
use crate::app::proxies::Proxy;
use crate::app::recorder::{Batch, Reporter};
use crate::app::reports::MAX_OBSERVED;
use crate::app::workers::{Greeting, Nonce, NotTaken};

/// A stream is ended after this age, plus up to a tenth more, so that replicas share the load again.
const MAX_STREAM_AGE: Duration = Duration::from_secs(30 * 60);
/// A stream that has not said Hello by then is ended.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// A peer that does not read for so long is gone.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// How long a batch waits before it is tried again on a log that failed.
const RECORD_AGAIN: Duration = Duration::from_millis(250);
/// Batches of recorded decisions waiting for the log on one stream.
const WAITING_BATCHES: usize = 256;
/// Bytes of these batches. The filter holds at most 1 MiB unacknowledged.
const WAITING_BYTES: usize = 4 * 1024 * 1024;
/// Longest node name, in bytes.
const MAX_NODE_BYTES: usize = 1024;
/// Longest label and detail of a refusal, in bytes.
const MAX_NACK_BYTES: usize = 1024;

/// The gRPC service.
pub(crate) struct GateService {
    app: Arc<App>,
    draining: CancellationToken,
}

impl GateService {
    pub(crate) fn new(app: Arc<App>, draining: CancellationToken) -> Self {
        Self { app, draining }
    }
}

#[tonic::async_trait]
impl gate_server::Gate for GateService {
    type StreamStream = Downlink;

    async fn stream(&self, request: Request<Streaming<Up>>) -> Result<Response<Self::StreamStream>, Status> {
        let proxy = self.app.proxies.admit(request.extensions(), AccessDoor::Gate)?;
        let (answers, downlink) = Downlink::new(Arc::clone(&self.app), Arc::clone(&proxy));
        let (app, draining) = (Arc::clone(&self.app), self.draining.clone());
        let inbound = request.into_inner();
        tokio::spawn(async move {
            if let Err(status) = run(app, proxy, draining, inbound, answers.clone()).await {
                // The stream may be gone already, which is how most sessions end.
                let _ = answer(&answers, Answer::Failed(status)).await;
            }
        });
        Ok(Response::new(downlink))
    }
}

async fn run(
    app: Arc<App>,
    proxy: Arc<Proxy>,
    draining: CancellationToken,
    mut inbound: Streaming<Up>,
    answers: Answers,
) -> Result<(), Status> {
    let hello = receive_hello(&mut inbound).await?;
    let greeting = greeting(&hello, &proxy)?;
    let _connected =
        app.workers
            .connected(&greeting, app.clock.mono())
            .map_err(|refused| match &refused {
                NotTaken::TooMany => Status::resource_exhausted(refused.to_string()),
                NotTaken::AnothersNonce => {
                    let reason = refused.to_string();
                    app.proxies
                        .refuse(&proxy, AccessDoor::Gate, "with another's nonce", &reason)
                }
            })?;
    let _open = app.metrics.stream_opened();
    let running = greeting
        .running
        .filter(|running| is_up_to_date(&app, &proxy, *running));
    answer(&answers, Answer::Greeted { running }).await?;
    Session::new(&app, &proxy, &greeting, answers)
        .serve(inbound, draining)
        .await
}

/// Whether a worker of this proxy that runs the snapshot `running` has what the proxy is to see of it. A snapshot's number
/// does not say which hosts the proxy had when it was sent, so a proxy that sees only a part gets it again.
fn is_up_to_date(app: &App, proxy: &Proxy, running: PolicyId) -> bool {
    let newest = app.snapshots.newest();
    running != newest.id || newest.view(&proxy.hosts).sha256 == newest.sha256
}

async fn receive_hello(inbound: &mut Streaming<Up>) -> Result<Hello, Status> {
    let first = tokio::time::timeout(HELLO_WITHIN, inbound.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no Hello"))??;
    match first.and_then(|up| up.message) {
        Some(up::Message::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument("the first message must be Hello")),
    }
}

fn greeting(hello: &Hello, proxy: &Proxy) -> Result<Greeting, Status> {
    let nonce = Nonce::try_from(hello.vm_nonce.as_slice())
        .map_err(|_| Status::invalid_argument("hello.vm_nonce: must be 16 bytes"))?;
    if hello.node.len() > MAX_NODE_BYTES {
        let message = format!("hello.node: {} bytes, at most {MAX_NODE_BYTES}", hello.node.len());
        return Err(Status::invalid_argument(message));
    }
    Ok(Greeting {
        nonce,
        node: in_one_line(&hello.node),
        identity: proxy.identity.clone(),
        running: hello.last.as_ref().map(policy_id),
    })
}

struct Session {
    app: Arc<App>,
    proxy: Arc<Proxy>,
    nonce: Nonce,
    answers: Answers,
    batches: mpsc::Sender<Waiting>,
    /// As many permits as bytes of batches may wait.
    room: Arc<Semaphore>,
}

/// A batch that waits for the log, and the room that it takes.
type Waiting = (Batch, OwnedSemaphorePermit);

impl Session {
    fn new(app: &Arc<App>, proxy: &Arc<Proxy>, worker: &Greeting, answers: Answers) -> Self {
        let (batches, waiting) = mpsc::channel(WAITING_BATCHES);
        let reporter = Reporter {
            node: worker.node.clone(),
            nonce: worker.nonce,
            proxy: Arc::clone(proxy),
        };
        tokio::spawn(record(Arc::clone(app), reporter, waiting, answers.clone()));
        Self {
            app: Arc::clone(app),
            proxy: Arc::clone(proxy),
            nonce: worker.nonce,
            answers,
            batches,
            room: Arc::new(Semaphore::new(WAITING_BYTES)),
        }
    }

    /// Returns when the peer ended the stream, when the service drains, or at the stream's maximum age.
    async fn serve(self, mut inbound: Streaming<Up>, draining: CancellationToken) -> Result<(), Status> {
        let old = tokio::time::sleep(MAX_STREAM_AGE.mul_f64(rand::rng().random_range(1.0..1.1)));
        tokio::pin!(old);
        loop {
            tokio::select! {
                biased;
                () = draining.cancelled() => return Ok(()),
                // The answers' side is gone: the peer cut it, or the log failed and the peer was told.
                () = self.answers.closed() => return Ok(()),
                () = &mut old => return Ok(()),
                message = inbound.message() => match message? {
                    Some(up) => self.receive(up)?,
                    None => return Ok(()),
                },
            }
        }
    }

    fn receive(&self, up: Up) -> Result<(), Status> {
        match up.message {
            Some(up::Message::Ack(ack)) => self.acknowledged(ack.id),
            Some(up::Message::Nack(nack)) => self.refused(&nack),
            Some(up::Message::Report(report)) => return self.reported(&report),
            Some(up::Message::Decisions(batch)) => return self.decided(batch),
            Some(up::Message::Hello(_)) => return Err(Status::invalid_argument("Hello may come once")),
            // A message of a later version: ignoring it keeps old services usable with new filters.
            None => {}
        }
        Ok(())
    }

    fn acknowledged(&self, id: Option<v1::SnapshotId>) {
        if let Some(id) = id {
            self.app.workers.acknowledged(&self.nonce, policy_id(&id));
            self.app.metrics.snapshot_acked();
        }
    }

    fn refused(&self, nack: &v1::Nack) {
        let Some(id) = nack.id.as_ref().map(policy_id) else {
            return;
        };
        let reason = clip(&nack.reason);
        let detail = clip(&nack.detail);
        tracing::warn!(policy = %id, reason, detail, "a filter refused a snapshot");
        self.app.metrics.snapshot_nacked(NackReason::from_label(&reason));
        self.app.workers.refused(&self.nonce, id, reason, detail);
    }

    fn reported(&self, report: &v1::Report) -> Result<(), Status> {
        if report.observed.len() > MAX_OBSERVED {
            let message = format!(
                "report.observed: {} rows, at most {MAX_OBSERVED}",
                report.observed.len()
            );
            return Err(Status::invalid_argument(message));
        }
        let running = report.running.as_ref().map(policy_id);
        self.app
            .workers
            .reported(&self.nonce, running, report.requests, self.app.clock.mono());
        self.app.metrics.report_received();
        let view = self.app.snapshots.newest().view(&self.proxy.hosts);
        let from = Origin {
            identity: self.proxy.identity.clone(),
            nonce: self.nonce,
        };
        self.app
            .observed(&from, &report.observed, |rollout| view.has(rollout));
        Ok(())
    }

    fn decided(&self, batch: DecisionBatch) -> Result<(), Status> {
        // The filter resends what was not acknowledged on its next stream.
        let too_fast =
            || Status::resource_exhausted("recorded decisions arrive faster than the log takes them");
        let bytes = u32::try_from(batch.encoded_len()).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes);
        let batch = Batch::try_from(batch).map_err(|bad| Status::invalid_argument(bad.to_string()))?;
        let waiting = (batch, room.map_err(|_| too_fast())?);
        self.batches.try_send(waiting).map_err(|_| too_fast())
    }
}

/// Makes one session's batches durable in order, then acknowledges them. A log that fails is tried again: the stream
/// stays, since the snapshots that take traffic off a version go down it.
async fn record(app: Arc<App>, reporter: Reporter, mut waiting: mpsc::Receiver<Waiting>, answers: Answers) {
    while let Some((batch, _room)) = waiting.recv().await {
        let Some(through) = until_durable(&app, &reporter, batch, &waiting).await else {
            return;
        };
        if answer(&answers, Answer::Durable { through }).await.is_err() {
            return;
        }
    }
}

/// The number up to which everything is durable; none if the session ends first, and the filter sends the batch again.
async fn until_durable(
    app: &App,
    reporter: &Reporter,
    batch: Batch,
    waiting: &mpsc::Receiver<Waiting>,
) -> Option<u64> {
    let mut told = false;
    loop {
        match app.recorder.record_batch(reporter, batch.clone()).await {
            Ok(through) => return Some(through),
            Err(error) if !told => {
                tracing::warn!(%error, node = reporter.node, "recorded decisions wait for the log");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RECORD_AGAIN).await;
        if waiting.is_closed() {
            return None;
        }
    }
}

async fn answer(answers: &Answers, answer: Answer) -> Result<(), Status> {
    match tokio::time::timeout(SEND_WITHIN, answers.send(answer)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Status::cancelled("the stream is gone")),
        Err(_) => Err(Status::deadline_exceeded("the filter does not read")),
    }
}

fn policy_id(id: &v1::SnapshotId) -> PolicyId {
    PolicyId {
        epoch: id.epoch,
        n: id.n,
    }
}

/// Keeps what a peer says short, and fit for a log and a terminal.
fn clip(text: &str) -> String {
    let end = (0..=MAX_NACK_BYTES.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    in_one_line(&text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Opened;
    use knhk_identity::Hosts;

    #[test]
    fn what_a_peer_says_is_short_and_draws_nothing_on_a_terminal() {
        assert_eq!(clip("policy: \u{1b}[2Jn\nm"), "policy: \u{fffd}[2Jn\u{fffd}m");
        let long = "\u{e4}".repeat(MAX_NACK_BYTES);
        assert_eq!(clip(&long).len(), MAX_NACK_BYTES);
    }

    fn proxy() -> Proxy {
        Proxy {
            identity: None,
            hosts: Arc::new(Hosts::every()),
        }
    }

    #[test]
    fn a_worker_without_a_proper_name_is_refused() {
        let hello = |node: &str, nonce: usize| Hello {
            node: node.into(),
            vm_nonce: vec![1; nonce],
            ..Hello::default()
        };
        let greeted = |node: &str, nonce| greeting(&hello(node, nonce), &proxy());
        let node = greeted("a\nb", 16).map(|worker| worker.node);
        assert_eq!(node.expect("taken"), "a\u{fffd}b");
        assert!(greeted("a", 15).is_err());
        assert!(greeted(&"a".repeat(MAX_NODE_BYTES + 1), 16).is_err());
    }

    #[tokio::test]
    async fn batches_that_wait_are_bounded_by_their_bytes() {
        let directory = tempfile::tempdir().expect("a directory");
        let text = format!("region: eu\ndata: {}", directory.path().join("data").display());
        let config = crate::config::Config::parse(&text).expect("valid");
        let Opened { app, .. } = App::open(&config).await.expect("opens");
        let (batches, mut log) = mpsc::channel(WAITING_BATCHES);
        let session = Session {
            app,
            proxy: Arc::new(proxy()),
            nonce: [1; 16],
            answers: mpsc::channel(1).0,
            batches,
            room: Arc::new(Semaphore::new(WAITING_BYTES)),
        };
        let batch = |first| DecisionBatch {
            first,
            decisions: vec![v1::Decision {
                host: "h".repeat(WAITING_BYTES / 2 - 100),
                ..v1::Decision::default()
            }],
        };
        session.decided(batch(1)).expect("room");
        session.decided(batch(2)).expect("room");
        let refused = session.decided(batch(3)).expect_err("full");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        drop(log.recv().await);
        session.decided(batch(3)).expect("room again");
        let refused = session.decided(batch(0)).expect_err("no such number");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
}
