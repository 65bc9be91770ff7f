use std::fmt;

use async_trait::async_trait;

use crate::key::PublicKey;

/// The longest name of a provider, in bytes.
pub const MAX_PROVIDER_BYTES: usize = 32;

/// The longest name of a key's version at its provider, in bytes.
pub const MAX_VERSION_BYTES: usize = 512;

/// One version of a key that signs: what it is verified with, and where its private half is.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// What its signatures are verified with.
    pub public: PublicKey,
    /// Who holds the private half: `local`, `aws`, `azure`, `vault`. 1 to [`MAX_PROVIDER_BYTES`] of visible ASCII.
    pub provider: String,
    /// The provider's name of this version. 1 to [`MAX_VERSION_BYTES`] of visible ASCII.
    pub version: String,
}

impl SigningKey {
    /// Which of its names cannot be used, if one cannot.
    pub(crate) fn unusable(&self) -> Option<(&'static str, &str, usize)> {
        let usable = |name: &str, most: usize| {
            (1..=most).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
        };
        [
            ("provider", self.provider.as_str(), MAX_PROVIDER_BYTES),
            ("version", self.version.as_str(), MAX_VERSION_BYTES),
        ]
        .into_iter()
        .find(|(_, name, most)| !usable(name, *most))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SigningKey({} {} {})",
            self.provider, self.version, self.public
        )
    }
}

/// Signs for a log. The service implements it over its key management; this crate knows no provider.
#[async_trait]
pub trait Signer: Send + Sync {
    /// The key that a new log begins with. A log that is there already knows its keys, and does not ask.
    async fn newest(&self) -> Result<SigningKey, SignerError>;

    /// Every key that may have signed for this log, the newest one last: peers of a region that lost its log may hold only what an
    /// earlier one signed.
    async fn all(&self) -> Result<Vec<SigningKey>, SignerError> {
        Ok(vec![self.newest().await?])
    }

    /// An ECDSA P-256 signature over this SHA-256 digest by exactly this key, in ASN.1 DER. The digest is signed as it is.
    /// The log checks each signature before it uses it. Two calls may be under way at once.
    async fn sign_digest(&self, key: &SigningKey, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError>;
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
