//! The key by which a region acknowledges other regions' logs: local, so that no key service is asked for each acknowledgement.

use std::io;

use knhk_receipts::storage::{Storage, read_whole, replace};
use knhk_receipts::{FillRandom, PublicKey, SignedCheckpoint};
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey};

use crate::wire::Ack;

/// Directory of what a region keeps about its peers.
pub(crate) const REGIONS_DIR: &str = "regions";

/// The private key, PKCS#8 in DER.
const ACK_KEY_PATH: &str = "regions/ack.key";

/// The largest file that is read, in bytes.
const MAX_KEY_BYTES: usize = 1024;

/// A random number is no key about once in 2^32 draws.
const DRAWS: usize = 8;

/// Acknowledges other regions' logs in the name of a region.
pub struct AckSigner {
    region: String,
    key: SigningKey,
    public: PublicKey,
}

impl AckSigner {
    /// The region's key, made at its first start. Its own log has to announce it ([`crate::announce::ack_key_action`]) before
    /// anybody believes it.
    pub fn open(storage: &dyn Storage, region: &str, fill_random: &FillRandom) -> io::Result<Self> {
        let key = match read_whole(storage, ACK_KEY_PATH, MAX_KEY_BYTES) {
            Ok(der) => SigningKey::from_pkcs8_der(&der).map_err(|_| unusable())?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let key = new_key(fill_random)?;
                let der = key.to_pkcs8_der().map_err(io::Error::other)?;
                storage.create_dir(REGIONS_DIR)?;
                replace(storage, ACK_KEY_PATH, der.as_bytes())?;
                key
            }
            Err(e) => return Err(e),
        };
        let der = key
            .verifying_key()
            .to_public_key_der()
            .map_err(io::Error::other)?;
        Ok(Self {
            region: region.to_owned(),
            key,
            public: PublicKey::from_der(der.as_bytes()).map_err(io::Error::other)?,
        })
    }

    /// What acknowledgements are verified with.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Says that all entries of this checkpoint are durable here, which the caller knows.
    pub(crate) fn acknowledge(&self, checkpoint: &SignedCheckpoint) -> Ack {
        let (origin, size, root) = (checkpoint.origin(), checkpoint.size(), checkpoint.root());
        let digest = Ack::digest(&self.region, origin, size, &root);
        #[allow(clippy::expect_used, reason = "a digest of 32 bytes is always signed")]
        let signature: Signature = self
            .key
            .sign_prehash(&digest)
            .expect("the digest has the curve's length");
        Ack {
            peer: self.region.clone(),
            origin: origin.to_owned(),
            size,
            root,
            kid: self.public.key_id(),
            signature: signature.to_der().as_bytes().to_vec(),
        }
    }
}

fn new_key(fill_random: &FillRandom) -> io::Result<SigningKey> {
    for _ in 0..DRAWS {
        let mut scalar = [0; 32];
        fill_random(&mut scalar);
        if let Ok(key) = SigningKey::from_slice(&scalar) {
            return Ok(key);
        }
    }
    Err(io::Error::other(
        "no key can be made of the random numbers that the system gives",
    ))
}

fn unusable() -> io::Error {
    let reason =
        format!("`{ACK_KEY_PATH}` is no P-256 key in PKCS#8; remove it, and a new key is made and announced");
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
