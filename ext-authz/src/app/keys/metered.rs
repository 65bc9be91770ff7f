//! A KMS whose calls are counted and timed.

use std::sync::Arc;

use async_trait::async_trait;
use knhk_kms::{KeyMetadata, KeyVersion, Kms, KmsError, Signature, Spki};
use knhk_telemetry::ServiceMetrics;
use knhk_telemetry::attribute::{KmsOperation, KmsOutcome};

use crate::app::clock::Clock;

/// Passes every call on, and says how it went.
pub(crate) struct Metered {
    inner: Arc<dyn Kms>,
    clock: Clock,
    metrics: Arc<ServiceMetrics>,
}

impl Metered {
    pub(crate) fn new(inner: Arc<dyn Kms>, clock: Clock, metrics: Arc<ServiceMetrics>) -> Self {
        Self {
            inner,
            clock,
            metrics,
        }
    }

    async fn measured<T>(
        &self,
        operation: KmsOperation,
        call: impl Future<Output = Result<T, KmsError>> + Send,
    ) -> Result<T, KmsError> {
        let started = self.clock.mono();
        let answer = call.await;
        let outcome = match &answer {
            Ok(_) => KmsOutcome::Ok,
            Err(error) => KmsOutcome::from_label(error.label()),
        };
        let took = self.clock.mono().saturating_sub(started);
        self.metrics.kms_called(operation, outcome, took);
        answer
    }
}

#[async_trait]
impl Kms for Metered {
    async fn current(&self) -> Result<KeyVersion, KmsError> {
        self.measured(KmsOperation::Current, self.inner.current()).await
    }

    async fn public_key(&self, version: &KeyVersion) -> Result<Spki, KmsError> {
        self.measured(KmsOperation::PublicKey, self.inner.public_key(version))
            .await
    }

    async fn sign(&self, version: &KeyVersion, digest: &[u8; 32]) -> Result<Signature, KmsError> {
        self.measured(KmsOperation::Sign, self.inner.sign(version, digest))
            .await
    }

    async fn rotate_key(&self) -> Result<KeyVersion, KmsError> {
        self.measured(KmsOperation::Rotate, self.inner.rotate_key()).await
    }

    fn rotation_begun(&self) -> bool {
        self.inner.rotation_begun()
    }

    async fn key_metadata(&self) -> Result<KeyMetadata, KmsError> {
        self.measured(KmsOperation::Metadata, self.inner.key_metadata())
            .await
    }
}
