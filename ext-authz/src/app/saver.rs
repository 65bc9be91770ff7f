//! Writes the ledger's shortcut, beside the driver, so that no rollback waits for it.

use std::path::PathBuf;
use std::time::Duration;

use knhk_receipts::{Log, LogError, Payload};
use thiserror::Error;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::history::{Archive, HistoryError};
use super::ledger::{DELETED_ACTION, Ledger, LedgerError};
use super::rollouts::Book;

/// How often the shortcut is written while something changes.
const SAVE_EVERY: Duration = Duration::from_secs(2);

/// Why the shortcut was not written.
#[derive(Debug, Error)]
pub(crate) enum SaveError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// Follows the log and writes what it knows.
pub(crate) struct Saver {
    ledger: Ledger,
    archive: Archive,
    log: Log,
    book: Book,
    data: PathBuf,
    written: Option<Ledger>,
}

impl Saver {
    /// `ledger` is the fold that the service started from, `archive` has what settled on the way.
    pub(crate) fn new(ledger: Ledger, archive: Archive, log: Log, book: Book, data: PathBuf) -> Self {
        Self {
            ledger,
            archive,
            log,
            book,
            data,
            written: None,
        }
    }

    /// Runs until told to stop, then writes a last time.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(SAVE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let last = tokio::select! {
                () = stop.cancelled() => true,
                _ = tick.tick() => false,
            };
            let (back, saved) = match tokio::task::spawn_blocking(move || self.save()).await {
                Ok(ended) => ended,
                Err(error) => return tracing::error!(%error, "the ledger's shortcut is no longer written"),
            };
            self = back;
            if let Err(error) = saved {
                tracing::warn!(%error, "the ledger's shortcut was not written; the next start reads more of the log");
            }
            if last {
                return;
            }
        }
    }

    fn save(mut self) -> (Self, Result<(), SaveError>) {
        let saved = self.try_save();
        (self, saved)
    }

    fn try_save(&mut self) -> Result<(), SaveError> {
        catch_up(&mut self.ledger, &mut self.archive, &self.log)?;
        let page = self.book.page();
        let mut shortcut = self.ledger.clone();
        // Between recorded changes a rollout's lived time goes on, so the book is newer than the log, unless a
        // change was recorded that has not reached the book yet.
        if self.ledger.last_action <= page.last_recorded {
            shortcut.rollouts = page
                .rollouts
                .into_iter()
                .map(|(name, rollout)| (name, (*rollout).clone()))
                .collect();
        }
        // Before the shortcut: what it no longer holds has to be there.
        for rollout in shortcut.rollouts.values() {
            self.archive.settle(rollout)?;
        }
        self.archive.sync()?;
        if self.written.as_ref() != Some(&shortcut) {
            shortcut.save(&self.data)?;
            self.written = Some(shortcut);
        }
        Ok(())
    }
}

/// Folds in what the log holds beyond the ledger. Each transition passes by here, so none is missing in the archive.
pub(crate) fn catch_up(ledger: &mut Ledger, archive: &mut Archive, log: &Log) -> Result<(), SaveError> {
    for entry in log.scan(ledger.through) {
        let (index, payload) = entry?;
        ledger.apply(index, &payload)?;
        let Payload::Action(action) = &payload else {
            continue;
        };
        if action.what == DELETED_ACTION {
            archive.forget(&action.target)?;
        } else if let Some(rollout) = ledger.rollouts.get(&action.target) {
            archive.settle(rollout)?;
        }
    }
    Ok(())
}
