use std::io;
use std::sync::Arc;

use crate::checkpoint::CheckpointError;
use crate::payload::{DecodeError, MAX_PAYLOAD_BYTES};
use crate::signer::SignerError;

use super::{MAX_APPEND_BYTES, MAX_WAITING_BYTES};

/// Why the log could not do something. Each text is one line that says what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another process uses the data directory.
    #[error(
        "receipts: the data directory is in use{}; stop that `knhk serve`, or give this one another `data`",
        pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
    )]
    Locked {
        /// Its process ID, where it is known.
        pid: Option<u32>,
    },
    /// A setting cannot be used.
    #[error("receipts: {field} `{given}` {reason}")]
    Option {
        /// The setting.
        field: &'static str,
        /// What was given.
        given: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The data directory holds another log than the configuration names.
    #[error(
        "receipts: the data directory holds the log `{found}`, not `{wanted}`; set `region` back, or give another `data`"
    )]
    OtherLog {
        /// The origin that it has.
        found: String,
        /// The origin by the configuration.
        wanted: String,
    },
    /// What is on disk contradicts itself: acknowledged entries were lost or changed. None of them was touched.
    #[error("receipts: the log is damaged: {what}; restore the data directory from a copy")]
    Damaged {
        /// What contradicts what, and where.
        what: String,
    },
    /// The operating system refused. The entries concerned are not in the log; later ones may succeed.
    #[error("receipts: cannot {action} `{path}`: {source}; {}", remedy(source))]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file, relative to the data directory.
        path: String,
        /// The operating system's answer.
        source: Arc<io::Error>,
    },
    /// Too much is waiting to be written: the disk does not keep up.
    #[error(
        "receipts: more than {MAX_WAITING_BYTES} bytes wait to be written; the disk does not keep up, send less or give it a faster one"
    )]
    Full,
    /// One payload, or one append, is too large, or has nothing in it.
    #[error(
        "receipts: a payload has at most {MAX_PAYLOAD_BYTES} bytes and an append 1 to {MAX_APPEND_BYTES}, this one has {len}; send less at once"
    )]
    Size {
        /// Its size in bytes.
        len: usize,
    },
    /// No such entry.
    #[error("receipts: there is no entry {index}; the log has {size} entries, counted from 0")]
    NotFound {
        /// The entry asked for.
        index: u64,
        /// How many there are.
        size: u64,
    },
    /// No checkpoint covers the entry yet.
    #[error("receipts: entry {index} is under no signed checkpoint yet; the next flush signs it, try again")]
    NotCovered {
        /// The entry asked for.
        index: u64,
    },
    /// Not the path of a file of this log.
    #[error("receipts: the log has no file `{path}`; see c2sp.org/tlog-tiles for its paths")]
    NoTile {
        /// The path asked for, shortened.
        path: String,
    },
    /// An entry's payload does not decode.
    #[error("receipts: the payload of entry {index} cannot be read: {source}")]
    Payload {
        /// The entry.
        index: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The signer does not say which key the new log begins with.
    #[error("receipts: a new log needs a key to begin with: {0}; check the signing key at its provider")]
    NoKey(#[source] SignError),
    /// There is no signature. Entries are durable all the same, and the next flush tries again.
    #[error(
        "receipts: the checkpoint is not signed: {0}; entries are kept, signing is tried again within seconds"
    )]
    Sign(#[from] SignError),
    /// A payload of a kind that the log writes by itself.
    #[error("receipts: a {kind} is written by the log itself; use `Log::rotate` for a key")]
    OwnKind {
        /// The payload's kind.
        kind: &'static str,
    },
    /// The key is not rotated: the one that signed before goes on.
    #[error("receipts: the log's key is not rotated: {0}")]
    Rotate(#[from] RotateError),
    /// The log is closed.
    #[error("receipts: the log is closed; the service is shutting down")]
    Closed,
}

/// Why another key did not take over. The one that signed before goes on.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// It signs already.
    #[error("{key} is the key that signs; make a new version of the key first")]
    Active {
        /// The key, `sha256:...`.
        key: String,
    },
    /// It signed before another key took over from it.
    #[error("{key} has signed before and was replaced; make a new version of the key")]
    Retired {
        /// The key, `sha256:...`.
        key: String,
    },
    /// The log has as many keys as it can have.
    #[error(
        "the log has {} keys, and no more are possible; begin a new log",
        crate::key::MAX_KEYS
    )]
    TooMany,
    /// The new key did not show that it can sign.
    #[error("the new key does not sign: {0}; check it at its provider, then try again")]
    Proof(#[source] SignError),
    /// The entry that announces it, or the checkpoint over that by the key that signs now, or the record of the change.
    #[error("{step}: {source}; try again, which goes on with what is done")]
    Step {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: Box<LogError>,
    },
}

impl RotateError {
    /// A stable name for metrics and programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Active { .. } => "key_is_active",
            Self::Retired { .. } => "key_is_retired",
            Self::TooMany => "too_many_keys",
            Self::Proof(error) => error.label(),
            Self::Step { source, .. } => source.label(),
        }
    }
}

/// Why a checkpoint got no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The signer said no.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The signer's answer is no signature by its key.
    #[error(transparent)]
    Invalid(#[from] CheckpointError),
    /// The signer did not answer in time.
    #[error("the signer did not answer within {} s", super::SIGN_TIMEOUT.as_secs())]
    Timeout,
}

impl SignError {
    /// A stable name for metrics and programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Signer(error) => error.label,
            Self::Invalid(error) => error.label(),
            Self::Timeout => "timeout",
        }
    }
}

impl LogError {
    /// A stable name for metrics and programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "locked",
            Self::Option { .. } => "invalid_option",
            Self::OtherLog { .. } => "other_log",
            Self::Damaged { .. } => "damaged",
            Self::Io { source, .. } if is_full(source) => "disk_full",
            Self::Io { .. } => "io",
            Self::Full => "resource_exhausted",
            Self::Size { .. } => "size",
            Self::NotFound { .. } => "not_found",
            Self::NotCovered { .. } => "not_covered",
            Self::NoTile { .. } => "no_tile",
            Self::Payload { .. } => "payload",
            Self::NoKey(error) => error.label(),
            Self::Sign(_) => "sign",
            Self::OwnKind { .. } => "own_kind",
            Self::Rotate(error) => error.label(),
            Self::Closed => "closed",
        }
    }

    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }

    /// For `map_err`: names what was being done to which file.
    pub(crate) fn io<'p>(action: &'static str, path: &'p str) -> impl Fn(io::Error) -> Self + 'p {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn remedy(error: &io::Error) -> &'static str {
    if is_full(error) {
        "free room on the disk, later entries are then accepted again"
    } else {
        "check the disk and the permissions of the data directory"
    }
}
