//! The keys that sign this region's log, and their rotation.

mod driver;
mod metered;
mod provider;
mod schedule;
mod signer;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use knhk_kms::KmsError;
use knhk_receipts::{Log, LogError, LogKey, SignerError};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::api::{KeyInfo, KeySet, RotationInfo, key_info, rfc3339};

pub(crate) use driver::{RotationParts, Rotator};
pub(crate) use metered::Metered;
pub(crate) use provider::{ProviderError, open};
pub(crate) use signer::KmsSigner;

/// Operators' rotations that wait for the one under way. More than one is a mistake.
const WAITING_ROTATIONS: usize = 4;

/// The label of [`RotateError::UsedBefore`].
const USED_BEFORE: &str = "used_before";

/// The way to the log's keys, for every other task.
pub(crate) struct Keys {
    log: Log,
    rotate_every: Option<Duration>,
    trouble: Arc<Mutex<Option<Trouble>>>,
    requests: mpsc::Sender<Request>,
}

/// An operator's rotation.
struct Request {
    by: String,
    done: oneshot::Sender<Result<LogKey, RotateError>>,
}

/// What is amiss with rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The newest rotation failed.
    Failed { label: &'static str, text: String },
    /// Somebody made a version at the provider.
    Waits { version: String },
}

impl Trouble {
    /// For anybody who can probe the service: no word of a provider, which may name accounts.
    pub(crate) fn in_short(&self) -> String {
        match self {
            Self::Failed { label, .. } => {
                format!(
                    "the signing key was not rotated ({label}), the one in use goes on; `knhk key show` says why"
                )
            }
            Self::Waits { .. } => {
                "a newer version of the signing key waits at its provider; `knhk key rotate` lets it sign"
                    .to_owned()
            }
        }
    }

    /// For operators.
    fn in_full(&self) -> String {
        match self {
            Self::Failed { text, .. } => text.clone(),
            Self::Waits { version } => format!(
                "a newer version of the signing key waits at its provider, {version}; `knhk key rotate` lets it sign"
            ),
        }
    }
}

/// Why the signing key was not rotated. The key in use stays so.
#[derive(Debug, Error)]
pub(crate) enum RotateError {
    #[error("the signing key was not rotated, the one in use goes on: {0}")]
    Kms(#[from] KmsError),
    #[error("the signing key was not rotated, the one in use goes on: {0}")]
    Log(#[from] LogError),
    #[error("the signing key was not rotated, the one in use goes on: {0}")]
    NoKey(#[from] SignerError),
    #[error(
        "the signing key was not rotated, the one in use goes on: the provider's newest version {version} has signed before and is not taken back; make a newer one there"
    )]
    UsedBefore { version: String },
    #[error(
        "the signing key was not rotated: {WAITING_ROTATIONS} rotations wait already; see `knhk key show`"
    )]
    Busy,
    #[error("the signing key was not rotated: the service is stopping")]
    Stopping,
}

impl RotateError {
    /// A stable, low-cardinality name.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Kms(error) => error.label(),
            Self::Log(error) => error.label(),
            Self::NoKey(error) => error.label,
            Self::UsedBefore { .. } => USED_BEFORE,
            Self::Busy => "busy",
            Self::Stopping => "stopping",
        }
    }
}

impl Keys {
    /// Makes a new version and lets it take over. Returns once the log has recorded that.
    pub(crate) async fn rotate(&self, by: String) -> Result<KeyInfo, RotateError> {
        let (done, answer) = oneshot::channel();
        self.requests
            .try_send(Request { by, done })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => RotateError::Busy,
                mpsc::error::TrySendError::Closed(_) => RotateError::Stopping,
            })?;
        let key = answer.await.map_err(|_| RotateError::Stopping)??;
        Ok(key_info(&key))
    }

    /// Every key that signs or signed, oldest first, and how rotation stands.
    pub(crate) fn set(&self) -> KeySet {
        let next = self
            .rotate_every
            .map(|every| rfc3339(schedule::due_at(self.log.active_key().announced_unix_ms, every)));
        KeySet {
            keys: self.log.keys().iter().map(key_info).collect(),
            rotation: RotationInfo {
                every: self.rotate_every.map_or_else(
                    || "never".to_owned(),
                    |every| humantime::format_duration(every).to_string(),
                ),
                next,
                trouble: self.trouble().as_ref().map(Trouble::in_full),
            },
            acknowledges_with: None,
        }
    }

    /// What is amiss; none where nothing is.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
