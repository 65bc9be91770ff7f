//! Receipts of rollbacks that the log has not taken yet.
//!
//! Taking traffic off a bad version must not wait for a disk that fails or hangs. Its receipts wait here instead,
//! in order, and nothing else is recorded before them.

use std::time::Duration;

use knhk_receipts::{LogError, Payload};
use tokio::task::JoinHandle;

use super::change::Appended;
use crate::app::journal::Journal;

/// How long the driver waits for the log before it turns to other things.
pub(super) const RECORD_WITHIN: Duration = Duration::from_millis(500);
/// Receipts that wait at most; what comes after them is lost, and said so.
const MAX_WAITING: usize = 4 * 1024;

/// An append that goes on while nobody waits for it.
#[derive(Debug)]
pub(super) struct Append(JoinHandle<Result<Vec<u64>, LogError>>);

impl Append {
    pub(super) fn start(journal: &Journal, payloads: Vec<Payload>) -> Self {
        let journal = journal.clone();
        Self(tokio::spawn(async move { journal.append(payloads).await }))
    }

    /// The log's answer, if it comes within `limit`. Not to be called again once it came.
    pub(super) async fn answer(&mut self, limit: Duration) -> Option<Appended> {
        let joined = tokio::time::timeout(limit, &mut self.0).await.ok()?;
        Some(match joined {
            Ok(appended) => appended.map(|indexes| indexes.last().copied()),
            Err(_) => Err(LogError::Closed),
        })
    }
}

/// What waits, oldest first, and the append that is under way.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: Vec<Payload>,
    under_way: Option<(Append, Vec<Payload>)>,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_none()
    }

    /// Adds receipts that wait for the next [`Backlog::retry`].
    pub(super) fn add(&mut self, payloads: Vec<Payload>) {
        let room = MAX_WAITING.saturating_sub(self.waiting.len());
        if payloads.len() > room {
            let lost = payloads.len() - room;
            tracing::error!(
                lost,
                "receipts of rollbacks are lost: the log has not taken any for too long"
            );
        }
        self.waiting.extend(payloads.into_iter().take(room));
    }

    /// Tries to record everything that waits, and waits for the log no longer than `limit`. Returns the last index
    /// that was recorded.
    pub(super) async fn retry(&mut self, journal: &Journal, limit: Duration) -> Option<u64> {
        let (mut append, mut payloads) = match self.under_way.take() {
            Some(under_way) => under_way,
            None if self.waiting.is_empty() => return None,
            None => {
                let payloads = std::mem::take(&mut self.waiting);
                (Append::start(journal, payloads.clone()), payloads)
            }
        };
        match append.answer(limit).await {
            None => self.under_way = Some((append, payloads)),
            Some(Ok(last)) => return last,
            Some(Err(error)) => {
                tracing::debug!(%error, "receipts of a rollback wait for the log");
                payloads.append(&mut self.waiting);
                self.waiting = payloads;
            }
        }
        None
    }
}
