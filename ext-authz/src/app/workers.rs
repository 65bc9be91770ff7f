//! Which workers of which proxies run which snapshot.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use knhk_decision::PolicyId;
use thiserror::Error;

use crate::api::{WorkerRefusal, Workers};

/// A worker counts as active for so long after a report in which its requests had grown.
pub(crate) const ACTIVE_FOR: Duration = Duration::from_secs(5 * 60);
/// Workers remembered at once; past it, streams of new workers are refused.
pub(crate) const MAX_WORKERS: usize = 100_000;
/// Refusals shown in a status, the newest first.
const MAX_SHOWN_REFUSALS: usize = 10;

/// A worker VM's random name.
pub(crate) type Nonce = [u8; 16];

/// Every worker that is connected or was active lately.
#[derive(Debug, Default)]
pub(crate) struct WorkerTable {
    workers: Mutex<HashMap<Nonce, Worker>>,
}

#[derive(Debug)]
struct Worker {
    node: String,
    /// The proxy's SPIFFE ID, where it shows one.
    identity: Option<Arc<str>>,
    /// Open streams: briefly two when a stream is replaced.
    streams: u32,
    running: Option<PolicyId>,
    requests: u64,
    active_at: Option<Duration>,
    refused: Option<Refused>,
}

#[derive(Debug)]
struct Refused {
    policy: PolicyId,
    reason: String,
    detail: String,
}

/// Why a worker is not taken.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum NotTaken {
    /// The table is full.
    #[error("there are {MAX_WORKERS} workers already, the most that one service serves")]
    TooMany,
    /// A worker's name is its own: whoever shows another identity may not go on with its counts.
    #[error("hello.vm_nonce: it is another proxy's; each worker draws its own")]
    AnothersNonce,
}

/// A worker as it says Hello.
#[derive(Debug, Clone)]
pub(crate) struct Greeting {
    pub(crate) nonce: Nonce,
    pub(crate) node: String,
    /// The proxy's SPIFFE ID, where it shows one.
    pub(crate) identity: Option<Arc<str>>,
    /// The snapshot that it runs.
    pub(crate) running: Option<PolicyId>,
}

impl WorkerTable {
    /// A stream opened; it is open until the answer is dropped.
    pub(crate) fn connected(&self, greeting: &Greeting, now: Duration) -> Result<Connected<'_>, NotTaken> {
        let nonce = greeting.nonce;
        let mut workers = self.lock();
        if !workers.contains_key(&nonce) && workers.len() >= MAX_WORKERS {
            forget_those_that_are_gone(&mut workers, now);
            if workers.len() >= MAX_WORKERS {
                return Err(NotTaken::TooMany);
            }
        }
        let worker = workers.entry(nonce).or_insert_with(|| Worker {
            node: greeting.node.clone(),
            identity: greeting.identity.clone(),
            streams: 0,
            running: None,
            requests: 0,
            active_at: None,
            refused: None,
        });
        if worker.identity != greeting.identity {
            return Err(NotTaken::AnothersNonce);
        }
        worker.streams = worker.streams.saturating_add(1);
        worker.running = greeting.running;
        drop(workers);
        Ok(Connected { table: self, nonce })
    }

    fn disconnected(&self, nonce: &Nonce) {
        if let Some(worker) = self.lock().get_mut(nonce) {
            worker.streams = worker.streams.saturating_sub(1);
        }
    }

    /// A snapshot was accepted.
    pub(crate) fn acknowledged(&self, nonce: &Nonce, policy: PolicyId) {
        if let Some(worker) = self.lock().get_mut(nonce) {
            worker.running = Some(policy);
            worker.refused = None;
        }
    }

    /// A snapshot was refused; what the worker runs stays.
    pub(crate) fn refused(&self, nonce: &Nonce, policy: PolicyId, reason: String, detail: String) {
        if let Some(worker) = self.lock().get_mut(nonce) {
            worker.refused = Some(Refused {
                policy,
                reason,
                detail,
            });
        }
    }

    /// A report arrived. `requests` is cumulative.
    pub(crate) fn reported(&self, nonce: &Nonce, running: Option<PolicyId>, requests: u64, now: Duration) {
        if let Some(worker) = self.lock().get_mut(nonce) {
            if requests > worker.requests {
                worker.requests = requests;
                worker.active_at = Some(now);
            }
            worker.running = running;
        }
    }

    /// How far the newest snapshot has come. Forgets workers that are gone and no longer active.
    pub(crate) fn summary(&self, newest: PolicyId, now: Duration) -> Workers {
        let mut workers = self.lock();
        forget_those_that_are_gone(&mut workers, now);
        let mut summary = Workers::default();
        for worker in workers.values() {
            summary.connected += u64::from(worker.streams > 0);
            if worker.is_active(now) {
                summary.active += 1;
                summary.newest += u64::from(worker.running == Some(newest));
            }
            if let Some(refused) = worker.refused.as_ref().filter(|refused| refused.policy == newest) {
                summary.refusals.push(WorkerRefusal {
                    node: worker.node.clone(),
                    policy: refused.policy.to_string(),
                    reason: refused.reason.clone(),
                    detail: refused.detail.clone(),
                });
            }
        }
        summary.refusals.sort_by(|one, other| one.node.cmp(&other.node));
        summary.refusals.truncate(MAX_SHOWN_REFUSALS);
        summary
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Nonce, Worker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget_those_that_are_gone(workers: &mut HashMap<Nonce, Worker>, now: Duration) {
    workers.retain(|_, worker| worker.streams > 0 || worker.is_active(now));
}

/// An open stream of a worker; dropping it, also by a panic, says that it ended.
#[derive(Debug)]
#[must_use = "the stream counts as open until this is dropped"]
pub(crate) struct Connected<'t> {
    table: &'t WorkerTable,
    nonce: Nonce,
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.table.disconnected(&self.nonce);
    }
}

