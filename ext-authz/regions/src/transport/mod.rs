//! How a region reaches another one.

mod http;

use async_trait::async_trait;

pub use http::{ANSWER_WITHIN, CONNECT_WITHIN, HttpPeer};

use crate::wire::{Answer, Message};

/// A peer, as it is reached. Every call is bounded in time and in what it reads.
#[async_trait]
pub trait Transport: Send + Sync {
    /// `POST /v1/receipts`: an encoded [`crate::wire::Batch`]. A refusal is an answer too.
    async fn receipts(&self, batch: Vec<u8>) -> Result<Answer, TransportError>;

    /// `POST /v1/replicate`.
    async fn replicate(&self, message: &Message) -> Result<Message, TransportError>;

    /// `GET /v1/log/{region}/held`: what the peer holds of a region's log.
    async fn held(&self, region: &str) -> Result<Answer, TransportError>;

    /// `GET /v1/log/{region}/entries/{from}`: an encoded [`crate::wire::Batch`] of what the peer holds of a region's log.
    async fn entries(&self, region: &str, from: u64) -> Result<Vec<u8>, TransportError>;
}

/// Why a peer gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No connection: nothing listens there, or the name is not known.
    #[error("it cannot be connected to: {reason}")]
    Connect {
        /// What the system says.
        reason: String,
    },
    /// No answer in time.
    #[error("it did not answer within {seconds} s")]
    Timeout {
        /// How long it had.
        seconds: u64,
    },
    /// The connection broke.
    #[error("the connection broke: {reason}")]
    Broken {
        /// What the system says.
        reason: String,
    },
    /// Our identity may not do that there.
    #[error("it does not let us in ({said}); see `spiffe.allow.peers` there")]
    NotAllowed {
        /// How it said so.
        said: String,
    },
    /// Whoever answers there is not allowed to here.
    #[error(
        "who answers there has no role `peers` here; see `spiffe.allow.peers`, and the log of this service for its SPIFFE ID"
    )]
    Stranger,
    /// It says that something is wrong with it.
    #[error("it answered HTTP {status}")]
    Status {
        /// The status.
        status: u16,
    },
    /// Not in the format that peers speak.
    #[error("its answer cannot be read: {reason}; both regions need a `knhk` of the same format")]
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },
}

impl TransportError {
    /// A stable name for metrics and programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Timeout { .. } => "timeout",
            Self::Broken { .. } => "broken",
            Self::NotAllowed { .. } => "not_allowed",
            Self::Stranger => "stranger",
            Self::Status { .. } => "status",
            Self::Unreadable { .. } => "unreadable",
        }
    }
}
