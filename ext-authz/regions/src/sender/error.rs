use knhk_receipts::SignedCheckpoint;

use crate::transport::TransportError;
use crate::wire::Refused;

/// Why a peer did not take or acknowledge what it was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// It was not reached, or did not answer as a peer does.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// It refused.
    #[error("it refused ({label}): {detail}")]
    Refused {
        /// The label of its refusal.
        label: &'static str,
        /// What it says.
        detail: String,
    },
    /// Its answer contradicts what is known.
    #[error("its answer cannot be: {reason}")]
    BadAnswer {
        /// What is wrong.
        reason: &'static str,
    },
    /// Its acknowledgement is not one.
    #[error("its acknowledgement is not valid: {reason}")]
    BadAck {
        /// What is wrong.
        reason: &'static str,
    },
    /// Its own log has not announced the key that it acknowledges with, as far as it is mirrored here.
    #[error(
        "the key that it acknowledges with is not known here yet: the log of `{region}` announces it, and has to arrive first"
    )]
    UnknownAckKey {
        /// The peer.
        region: String,
    },
    /// Our own log cannot be read.
    #[error("the batch cannot be read from our own log: {what}")]
    OwnLog {
        /// What the log says.
        what: String,
        /// The label of that.
        label: &'static str,
    },
    /// What peers hold of our own log is not what it is.
    #[error("{what}")]
    Stopped {
        /// What they hold.
        what: String,
        /// `behind` or `forked`.
        label: &'static str,
    },
}

impl LinkError {
    /// A stable name for metrics and programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Transport(error) => error.label(),
            Self::Refused { label, .. } | Self::OwnLog { label, .. } | Self::Stopped { label, .. } => label,
            Self::BadAnswer { .. } => "bad_answer",
            Self::BadAck { .. } => "bad_ack",
            Self::UnknownAckKey { .. } => "unknown_ack_key",
        }
    }

    /// A peer's refusal. Its label becomes one of those that are known here: what comes from outside is no label.
    pub(crate) fn refused(refused: &Refused) -> Self {
        let label = LABELS.iter().find(|known| **known == refused.label);
        Self::Refused {
            label: label.unwrap_or(&"refused"),
            detail: refused.detail.clone(),
        }
    }

    pub(crate) fn bad_answer(reason: &'static str) -> Self {
        Self::BadAnswer { reason }
    }

    pub(crate) fn bad_ack(reason: &'static str) -> Self {
        Self::BadAck { reason }
    }
}

/// Labels of refusals, see [`crate::Refusal::label`], with those that a disk gives.
const LABELS: [&str; 15] = [
    "malformed",
    "other_log",
    "split_view",
    "unknown_key",
    "old_key",
    "bad_signature",
    "bad_checkpoint",
    "gap",
    "bad_proof",
    "mismatch",
    "too_many_keys",
    "disk_full",
    "io",
    "damaged",
    "unknown_region",
];

/// Our own log is not the one that peers hold: the disk was an old copy, or there are two of us. Nothing is to be signed any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// A peer holds a longer log, signed by our key.
    #[error("a peer holds {} entries of our log, signed by our key, and we have signed {signed}: this disk is an old copy; stop, and start again to restore the log from the peers", .held.size())]
    Behind {
        /// The peer's checkpoint.
        held: SignedCheckpoint,
        /// What we have signed.
        signed: u64,
    },
    /// A peer holds another log, signed by our key.
    #[error("a peer holds another history of our log: of its first {} entries our key has signed two roots; stop, keep this disk as evidence, and start over with `serve --new-log NAME`", .held.size())]
    Forked {
        /// The peer's checkpoint.
        held: SignedCheckpoint,
    },
}

impl Stop {
    /// `behind` or `forked`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Behind { .. } => "behind",
            Self::Forked { .. } => "forked",
        }
    }

    pub(crate) fn as_link_error(&self) -> LinkError {
        LinkError::Stopped {
            what: self.to_string(),
            label: self.label(),
        }
    }
}
