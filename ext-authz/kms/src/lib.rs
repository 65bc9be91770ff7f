//! Signing keys behind one trait.
//!
//! Every provider signs a SHA-256 digest with ECDSA over P-256. The version of the key is chosen before signing, since its
//! key ID is part of what is signed; signatures and public keys leave this crate in one form each ([`Signature`], [`Spki`]).
//!
//! [`local::LocalKms`] keeps keys in files and is meant for development and single machines.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod error;
mod key;
pub mod local;

use async_trait::async_trait;

pub use error::KmsError;
pub use key::{Algorithm, KeyMetadata, KeyState, KeyVersion, Signature, Spki, VersionInfo};

/// A service that holds signing keys and never gives them away.
#[async_trait]
pub trait Kms: Send + Sync {
    /// The version that new signatures are to be made with.
    async fn current(&self) -> Result<KeyVersion, KmsError>;

    /// The public key of a version, current or past.
    async fn public_key(&self, version: &KeyVersion) -> Result<Spki, KmsError>;

    /// Signs a SHA-256 digest with exactly this version. The digest is signed as it is: it is not hashed again.
    /// An implementation returns an error rather than a signature made with another version.
    async fn sign(&self, version: &KeyVersion, digest: &[u8; 32]) -> Result<Signature, KmsError>;

    /// What a person or an auditor wants to know about the key.
    async fn key_metadata(&self) -> Result<KeyMetadata, KmsError>;
}
