//! A receipt as a file: everything that is needed to verify one entry, offline.
//!
//! One map of deterministic CBOR (RFC 8949, 4.2.1):
//!
//! | key | value |
//! |---|---|
//! | 0 | version of this format: 1 |
//! | 1 | payload, the bytes that were committed to |
//! | 2 | salt, 32 bytes |
//! | 3 | the entry's index |
//! | 4 | the entry: 32 bytes, the commitment |
//! | 5 | inclusion proof: array of 32-byte hashes from the leaf's sibling to the root's child (RFC 6962) |
//! | 6 | checkpoint: the signed note, bytes |
//! | 7 | COSE receipt (RFC 9942) for the same entry under the same root, bytes, see [`crate::cose`] |
//! | 8 | optional: acknowledgements of other regions, at most 15, each region once: array, see [`crate::acknowledgement`] |

use std::fmt;

use minicbor::Decoder;
use serde::Serialize;
use tlog_tiles::{Hash, check_record};

use crate::acknowledgement::{Acknowledged, MAX_ACKNOWLEDGED, MAX_ACKNOWLEDGED_BYTES};
use crate::checkpoint::{CheckpointError, MAX_CHECKPOINT_BYTES, SignedCheckpoint};
use crate::cose::{CoseReceipt, MAX_COSE_BYTES, MAX_PATH_HASHES};
use crate::entry::{Commitment, SALT_LEN, Salt, commit, leaf_hash};
use crate::key::PublicKey;
use crate::payload::{
    DecodeError, MAX_PAYLOAD_BYTES, MapReader, Payload, array_len, fixed_bytes, in_memory, to_hex,
};
use crate::root;

/// The version of the file format.
pub const RECEIPT_VERSION: u64 = 1;

/// The largest receipt file that is read, in bytes.
pub const MAX_RECEIPT_BYTES: usize = MAX_PAYLOAD_BYTES
    + MAX_CHECKPOINT_BYTES
    + MAX_COSE_BYTES
    + MAX_PATH_HASHES * 40
    + MAX_ACKNOWLEDGED * MAX_ACKNOWLEDGED_BYTES
    + 1024;

/// Names an entry of a region's log: `us-east-1/42`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ReceiptId {
    /// The region whose log it is in.
    pub region: String,
    /// Its place in the log, from 0.
    pub index: u64,
}

/// A text is not a receipt's ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a receipt ID; write REGION/INDEX, as in `us-east-1/42`")]
pub struct ReceiptIdError {
    /// What was given, shortened.
    given: String,
}

impl fmt::Display for ReceiptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.region, self.index)
    }
}

impl std::str::FromStr for ReceiptId {
    type Err = ReceiptIdError;

    fn from_str(text: &str) -> Result<Self, ReceiptIdError> {
        let error = || ReceiptIdError {
            given: text.chars().take(80).collect(),
        };
        let (region, index) = text.rsplit_once('/').ok_or_else(error)?;
        let number: u64 = index.parse().map_err(|_| error())?;
        if region.is_empty() || region.contains('/') || number.to_string() != index {
            return Err(error());
        }
        Ok(Self {
            region: region.to_owned(),
            index: number,
        })
    }
}

/// A receipt, parsed and not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptFile {
    /// The payload's bytes, exactly as they were committed to.
    pub payload: Vec<u8>,
    /// The salt of the commitment.
    pub salt: Salt,
    /// The entry's place in the log.
    pub index: u64,
    /// The entry: the commitment to the payload.
    pub entry: Commitment,
    /// Hashes from the leaf's sibling up to the root's child.
    pub proof: Vec<[u8; 32]>,
    /// The checkpoint that the proof leads to.
    pub checkpoint: SignedCheckpoint,
    /// The same inclusion, for verifiers of COSE receipts.
    pub cose: CoseReceipt,
    /// Regions that hold the entry, each with its word for it.
    pub acknowledged: Vec<Acknowledged>,
}

/// One thing that was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What: `payload`, `commitment`, `inclusion`, `signature`, `cose`, `origin` or `acknowledgement`.
    pub name: &'static str,
    /// One line for a person, with the values.
    pub detail: String,
}

/// What a verified receipt says.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The entry's ID.
    pub id: ReceiptId,
    /// The payload.
    pub payload: Payload,
    /// Each check that was made and passed, in order.
    pub checks: Vec<Check>,
}

