//! Signing keys behind one trait.
//!
//! Every provider signs a SHA-256 digest with ECDSA over P-256. The version of the key is chosen before signing, since its
//! key ID is part of what is signed; signatures and public keys leave this crate in one form each ([`Signature`], [`Spki`]).
//!
//! [`vault::VaultKms`] asks HashiCorp Vault or OpenBao, [`aws`] AWS KMS, [`azure`] Azure Key Vault; [`local::LocalKms`] keeps keys
//! in files and is meant for development and single machines. Whatever goes over a network is tried again under one policy
//! ([`retry`]), and fails with an error that has a stable label ([`KmsError::label`]).

mod address;
pub mod aws;
pub mod azure;
mod call;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod env;
mod error;
mod key;
pub mod local;
mod network;
mod publics;
pub mod retry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vault;

use async_trait::async_trait;

pub use call::{Call, Detail};
pub use env::{Env, Random, Time, Variables};
pub use error::KmsError;
pub use key::{Algorithm, KeyMetadata, KeyState, KeyVersion, Signature, Spki, VersionInfo};

/// A service that holds signing keys and never gives them away.
#[async_trait]
pub trait Kms: Send + Sync {
    /// The version that new signatures are to be made with, as the provider says now.
    async fn current(&self) -> Result<KeyVersion, KmsError>;

    /// The public key of a version, current or past.
    async fn public_key(&self, version: &KeyVersion) -> Result<Spki, KmsError>;

    /// Signs a SHA-256 digest with exactly this version. The digest is signed as it is: it is not hashed again.
    /// An implementation returns an error rather than a signature made with another version.
    async fn sign(&self, version: &KeyVersion, digest: &[u8; 32]) -> Result<Signature, KmsError>;

    /// Makes a new version, which [`Kms::current`] then names, and returns it. Older versions go on signing.
    ///
    /// Bounded in time. A rotation whose answer was lost is finished by the next call, which makes no second version. After a
    /// crash the caller asks [`Kms::current`] first: a version newer than the one it uses is the rotation's result.
    async fn rotate_key(&self) -> Result<KeyVersion, KmsError>;

    /// Whether a rotation was begun, by this process or one before it, that [`Kms::rotate_key`] is to finish. Asks nobody:
    /// it is what this side has kept.
    fn rotation_begun(&self) -> bool {
        false
    }

    /// What a person or an auditor wants to know about the key.
    async fn key_metadata(&self) -> Result<KeyMetadata, KmsError>;
}
