//! What a region knows of another one's log beside its entries, in one file that is replaced whole.
//!
//! `mirror/head` is a map of deterministic CBOR, and behind it the CRC-32 (IEEE) of its bytes, little-endian:
//!
//! | key | value |
//! |---|---|
//! | 0 | version of this format: 1 |
//! | 1 | region, text |
//! | 2 | origin, text |
//! | 3 | pin: ID of the key that an operator chose, 32 bytes |
//! | 4 | optional: DER of the key that signed the newest checkpoint |
//! | 5 | DER of the keys that may sign next: array of bytes |
//! | 6 | DER of the keys that signed before: array of bytes |
//! | 7 | DER of the keys that the region acknowledges with, the newest one last: array of bytes |
//! | 8 | DER of every key of the log that an entry announces, in their order: array of bytes |
//! | 9 | optional: the newest checkpoint that all entries of are here, bytes |
//! | 10 | optional: COSE signature over its root, 64 bytes |
//! | 11 | optional: the checkpoint that the entries behind it are proven by, bytes |
//! | 12 | with 11: how many entries that is with all before them; a crash may have left fewer |
//! | 13 | with 11: proof that its tree begins with those, array of 32-byte hashes |

use knhk_receipts::cbor::{Encoder, MapReader, Written, fixed_bytes, in_memory};
use knhk_receipts::checkpoint::MAX_ORIGIN_BYTES;
use knhk_receipts::cose::RootSignature;
use knhk_receipts::{DecodeError, MAX_KEYS, PublicKey, SignedCheckpoint, SignedRoot};
use minicbor::Decoder;

use super::trust::{MAX_ACK_KEYS, Trust};
use crate::fields::{checkpoint, list, present, proof, public_key, put_proof, short};
use crate::wire::{Hash, MAX_NAME_BYTES};

pub(crate) const HEAD_PATH: &str = "mirror/head";

/// The largest file that is read, in bytes.
pub(crate) const MAX_HEAD_BYTES: usize = 1024 * 1024;

const HEAD_VERSION: u64 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) region: String,
    pub(crate) origin: String,
    pub(crate) trust: Trust,
    /// Every key of the log that an entry announces, from the first one on. That alone is no trust.
    pub(crate) announced: Vec<PublicKey>,
    /// The newest checkpoint that all entries of are here.
    pub(crate) checkpoint: Option<SignedCheckpoint>,
    pub(crate) cose: Option<[u8; 64]>,
    /// What proves the entries behind it.
    pub(crate) lead: Option<Lead>,
}

/// A signed checkpoint of a tree that begins with the entries that are here, and has more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lead {
    pub(crate) checkpoint: SignedCheckpoint,
    /// How many entries are here, or were to be: a crash may have been faster.
    pub(crate) size: u64,
    /// Consistency proof from those to the checkpoint.
    pub(crate) proof: Vec<Hash>,
}

impl Head {
    pub(crate) fn new(region: &str, origin: &str, trust: Trust) -> Self {
        Self {
            region: region.to_owned(),
            origin: origin.to_owned(),
            trust,
            announced: Vec::new(),
            checkpoint: None,
            cose: None,
            lead: None,
        }
    }

    /// How many entries the newest checkpoint has; 0 without one.
    pub(crate) fn size(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, SignedCheckpoint::size)
    }

    /// The newest checkpoint with the signature of COSE receipts, where that is known too.
    pub(crate) fn signed_root(&self) -> Option<SignedRoot> {
        Some(SignedRoot {
            checkpoint: self.checkpoint.clone()?,
            cose: RootSignature {
                kid: self.trust.current.as_ref()?.key_id(),
                signature: self.cose?,
            },
        })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let trust = &self.trust;
        let lead = self.lead.is_some();
        let optional = [
            trust.current.is_some(),
            self.checkpoint.is_some(),
            self.cose.is_some(),
            lead,
            lead,
            lead,
        ];
        let mut bytes = in_memory(2048, |e| {
            e.map(8 + present(&optional))?;
            e.u8(0)?.u64(HEAD_VERSION)?;
            e.u8(1)?.str(&self.region)?;
            e.u8(2)?.str(&self.origin)?;
            e.u8(3)?.bytes(&trust.pin)?;
            if let Some(key) = &trust.current {
                e.u8(4)?.bytes(key.der())?;
            }
            for (key, keys) in [
                (5, &trust.next),
                (6, &trust.retired),
                (7, &trust.ack_keys),
                (8, &self.announced),
            ] {
                e.u8(key)?;
                put_keys(e, keys)?;
            }
            if let Some(checkpoint) = &self.checkpoint {
                e.u8(9)?.bytes(checkpoint.as_bytes())?;
            }
            if let Some(cose) = &self.cose {
                e.u8(10)?.bytes(cose)?;
            }
            if let Some(lead) = &self.lead {
                e.u8(11)?.bytes(lead.checkpoint.as_bytes())?;
                e.u8(12)?.u64(lead.size)?;
                e.u8(13)?;
                put_proof(e, &lead.proof)?;
            }
            Ok(())
        });
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Parses exactly what [`Head::to_bytes`] makes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let checked = bytes.split_last_chunk().filter(|(body, crc)| {
            let expected = u32::from_le_bytes(**crc);
            crc32fast::hash(body) == expected
        });
        let Some((body, _)) = checked else {
            return Err(DecodeError::malformed("head", &"its check sum is wrong"));
        };
        let head = parse(body)?;
        if head.to_bytes() != bytes {
            return Err(DecodeError::NotDeterministic);
        }
        Ok(head)
    }
}

