//! The log of one region on local disk.
//!
//! ```text
//! lock                          held by the one process that uses the directory
//! log/segments/<N>.seg          the entries, see `segment`; the only truth
//! log/segments/<N>.idx          where in a closed segment its entries are; derived
//! log/tile/...                  C2SP tlog-tiles; derived
//! log/root                      the newest root with its signatures, see `root`; what the entries are checked against
//! log/checkpoint                the C2SP checkpoint in it, as it is published; derived
//! log/checkpoints/<n>           checkpoints that are kept, see `kept`; only added to
//! log/keys                      the keys, see `keyring`; derived from entries, `log/root` and `log/checkpoints`
//! ```
//! A thread writes entries, all that wait with one sync, and answers only then. A task makes tiles durable, then has the
//! tree's root signed and published, at each flush that has something new. Neither waits for the other: where signing fails
//! entries stay durable and unsigned, and each later flush tries again.

mod at_rest;
mod book;
mod error;
mod flusher;
mod kept;
mod keyring;
mod keys;
mod offsets;
mod options;
mod outbox;
mod payloads;
mod publisher;
mod queue;
mod reading;
mod recovery;
mod replica;
mod rotation;
mod segments;
mod tail;
mod tiles;
mod writer;
mod writing;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;

pub use at_rest::AtRest;
pub use error::{LogError, RotateError, SignError};
use flusher::{Ask, Backlog, Flushed, Flusher};
pub use keyring::{KeyState, LogKey};
pub(crate) use keyring::{Keyring, MAX_FILE_BYTES as KEYS_FILE_BYTES};
pub(crate) use offsets::{MAX_FILE_BYTES as OFFSETS_FILE_BYTES, Offsets};
pub use options::{DEFAULT_FLUSH_ENTRIES, LogOptions, MAX_FLUSH, MIN_FLUSH};
pub use payloads::Payloads;
use publisher::Publisher;
use queue::{Queue, Request};
pub use reading::Scan;
pub use replica::Replica;
pub use rotation::MAX_WHO_BYTES;
use segments::Segments;
use writer::Writer;
use writing::Writing;

use crate::checkpoint::SignedCheckpoint;
use crate::entry::Prepared;
use crate::env::Env;
use crate::payload::{Genesis, MAX_PAYLOAD_BYTES, Payload};
use crate::root::SignedRoot;
use crate::signer::{Signer, SigningKey};
use crate::storage::{LockError, LockGuard, Storage};

/// Bytes of appends that may wait to be written; past it an append fails with `resource_exhausted`.
pub const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;

/// The most bytes of payloads in one append.
pub const MAX_APPEND_BYTES: usize = 16 * 1024 * 1024;

/// How long a signature may take. The flush then fails, and the next one tries again.
pub const SIGN_TIMEOUT: Duration = Duration::from_secs(10);

/// Appends are written together up to so many bytes, then synced.
const MAX_GROUP_BYTES: usize = 8 * 1024 * 1024;

/// A segment is closed before it gets larger, unless a single group is.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// Callers that may ask for a flush before they have to wait to ask.
const MAX_ASKS: usize = 64;

const LOG_DIR: &str = "log";
const CHECKPOINT_PATH: &str = "log/checkpoint";
const ROOT_PATH: &str = "log/root";

/// How the flushing task ended.
type Stoppage = Result<(), JoinError>;

/// A handle of the open log. Clones are handles of the same log, which ends when the last one is dropped.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    options: LogOptions,
    env: Env,
    segments: Arc<Segments>,
    queue: Arc<Queue>,
    signer: Arc<dyn Signer>,
    newest: watch::Receiver<Option<Arc<SignedRoot>>>,
    keys: book::Listed,
    kept: kept::Reader,
    /// Held by the one rotation that is under way.
    rotating: tokio::sync::Mutex<()>,
    asks: mpsc::Sender<Ask>,
    last_write_error: Arc<Mutex<Option<LogError>>>,
    last_flush_error: Arc<Mutex<Option<LogError>>>,
    workers: Mutex<Option<Workers>>,
}

