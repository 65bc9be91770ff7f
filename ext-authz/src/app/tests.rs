//! The service's parts together, on a real disk, without listeners.

mod faults;
mod flags;
mod keys;
mod proxies;
mod region_flags;
mod regions;
mod reporters;

use std::sync::Arc;

use knhk_decision::PolicyId;
use knhk_identity::Hosts;
use knhk_kms::Kms;
use knhk_promotion::{Command, RolloutSpec};
use knhk_proto::v1;
use knhk_receipts::Payload;
use knhk_receipts::storage::Storage;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::proxies::Proxy;
use super::recorder::{Batch, Reporter};
use super::rollouts::CommandError;
use super::{App, Begin, Ground, Opened, StartError};
use crate::config::Config;

const SPEC: &str = "
apiVersion: knhk.dev/v1
kind: Rollout
metadata: { name: checkout }
spec:
  version: v2
  stable: v1
  match: { hosts: [checkout.example.com] }
  key: [ { header: x-user-id } ]
  stages:
    - { name: canary, steps: [ { setWeight: 5, pause: 1h }, { setWeight: 50, pause: 1h } ] }
  analysis:
    slos: [ { metric: request-success-rate, min: 99 } ]
";

/// A service with its log on `storage`, signed by `kms`.
async fn open_on(
    config: &Config,
    storage: Arc<dyn Storage>,
    kms: Arc<dyn Kms>,
) -> Result<Opened, StartError> {
    let (ground, _) = Ground::on(config, Begin::WhereItWas, storage, kms).await?;
    App::open_on(config, ground).await
}

/// A service on a directory; `stop` ends its tasks, dropping it is like kill -9.
struct Running {
    app: Arc<App>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    async fn start(data: &std::path::Path) -> Self {
        let text = format!("region: eu-west-1\ndata: {}", data.display());
        let config = Config::parse(&text).expect("valid");
        Self::run(App::open(&config).await.expect("opens"))
    }

    fn run(opened: Opened) -> Self {
        let stop = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(opened.driver.run(stop.clone())),
            tokio::spawn(opened.saver.run(stop.clone())),
            tokio::spawn(opened.rotator.run(stop.clone())),
        ];
        Self {
            app: opened.app,
            stop,
            tasks,
        }
    }

    /// Ends the service; with `Ending::Killed` its shortcut is gone too, as if it had never been written.
    async fn end(self, data: &std::path::Path, ending: Ending) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.expect("ends");
        }
        let app = Arc::into_inner(self.app).expect("nobody else holds the service");
        // A log that fails cannot be signed to its end; its lock is free all the same.
        let _ = app.log.clone().close().await;
        drop(app);
        if ending == Ending::Killed {
            std::fs::remove_file(data.join("state.json")).expect("was written");
        }
    }

    async fn apply(&self, spec: &str) -> Result<(), CommandError> {
        let spec = RolloutSpec::from_yaml(spec).expect("valid");
        self.app
            .rollouts
            .command(spec.name().into(), "someone".into(), Command::Apply(spec))
            .await
    }

    async fn command(&self, command: Command) -> Result<(), CommandError> {
        self.app
            .rollouts
            .command("checkout".into(), "someone".into(), command)
            .await
    }

    fn newest(&self) -> PolicyId {
        self.app.snapshots.newest().id
    }

    fn decisions(&self) -> Vec<u64> {
        let entries = self.app.log.scan(0).map(|entry| entry.expect("readable").1);
        entries
            .filter_map(|payload| match payload {
                Payload::Decision(decision) => decision.reporter.seq,
                _ => None,
            })
            .collect()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Orderly,
    Killed,
}

fn reporter() -> Reporter {
    Reporter {
        node: "proxy-1".into(),
        nonce: [3; 16],
        proxy: Arc::new(Proxy {
            identity: None,
            hosts: Arc::new(Hosts::every()),
        }),
    }
}

