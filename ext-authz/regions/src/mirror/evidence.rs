//! Evidence of a split view: two signed checkpoints of one log that no single log can have.
//!
//! `mirror/evidence/<n>`, n from 1, is a map of deterministic CBOR. It can be judged by anybody who has the log's keys:
//!
//! | key | value |
//! |---|---|
//! | 0 | version of this format: 1 |
//! | 1 | region, text |
//! | 2 | held: the checkpoint that was held, bytes |
//! | 3 | shown: the other one, bytes |
//! | 4 | size: of so many entries, the beginning of both trees, the roots differ |
//! | 5 | root of those in the held tree, 32 bytes |
//! | 6 | root of those in the shown tree, 32 bytes |
//! | 7 | optional: proof that the held tree begins with 5 (RFC 6962, 2.1.2): array; absent where only this region's entries say so |
//! | 8 | proof that the shown tree begins with 6: array |
//! | 9 | when it was seen, milliseconds since the Unix epoch, by this region's clock |
//!
//! A file whose name ends in `.cleared` was looked at by an operator. None is ever removed or written again.

use std::io;

use knhk_receipts::cbor::{MapReader, in_memory};
use knhk_receipts::storage::{Storage, read_whole, replace};
use knhk_receipts::{DecodeError, SignedCheckpoint};
use minicbor::Decoder;

use crate::fields::{checkpoint, present, proof, put_proof, short};
use crate::wire::{Hash, MAX_NAME_BYTES};

const EVIDENCE_DIR: &str = "mirror/evidence";

/// What the name of a cleared file ends in.
const CLEARED: &str = ".cleared";

const EVIDENCE_VERSION: u64 = 1;

/// The largest file that is read, in bytes.
const MAX_EVIDENCE_BYTES: usize = 64 * 1024;

/// Two histories of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The region whose log it is.
    pub region: String,
    /// The checkpoint that was held.
    pub held: SignedCheckpoint,
    /// The other one.
    pub shown: SignedCheckpoint,
    /// Of so many entries the roots differ.
    pub size: u64,
    /// The root of those in the held tree.
    pub held_root: Hash,
    /// The root of those in the shown tree.
    pub shown_root: Hash,
    /// Proof that the held tree begins with its root.
    pub held_proof: Option<Vec<Hash>>,
    /// Proof that the shown tree begins with its root.
    pub shown_proof: Vec<Hash>,
    /// When it was seen, by this region's clock. Only shown.
    pub seen_unix_ms: u64,
}

impl Fork {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        in_memory(4096, |e| {
            e.map(9 + present(&[self.held_proof.is_some()]))?;
            e.u8(0)?.u64(EVIDENCE_VERSION)?;
            e.u8(1)?.str(&self.region)?;
            e.u8(2)?.bytes(self.held.as_bytes())?;
            e.u8(3)?.bytes(self.shown.as_bytes())?;
            e.u8(4)?.u64(self.size)?;
            e.u8(5)?.bytes(&self.held_root)?;
            e.u8(6)?.bytes(&self.shown_root)?;
            if let Some(proof) = &self.held_proof {
                e.u8(7)?;
                put_proof(e, proof)?;
            }
            e.u8(8)?;
            put_proof(e, &self.shown_proof)?;
            e.u8(9)?.u64(self.seen_unix_ms)?;
            Ok(())
        })
    }

    /// Parses exactly what [`Fork::to_bytes`] makes. Nothing is verified.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let missing = |field| DecodeError::Missing { field };
        let mut decoder = Decoder::new(bytes);
        let mut map = MapReader::new(&mut decoder, "evidence")?;
        map.version(EVIDENCE_VERSION)?;
        let region = map.optional_with(1, |d| short(d, "region", MAX_NAME_BYTES))?;
        let held = map.optional_with(2, |d| checkpoint(d, "held"))?;
        let shown = map.optional_with(3, |d| checkpoint(d, "shown"))?;
        let fork = Self {
            region: region.ok_or(missing("region"))?.to_owned(),
            held: held.ok_or(missing("held"))?,
            shown: shown.ok_or(missing("shown"))?,
            size: map.number(4, "size")?,
            held_root: map.array(5, "held_root")?,
            shown_root: map.array(6, "shown_root")?,
            held_proof: map.optional_with(7, |d| proof(d, "held_proof"))?,
            shown_proof: map
                .optional_with(8, |d| proof(d, "shown_proof"))?
                .ok_or(missing("shown_proof"))?,
            seen_unix_ms: map.number(9, "seen")?,
        };
        map.finish()?;
        if fork.to_bytes() != bytes {
            return Err(DecodeError::NotDeterministic);
        }
        Ok(fork)
    }
}

/// The numbers of evidence that is there, and of those that no operator has cleared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    last: u64,
    open: Vec<u64>,
}

impl Evidence {
    /// Looks at what is there. What cannot be read still counts: its name alone is the alarm.
    pub(crate) fn find(storage: &dyn Storage) -> io::Result<Self> {
        let mut evidence = Self::default();
        for name in storage.list(EVIDENCE_DIR)? {
            let digits = name.strip_suffix(CLEARED).unwrap_or(&name);
            let Ok(number) = digits.parse() else { continue };
            evidence.last = evidence.last.max(number);
            if digits == name {
                evidence.open.push(number);
            }
        }
        evidence.open.sort_unstable();
        Ok(evidence)
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Makes evidence durable beside all that is there.
    pub(crate) fn put(&mut self, storage: &dyn Storage, fork: &Fork) -> io::Result<()> {
        // Even where it cannot be written, this process refuses from now on.
        self.last += 1;
        self.open.push(self.last);
        storage.create_dir(EVIDENCE_DIR)?;
        replace(storage, &path_of(self.last), &fork.to_bytes())
    }

    /// The evidence that no operator has cleared. What cannot be read is left out.
    pub(crate) fn read(&self, storage: &dyn Storage) -> Vec<Fork> {
        let read = |number: &u64| {
            let bytes = read_whole(storage, &path_of(*number), MAX_EVIDENCE_BYTES).ok()?;
            Fork::from_bytes(&bytes).ok()
        };
        self.open.iter().filter_map(read).collect()
    }

    /// An operator has looked at it.
    pub(crate) fn clear(&mut self, storage: &dyn Storage) -> io::Result<()> {
        while let Some(&number) = self.open.first() {
            let path = path_of(number);
            match storage.rename(&path, &format!("{path}{CLEARED}")) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            storage.sync_dir(EVIDENCE_DIR)?;
            self.open.remove(0);
        }
        Ok(())
    }
}

fn path_of(number: u64) -> String {
    format!("{EVIDENCE_DIR}/{number}")
}
