//! The log's signer: one version of a KMS key.

use std::sync::Arc;

use async_trait::async_trait;
use knhk_kms::{KeyVersion, Kms, KmsError, Spki};
use knhk_receipts::{Signer, SignerError};

use crate::api::KeyInfo;

/// Signs checkpoints by the key's version that was current at the start.
pub(crate) struct KmsSigner {
    kms: Arc<dyn Kms>,
    version: KeyVersion,
    public: Spki,
}

impl KmsSigner {
    pub(crate) async fn new(kms: Arc<dyn Kms>) -> Result<Self, KmsError> {
        let version = kms.current().await?;
        let public = kms.public_key(&version).await?;
        Ok(Self { kms, version, public })
    }

    /// What an auditor needs to know of the key.
    pub(crate) async fn describe(&self) -> Result<KeyInfo, KmsError> {
        let metadata = self.kms.key_metadata().await?;
        let created = metadata
            .versions
            .iter()
            .find(|info| info.version == self.version)
            .and_then(|info| info.created_unix_ms)
            .unwrap_or(0);
        Ok(KeyInfo {
            id: crate::api::key_id(&self.public.key_id()),
            provider: metadata.provider.to_owned(),
            version: self.version.as_str().to_owned(),
            algorithm: metadata.algorithm.as_str().to_owned(),
            valid_from: crate::api::rfc3339(created),
            pem: self.public.pem().to_owned(),
        })
    }
}

#[async_trait]
impl Signer for KmsSigner {
    fn public_key_der(&self) -> &[u8] {
        self.public.der()
    }

    async fn sign_digest(&self, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
        match self.kms.sign(&self.version, digest).await {
            Ok(signature) => Ok(signature.to_der()),
            Err(error) => Err(SignerError {
                label: error.label(),
                message: error.to_string(),
            }),
        }
    }
}