/// Which check failed, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The payload's bytes are no payload.
    #[error("payload: {0}")]
    Payload(#[source] DecodeError),
    /// The payload is not the one that was committed to.
    #[error(
        "commitment: payload and salt give {computed}, the entry is {entry}: the payload or the salt was changed"
    )]
    Commitment {
        /// What the payload leads to.
        computed: String,
        /// What the log holds.
        entry: String,
    },
    /// The entry is not in the tree of the checkpoint.
    #[error(
        "inclusion: the proof does not lead from entry {index} to the root of the checkpoint of {size} entries"
    )]
    Inclusion {
        /// The entry's index.
        index: u64,
        /// The tree's size.
        size: u64,
    },
    /// The checkpoint is not signed by one of the keys.
    #[error("signature: {0}")]
    Signature(#[source] CheckpointError),
    /// The COSE receipt is not of this entry and root, or not signed by the key that signed the checkpoint.
    #[error("cose: {reason}")]
    Cose {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The payload was written for another region than the log's.
    #[error("origin: the payload is of region `{region}`, the checkpoint of log `{origin}`")]
    Origin {
        /// The payload's region.
        region: String,
        /// The log.
        origin: String,
    },
    /// A region's acknowledgement is not one of this entry, or not the region's.
    #[error("acknowledgement: of `{region}`: {reason}")]
    Acknowledgement {
        /// The region that is to hold the entry.
        region: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl VerifyError {
    /// The name of the check that failed, as in [`Check::name`].
    pub fn label(&self) -> &'static str {
        match self {
            Self::Payload(_) => "payload",
            Self::Commitment { .. } => "commitment",
            Self::Inclusion { .. } => "inclusion",
            Self::Signature(_) => "signature",
            Self::Cose { .. } => "cose",
            Self::Origin { .. } => "origin",
            Self::Acknowledgement { .. } => "acknowledgement",
        }
    }
}

impl ReceiptFile {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        in_memory(self.payload.len() + 2048, |e| {
            e.map(8 + u64::from(!self.acknowledged.is_empty()))?;
            e.u8(0)?.u64(RECEIPT_VERSION)?;
            e.u8(1)?.bytes(&self.payload)?;
            e.u8(2)?.bytes(&self.salt)?;
            e.u8(3)?.u64(self.index)?;
            e.u8(4)?.bytes(&self.entry)?;
            e.u8(5)?.array(self.proof.len() as u64)?;
            for hash in &self.proof {
                e.bytes(hash)?;
            }
            e.u8(6)?.bytes(self.checkpoint.as_bytes())?;
            e.u8(7)?.bytes(&self.cose.to_bytes())?;
            if !self.acknowledged.is_empty() {
                e.u8(8)?.array(self.acknowledged.len() as u64)?;
                self.acknowledged.iter().try_for_each(|it| it.put(e))?;
            }
            Ok(())
        })
    }

    /// Parses exactly what [`ReceiptFile::to_bytes`] makes, at most [`MAX_RECEIPT_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_RECEIPT_BYTES {
            return Err(DecodeError::TooLarge {
                len: bytes.len(),
                bound: MAX_RECEIPT_BYTES,
            });
        }
        let mut decoder = Decoder::new(bytes);
        let mut map = MapReader::new(&mut decoder, "receipt")?;
        map.version(RECEIPT_VERSION)?;
        let receipt = Self {
            payload: map.bytes(1, "payload")?,
            salt: map.array::<SALT_LEN>(2, "salt")?,
            index: map.number(3, "index")?,
            entry: map.array(4, "entry")?,
            proof: map
                .optional_with(5, proof)?
                .ok_or(DecodeError::Missing { field: "proof" })?,
            checkpoint: map
                .optional_with(6, root::checkpoint)?
                .ok_or(DecodeError::Missing { field: "checkpoint" })?,
            cose: map
                .optional_with(7, |d| {
                    let bytes = d.bytes().map_err(|e| DecodeError::malformed("cose", &e))?;
                    CoseReceipt::from_bytes(bytes)
                })?
                .ok_or(DecodeError::Missing { field: "cose" })?,
            acknowledged: map.optional_with(8, acknowledged)?.unwrap_or_default(),
        };
        map.finish()?;
        if receipt.to_bytes() != bytes {
            return Err(DecodeError::NotDeterministic);
        }
        Ok(receipt)
    }

    /// Checks everything that can be checked with these public keys alone: no network, no clock, no other file.
    /// The checkpoint must be signed by one of `keys`. Who signed acknowledgements is not checked.
    pub fn verify(&self, keys: &[PublicKey]) -> Result<Verified, VerifyError> {
        self.verify_held(keys, &[])
    }

    /// The same, and acknowledgements must be signed by their keys as far as those are among `acks`. The check of one whose key is
    /// not there says that it was not checked.
    pub fn verify_held(&self, keys: &[PublicKey], acks: &[PublicKey]) -> Result<Verified, VerifyError> {
        let mut checks = Vec::with_capacity(6);
        let mut passed = |name, detail| checks.push(Check { name, detail });

        let payload = Payload::from_bytes(&self.payload).map_err(VerifyError::Payload)?;
        passed(
            "payload",
            format!("{} of {} bytes", payload.kind(), self.payload.len()),
        );

        let computed = commit(&self.salt, &self.payload);
        if computed != self.entry {
            return Err(VerifyError::Commitment {
                computed: to_hex(&computed),
                entry: to_hex(&self.entry),
            });
        }
        passed("commitment", format!("sha256 {}", to_hex(&computed)));

        let size = self.checkpoint.size();
        let proof: Vec<_> = self.proof.iter().copied().map(Hash).collect();
        check_record(
            &proof,
            size,
            Hash(self.checkpoint.root()),
            self.index,
            Hash(leaf_hash(&self.entry)),
        )
        .map_err(|_| VerifyError::Inclusion {
            index: self.index,
            size,
        })?;
        passed(
            "inclusion",
            format!("entry {} of {size}, {} hashes", self.index, proof.len()),
        );

        let key = self.checkpoint.verify(keys).map_err(VerifyError::Signature)?;
        passed("signature", format!("ECDSA P-256, key {key}"));

        self.check_cose(key)?;
        passed(
            "cose",
            format!("RFC 9942, ES256, kid {}", to_hex(&self.cose.signed.kid)),
        );

        let (region, origin) = (payload.region(), self.checkpoint.origin());
        if origin.rsplit_once('/').is_none_or(|(_, last)| last != region) {
            return Err(VerifyError::Origin {
                region: region.to_owned(),
                origin: origin.to_owned(),
            });
        }
        passed("origin", format!("log {origin}, region {region}"));
        for held in &self.acknowledged {
            passed("acknowledgement", self.check_acknowledged(held, acks)?);
        }

        let id = ReceiptId {
            region: region.to_owned(),
            index: self.index,
        };
        Ok(Verified { id, payload, checks })
    }
}

