//! A change of one rollout, or of the flags, on its way: made ready, recorded, then in force.

use std::sync::Arc;

use knhk_promotion::{HistoryEntry, Rollout, What};
use knhk_receipts::{LogError, Payload};
use tokio::sync::oneshot;

use super::backlog::Append;
use super::{CommandError, Definitions, Tombstone};
use crate::app::snapshots::Snapshot;

/// Where the answer to an operator goes.
pub(super) type Done = oneshot::Sender<Result<(), CommandError>>;

/// What is next, and all that follows from it. Nothing of it is in force yet.
#[derive(Debug)]
pub(super) struct Change {
    /// The rollout's; of the flags, what they are called in receipts.
    pub(super) name: String,
    pub(super) by: String,
    pub(super) next: Next,
    /// What the rollout's history says of it.
    pub(super) entries: Vec<HistoryEntry>,
    /// The receipts of `entries`.
    pub(super) actions: Vec<Payload>,
    /// What is remembered of a deletion, where there are other regions.
    pub(super) tombstone: Option<Tombstone>,
    /// The policy, where it becomes another one.
    pub(super) snapshot: Option<Arc<Snapshot>>,
}

/// What a change puts in the place of what was.
#[derive(Debug)]
pub(super) enum Next {
    /// The rollout's next state.
    Rollout(Arc<Rollout>),
    /// The rollout is deleted.
    NoRollout,
    /// The flag definitions.
    Flags(Definitions),
}

impl Change {
    /// Whether it is about this rollout.
    pub(super) fn is_of(&self, rollout: &str) -> bool {
        !matches!(self.next, Next::Flags(_)) && self.name == rollout
    }

    /// Whether it takes traffic off a version that fails, which waits for nothing.
    pub(super) fn is_urgent(&self) -> bool {
        is_urgent(&self.entries)
    }
}

/// Whether what a rollout's history says of a change is that traffic is taken off a version.
pub(super) fn is_urgent(entries: &[HistoryEntry]) -> bool {
    entries
        .iter()
        .any(|entry| matches!(entry.what, What::RolledBack | What::Aborted))
}

/// A change that the log did not take at once. Its receipts may become durable at any time, so it is neither given up
/// nor in force until the log has answered.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) change: Change,
    pub(super) append: Append,
    /// Who waits for it; nobody when the service made the change itself.
    pub(super) done: Option<Done>,
    /// Its rollout was rolled back or aborted meanwhile, which counts.
    pub(super) overtaken: bool,
}

/// How the log answered an append: the index of the last entry.
pub(super) type Appended = Result<Option<u64>, LogError>;
