//! What goes down one Gate stream: every newest snapshot, and the session's answers.
//!
//! Snapshots are read where they are published, not queued for each worker: a change wakes the connections and
//! nothing between, and a worker that reads slowly finds the newest one only. Each proxy gets what touches its hosts.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use knhk_decision::PolicyId;
use knhk_proto::v1::{self, Down, down};
use tokio::sync::mpsc;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

use crate::app::App;
use crate::app::proxies::Proxy;
use crate::app::snapshots::Snapshot;

/// Answers waiting to be sent on one stream.
const WAITING_ANSWERS: usize = 16;

/// What a session says to its worker.
#[derive(Debug)]
pub(super) enum Answer {
    /// The worker has said Hello, and runs this snapshot: from now on it gets every newer one.
    Greeted { running: Option<PolicyId> },
    /// Decisions up to this number are durable.
    Durable { through: u64 },
    /// The stream ends with an error.
    Failed(Status),
}

/// The session's end of a stream. Dropping every copy ends the stream.
pub(super) type Answers = mpsc::Sender<Answer>;

/// The connection's end.
pub(crate) struct Downlink {
    app: Arc<App>,
    proxy: Arc<Proxy>,
    answers: mpsc::Receiver<Answer>,
    snapshots: Option<WatchStream<Arc<Snapshot>>>,
    /// The snapshot that the worker has or was sent last.
    last: Option<PolicyId>,
}

impl Downlink {
    pub(super) fn new(app: Arc<App>, proxy: Arc<Proxy>) -> (Answers, Self) {
        let (sender, answers) = mpsc::channel(WAITING_ANSWERS);
        let downlink = Self {
            app,
            proxy,
            answers,
            snapshots: None,
            last: None,
        };
        (sender, downlink)
    }

    /// The next snapshot that the worker does not have.
    fn poll_snapshot(&mut self, cx: &mut Context<'_>) -> Poll<Down> {
        let Some(snapshots) = &mut self.snapshots else {
            return Poll::Pending;
        };
        // The service holds the other end, so this side never sees the last snapshot.
        while let Poll::Ready(Some(snapshot)) = Pin::new(&mut *snapshots).poll_next(cx) {
            if self.last.replace(snapshot.id) != Some(snapshot.id) {
                self.app.metrics.snapshot_sent();
                return Poll::Ready(down(down::Message::Snapshot(seen_by(&self.proxy, &snapshot))));
            }
        }
        Poll::Pending
    }
}

impl Stream for Downlink {
    type Item = Result<Down, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Poll::Ready(snapshot) = self.poll_snapshot(cx) {
                return Poll::Ready(Some(Ok(snapshot)));
            }
            let answer = match self.answers.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(answer)) => answer,
            };
            match answer {
                Answer::Greeted { running } => {
                    self.last = running;
                    self.snapshots = Some(WatchStream::new(self.app.snapshots.subscribe()));
                }
                Answer::Durable { through } => {
                    let ack = down::Message::BatchAck(v1::BatchAck { through });
                    return Poll::Ready(Some(Ok(down(ack))));
                }
                Answer::Failed(status) => return Poll::Ready(Some(Err(status))),
            }
        }
    }
}

fn down(message: down::Message) -> Down {
    Down {
        message: Some(message),
    }
}