impl ReceiptFile {
    /// What a region's acknowledgement says, for a person.
    fn check_acknowledged(&self, held: &Acknowledged, keys: &[PublicKey]) -> Result<String, VerifyError> {
        let ack = &held.ack;
        let refuse = |reason| VerifyError::Acknowledgement {
            region: ack.peer.clone(),
            reason,
        };
        if let Some(reason) = held.does_not_fit(self.index, &self.checkpoint) {
            return Err(refuse(reason));
        }
        let (region, size) = (&ack.peer, ack.size);
        let Some(key) = keys.iter().find(|key| key.key_id() == ack.kid) else {
            return Ok(format!(
                "{region} says that it holds {size} entries: not checked, no key sha256:{} is given",
                to_hex(&ack.kid)
            ));
        };
        if !ack.is_signed_by(key) {
            return Err(refuse("its signature is not the key's"));
        }
        Ok(format!("{region} holds {size} entries, key {key}"))
    }

    /// The COSE receipt must say the same as proof and checkpoint, and be signed by the same key.
    fn check_cose(&self, key: &PublicKey) -> Result<(), VerifyError> {
        let refuse = |reason| Err(VerifyError::Cose { reason });
        let cose = &self.cose;
        if cose.signed.kid != key.key_id() {
            return refuse("its kid is not the key that signed the checkpoint");
        }
        if cose.tree_size != self.checkpoint.size() {
            return refuse("its tree is of another size than the checkpoint's");
        }
        if cose.leaf_index != self.index || cose.path != self.proof {
            return refuse("its inclusion proof is of another entry");
        }
        if !cose.signed.verifies(key, &self.checkpoint.root()) {
            return refuse("its signature is not one over the checkpoint's root: one of them was changed");
        }
        Ok(())
    }
}

/// Acknowledgements, each region once.
fn acknowledged(d: &mut Decoder<'_>) -> Result<Vec<Acknowledged>, DecodeError> {
    let len = array_len(d, "acknowledgements")?;
    if len == 0 || len > MAX_ACKNOWLEDGED as u64 {
        let reason = format_args!("there are {len}, and 1 to {MAX_ACKNOWLEDGED} are read");
        return Err(DecodeError::malformed("acknowledgements", &reason));
    }
    let read: Result<Vec<_>, _> = (0..len).map(|_| Acknowledged::read(d)).collect();
    let read = read?;
    let mut peers: Vec<_> = read.iter().map(|it| &it.ack.peer).collect();
    peers.sort_unstable();
    if peers.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(DecodeError::malformed(
            "acknowledgements",
            &"a region is there twice",
        ));
    }
    Ok(read)
}

fn proof(d: &mut Decoder<'_>) -> Result<Vec<[u8; 32]>, DecodeError> {
    let len = array_len(d, "proof")?;
    if len > MAX_PATH_HASHES as u64 {
        return Err(DecodeError::malformed(
            "proof",
            &format_args!("it has {len} hashes, and at most {MAX_PATH_HASHES} are read"),
        ));
    }
    (0..len).map(|_| fixed_bytes(d, "proof")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_region_and_an_index_and_nothing_else() {
        let id: ReceiptId = "us-east-1/42".parse().expect("an ID");
        assert_eq!(
            (id.region.as_str(), id.index, id.to_string().as_str()),
            ("us-east-1", 42, "us-east-1/42")
        );
        for bad in [
            "",
            "/",
            "us-east-1",
            "us-east-1/",
            "/42",
            "a/b/42",
            "a/042",
            "a/+42",
            "a/-1",
            "a/18446744073709551616",
        ] {
            let error = bad.parse::<ReceiptId>().expect_err(bad);
            assert!(error.to_string().contains("REGION/INDEX"), "{error}");
        }
    }
}
