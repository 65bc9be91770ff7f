//! The log's signer: versions of a KMS key.

use std::sync::Arc;

use async_trait::async_trait;
use knhk_kms::{KeyVersion, Kms, KmsError, Spki, VersionInfo};
use knhk_receipts::{MAX_KEYS, PublicKey, Signer, SignerError, SigningKey};

/// Signs by whichever version the log asks for.
pub(crate) struct KmsSigner {
    kms: Arc<dyn Kms>,
    provider: &'static str,
}

impl KmsSigner {
    /// `provider` is the name that the log notes beside each key.
    pub(crate) fn new(kms: Arc<dyn Kms>, provider: &'static str) -> Self {
        Self { kms, provider }
    }
}

#[async_trait]
impl Signer for KmsSigner {
    async fn newest(&self) -> Result<SigningKey, SignerError> {
        let version = self.kms.current().await.map_err(|error| refused(&error))?;
        let public = self
            .kms
            .public_key(&version)
            .await
            .map_err(|error| refused(&error))?;
        signing_key(&public, self.provider, &version)
    }

    async fn all(&self) -> Result<Vec<SigningKey>, SignerError> {
        let key = self.kms.key_metadata().await.map_err(|error| refused(&error))?;
        let newest = key.versions.len().saturating_sub(MAX_KEYS);
        let mut keys = Vec::new();
        for VersionInfo { version, .. } in &key.versions[newest..] {
            let public = self.kms.public_key(version).await;
            let public = public.map_err(|error| refused(&error))?;
            keys.push(signing_key(&public, self.provider, version)?);
        }
        Ok(keys)
    }

    async fn sign_digest(&self, key: &SigningKey, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
        let version = KeyVersion::new(&key.version).map_err(|error| refused(&error))?;
        let signature = self
            .kms
            .sign(&version, digest)
            .await
            .map_err(|error| refused(&error))?;
        let signature = signature.to_der();
        if key.public.verifies(digest, &signature) {
            return Ok(signature);
        }
        // The provider's own check has passed: it is a good signature, and not one of ours.
        Err(SignerError {
            label: "other_key",
            message: format!(
                "another key answers to the version {version} than the {} that signs this log: it was replaced, or `kms` names another key; set that back",
                key.public
            ),
        })
    }
}

/// A version of the KMS key as the log knows it.
pub(super) fn signing_key(
    public: &Spki,
    provider: &str,
    version: &KeyVersion,
) -> Result<SigningKey, SignerError> {
    let public = PublicKey::from_der(public.der()).map_err(|error| SignerError {
        label: error.label(),
        message: error.to_string(),
    })?;
    Ok(SigningKey {
        public,
        provider: provider.to_owned(),
        version: version.as_str().to_owned(),
    })
}

fn refused(error: &KmsError) -> SignerError {
    SignerError {
        label: error.label(),
        message: error.to_string(),
    }
}
