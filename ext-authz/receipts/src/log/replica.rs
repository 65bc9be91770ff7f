//! Entries of a log that come from elsewhere, in the files of a log: a region's mirror of another one, or a log that is restored
//! from its mirrors. It takes what it is given: who writes has verified it.

use std::sync::Arc;

use super::at_rest::AtRest;
use super::error::LogError;
use super::kept::{Kept, Reader};
use super::keyring::KEYS_PATH;
use super::segments::Segments;
use super::tail::open_segments;
use super::writer::Writer;
use super::{CHECKPOINT_PATH, LOG_DIR, ROOT_PATH, SEGMENT_BYTES, outbox};
use crate::checkpoint::SignedCheckpoint;
use crate::entry::{Commitment, Prepared};
use crate::root::SignedRoot;
use crate::storage::{Storage, replace};

/// Segments and kept checkpoints of a log, without what is derived from them and without a signed root.
pub struct Replica {
    storage: Arc<dyn Storage>,
    segments: Arc<Segments>,
    writer: Writer,
    kept: Kept,
    reader: Reader,
}

impl Replica {
    /// Opens what is there, or begins. An unfinished write at the end is cut; everything else is durable on return.
    pub fn open(storage: Arc<dyn Storage>, origin: &str) -> Result<Self, LogError> {
        let (segments, tail) = open_segments(&storage)?;
        let segments = Arc::new(segments);
        let kept = Kept::find(storage.as_ref(), origin)?;
        let file = tail.repair(&segments)?;
        let kept = Kept::repair(Arc::clone(&storage), &kept)?;
        Ok(Self {
            writer: Writer::new(Arc::clone(&segments), file, SEGMENT_BYTES),
            reader: kept.reader(),
            storage,
            segments,
            kept,
        })
    }

    /// How many entries are durable.
    pub fn size(&self) -> u64 {
        self.segments.size()
    }

    /// Makes entries durable behind all others. After an error none of them is there, and the next call starts over.
    pub fn append(&mut self, entries: &[Prepared]) -> Result<(), LogError> {
        if entries.is_empty() {
            return Ok(());
        }
        let entries: Vec<_> = entries.iter().collect();
        self.writer.commit(&entries).map(|_| ())
    }

    /// Makes a checkpoint durable behind the kept ones, if its tree is larger than all of theirs.
    pub fn keep(&mut self, checkpoint: &SignedCheckpoint) -> Result<(), LogError> {
        if self
            .kept
            .newest()
            .is_some_and(|newest| newest >= checkpoint.size())
        {
            return Ok(());
        }
        self.kept.keep(checkpoint)
    }

    /// As [`super::Log::kept_between`].
    pub fn kept_between(
        &self,
        above: u64,
        up_to: u64,
        most: usize,
    ) -> Result<Vec<SignedCheckpoint>, LogError> {
        outbox::kept_between(&self.reader, above, up_to, most)
    }

    /// As [`super::Log::items`].
    pub fn items(&self, from: u64, end: u64, most: usize, bytes: &mut Vec<u8>) -> Result<u64, LogError> {
        outbox::items(&self.segments, from, end, most, bytes)
    }

    /// Shows entries in order, from `from` up to `end`, which is not among them: index, commitment, payload. Reads from disk.
    pub fn each(
        &self,
        from: u64,
        end: u64,
        mut look: impl FnMut(u64, &Commitment, &[u8]),
    ) -> Result<(), LogError> {
        let mut cursor = self.segments.cursor(from);
        for index in from..end.min(self.size()) {
            let shown = cursor.next(|record| look(index, &record.commitment, record.payload))?;
            if shown.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Puts the signed root over the entries, unless a larger one is there: from then on [`super::Log::open`] takes the storage for
    /// the log that it was made of. What is derived and may be older goes first. Done again after a crash it comes to the same.
    pub fn install(&self, root: &SignedRoot) -> Result<(), LogError> {
        let storage = self.storage.as_ref();
        let at_rest = AtRest::find(Arc::clone(&self.storage))?;
        let there = at_rest.as_ref().and_then(AtRest::root);
        if there.is_some_and(|it| it.size() >= root.size()) {
            return Ok(());
        }
        for path in [KEYS_PATH, CHECKPOINT_PATH] {
            match storage.remove(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(LogError::io("remove", path)(e));
                }
                _ => {}
            }
        }
        storage.sync_dir(LOG_DIR).map_err(LogError::io("sync", LOG_DIR))?;
        replace(storage, ROOT_PATH, &root.to_bytes()).map_err(LogError::io("write", ROOT_PATH))
    }
}