struct Workers {
    writer: thread::JoinHandle<()>,
    flusher: tokio::task::JoinHandle<Stoppage>,
}

/// How the log is doing.
#[derive(Clone, Debug)]
pub struct LogStatus {
    /// Durable entries.
    pub size: u64,
    /// Entries under a published checkpoint.
    pub signed_size: u64,
    /// Durable entries under no checkpoint yet: `size` less `signed_size`.
    pub unsigned: u64,
    /// Bytes of appends that wait to be written or are being written.
    pub waiting_bytes: usize,
    /// Why the newest flush gave no checkpoint: signing or the disk. `None` when it did, or when nothing was new.
    pub last_flush_error: Option<LogError>,
    /// Why the newest append failed. `None` when it did not.
    pub last_write_error: Option<LogError>,
}

impl Log {
    /// Takes the data directory's lock, recovers the log, writes entry 0 on the first start, and starts to serve.
    /// To be called in a tokio runtime, which flushes run in. Blocking work is done on its blocking threads.
    ///
    /// Refused: a directory that is in use, one of another log, and one whose entries contradict its last checkpoint.
    pub async fn open(
        storage: Arc<dyn Storage>,
        options: LogOptions,
        signer: Arc<dyn Signer>,
        env: Env,
    ) -> Result<Self, LogError> {
        Self::open_with_segments(storage, options, signer, env, SEGMENT_BYTES, None).await
    }

    /// The same for who has the data directory's lock already, and gives it to the log.
    pub async fn open_locked(
        lock: LockGuard,
        storage: Arc<dyn Storage>,
        options: LogOptions,
        signer: Arc<dyn Signer>,
        env: Env,
    ) -> Result<Self, LogError> {
        Self::open_with_segments(storage, options, signer, env, SEGMENT_BYTES, Some(lock)).await
    }

    /// The same, with segments of another size.
    pub(crate) async fn open_with_segments(
        storage: Arc<dyn Storage>,
        options: LogOptions,
        signer: Arc<dyn Signer>,
        env: Env,
        segment_bytes: u64,
        lock: Option<LockGuard>,
    ) -> Result<Self, LogError> {
        options.check()?;
        let surveying = {
            let origin = options.origin.clone();
            spawn_blocking(move || survey(&storage, &origin, lock))
        };
        let (lock, survey) = surveying.await.map_err(|_| LogError::Closed)??;
        let first_key = if survey.is_new() {
            Some(first_key(signer.as_ref()).await?)
        } else {
            None
        };
        let opening = {
            let (options, env) = (options.clone(), env.clone());
            spawn_blocking(move || {
                survey.repair(segment_bytes, env.now_unix_ms(), |writer| {
                    let key = first_key.ok_or(LogError::Closed)?;
                    write_genesis(writer, &options, &key, &env)
                })
            })
        };
        let (writer, publisher) = opening.await.map_err(|_| LogError::Closed)??;
        start(lock, writer, publisher, options, signer, env)
    }

    /// Makes payloads durable as new entries, together, and returns their indexes, which are contiguous.
    ///
    /// It returns only after the sync that covers them. After an error none of them is in the log, unless that is
    /// [`LogError::Closed`]: then they may or may not be. Dropping the future does not take the append back.
    pub async fn append(&self, payloads: Vec<Payload>) -> Result<Vec<u64>, LogError> {
        let entries = self.prepare(&payloads)?;
        let (answer, answered) = oneshot::channel();
        self.inner.queue.push(Request { entries, answer })?;
        let range = answered.await.map_err(|_| LogError::Closed)??;
        Ok(range.collect())
    }

    fn prepare(&self, payloads: &[Payload]) -> Result<Vec<Prepared>, LogError> {
        let mut total = 0;
        let entries: Vec<_> = payloads
            .iter()
            .map(|payload| {
                if matches!(payload, Payload::Genesis(_) | Payload::Key(_)) {
                    return Err(LogError::OwnKind { kind: payload.kind() });
                }
                let bytes = payload.to_bytes();
                total += bytes.len();
                if bytes.len() > MAX_PAYLOAD_BYTES {
                    return Err(LogError::Size { len: bytes.len() });
                }
                Ok(prepared(&self.inner.env, bytes))
            })
            .collect::<Result<_, _>>()?;
        if entries.is_empty() || total > MAX_APPEND_BYTES {
            return Err(LogError::Size { len: total });
        }
        Ok(entries)
    }

