//! Other regions' word that they durably hold a region's log.
//!
//! A region keeps copies of others' logs. What it signs for one of them is an [`Ack`]; a receipt carries those that cover its
//! entry, each as an [`Acknowledged`].

use minicbor::Decoder;
use sha2::{Digest, Sha256};
use tlog_tiles::{Hash, check_tree};

use crate::checkpoint::{MAX_ORIGIN_BYTES, SignedCheckpoint};
use crate::cose::MAX_PATH_HASHES;
use crate::key::PublicKey;
use crate::payload::{DecodeError, Encoder, MapReader, Written, array_len, fixed_bytes, in_memory};

/// The version of the format.
const ACK_VERSION: u64 = 1;

/// The longest name of a region, in bytes.
pub const MAX_REGION_BYTES: usize = 63;

/// The most acknowledgements that a receipt has: one of each region that there may be beside its own.
pub const MAX_ACKNOWLEDGED: usize = 15;

/// The largest [`Acknowledged`], in bytes.
pub const MAX_ACKNOWLEDGED_BYTES: usize = MAX_ACK_BYTES + MAX_PATH_HASHES * 40 + 16;

/// Separates what is signed here from everything else that keys sign.
const DOMAIN: &[u8] = b"knhk-ack/v1\0";

/// The largest ECDSA P-256 signature in DER, in bytes.
const MAX_SIGNATURE_BYTES: usize = 72;

/// The largest acknowledgement, in bytes.
pub const MAX_ACK_BYTES: usize = 1024;

/// `knhk-ack/v1`: a region's signed word that it durably holds another region's log up to this root.
///
/// | key | value |
/// |---|---|
/// | 0 | version of this format: 1 |
/// | 1 | peer: the region that holds it, text |
/// | 2 | origin of the log, text |
/// | 3 | size: how many entries it holds |
/// | 4 | root of those, 32 bytes |
/// | 5 | kid: SHA-256 of the DER of the key that signed, 32 bytes |
/// | 6 | signature: ECDSA P-256, ASN.1 DER, over [`Ack::digest`] |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The region that holds the log.
    pub peer: String,
    /// The log.
    pub origin: String,
    /// How many of its entries are held.
    pub size: u64,
    /// The root of those.
    pub root: [u8; 32],
    /// Key ID of the key that signed: one that the peer's own log announces.
    pub kid: [u8; 32],
    /// The signature, in ASN.1 DER.
    pub signature: Vec<u8>,
}

impl Ack {
    /// What is signed: SHA-256 of `"knhk-ack/v1"`, a zero byte, the peer, a zero byte, the origin, a zero byte, the size in eight
    /// bytes, big-endian, and the root.
    pub fn digest(peer: &str, origin: &str, size: u64, root: &[u8; 32]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(DOMAIN);
        hasher.update(peer);
        hasher.update([0]);
        hasher.update(origin);
        hasher.update([0]);
        hasher.update(size.to_be_bytes());
        hasher.update(root);
        hasher.finalize().into()
    }

    /// Whether this very key signed it.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        let digest = Self::digest(&self.peer, &self.origin, self.size, &self.root);
        self.kid == key.key_id() && key.verifies(&digest, &self.signature)
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        in_memory(384, |e| {
            e.map(7)?;
            e.u8(0)?.u64(ACK_VERSION)?;
            e.u8(1)?.str(&self.peer)?;
            e.u8(2)?.str(&self.origin)?;
            e.u8(3)?.u64(self.size)?;
            e.u8(4)?.bytes(&self.root)?;
            e.u8(5)?.bytes(&self.kid)?;
            e.u8(6)?.bytes(&self.signature)?;
            Ok(())
        })
    }

    /// Parses exactly what [`Ack::to_bytes`] makes, at most [`MAX_ACK_BYTES`]. Who signed it is not checked here.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (len, bound) = (bytes.len(), MAX_ACK_BYTES);
        if len > bound {
            return Err(DecodeError::TooLarge { len, bound });
        }
        let mut decoder = Decoder::new(bytes);
        let mut map = MapReader::new(&mut decoder, "ack")?;
        map.version(ACK_VERSION)?;
        let peer = map.optional_with(1, |d| short(d, "peer", MAX_REGION_BYTES))?;
        let origin = map.optional_with(2, |d| short(d, "origin", MAX_ORIGIN_BYTES))?;
        let ack = Self {
            peer: peer.ok_or(DecodeError::Missing { field: "peer" })?.to_owned(),
            origin: origin.ok_or(DecodeError::Missing { field: "origin" })?.to_owned(),
            size: map.number(3, "size")?,
            root: map.array(4, "root")?,
            kid: map.array(5, "kid")?,
            signature: map.bytes(6, "signature")?,
        };
        map.finish()?;
        if ack.signature.len() > MAX_SIGNATURE_BYTES {
            return Err(DecodeError::malformed("signature", &"it is longer than any"));
        }
        if ack.to_bytes() != bytes {
            return Err(DecodeError::NotDeterministic);
        }
        Ok(ack)
    }
}

