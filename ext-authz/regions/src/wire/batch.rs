use knhk_receipts::bundle::MAX_ITEM_BYTES;
use knhk_receipts::cbor::{MapReader, fixed_bytes, in_memory};
use knhk_receipts::checkpoint::{MAX_CHECKPOINT_BYTES, MAX_ORIGIN_BYTES};
use knhk_receipts::cose::MAX_PATH_HASHES;
use knhk_receipts::kept::MAX_NOTE_BYTES;
use knhk_receipts::{DecodeError, PublicKey, SignedCheckpoint};
use minicbor::Decoder;

use super::{Hash, MAX_NAME_BYTES};
use crate::fields::{bounded, checkpoint, list, present, proof, public_key, put_proof, short};

/// The version of the format.
const BATCH_VERSION: u64 = 1;

/// The most bytes of items in a batch: two of the largest fit.
pub const MAX_ITEMS_BYTES: usize = 2 * MAX_ITEM_BYTES;

/// The most entries of a batch.
pub const MAX_BATCH_ITEMS: u64 = 65_536;

/// The most further checkpoints in a batch.
pub const MAX_KEPT: usize = 64;

/// The largest batch, in bytes.
pub const MAX_BATCH_BYTES: usize = MAX_ITEMS_BYTES
    + MAX_CHECKPOINT_BYTES
    + MAX_KEPT * (MAX_NOTE_BYTES + 8)
    + 2 * MAX_PATH_HASHES * 40
    + 1024;

/// A contiguous range of a log's entries and the checkpoint that they lead to: the body of `POST /v1/receipts`.
///
/// | key | value |
/// |---|---|
/// | 0 | version of this format: 1 |
/// | 1 | region whose log it is, text |
/// | 2 | origin of the log, text |
/// | 3 | from: index of the first entry |
/// | 4 | count: how many entries follow; none is allowed, and asks what the receiver holds |
/// | 5 | items: the entries as in a payload bundle, each `[salt, payload]`, one after the other, bytes |
/// | 6 | checkpoint: the signed note, bytes. Its size is `from + count` or more |
/// | 7 | key: `SubjectPublicKeyInfo` DER of the key that signed it, bytes |
/// | 8 | optional: signature of the COSE receipts under the same root by the same key, `r \|\| s`, 64 bytes |
/// | 9 | optional, where `from` is not 0: root of the first `from` entries, 32 bytes; by it a second history is told from damage |
/// | 10 | with 9: proof that the checkpoint's tree begins with those: array of 32-byte hashes (RFC 6962, 2.1.2) |
/// | 11 | proof that the checkpoint's tree begins with the first `from + count` entries: array; empty where those are all |
/// | 12 | kept: earlier checkpoints of sizes above `from` up to `from + count`, ascending, by keys before this one: array of bytes |
///
/// So every batch is proven by itself, before anything of it is written: whatever its size, and however far the checkpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch<'b> {
    /// The region whose log it is.
    pub region: &'b str,
    /// The log's name.
    pub origin: &'b str,
    /// Index of the first entry.
    pub from: u64,
    /// How many entries there are.
    pub count: u64,
    /// The entries, as in a payload bundle ([`knhk_receipts::bundle`]).
    pub items: &'b [u8],
    /// What they lead to.
    pub checkpoint: SignedCheckpoint,
    /// The key that signed it.
    pub key: PublicKey,
    /// The COSE signature over the same root, where the sender has it.
    pub cose: Option<[u8; 64]>,
    /// What comes before `from`; nothing where that is 0, or where the sender has no proof of it.
    pub before: Option<RootAt>,
    /// Proof that the checkpoint's tree begins with the entries up to the last one here.
    pub proof: Vec<Hash>,
    /// Earlier checkpoints, of which the log's chain of keys is made.
    pub kept: Vec<SignedCheckpoint>,
}

/// A root, and the proof that a checkpoint's tree begins with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootAt {
    /// The root.
    pub root: Hash,
    /// Consistency proof from there to the checkpoint.
    pub proof: Vec<Hash>,
}