    /// How many entries are durable.
    pub fn size(&self) -> u64 {
        self.inner.segments.size()
    }

    /// The region whose log it is: the first part of its receipts' IDs.
    pub fn region(&self) -> &str {
        &self.inner.options.region
    }

    /// The newest published checkpoint. None before the second entry was flushed: a tree of one entry is not signed.
    pub fn checkpoint(&self) -> Option<SignedCheckpoint> {
        self.root().map(|root| root.checkpoint.clone())
    }

    /// The same with the signature that COSE receipts have.
    pub fn root(&self) -> Option<Arc<SignedRoot>> {
        self.inner.newest.borrow().clone()
    }

    /// Waits until a published checkpoint covers the entry, and returns the newest one. Does not force a flush.
    pub async fn covered(&self, index: u64) -> Result<SignedCheckpoint, LogError> {
        let mut newest = self.inner.newest.clone();
        let covers = |it: &Option<Arc<SignedRoot>>| it.as_ref().is_some_and(|it| it.size() > index);
        let found = newest
            .wait_for(covers)
            .await
            .map_err(|_| LogError::Closed)?
            .clone();
        found.map(|root| root.checkpoint.clone()).ok_or(LogError::Closed)
    }

    /// Every key of the log, in the order of the entries that announce them. Exactly one is active.
    pub fn keys(&self) -> Vec<LogKey> {
        let keys = self.inner.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.clone()
    }

    /// The key that signs.
    #[allow(clippy::missing_panics_doc, reason = "there is always one")]
    pub fn active_key(&self) -> LogKey {
        let mut keys = self.keys().into_iter();
        keys.find(|key| key.state == KeyState::Active)
            .expect("a log is never without")
    }

    /// Flushes without waiting for the next tick. On return a published checkpoint covers every entry that was durable at
    /// the call. How often is the caller's to limit: each flush with something new is a signature.
    pub async fn flush_now(&self) -> Result<Option<SignedCheckpoint>, LogError> {
        let root = self.ask(Ask::Flush).await?;
        Ok(root.map(|root| root.checkpoint.clone()))
    }

    async fn ask(&self, ask: impl FnOnce(oneshot::Sender<Flushed>) -> Ask) -> Flushed {
        let (answer, answered) = oneshot::channel();
        self.inner
            .asks
            .send(ask(answer))
            .await
            .map_err(|_| LogError::Closed)?;
        answered.await.map_err(|_| LogError::Closed)?
    }

    /// How the log is doing, for readiness and metrics.
    pub fn status(&self) -> LogStatus {
        let error = |of: &Mutex<Option<LogError>>| of.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let signed_size = self.inner.newest.borrow().as_ref().map_or(0, |root| root.size());
        let size = self.size();
        LogStatus {
            size,
            signed_size,
            unsigned: size.saturating_sub(signed_size),
            waiting_bytes: self.inner.queue.bytes(),
            last_flush_error: error(&self.inner.last_flush_error),
            last_write_error: error(&self.inner.last_write_error),
        }
    }

    /// Writes what waits, flushes, and gives the data directory free. Other handles can still read, and append no more.
    /// An error says that the last entries are under no checkpoint; they are durable all the same.
    pub async fn close(self) -> Result<(), LogError> {
        let workers = self
            .inner
            .workers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(workers) = workers else { return Ok(()) };
        self.inner.queue.close();
        spawn_blocking(move || workers.writer.join())
            .await
            .map_err(|_| LogError::Closed)?
            .map_err(|_| LogError::Closed)?;
        let flushed = self.ask(Ask::Stop).await;
        workers
            .flusher
            .await
            .map_err(|_| LogError::Closed)?
            .map_err(|_| LogError::Closed)?;
        flushed.map(|_| ())
    }
}

