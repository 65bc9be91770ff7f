//! A tree's root as one flush signed it: for readers of C2SP logs, and for COSE Receipts.
//!
//! It is kept in one file, so that both signatures are always of the same tree. One map of deterministic CBOR:
//!
//! | key | value |
//! |---|---|
//! | 0 | version of this format: 1 |
//! | 1 | checkpoint: the signed note, bytes |
//! | 2 | kid: SHA-256 of the signing key's `SubjectPublicKeyInfo` DER, 32 bytes |
//! | 3 | signature of the COSE receipts under this root: `r || s`, 64 bytes |

use minicbor::Decoder;

use crate::checkpoint::{CheckpointError, MAX_CHECKPOINT_BYTES, SignedCheckpoint};
use crate::cose::{CoseReceipt, RootSignature};
use crate::key::PublicKey;
use crate::payload::{DecodeError, MapReader, fixed_bytes, in_memory};

/// The version of the file's format.
const ROOT_VERSION: u64 = 1;

/// The largest file that is read, in bytes.
pub const MAX_ROOT_BYTES: usize = MAX_CHECKPOINT_BYTES + 256;

/// A checkpoint, and the signature over the same root for COSE receipts, by the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRoot {
    /// The C2SP checkpoint.
    pub checkpoint: SignedCheckpoint,
    /// The signature that is in every COSE receipt under this root.
    pub cose: RootSignature,
}

impl SignedRoot {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        in_memory(512, |e| {
            e.map(4)?;
            e.u8(0)?.u64(ROOT_VERSION)?;
            e.u8(1)?.bytes(self.checkpoint.as_bytes())?;
            e.u8(2)?.bytes(&self.cose.kid)?;
            e.u8(3)?.bytes(&self.cose.signature)?;
            Ok(())
        })
    }

    /// Parses exactly what [`SignedRoot::to_bytes`] makes, at most [`MAX_ROOT_BYTES`]. Who signed it is not checked here.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_ROOT_BYTES {
            return Err(DecodeError::TooLarge {
                len: bytes.len(),
                bound: MAX_ROOT_BYTES,
            });
        }
        let mut decoder = Decoder::new(bytes);
        let mut map = MapReader::new(&mut decoder, "root")?;
        map.version(ROOT_VERSION)?;
        let root = Self {
            checkpoint: map
                .optional_with(1, checkpoint)?
                .ok_or(DecodeError::Missing { field: "checkpoint" })?,
            cose: RootSignature {
                kid: map.array(2, "kid")?,
                signature: map
                    .optional_with(3, |d| fixed_bytes(d, "signature"))?
                    .ok_or(DecodeError::Missing { field: "signature" })?,
            },
        };
        map.finish()?;
        if root.to_bytes() != bytes {
            return Err(DecodeError::NotDeterministic);
        }
        Ok(root)
    }

    /// Which of the keys made both signatures.
    pub fn verify<'k>(&self, keys: &'k [PublicKey]) -> Result<&'k PublicKey, CheckpointError> {
        let key = self.checkpoint.verify(keys)?;
        if self.cose.verifies(key, &self.checkpoint.root()) {
            Ok(key)
        } else {
            Err(CheckpointError::BadSignature { key: key.to_string() })
        }
    }

    /// How many entries the tree has.
    pub fn size(&self) -> u64 {
        self.checkpoint.size()
    }

    /// The COSE receipt of the entry at `leaf_index`, by its inclusion path under this root.
    pub fn receipt(&self, leaf_index: u64, path: Vec<[u8; 32]>) -> CoseReceipt {
        CoseReceipt {
            tree_size: self.size(),
            leaf_index,
            path,
            signed: self.cose.clone(),
        }
    }
}

/// Reads a signed note out of CBOR bytes.
pub(crate) fn checkpoint(d: &mut Decoder<'_>) -> Result<SignedCheckpoint, DecodeError> {
    let note = d.bytes().map_err(|e| DecodeError::malformed("checkpoint", &e))?;
    SignedCheckpoint::from_bytes(note).map_err(|e| DecodeError::malformed("checkpoint", &e))
}
