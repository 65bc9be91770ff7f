//! What tests of this crate, and of others that use it, have in common.
#![allow(clippy::missing_panics_doc)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::EncodePublicKey;

use crate::{Env, PublicKey, Signer, SignerError};

/// A key in memory, made from a number, that can be told to fail.
pub struct TestSigner {
    key: SigningKey,
    der: Vec<u8>,
    fails: AtomicBool,
    signatures: AtomicU64,
}

impl TestSigner {
    /// The key of this number; not 0.
    pub fn new(seed: u8) -> Self {
        let key = SigningKey::from_slice(&[seed; 32]).expect("a number below the curve's order");
        let der = key
            .verifying_key()
            .to_public_key_der()
            .expect("a public key")
            .into_vec();
        Self {
            key,
            der,
            fails: AtomicBool::new(false),
            signatures: AtomicU64::new(0),
        }
    }

    /// From now on signing fails, or works again.
    pub fn set_failing(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    /// How many signatures it made.
    pub fn signatures(&self) -> u64 {
        self.signatures.load(Ordering::SeqCst)
    }

    /// Its public half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey::from_der(&self.der).expect("its own DER")
    }

    /// An ECDSA signature over the digest, in DER.
    pub fn sign(&self, digest: &[u8; 32]) -> Vec<u8> {
        let signature: Signature = self.key.sign_prehash(digest).expect("a signature");
        signature.to_der().as_bytes().to_vec()
    }
}

#[async_trait]
impl Signer for TestSigner {
    fn public_key_der(&self) -> &[u8] {
        &self.der
    }

    async fn sign_digest(&self, digest: &[u8; 32]) -> Result<Vec<u8>, SignerError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(SignerError {
                label: "unavailable",
                message: "told to fail".to_owned(),
            });
        }
        self.signatures.fetch_add(1, Ordering::SeqCst);
        Ok(self.sign(digest))
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