impl Worker {
    fn is_active(&self, now: Duration) -> bool {
        self.active_at
            .is_some_and(|at| now.saturating_sub(at) < ACTIVE_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: PolicyId = PolicyId { epoch: 1, n: 1 };
    const NEW: PolicyId = PolicyId { epoch: 1, n: 2 };
    const ONE: Nonce = [1; 16];
    const TWO: Nonce = [2; 16];

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn greeting(nonce: Nonce, node: &str, running: Option<PolicyId>) -> Greeting {
        Greeting {
            nonce,
            node: node.to_owned(),
            identity: None,
            running,
        }
    }

    #[test]
    fn a_name_stays_with_the_identity_that_drew_it() {
        let table = WorkerTable::default();
        let by = |identity: &str| Greeting {
            identity: Some(identity.into()),
            ..greeting(ONE, "a", None)
        };
        let stream = table.connected(&by("one"), seconds(0)).expect("room");
        let refused = table.connected(&by("two"), seconds(0)).expect_err("refused");
        assert_eq!(refused, NotTaken::AnothersNonce);
        drop(table.connected(&by("one"), seconds(0)).expect("its own"));
        drop(stream);
        table.summary(NEW, seconds(301));
        drop(
            table
                .connected(&by("two"), seconds(301))
                .expect("it was forgotten"),
        );
    }

    #[test]
    fn a_worker_counts_once_it_carried_a_request() {
        let table = WorkerTable::default();
        let _one = table
            .connected(&greeting(ONE, "a", None), seconds(0))
            .expect("room");
        let _two = table
            .connected(&greeting(TWO, "b", None), seconds(0))
            .expect("room");
        table.reported(&ONE, Some(OLD), 10, seconds(1));
        table.reported(&TWO, Some(OLD), 0, seconds(1));
        let summary = table.summary(NEW, seconds(1));
        assert_eq!((summary.newest, summary.active, summary.connected), (0, 1, 2));
        table.acknowledged(&ONE, NEW);
        assert_eq!(table.summary(NEW, seconds(2)).newest, 1);
    }

    #[test]
    fn a_worker_that_went_silent_is_forgotten_after_five_minutes() {
        let table = WorkerTable::default();
        let stream = table
            .connected(&greeting(ONE, "a", None), seconds(0))
            .expect("room");
        table.reported(&ONE, Some(NEW), 10, seconds(1));
        drop(stream);
        assert_eq!(table.summary(NEW, seconds(300)).active, 1);
        assert_eq!(table.summary(NEW, seconds(301)).active, 0);
        assert!(table.lock().is_empty());
    }

    #[test]
    fn a_resent_report_does_not_make_a_worker_active() {
        let table = WorkerTable::default();
        let _stream = table
            .connected(&greeting(ONE, "a", None), seconds(0))
            .expect("room");
        table.reported(&ONE, Some(NEW), 10, seconds(1));
        table.reported(&ONE, Some(NEW), 10, seconds(200));
        assert_eq!(table.summary(NEW, seconds(302)).active, 0);
    }

    #[test]
    fn a_refusal_is_shown_until_a_snapshot_is_accepted() {
        let table = WorkerTable::default();
        let _stream = table
            .connected(&greeting(ONE, "a", Some(OLD)), seconds(0))
            .expect("room");
        table.reported(&ONE, Some(OLD), 1, seconds(1));
        table.refused(&ONE, NEW, "sha256".into(), "digest differs".into());
        let summary = table.summary(NEW, seconds(1));
        assert_eq!(summary.refusals.len(), 1);
        assert_eq!(summary.newest, 0);
        table.acknowledged(&ONE, NEW);
        assert!(table.summary(NEW, seconds(1)).refusals.is_empty());
    }

    #[test]
    fn workers_that_are_gone_make_room_for_new_ones_though_nobody_looks() {
        let table = WorkerTable::default();
        let nonce = |n: usize| (n as u128).to_be_bytes();
        for n in 0..MAX_WORKERS {
            drop(
                table
                    .connected(&greeting(nonce(n), "a", None), seconds(0))
                    .expect("room"),
            );
        }
        let stream = table.connected(&greeting(nonce(MAX_WORKERS), "a", None), seconds(0));
        drop(stream.expect("the others are gone"));
        let open: Vec<_> = (0..MAX_WORKERS)
            .map(|n| {
                table
                    .connected(&greeting(nonce(n), "a", None), seconds(0))
                    .expect("room")
            })
            .collect();
        let refused = table.connected(&greeting(nonce(MAX_WORKERS), "a", None), seconds(0));
        assert_eq!(refused.expect_err("full"), NotTaken::TooMany);
        drop(open);
    }
}
