//! Reading what is durable. Blocking, except where it says async.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::error::LogError;
use super::segments::{Cursor, Segments};
use super::{CHECKPOINT_PATH, LOG_DIR, Log, tiles};
use crate::acknowledgement::{Ack, Acknowledged};
use crate::checkpoint::SignedCheckpoint;
use crate::payload::Payload;
use crate::receipt::ReceiptFile;
use crate::root::SignedRoot;
use crate::tree::{Tile, TreeReader};

impl Log {
    /// The payload of an entry that is durable. Reads from disk: call it where blocking is allowed.
    pub fn payload(&self, index: u64) -> Result<Payload, LogError> {
        payload(&self.inner.segments, index)
    }

    /// Every durable entry from `from` on, in order, up to those that are durable now. Reads from disk as it goes: use it
    /// where blocking is allowed. It ends after the first error. Nothing where `from` is behind the last entry.
    pub fn scan(&self, from: u64) -> Scan {
        Scan {
            cursor: Some(self.inner.segments.cursor(from)),
            next: from,
        }
    }

    /// Everything to verify the entry with, under the newest checkpoint. [`LogError::NotCovered`] where none covers it yet;
    /// [`Log::covered`] waits for that.
    pub async fn receipt(&self, index: u64) -> Result<ReceiptFile, LogError> {
        self.receipt_held(index, Vec::new()).await
    }

    /// The same with those of these acknowledgements that cover the entry. That they are of this log and its root at their size
    /// is the caller's to know.
    pub async fn receipt_held(&self, index: u64, acks: Vec<Ack>) -> Result<ReceiptFile, LogError> {
        let root = self.root();
        let segments = Arc::clone(&self.inner.segments);
        let reading = spawn_blocking(move || receipt(&segments, index, root, acks));
        reading.await.map_err(|_| LogError::Closed)?
    }

    /// The bytes of a file of the published log: `checkpoint`, `tile/<L>/<N>[.p/<W>]` or `tile/entries/<N>[.p/<W>]`, as in
    /// C2SP tlog-tiles. What the newest checkpoint does not cover is not there. Reads from disk.
    pub fn tile(&self, path: &str) -> Result<Vec<u8>, LogError> {
        let none = || LogError::NoTile {
            path: path.chars().take(80).collect(),
        };
        let checkpoint = self.checkpoint().ok_or_else(none)?;
        if format!("{LOG_DIR}/{path}") == CHECKPOINT_PATH {
            return Ok(checkpoint.as_bytes().to_vec());
        }
        let tile: Tile = path.parse().map_err(|_| none())?;
        let published = Tile::in_tree(tile.kind, tile.n, checkpoint.size()).ok_or_else(none)?;
        if tile.width > published.width {
            return Err(none());
        }
        let mut bytes = tiles::read(self.inner.segments.storage().as_ref(), published)
            .map_err(LogError::io("read", path))?;
        // Any smaller width is the beginning of the published one.
        bytes.truncate(tiles::bytes_of(tile));
        Ok(bytes)
    }

    /// The newest checkpoint, and the proof (RFC 6962, 2.1.2) that the tree of the first `from` entries is the beginning of
    /// its: hashes for who kept the root of that tree. [`LogError::NotCovered`] where `from` is not 1 to its size. Reads from
    /// disk.
    pub fn consistency(&self, from: u64) -> Result<(SignedCheckpoint, Vec<[u8; 32]>), LogError> {
        let not_covered = || LogError::NotCovered {
            index: from.saturating_sub(1),
        };
        let checkpoint = self.checkpoint().ok_or_else(not_covered)?;
        if !(1..=checkpoint.size()).contains(&from) {
            return Err(not_covered());
        }
        let storage = self.inner.segments.storage().as_ref();
        let proof = TreeReader::new(checkpoint.size(), |tile| tiles::read(storage, tile))
            .consistency(from)
            .map_err(LogError::io("read the tiles in", LOG_DIR))?;
        Ok((checkpoint, proof))
    }

    /// A file of kept checkpoints, from 0, as [`crate::kept`] says. The last one grows. Reads from disk.
    pub fn kept_checkpoints(&self, n: u64) -> Result<Vec<u8>, LogError> {
        let path = || format!("checkpoints/{n}");
        self.inner
            .kept
            .read(n)?
            .ok_or_else(|| LogError::NoTile { path: path() })
    }
}

/// Entries in order.
pub struct Scan {
    /// None after an error.
    cursor: Option<Cursor>,
    next: u64,
}

impl Iterator for Scan {
    type Item = Result<(u64, Payload), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.next;
        let item = next_payload(self.cursor.as_mut()?, index).transpose()?;
        self.next += 1;
        if item.is_err() {
            self.cursor = None;
        }
        Some(item.map(|payload| (index, payload)))
    }
}

pub(crate) fn payload(segments: &Arc<Segments>, index: u64) -> Result<Payload, LogError> {
    let payload = next_payload(&mut segments.cursor(index), index)?;
    payload.ok_or_else(|| LogError::NotFound {
        index,
        size: segments.size(),
    })
}

fn next_payload(cursor: &mut Cursor, index: u64) -> Result<Option<Payload>, LogError> {
    let payload = cursor
        .next(|record| Payload::from_bytes(record.payload))?
        .transpose();
    payload.map_err(|source| LogError::Payload { index, source })
}

fn receipt(
    segments: &Arc<Segments>,
    index: u64,
    root: Option<Arc<SignedRoot>>,
    acks: Vec<Ack>,
) -> Result<ReceiptFile, LogError> {
    let size = segments.size();
    if index >= size {
        return Err(LogError::NotFound { index, size });
    }
    let root = root
        .filter(|it| it.size() > index)
        .ok_or(LogError::NotCovered { index })?;
    let storage = segments.storage().as_ref();
    let tree = TreeReader::new(root.size(), |tile| tiles::read(storage, tile));
    let proof = tree
        .inclusion(index)
        .map_err(LogError::io("read the tiles in", LOG_DIR))?;
    let acks = acks
        .into_iter()
        .filter(|ack| ack.size > index && ack.size <= root.size());
    let acknowledged: Result<Vec<_>, _> = acks
        .map(|ack| {
            let proof = if ack.size == root.size() {
                Vec::new()
            } else {
                tree.consistency(ack.size)?
            };
            Ok(Acknowledged { ack, proof })
        })
        .collect();
    let acknowledged = acknowledged.map_err(LogError::io("read the tiles in", LOG_DIR))?;
    let found = segments.cursor(index).next(|record| ReceiptFile {
        payload: record.payload.to_vec(),
        salt: record.salt,
        index,
        entry: record.commitment,
        cose: root.receipt(index, proof.clone()),
        proof,
        checkpoint: root.checkpoint.clone(),
        acknowledged,
    })?;
    found.ok_or(LogError::NotFound { index, size })
}