fn put_keys(e: &mut Encoder<'_>, keys: &[PublicKey]) -> Written {
    e.array(keys.len() as u64)?;
    keys.iter().try_for_each(|key| e.bytes(key.der()).map(|_| ()))
}

fn parse(body: &[u8]) -> Result<Head, DecodeError> {
    let missing = |field| DecodeError::Missing { field };
    let mut decoder = Decoder::new(body);
    let mut map = MapReader::new(&mut decoder, "head")?;
    map.version(HEAD_VERSION)?;
    let region = map.optional_with(1, |d| short(d, "region", MAX_NAME_BYTES))?;
    let origin = map.optional_with(2, |d| short(d, "origin", MAX_ORIGIN_BYTES))?;
    let mut head = Head::new(
        region.ok_or(missing("region"))?,
        origin.ok_or(missing("origin"))?,
        Trust::new(map.array(3, "pin")?),
    );
    head.trust.current = map.optional_with(4, |d| public_key(d, "current"))?;
    head.trust.next = keys(&mut map, 5, "next", MAX_KEYS)?;
    head.trust.retired = keys(&mut map, 6, "retired", MAX_KEYS)?;
    head.trust.ack_keys = keys(&mut map, 7, "ack_keys", MAX_ACK_KEYS)?;
    head.announced = keys(&mut map, 8, "announced", MAX_KEYS)?;
    head.checkpoint = map.optional_with(9, |d| checkpoint(d, "checkpoint"))?;
    head.cose = map.optional_with(10, |d| fixed_bytes(d, "cose"))?;
    if let Some(checkpoint) = map.optional_with(11, |d| checkpoint(d, "lead"))? {
        head.lead = Some(Lead {
            checkpoint,
            size: map.number(12, "lead.size")?,
            proof: map
                .optional_with(13, |d| proof(d, "lead.proof"))?
                .ok_or(missing("lead.proof"))?,
        });
    }
    map.finish()?;
    Ok(head)
}

fn keys(
    map: &mut MapReader<'_, '_>,
    key: u64,
    field: &'static str,
    most: usize,
) -> Result<Vec<PublicKey>, DecodeError> {
    let keys = map.optional_with(key, |d| list(d, field, most, |d| public_key(d, field)))?;
    keys.ok_or(DecodeError::Missing { field })
}

#[cfg(test)]
mod tests {
    use knhk_receipts::checkpoint::Unsigned;
    use knhk_receipts::testing::TestSigner;

    use super::*;

    fn signed(size: u64) -> SignedCheckpoint {
        let signer = TestSigner::new(1);
        let unsigned = Unsigned {
            origin: "knhk.dev/log/r".to_owned(),
            size,
            root: [3; 32],
        };
        let signature = signer.sign(&unsigned.digest());
        unsigned.signed(&signer.public_key(), signature).expect("signed")
    }

    #[test]
    fn it_comes_back_as_it_was_and_any_changed_bit_is_found() {
        let mut head = Head::new("r", "knhk.dev/log/r", Trust::new([1; 32]));
        let mut heads = vec![head.clone()];
        let key = |seed| TestSigner::new(seed).public_key();
        head.trust.current = Some(key(1));
        head.trust.next = vec![key(2), key(3)];
        head.trust.retired = vec![key(4)];
        head.trust.ack_keys = vec![key(5)];
        head.announced = vec![key(1), key(2)];
        head.checkpoint = Some(signed(7));
        heads.push(head.clone());
        head.cose = Some([9; 64]);
        head.lead = Some(Lead {
            checkpoint: signed(70),
            size: 8,
            proof: vec![[1; 32], [2; 32]],
        });
        heads.push(head);
        for head in heads {
            let bytes = head.to_bytes();
            assert_eq!(Head::from_bytes(&bytes), Ok(head));
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                assert!(Head::from_bytes(&changed).is_err(), "byte {at}");
            }
        }
    }
}