impl Drop for Inner {
    /// The writer ends after what waits. The flusher ends since nobody can ask it any more.
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Takes the lock, unless it is held already, then looks at what is there.
fn survey(
    storage: &Arc<dyn Storage>,
    origin: &str,
    lock: Option<LockGuard>,
) -> Result<(LockGuard, recovery::Survey), LogError> {
    let lock = lock.map_or_else(|| take_lock(storage.as_ref()), Ok)?;
    Ok((lock, recovery::survey(storage, origin)?))
}

/// Takes the lock of a data directory: of all processes one has it.
pub fn take_lock(storage: &dyn Storage) -> Result<LockGuard, LogError> {
    storage.lock().map_err(|error| match error {
        LockError::Held(pid) => LogError::Locked { pid },
        LockError::Io(error) => LogError::io("lock", "lock")(error),
    })
}

/// The key that a new log begins with.
async fn first_key(signer: &dyn Signer) -> Result<SigningKey, LogError> {
    let key = timeout(SIGN_TIMEOUT, signer.newest()).await;
    let key = key
        .map_err(|_| SignError::Timeout)
        .and_then(|key| Ok(key?))
        .map_err(LogError::NoKey)?;
    rotation::check_key(&key)?;
    Ok(key)
}

fn write_genesis(
    writer: &mut Writer,
    options: &LogOptions,
    key: &SigningKey,
    env: &Env,
) -> Result<Keyring, LogError> {
    let genesis = Genesis {
        region: options.region.clone(),
        time_unix_ms: env.now_unix_ms(),
        origin: options.origin.clone(),
        public_key_der: key.public.der().to_vec(),
        provider: key.provider.clone(),
        version: key.version.clone(),
    };
    let keyring = Keyring::begin(&genesis).ok_or_else(|| LogError::damaged("the first key is none"))?;
    writer.commit(&[&prepared(env, Payload::Genesis(genesis).to_bytes())])?;
    Ok(keyring)
}

fn start(
    lock: LockGuard,
    writer: Writer,
    publisher: Publisher,
    options: LogOptions,
    signer: Arc<dyn Signer>,
    env: Env,
) -> Result<Log, LogError> {
    let lock = Arc::new(lock);
    let segments = Arc::clone(writer.segments());
    let queue = Arc::<Queue>::default();
    let backlog = Arc::new(Backlog::new(options.flush_entries, segments.size()));
    let (newest_sender, newest) = watch::channel(publisher.book().root().cloned());
    let (asks, asked) = mpsc::channel(MAX_ASKS);
    let (last_write_error, last_flush_error) = (Arc::default(), Arc::default());
    let (keys, kept) = (
        Arc::clone(publisher.book().listed()),
        publisher.book().kept().reader(),
    );

    let writing = Writing {
        queue: Arc::clone(&queue),
        writer,
        backlog: Arc::clone(&backlog),
        last_error: Arc::clone(&last_write_error),
        lock: Arc::clone(&lock),
    };
    let writer = writing
        .start()
        .map_err(LogError::io("start the threads that write", LOG_DIR))?;

    let flusher = Flusher {
        publisher,
        signer: Arc::clone(&signer),
        env: env.clone(),
        queue: Arc::clone(&queue),
        backlog,
        newest: newest_sender,
        last_error: Arc::clone(&last_flush_error),
    };
    let every = options.flush;
    // What an earlier process left unsigned is signed at once. Looked at before anybody can append.
    let first = if flusher.publisher.owes_a_signature() {
        Duration::ZERO
    } else {
        every
    };
    let flusher = tokio::spawn(async move {
        let stoppage = flusher.run(first, every, asked).await;
        drop(lock);
        stoppage
    });

    let inner = Inner {
        options,
        env,
        segments,
        queue,
        signer,
        newest,
        keys,
        kept,
        rotating: tokio::sync::Mutex::default(),
        asks,
        last_write_error,
        last_flush_error,
        workers: Mutex::new(Some(Workers { writer, flusher })),
    };
    Ok(Log {
        inner: Arc::new(inner),
    })
}

fn prepared(env: &Env, payload: Vec<u8>) -> Prepared {
    let mut salt = [0; 32];
    (env.fill_random)(&mut salt);
    Prepared::new(salt, payload)
}
