//! The threads that write entries and tell who waits.
//!
//! They are two, so that the next group is on its way to the disk while those of the one before it are woken: many appenders
//! take as long to wake as a sync takes.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::error::LogError;
use super::flusher::Backlog;
use super::queue::{Queue, Request};
use super::writer::Writer;
use crate::storage::LockGuard;

/// Groups that are durable and whose appenders may not have been told. The writer waits rather than go on without bound.
const UNTOLD_GROUPS: usize = 1;

/// What the writing thread works with.
pub(crate) struct Writing {
    pub(crate) queue: Arc<Queue>,
    pub(crate) writer: Writer,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) last_error: Arc<Mutex<Option<LogError>>>,
    /// Held until the last entry is written.
    pub(crate) lock: Arc<LockGuard>,
}

/// A group that was written or refused: the index of its first entry.
type Written = (Result<u64, LogError>, Vec<Request>);

impl Writing {
    /// Starts both threads. The one returned ends after the other, once the queue is closed and empty.
    pub(crate) fn start(self) -> io::Result<JoinHandle<()>> {
        let (written, told) = sync_channel(UNTOLD_GROUPS);
        let telling = spawn("knhk-log-tell", move || tell(&told))?;
        spawn("knhk-log", move || {
            let queue = Arc::clone(&self.queue);
            let abandoning = AbandonAtEnd(&queue);
            self.write(&written);
            drop((abandoning, written));
            // It answers, and has nothing that could panic.
            let _ = telling.join();
        })
    }

    fn write(mut self, written: &SyncSender<Written>) {
        while let Some(requests) = self.queue.take() {
            let entries: Vec<_> = requests.iter().flat_map(|request| &request.entries).collect();
            let result = self.writer.commit(&entries);
            self.backlog.grown(self.writer.segments().size());
            self.remember(result.as_ref().err());
            if written.send((result, requests)).is_err() {
                return;
            }
        }
        drop(self.lock);
    }

    /// Keeps the error for `status`, and tells the operator when it begins and ends.
    fn remember(&self, error: Option<&LogError>) {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        match (last.as_ref(), error) {
            (None, Some(error)) => tracing::error!(%error, label = error.label(), "entries are refused"),
            (Some(_), None) => tracing::info!("entries are accepted again"),
            _ => {}
        }
        *last = error.cloned();
    }
}

/// Answers each append.
fn tell(written: &Receiver<Written>) {
    while let Ok((mut next, requests)) = written.recv() {
        for request in requests {
            let count = request.entries.len() as u64;
            let answer = next.clone().map(|first| first..first + count);
            next = next.map(|first| first + count);
            // Who no longer waits has its entries in the log all the same.
            let _ = request.answer.send(answer);
        }
    }
}

/// When the writing thread ends, even by a panic, nobody waits for it any longer.
struct AbandonAtEnd<'q>(&'q Queue);

impl Drop for AbandonAtEnd<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(run)
}
