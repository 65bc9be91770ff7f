//! Receipts of rollbacks that the log has not taken yet.
//!
//! Taking traffic off a bad version must not wait for a disk that fails or hangs. Its receipts wait here instead,
//! in order, and nothing else is recorded before them.

use std::time::Duration;

use knhk_receipts::{LogError, Payload};
use tokio::task::JoinHandle;

use crate::app::journal::Journal;

/// How long a rollback waits for its receipts.
const RECORD_WITHIN: Duration = Duration::from_millis(500);
/// Receipts that wait at most; what comes after them is lost, and said so.
const MAX_WAITING: usize = 4 * 1024;

/// What waits, oldest first, and the append that is under way.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: Vec<Payload>,
    under_way: Option<Append>,
}

#[derive(Debug)]
struct Append {
    payloads: Vec<Payload>,
    task: JoinHandle<Result<Vec<u64>, LogError>>,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_none()
    }

    /// Adds receipts and tries to record everything that waits. Returns the last index that was recorded.
    pub(super) async fn record(&mut self, journal: &Journal, payloads: Vec<Payload>) -> Option<u64> {
        let room = MAX_WAITING.saturating_sub(self.waiting.len());
        if payloads.len() > room {
            let lost = payloads.len() - room;
            tracing::error!(
                lost,
                "receipts of rollbacks are lost: the log has not taken any for too long"
            );
        }
        self.waiting.extend(payloads.into_iter().take(room));
        let recorded = self.retry(journal).await;
        if !self.is_empty() {
            tracing::error!("the log does not take a rollback's receipts; traffic is taken off all the same");
        }
        recorded
    }

    /// Tries to record everything that waits. Returns the last index that was recorded.
    pub(super) async fn retry(&mut self, journal: &Journal) -> Option<u64> {
        let mut append = match self.under_way.take() {
            Some(append) => append,
            None if self.waiting.is_empty() => return None,
            None => {
                let payloads = std::mem::take(&mut self.waiting);
                let (journal, copy) = (journal.clone(), payloads.clone());
                Append {
                    payloads,
                    task: tokio::spawn(async move { journal.append(copy).await }),
                }
            }
        };
        let failure = match tokio::time::timeout(RECORD_WITHIN, &mut append.task).await {
            Err(_) => {
                self.under_way = Some(append);
                return None;
            }
            Ok(Ok(Ok(indexes))) => return indexes.last().copied(),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
        };
        tracing::debug!(failure, "receipts of a rollback wait for the log");
        append.payloads.append(&mut self.waiting);
        self.waiting = append.payloads;
        None
    }
}
