//! Another key takes over.
//!
//! The new key signs a proof that it can. An entry announces it, and the key that signs until then signs a checkpoint over that
//! entry, which is kept. Then `log/keys` names the new key, durably, and from the next flush with something new it signs.
//! Up to that last step nothing has changed about who signs, whatever fails or dies; an entry whose rotation did not come to
//! its end is gone on with, or stays without effect.

use tokio::sync::oneshot;
use tokio::task::{JoinError, spawn_blocking};

use super::error::{LogError, RotateError, SignError};
use super::flusher::{Ask, Flusher, sign};
use super::keyring::{KeyState, LogKey};
use super::queue::Request;
use super::{Log, prepared};
use crate::checkpoint::CheckpointError;
use crate::key::MAX_KEYS;
use crate::payload::{KeyReceipt, Payload};
use crate::signer::SigningKey;

/// The longest name of who asked for a rotation, in bytes.
pub const MAX_WHO_BYTES: usize = 1024;

/// The answer to a rotation.
pub(crate) type Rotated = Result<(), RotateError>;

/// A key that is to take over, and what its entry says of it. Which key it follows shows only when its turn has come: others
/// may be asked for before, and whoever asked need not wait any more.
pub(crate) struct Rotation {
    to: SigningKey,
    region: String,
    who: String,
    proof: Vec<u8>,
}

impl Rotation {
    fn receipt(self, previous: &LogKey, time_unix_ms: u64) -> KeyReceipt {
        KeyReceipt {
            region: self.region,
            time_unix_ms,
            public_key_der: self.to.public.der().to_vec(),
            provider: self.to.provider,
            version: self.to.version,
            previous: previous.key.key_id(),
            who: self.who,
            proof: self.proof,
        }
    }
}

impl Log {
    /// Lets another key sign, from the next flush with something new on. `who` asked for it, see [`KeyReceipt`].
    ///
    /// After an error ([`LogError::Rotate`]) the key that signed before goes on, and a further call with the same key goes on
    /// where this one failed. Dropping the future stops nothing that has begun. One rotation at a time: others wait.
    pub async fn rotate(&self, to: SigningKey, who: &str) -> Result<LogKey, LogError> {
        check(&to, who)?;
        let _alone = self.inner.rotating.lock().await;
        require_unused(&self.keys(), &to)?;

        let options = &self.inner.options;
        let digest = KeyReceipt::proof_digest(&options.origin, to.public.der());
        let proof = sign(self.inner.signer.as_ref(), &to, digest)
            .await
            .map_err(RotateError::Proof)?;
        if !to.public.verifies(&digest, &proof) {
            let wrong = CheckpointError::BadSignature {
                key: to.public.to_string(),
            };
            return Err(RotateError::Proof(SignError::Invalid(wrong)).into());
        }

        let rotation = Rotation {
            to,
            region: options.region.clone(),
            who: who.to_owned(),
            proof,
        };
        let (answer, answered) = oneshot::channel();
        let ask = Ask::Rotate(Box::new(rotation), answer);
        self.inner.asks.send(ask).await.map_err(|_| LogError::Closed)?;
        answered.await.map_err(|_| LogError::Closed)??;
        Ok(self.active_key())
    }
}

fn require_unused(keys: &[LogKey], to: &SigningKey) -> Result<(), RotateError> {
    let key = to.public.to_string();
    let known = keys.iter().find(|it| it.key == to.public).map(|it| it.state);
    match known {
        Some(KeyState::Active) => Err(RotateError::Active { key }),
        Some(KeyState::Retired) => Err(RotateError::Retired { key }),
        None if keys.len() >= MAX_KEYS => Err(RotateError::TooMany),
        Some(KeyState::Announced) | None => Ok(()),
    }
}

fn check(to: &SigningKey, who: &str) -> Result<(), LogError> {
    check_key(to)?;
    if !(1..=MAX_WHO_BYTES).contains(&who.len()) || who.chars().any(char::is_control) {
        return Err(unusable("who", who, MAX_WHO_BYTES));
    }
    Ok(())
}

pub(crate) fn check_key(key: &SigningKey) -> Result<(), LogError> {
    let found = key.unusable();
    found.map_or(Ok(()), |(field, given, most)| Err(unusable(field, given, most)))
}

fn unusable(field: &'static str, given: &str, most: usize) -> LogError {
    LogError::Option {
        field,
        given: given.chars().take(80).flat_map(char::escape_debug).collect(),
        reason: format!("is not usable; give 1 to {most} visible characters"),
    }
}

impl Flusher {
    /// Announces the key, has the one that signs now sign over that, and lets the new one take over.
    pub(crate) async fn rotate(mut self, rotation: Rotation) -> Result<(Self, Rotated), JoinError> {
        if let Err(error) = require_unused(self.publisher.book().keyring().keys(), &rotation.to) {
            return Ok((self, Err(error)));
        }
        let (this, announced) = self.announce(rotation).await?;
        self = this;
        let index = match announced {
            Ok(index) => index,
            Err(error) => return Ok((self, failed("its entry is not written", error))),
        };
        let (this, flushed) = self.flush().await?;
        self = this;
        if let Err(error) = flushed {
            return Ok((
                self,
                failed("the key that signs now did not sign over its entry", error),
            ));
        }
        spawn_blocking(move || {
            let now = self.env.now_unix_ms();
            let taken = self.publisher.book_mut().take_over(index, now);
            let rotated = taken.or_else(|error| failed("the change is not recorded", error));
            (self, rotated)
        })
        .await
    }

    /// The entry that announces the key: the one that is there, or a new one, of which is noted before that it may come.
    async fn announce(mut self, rotation: Rotation) -> Result<(Self, Result<u64, LogError>), JoinError> {
        let keyring = self.publisher.book().keyring();
        if let Some(index) = keyring.resumable(&rotation.to) {
            return Ok((self, Ok(index)));
        }
        let receipt = rotation.receipt(keyring.active(), self.env.now_unix_ms());
        let (this, begun) = spawn_blocking(move || {
            let size = self.publisher.size();
            let begun = self.publisher.book_mut().begin_rotation(size);
            (self, begun)
        })
        .await?;
        self = this;
        let (answer, answered) = oneshot::channel();
        let request = Request {
            entries: vec![prepared(&self.env, Payload::Key(receipt.clone()).to_bytes())],
            answer,
        };
        if let Err(error) = begun.and_then(|()| self.queue.push(request)) {
            return Ok((self, Err(error)));
        }
        let written = answered.await.unwrap_or(Err(LogError::Closed));
        let index = written.map(|range| range.start);
        if let Ok(index) = index {
            self.publisher.book_mut().announced(index, &receipt);
        }
        Ok((self, index))
    }
}

fn failed(step: &'static str, error: LogError) -> Rotated {
    Err(RotateError::Step {
        step,
        source: Box::new(error),
    })
}