impl<'b> Batch<'b> {
    /// Index behind the last entry.
    pub fn end(&self) -> u64 {
        self.from + self.count
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let optional = [self.cose.is_some(), self.before.is_some(), self.before.is_some()];
        in_memory(self.items.len() + 4096, |e| {
            e.map(10 + present(&optional))?;
            e.u8(0)?.u64(BATCH_VERSION)?;
            e.u8(1)?.str(self.region)?;
            e.u8(2)?.str(self.origin)?;
            e.u8(3)?.u64(self.from)?;
            e.u8(4)?.u64(self.count)?;
            e.u8(5)?.bytes(self.items)?;
            e.u8(6)?.bytes(self.checkpoint.as_bytes())?;
            e.u8(7)?.bytes(self.key.der())?;
            if let Some(cose) = &self.cose {
                e.u8(8)?.bytes(cose)?;
            }
            if let Some(before) = &self.before {
                e.u8(9)?.bytes(&before.root)?;
                e.u8(10)?;
                put_proof(e, &before.proof)?;
            }
            e.u8(11)?;
            put_proof(e, &self.proof)?;
            e.u8(12)?.array(self.kept.len() as u64)?;
            for kept in &self.kept {
                e.bytes(kept.as_bytes())?;
            }
            Ok(())
        })
    }

    /// Parses exactly what [`Batch::to_bytes`] makes, at most [`MAX_BATCH_BYTES`]. The items are only bounded here, and nothing
    /// is verified.
    pub fn from_bytes(bytes: &'b [u8]) -> Result<Self, DecodeError> {
        bounded(bytes, MAX_BATCH_BYTES)?;
        let mut decoder = Decoder::new(bytes);
        let mut map = MapReader::new(&mut decoder, "batch")?;
        map.version(BATCH_VERSION)?;
        let missing = |field| DecodeError::Missing { field };
        let batch = Self {
            region: map
                .optional_with(1, |d| short(d, "region", MAX_NAME_BYTES))?
                .ok_or(missing("region"))?,
            origin: map
                .optional_with(2, |d| short(d, "origin", MAX_ORIGIN_BYTES))?
                .ok_or(missing("origin"))?,
            from: map.number(3, "from")?,
            count: map.number(4, "count")?,
            items: map.required(5, "items", Decoder::bytes)?,
            checkpoint: map
                .optional_with(6, |d| checkpoint(d, "checkpoint"))?
                .ok_or(missing("checkpoint"))?,
            key: map
                .optional_with(7, |d| public_key(d, "key"))?
                .ok_or(missing("key"))?,
            cose: map.optional_with(8, |d| fixed_bytes(d, "cose"))?,
            before: before(&mut map)?,
            proof: map
                .optional_with(11, |d| proof(d, "proof"))?
                .ok_or(missing("proof"))?,
            kept: map
                .optional_with(12, |d| list(d, "kept", MAX_KEPT, |d| checkpoint(d, "kept")))?
                .ok_or(missing("kept"))?,
        };
        map.finish()?;
        batch.check()?;
        if batch.to_bytes() != bytes {
            return Err(DecodeError::NotDeterministic);
        }
        Ok(batch)
    }

    /// Whether the numbers fit each other.
    fn check(&self) -> Result<(), DecodeError> {
        let malformed = |field, reason: &str| Err(DecodeError::malformed(field, &reason));
        let size = self.checkpoint.size();
        if self.count > MAX_BATCH_ITEMS || self.items.len() > MAX_ITEMS_BYTES {
            return malformed("items", "there are more than a batch has");
        }
        if self.from > size || self.count > size - self.from {
            return malformed("count", "it has entries behind its checkpoint");
        }
        if self.before.is_some() && self.from == 0 {
            return malformed("root", "there is nothing before the first entry");
        }
        let mut last = self.from;
        for kept in &self.kept {
            if kept.size() <= last || kept.size() > self.end() {
                return malformed("kept", "its sizes are not ascending within the batch");
            }
            last = kept.size();
        }
        Ok(())
    }
}

/// Keys 9 and 10.
fn before(map: &mut MapReader<'_, '_>) -> Result<Option<RootAt>, DecodeError> {
    let Some(root) = map.optional_array(9, "root")? else {
        return Ok(None);
    };
    let proof = map.optional_with(10, |d| proof(d, "root_proof"))?;
    let proof = proof.ok_or(DecodeError::Missing { field: "root_proof" })?;
    Ok(Some(RootAt { root, proof }))
}
