//! Rotation: one new version, also when the vault's answer is lost.
//!
//! Key Vault has no idempotency token for it: a rotation that is sent twice makes two versions. So every attempt reads the newest
//! version first, and one that is not the one that the rotation began from is its result, whoever's answer got lost. What was sent
//! and not answered is looked for until the deadline and not sent again; a later call looks once more before it sends.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::AzureKms;
use super::answer::Failure;
use crate::retry::Retry;
use crate::{Call, KeyVersion, KmsError};

/// The rotation that has not been seen to succeed, if there is one.
#[derive(Default)]
pub(super) struct Rotation {
    /// Held by the one call that may rotate.
    turn: tokio::sync::Mutex<()>,
    begun: Mutex<Option<Begun>>,
}

#[derive(Clone)]
struct Begun {
    /// The newest version before it.
    from: KeyVersion,
    sent: Sent,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// Nothing of it is under way at the vault: it may be sent.
    No,
    /// A request may be under way.
    Perhaps,
}

impl Rotation {
    fn begun(&self) -> MutexGuard<'_, Option<Begun>> {
        // It is only ever replaced whole.
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AzureKms {
    /// Makes a new version.
    pub(super) async fn rotate(&self) -> Result<KeyVersion, KmsError> {
        let _turn = self.rotation.turn.lock().await;
        if let Some(begun) = &mut *self.rotation.begun() {
            begun.sent = Sent::No;
        }
        let call = self.call("rotate");
        let version = Retry::ROTATION
            .run(&self.env, &call, || self.rotate_once(&call))
            .await?;
        *self.rotation.begun() = None;
        Ok(version)
    }

    async fn rotate_once(&self, call: &Call) -> Result<KeyVersion, KmsError> {
        let newest = self.client.newest(call).await?.version;
        let begun = self.rotation.begun().clone();
        match begun {
            Some(begun) if begun.from != newest => return Ok(newest),
            Some(begun) if begun.sent == Sent::Perhaps => {
                return Err(call.unreachable(format!(
                    "the answer was lost, and {newest} is still the newest version; rotating again later looks for a newer one first"
                )));
            }
            _ => {}
        }
        // Before it is sent: should this future be dropped, the next look knows.
        *self.rotation.begun() = Some(Begun {
            from: newest,
            sent: Sent::Perhaps,
        });
        match self.client.rotate(call).await {
            Ok(version) => Ok(version),
            Err(Failure::Unknown(error)) => Err(error),
            Err(failure) => {
                *self.rotation.begun() = None;
                Err(failure.into())
            }
        }
    }
}
