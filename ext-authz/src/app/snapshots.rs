//! Policy snapshots: the newest one, and the few before it that a request may still name.

mod view;

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use knhk_decision::{Policy, PolicyDoc, PolicyError, PolicyId};
use knhk_flags::Document;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use view::Views;

/// How many snapshots are kept, the newest included: a request that was decided in the filter just before
/// a change is checked by the same snapshot.
pub(crate) const KEPT_SNAPSHOTS: usize = 16;

/// A policy, its bytes and their digest.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) id: PolicyId,
    pub(crate) sha256: [u8; 32],
    pub(crate) bytes: Bytes,
    pub(crate) policy: Policy,
    /// The flags that its rollouts ask for, as they are defined.
    pub(crate) flags: Option<Document>,
    views: Views,
}

impl Snapshot {
    /// Compiles a policy document.
    pub(crate) fn parse(bytes: impl Into<Bytes>) -> Result<Self, PolicyError> {
        let bytes = bytes.into();
        let document = PolicyDoc::parse(&bytes)?;
        let flags = document.flags.clone();
        let policy = Policy::compile(document)?;
        Ok(Self {
            flags,
            id: policy.id(),
            sha256: Sha256::digest(&bytes).into(),
            bytes,
            policy,
            views: Views::default(),
        })
    }

    /// Whether a rollout is in its policy.
    pub(crate) fn routes(&self, rollout: &str) -> bool {
        self.policy.rules().iter().any(|rule| rule.name == rollout)
    }
}

/// The published snapshots. Cheap to share; a reader never waits for the disk.
#[derive(Debug)]
pub(crate) struct Snapshots {
    newest: watch::Sender<Arc<Snapshot>>,
    kept: RwLock<VecDeque<Arc<Snapshot>>>,
}

impl Snapshots {
    /// `kept` in ascending order; the last one is the newest.
    pub(crate) fn new(newest: Arc<Snapshot>, before: impl IntoIterator<Item = Arc<Snapshot>>) -> Self {
        let mut kept: VecDeque<_> = before.into_iter().collect();
        kept.push_back(Arc::clone(&newest));
        trim(&mut kept);
        Self {
            newest: watch::Sender::new(newest),
            kept: RwLock::new(kept),
        }
    }

    /// The snapshot that filters should run.
    pub(crate) fn newest(&self) -> Arc<Snapshot> {
        Arc::clone(&self.newest.borrow())
    }

    /// Sees every later newest snapshot; several quick changes may be seen as one.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.newest.subscribe()
    }

    /// A kept snapshot by its number.
    pub(crate) fn named(&self, id: PolicyId) -> Option<Arc<Snapshot>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.iter()
            .rev()
            .find(|snapshot| snapshot.id == id)
            .map(Arc::clone)
    }

    /// Makes a snapshot the newest one.
    pub(crate) fn publish(&self, snapshot: Arc<Snapshot>) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(Arc::clone(&snapshot));
        trim(&mut kept);
        drop(kept);
        self.newest.send_replace(snapshot);
    }
}

fn trim(kept: &mut VecDeque<Arc<Snapshot>>) {
    while kept.len() > KEPT_SNAPSHOTS {
        kept.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(n: u64) -> Arc<Snapshot> {
        let doc = PolicyDoc::new(PolicyId { epoch: 7, n }, Vec::new());
        Arc::new(Snapshot::parse(doc.to_bytes()).expect("valid"))
    }

    #[test]
    fn the_last_sixteen_can_be_named() {
        let snapshots = Snapshots::new(snapshot(1), []);
        (2..=20).for_each(|n| snapshots.publish(snapshot(n)));
        let named = |n| snapshots.named(PolicyId { epoch: 7, n }).map(|found| found.id.n);
        assert_eq!(snapshots.newest().id.n, 20);
        assert_eq!(named(20), Some(20));
        assert_eq!(named(5), Some(5));
        assert_eq!(named(4), None);
        assert!(snapshots.named(PolicyId { epoch: 8, n: 20 }).is_none());
    }
}
