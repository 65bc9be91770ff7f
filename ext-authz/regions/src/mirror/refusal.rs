use knhk_receipts::{DecodeError, LogError};

use super::evidence::Fork;

/// Why a batch was not taken. Nothing of it was written, and what is held is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not a batch.
    #[error("not a batch of receipts: {0}; both regions need a `knhk` of the same format")]
    Malformed(#[from] DecodeError),
    /// A batch of a log that is not mirrored here.
    #[error(
        "the batch is of log `{origin}`, and this mirror is of `{wanted}`; see `regions.peers` on both sides"
    )]
    OtherLog {
        /// The log's name in the batch.
        origin: String,
        /// The log's name here.
        wanted: String,
    },
    /// The region showed two histories before, and no operator has cleared that.
    #[error(
        "`{region}` has shown two histories of its log, both are kept as evidence; look at `knhk region status`, then `knhk region clear {region}`"
    )]
    SplitView {
        /// The region.
        region: String,
    },
    /// The region shows a second history now. Both checkpoints are evidence.
    #[error("`{}` shows another history of its log: of its first {} entries two roots are signed; nothing was overwritten, see `knhk region status`", .0.region, .0.size)]
    Fork(Box<Fork>),
    /// Signed by a key that no trusted key leads to.
    #[error(
        "the checkpoint is signed by {key}, and {trusted} is trusted; where that key was lost, pin the new one in `regions.peers[].log_key`"
    )]
    UnknownKey {
        /// The key that signed, `sha256:...`.
        key: String,
        /// The key that is trusted, `sha256:...`.
        trusted: String,
    },
    /// Signed by a key after another one took over from it.
    #[error("the checkpoint of {size} entries is signed by {key}, which was replaced before")]
    OldKey {
        /// The key, `sha256:...`.
        key: String,
        /// The checkpoint's size.
        size: u64,
    },
    /// The signature is not the key's.
    #[error("the checkpoint's signature is wrong: it was changed on the way")]
    BadSignature,
    /// Not a checkpoint that a log publishes.
    #[error("the checkpoint is not one of this log: {reason}")]
    BadCheckpoint {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Entries before the batch are missing here.
    #[error("the batch begins with entry {from}, and {held} are held; send from there")]
    Gap {
        /// Its first entry.
        from: u64,
        /// How many are held.
        held: u64,
    },
    /// What comes before the batch is not proven to be in its checkpoint.
    #[error(
        "the proof of the first {from} entries does not lead to the checkpoint: it was changed on the way"
    )]
    BadProof {
        /// How many entries it is of.
        from: u64,
    },
    /// The entries do not lead to the checkpoint.
    #[error(
        "the entries up to {end} do not lead to the checkpoint of {size}: some of them were changed on the way"
    )]
    Mismatch {
        /// Index behind the last entry.
        end: u64,
        /// The checkpoint's size.
        size: u64,
    },
    /// Our own log, which is being restored, went on by itself from an old copy. Nothing is put in place: somebody has to decide.
    #[error(
        "the entries here up to {end} are not those of the checkpoint of {size} that our own key signed and a peer holds: this disk is an old copy that went on by itself; keep it for what only it has, and start with an empty data directory to restore what peers hold"
    )]
    OldCopy {
        /// Up to where they were compared.
        end: u64,
        /// The checkpoint's size.
        size: u64,
    },
    /// More keys than a log can have.
    #[error("the log announces more keys than a log can have; its region has to begin a new one")]
    TooManyKeys,
    /// The disk. The same batch may be taken later.
    #[error("the mirror cannot be written: {0}")]
    Storage(#[from] LogError),
}

impl Refusal {
    /// A stable name for metrics and programs, also sent to the peer.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::OtherLog { .. } => "other_log",
            Self::SplitView { .. } | Self::Fork(_) => "split_view",
            Self::UnknownKey { .. } => "unknown_key",
            Self::OldKey { .. } => "old_key",
            Self::BadSignature => "bad_signature",
            Self::BadCheckpoint { .. } => "bad_checkpoint",
            Self::Gap { .. } => "gap",
            Self::BadProof { .. } => "bad_proof",
            Self::Mismatch { .. } => "mismatch",
            Self::OldCopy { .. } => "old_copy",
            Self::TooManyKeys => "too_many_keys",
            Self::Storage(error) => error.label(),
        }
    }
}