/// An acknowledgement as a receipt carries it: with the proof that what the peer holds is the beginning of the receipt's tree.
///
/// An array of two: the bytes of the [`Ack`], and the consistency proof (RFC 6962, 2.1.2) from its tree to the checkpoint's, an array
/// of hashes; none where it is the same tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// What the peer signed.
    pub ack: Ack,
    /// The proof.
    pub proof: Vec<[u8; 32]>,
}

impl Acknowledged {
    /// Why it says nothing of entry `index` under this checkpoint, if that is so. Who signed it is not checked here.
    pub(crate) fn does_not_fit(&self, index: u64, checkpoint: &SignedCheckpoint) -> Option<&'static str> {
        let Self { ack, proof } = self;
        if ack.origin != checkpoint.origin() {
            return Some("it is of another log");
        }
        if ack.size <= index {
            return Some("it is of a tree without the entry");
        }
        if ack.size > checkpoint.size() {
            return Some("it is of a larger tree than the checkpoint's");
        }
        let proof: Vec<_> = proof.iter().copied().map(Hash).collect();
        let (root, held) = (Hash(checkpoint.root()), Hash(ack.root));
        let proven = if ack.size == checkpoint.size() {
            proof.is_empty() && root == held
        } else {
            check_tree(&proof, checkpoint.size(), root, ack.size, held).is_ok()
        };
        (!proven).then_some("what the peer holds is not the beginning of the checkpoint's tree")
    }

    pub(crate) fn put(&self, e: &mut Encoder<'_>) -> Written {
        e.array(2)?.bytes(&self.ack.to_bytes())?;
        e.array(self.proof.len() as u64)?;
        self.proof.iter().try_for_each(|hash| e.bytes(hash).map(|_| ()))
    }

    pub(crate) fn read(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        const FIELD: &str = "acknowledgement";
        if array_len(d, FIELD)? != 2 {
            return Err(DecodeError::malformed(FIELD, &"it is not an array of two"));
        }
        let bytes = d.bytes().map_err(|e| DecodeError::malformed(FIELD, &e))?;
        let ack = Ack::from_bytes(bytes)?;
        let hashes = array_len(d, FIELD)?;
        if hashes > MAX_PATH_HASHES as u64 {
            return Err(DecodeError::malformed(FIELD, &"its proof is longer than any"));
        }
        let proof: Result<_, _> = (0..hashes).map(|_| fixed_bytes(d, FIELD)).collect();
        Ok(Self { ack, proof: proof? })
    }
}

/// A text of at most so many bytes.
fn short<'b>(d: &mut Decoder<'b>, field: &'static str, most: usize) -> Result<&'b str, DecodeError> {
    let text = d.str().map_err(|e| DecodeError::malformed(field, &e))?;
    if text.len() > most {
        return Err(DecodeError::malformed(field, &"it is longer than any"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fixed for ever: a change here breaks every acknowledgement there is.
    #[test]
    fn the_digest_is_what_the_documentation_says() {
        let mut text = b"knhk-ack/v1\0eu-west-1\0knhk.dev/log/us-east-1\0".to_vec();
        text.extend([0, 0, 0, 0, 0, 0, 0, 42]);
        text.extend([7; 32]);
        let expected: [u8; 32] = Sha256::digest(&text).into();
        let digest = Ack::digest("eu-west-1", "knhk.dev/log/us-east-1", 42, &[7; 32]);
        assert_eq!(digest, expected);
    }
}
