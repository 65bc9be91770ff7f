use async_trait::async_trait;

/// Signs checkpoints. The service implements it over its key management; this crate knows no provider.
#[async_trait]
pub trait Signer: Send + Sync {
    /// The DER of the key's `SubjectPublicKeyInfo` (P-256). Constant for the life of the value.
    fn public_key_der(&self) -> &[u8];

    /// An ECDSA P-256 signature over this SHA-256 digest, in ASN.1 DER. The digest is signed as it is.
    /// The log checks each signature before it publishes it.
    async fn sign_digest(&self, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError>;
}

/// Why there is no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signing failed ({label}): {message}")]
pub struct SignerError {
    /// A stable, low-cardinality name, for metrics.
    pub label: &'static str,
    /// One line for a person.
    pub message: String,
}
