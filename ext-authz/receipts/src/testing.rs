//! What tests of this crate, and of others that use it, have in common.
#![allow(clippy::missing_panics_doc)]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature, SigningKey as PrivateKey};
use p256::pkcs8::EncodePublicKey;

use crate::{Env, PublicKey, Signer, SignerError, SigningKey};

/// A key in memory, made from a number, that can be told to fail. It signs with the keys of other numbers too, as a provider
/// does with all versions that it has.
pub struct TestSigner {
    seed: u8,
    fails: AtomicBool,
    failing: Mutex<HashSet<String>>,
    signatures: AtomicU64,
}

impl TestSigner {
    /// The key of this number; not 0.
    pub fn new(seed: u8) -> Self {
        Self {
            seed,
            fails: AtomicBool::new(false),
            failing: Mutex::default(),
            signatures: AtomicU64::new(0),
        }
    }

    /// From now on signing fails, or works again.
    pub fn set_failing(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    /// From now on signing with exactly these keys fails.
    pub fn fail_only(&self, keys: &[SigningKey]) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) =
            keys.iter().map(|key| key.version.clone()).collect();
    }

    /// How many signatures it made.
    pub fn signatures(&self) -> u64 {
        self.signatures.load(Ordering::SeqCst)
    }

    /// Its public half.
    pub fn public_key(&self) -> PublicKey {
        self.key().public
    }

    /// Its key.
    pub fn key(&self) -> SigningKey {
        Self::key_of(self.seed)
    }

    /// The key of a number, which every `TestSigner` can sign with: provider `test`, version `k` and the number.
    pub fn key_of(seed: u8) -> SigningKey {
        let der = private_key(seed)
            .verifying_key()
            .to_public_key_der()
            .expect("a public key");
        SigningKey {
            public: PublicKey::from_der(der.as_bytes()).expect("its own DER"),
            provider: "test".to_owned(),
            version: format!("k{seed}"),
        }
    }

    /// An ECDSA signature over the digest, in DER.
    pub fn sign(&self, digest: &[u8; 32]) -> Vec<u8> {
        signature_by(self.seed, digest)
    }
}

/// The private key of a number.
fn private_key(seed: u8) -> PrivateKey {
    PrivateKey::from_slice(&[seed; 32]).expect("a number below the curve's order")
}

fn signature_by(seed: u8, digest: &[u8; 32]) -> Vec<u8> {
    let signature: Signature = private_key(seed).sign_prehash(digest).expect("a signature");
    signature.to_der().as_bytes().to_vec()
}

#[async_trait]
impl Signer for TestSigner {
    async fn newest(&self) -> Result<SigningKey, SignerError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(told_to_fail());
        }
        Ok(self.key())
    }

    async fn sign_digest(&self, key: &SigningKey, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.fails.load(Ordering::SeqCst) || failing.contains(&key.version) {
            return Err(told_to_fail());
        }
        drop(failing);
        let seed = key.version.strip_prefix('k').and_then(|seed| seed.parse().ok());
        let seed = seed.ok_or_else(|| SignerError {
            label: "unknown_version",
            message: format!("there is no key `{}`", key.version),
        })?;
        self.signatures.fetch_add(1, Ordering::SeqCst);
        Ok(signature_by(seed, digest))
    }
}

fn told_to_fail() -> SignerError {
    SignerError {
        label: "unavailable",
        message: "told to fail".to_owned(),
    }
}

/// A clock that stands still, and random bytes that are a running number.
pub fn still_env() -> Env {
    let drawn = AtomicU64::new(0);
    Env {
        clock: Arc::new(|| 1_700_000_000_000),
        fill_random: Arc::new(move |bytes| {
            for chunk in bytes.chunks_mut(8) {
                let number = drawn.fetch_add(1, Ordering::SeqCst).to_le_bytes();
                chunk.copy_from_slice(&number[..chunk.len()]);
            }
        }),
    }
}
