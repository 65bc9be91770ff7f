//! A log that peers know otherwise is not signed any more.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use knhk_receipts::{Signer, SignerError, SigningKey};
use knhk_regions::Stop;
use knhk_telemetry::event;

/// Why nothing may be signed, once that is so. It stays so until the next start. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Halt(Arc<OnceLock<Stop>>);

impl Halt {
    /// From now on nothing is signed. The first reason stays.
    pub(crate) fn stop(&self, stop: Stop) {
        if self.0.set(stop).is_ok()
            && let Some(stop) = self.0.get()
        {
            tracing::error!(event.name = event::REGION_STOPPED, %stop, "this region signs nothing any more");
        }
    }

    /// The reason.
    pub(crate) fn reason(&self) -> Option<&Stop> {
        self.0.get()
    }
}

/// A signer that stops when it is told to.
pub(crate) struct Halting<S> {
    signer: S,
    halt: Halt,
}

impl<S> Halting<S> {
    pub(crate) fn new(signer: S, halt: Halt) -> Self {
        Self { signer, halt }
    }
}

#[async_trait]
impl<S: Signer> Signer for Halting<S> {
    async fn newest(&self) -> Result<SigningKey, SignerError> {
        self.signer.newest().await
    }

    async fn all(&self) -> Result<Vec<SigningKey>, SignerError> {
        self.signer.all().await
    }

    async fn sign_digest(&self, key: &SigningKey, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
        if let Some(stop) = self.halt.reason() {
            return Err(SignerError {
                label: stop.label(),
                message: stop.to_string(),
            });
        }
        self.signer.sign_digest(key, digest).await
    }
}