fn seen_by(proxy: &Proxy, snapshot: &Snapshot) -> v1::Snapshot {
    let view = snapshot.view(&proxy.hosts);
    v1::Snapshot {
        id: Some(v1::SnapshotId {
            epoch: snapshot.id.epoch,
            n: snapshot.id.n,
        }),
        sha256: view.sha256.to_vec(),
        policy: view.bytes.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Opened;
    use futures::{FutureExt, StreamExt};
    use knhk_decision::{Policy, PolicyDoc};
    use knhk_identity::{FilterRule, Hosts, Roles, SpiffeId};
    use serde_json::json;
    use sha2::{Digest, Sha256};

    async fn open() -> (tempfile::TempDir, Arc<App>) {
        let directory = tempfile::tempdir().expect("a directory");
        let text = format!("region: eu\ndata: {}", directory.path().join("data").display());
        let config = crate::config::Config::parse(&text).expect("valid");
        let Opened { app, .. } = App::open(&config).await.expect("opens");
        (directory, app)
    }

    fn publish(app: &App) -> u64 {
        let newest = app.snapshots.newest().id;
        let next = PolicyId {
            n: newest.n + 1,
            ..newest
        };
        let snapshot = Snapshot::parse(PolicyDoc::new(next, Vec::new()).to_bytes()).expect("valid");
        app.snapshots.publish(Arc::new(snapshot));
        next.n
    }

    fn downlink(app: &Arc<App>) -> (Answers, Downlink) {
        let proxy = Proxy {
            identity: None,
            hosts: Arc::new(Hosts::every()),
        };
        Downlink::new(Arc::clone(app), Arc::new(proxy))
    }

    /// What is sent now, without waiting.
    fn sent(downlink: &mut Downlink) -> Option<Result<down::Message, Status>> {
        let next = downlink.next().now_or_never()?;
        next.map(|message| message.map(|down| down.message.expect("never empty")))
    }

    fn snapshot_sent(downlink: &mut Downlink) -> Option<u64> {
        match sent(downlink)? {
            Ok(down::Message::Snapshot(snapshot)) => snapshot.id.map(|id| id.n),
            other => panic!("not a snapshot: {other:?}"),
        }
    }

    #[tokio::test]
    async fn nothing_is_sent_before_hello_and_then_only_what_the_worker_does_not_have() {
        let (_directory, app) = open().await;
        let (answers, mut downlink) = downlink(&app);
        assert!(snapshot_sent(&mut downlink).is_none());
        let running = Some(app.snapshots.newest().id);
        answers.send(Answer::Greeted { running }).await.expect("open");
        assert!(snapshot_sent(&mut downlink).is_none());
        let n = publish(&app);
        assert_eq!(snapshot_sent(&mut downlink), Some(n));
        assert!(snapshot_sent(&mut downlink).is_none());
    }

    #[tokio::test]
    async fn a_new_worker_gets_the_newest_and_a_slow_one_only_the_newest() {
        let (_directory, app) = open().await;
        let (answers, mut downlink) = downlink(&app);
        answers
            .send(Answer::Greeted { running: None })
            .await
            .expect("open");
        assert_eq!(snapshot_sent(&mut downlink), Some(app.snapshots.newest().id.n));
        publish(&app);
        publish(&app);
        let newest = publish(&app);
        assert_eq!(snapshot_sent(&mut downlink), Some(newest));
        assert!(snapshot_sent(&mut downlink).is_none());
    }

    #[tokio::test]
    async fn a_proxy_gets_what_touches_its_hosts() {
        let (_directory, app) = open().await;
        let rules = ["a.example", "b.example"].map(|host| {
            let rule = json!({
                "name": host.replace('.', "-"), "generation": 1, "window": host.len(), "match": { "hosts": [host] },
                "key": [{ "requestId": {} }], "weight": 1.0, "stable": "v1", "canary": "v2",
            });
            serde_json::from_value(rule).expect("a rule")
        });
        let next = PolicyId {
            n: app.snapshots.newest().id.n + 1,
            ..app.snapshots.newest().id
        };
        let snapshot = Snapshot::parse(PolicyDoc::new(next, rules.into()).to_bytes()).expect("valid");
        app.snapshots.publish(Arc::new(snapshot));
        let id: SpiffeId = "spiffe://example.org/a".parse().expect("an ID");
        let rule = FilterRule {
            id: id.to_string().parse().expect("a pattern"),
            hosts: vec!["a.example".parse().expect("a host")],
        };
        let proxy = Proxy {
            identity: Some("spiffe://example.org/a".into()),
            hosts: Arc::new(Roles::new(vec![rule], []).hosts(&id).expect("a filter")),
        };
        let (answers, mut downlink) = Downlink::new(app, Arc::new(proxy));
        answers
            .send(Answer::Greeted { running: None })
            .await
            .expect("open");
        let Ok(down::Message::Snapshot(sent)) = sent(&mut downlink).expect("sent") else {
            panic!("not a snapshot")
        };
        assert_eq!(Sha256::digest(&sent.policy).as_slice(), sent.sha256);
        let policy = Policy::parse(&sent.policy).expect("valid");
        assert_eq!(policy.id(), next);
        let names: Vec<_> = policy.rules().iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(names, ["a-example"]);
    }

    #[tokio::test]
    async fn answers_are_sent_and_the_session_s_end_is_the_stream_s() {
        let (_directory, app) = open().await;
        let (answers, mut downlink) = downlink(&app);
        answers.send(Answer::Durable { through: 7 }).await.expect("open");
        let ack = sent(&mut downlink).expect("sent").expect("no error");
        assert_eq!(ack, down::Message::BatchAck(v1::BatchAck { through: 7 }));
        answers
            .send(Answer::Failed(Status::unavailable("x")))
            .await
            .expect("open");
        assert!(sent(&mut downlink).expect("sent").is_err());
        drop(answers);
        assert!(downlink.next().now_or_never().expect("ended").is_none());
    }
}
