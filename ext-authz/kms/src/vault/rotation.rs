//! Rotation: one new version, also when Vault's answer is lost.
//!
//! Transit has no idempotency token: a rotation that is sent twice makes two versions. So every attempt reads the key first, and
//! a version above the one that the rotation began from is its result, whoever's answer got lost. What was sent and not
//! answered is looked for until the deadline and not sent again; a later call looks once more before it sends.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::VaultKms;
use super::answer::Key;
use super::client::Failure;
use crate::retry::Retry;
use crate::{Call, KmsError};

/// The rotation that has not been seen to succeed, if there is one.
#[derive(Default)]
pub(super) struct Rotation {
    /// Held by the one call that may rotate.
    turn: tokio::sync::Mutex<()>,
    begun: Mutex<Option<Begun>>,
}

#[derive(Clone, Copy)]
struct Begun {
    /// The newest version before it.
    from: u32,
    sent: Sent,
}

#[derive(Clone, Copy)]
enum Sent {
    /// Nothing of it is under way at Vault: it may be sent.
    No,
    /// A request may be under way.
    Perhaps,
}

/// Transit takes no arguments for a key that it made itself.
#[derive(Serialize)]
struct RotateRequest {}

impl Rotation {
    fn begun(&self) -> MutexGuard<'_, Option<Begun>> {
        // It is only ever replaced whole.
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, from: u32, sent: Sent) {
        *self.begun() = Some(Begun { from, sent });
    }
}

impl VaultKms {
    /// Makes a new version and gives its number.
    pub(super) async fn rotate(&self) -> Result<u32, KmsError> {
        let _turn = self.rotation.turn.lock().await;
        if let Some(begun) = &mut *self.rotation.begun() {
            begun.sent = Sent::No;
        }
        let call = self.call("rotate");
        let number = Retry::ROTATION
            .run(&self.env, &call, || self.rotate_once(&call))
            .await?;
        *self.rotation.begun() = None;
        Ok(number)
    }

    async fn rotate_once(&self, call: &Call) -> Result<u32, KmsError> {
        let key = self.read_once(call).await?;
        let begun = *self.rotation.begun();
        match begun {
            Some(Begun { from, .. }) if key.latest > from => return Ok(key.latest),
            Some(Begun {
                sent: Sent::Perhaps, ..
            }) => {
                return Err(call.unreachable(format!(
                    "the answer was lost, and v{} is still the newest version; rotating again later looks for a newer one first",
                    key.latest
                )));
            }
            _ => {}
        }
        if let Some(reason) = key.why_not_rotate(call) {
            return Err(reason);
        }
        // Before it is sent: should this future be dropped, the next look knows.
        self.rotation.set(key.latest, Sent::Perhaps);
        let answer = self
            .client
            .post(call, self.place.rotate_url(), &RotateRequest {})
            .await;
        match answer {
            // Vault answers with the key, OpenBao's and Vault's older versions with nothing.
            Ok(body) if body.is_empty() => Ok(self.read_once(call).await?.latest),
            Ok(body) => Ok(Key::parse(call, &body)?.latest),
            Err(Failure::Unknown(error)) => Err(error),
            Err(failure) => {
                self.rotation.set(key.latest, Sent::No);
                Err(failure.into_error())
            }
        }
    }
}