fn batch(first: u64, count: usize) -> Batch {
    let decision = v1::Decision {
        policy: Some(v1::SnapshotId { epoch: 1, n: 1 }),
        policy_sha256: vec![0; 32],
        path_sha256: vec![0; 32],
        method: "GET".into(),
        host: "checkout.example.com".into(),
        ..v1::Decision::default()
    };
    v1::DecisionBatch {
        first,
        decisions: vec![decision; count],
    }
    .try_into()
    .expect("in range")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_changes_neither_policy_nor_rollout_with_or_without_the_shortcut() {
    for ending in [Ending::Orderly, Ending::Killed] {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        let first = Running::start(&data).await;
        let empty = first.newest();
        first.apply(SPEC).await.expect("applied");
        first
            .command(Command::Promote {
                full: false,
                reason: None,
            })
            .await
            .expect("promoted");
        assert_eq!(
            first.newest(),
            PolicyId {
                epoch: empty.epoch,
                n: empty.n + 2
            }
        );
        let before = first.app.rollouts.get("checkout").expect("there");
        let policy = first.app.snapshots.newest();
        first.end(&data, ending).await;

        let second = Running::start(&data).await;
        let after = second.app.rollouts.get("checkout").expect("there");
        assert_eq!(second.app.snapshots.newest().sha256, policy.sha256);
        assert_eq!(second.newest(), policy.id);
        assert!(second.app.snapshots.named(empty).is_some());
        assert_eq!(after.history(), before.history());
        assert_eq!((after.phase(), after.window()), (before.phase(), before.window()));
        second.end(&data, Ending::Orderly).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_command_changes_nothing_and_is_not_in_the_log() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let service = Running::start(&data).await;
    service.apply(SPEC).await.expect("applied");
    let (policy, size) = (service.newest(), service.app.log.size());
    let refused = service
        .command(Command::Retry)
        .await
        .expect_err("nothing failed")
        .to_string();
    assert!(
        refused.contains("checkout") && !refused.contains('\n'),
        "{refused}"
    );
    let unknown = service
        .app
        .rollouts
        .delete("other".into(), "someone".into())
        .await
        .expect_err("unknown");
    assert_eq!(unknown.label(), "not_found");
    assert_eq!((service.newest(), service.app.log.size()), (policy, size));
    service.end(&data, Ending::Orderly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_rollout_stays_deleted() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let first = Running::start(&data).await;
    first.apply(SPEC).await.expect("applied");
    first
        .app
        .rollouts
        .delete("checkout".into(), "someone".into())
        .await
        .expect("deleted");
    assert!(first.app.snapshots.newest().policy.rules().is_empty());
    first.end(&data, Ending::Killed).await;
    let second = Running::start(&data).await;
    assert!(second.app.rollouts.summaries().is_empty());
    second.end(&data, Ending::Orderly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resent_batch_is_recorded_once_also_across_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let first = Running::start(&data).await;
    assert_eq!(
        first
            .app
            .recorder
            .record_batch(&reporter(), batch(1, 3))
            .await
            .expect("durable"),
        3
    );
    assert_eq!(
        first
            .app
            .recorder
            .record_batch(&reporter(), batch(2, 3))
            .await
            .expect("durable"),
        4
    );
    assert_eq!(first.decisions(), [1, 2, 3, 4]);
    first.end(&data, Ending::Killed).await;
    let second = Running::start(&data).await;
    assert_eq!(
        second
            .app
            .recorder
            .record_batch(&reporter(), batch(1, 5))
            .await
            .expect("durable"),
        5
    );
    assert_eq!(
        second
            .app
            .recorder
            .record_batch(&reporter(), batch(1, 5))
            .await
            .expect("durable"),
        5
    );
    assert_eq!(second.decisions(), [1, 2, 3, 4, 5]);
    second.end(&data, Ending::Orderly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_and_a_malformed_decision_are_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let service = Running::start(&data).await;
    let mut malformed = v1::DecisionBatch {
        first: 4,
        decisions: vec![v1::Decision::default()],
    };
    malformed.decisions.push(v1::Decision {
        policy_sha256: vec![1],
        ..v1::Decision::default()
    });
    assert_eq!(
        service
            .app
            .recorder
            .record_batch(&reporter(), malformed.try_into().expect("in range"))
            .await
            .expect("read"),
        5
    );
    assert!(service.decisions().is_empty());
    let metrics = service.app.expose_metrics();
    let value = |name: &str| {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default();
        line.rsplit(' ')
            .next()
            .and_then(|value| value.parse::<f64>().ok())
    };
    assert_eq!(value("knhk_decisions_missing_total"), Some(3.0), "{metrics}");
    assert_eq!(value("knhk_decisions_malformed_total"), Some(2.0), "{metrics}");
    service.end(&data, Ending::Orderly).await;
}

#[tokio::test]
async fn a_log_without_its_key_is_not_continued() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let service = Running::start(&data).await;
    service.app.log.covered(1).await.expect("signed");
    service.end(&data, Ending::Orderly).await;
    std::fs::remove_dir_all(data.join("keys")).expect("was there");
    let config = Config::parse(&format!("region: eu-west-1\ndata: {}", data.display())).expect("valid");
    let refused = App::open(&config).await.err().expect("refused").to_string();
    assert!(refused.contains("keys") && !refused.contains('\n'), "{refused}");
}
