use std::sync::Arc;

use super::error::LogError;
use super::offsets;
use super::segments::Segments;
use crate::entry::Prepared;
use crate::segment::{Found, HEADER_LEN, SEGMENTS_DIR, Scanner, header, path_of, put_record, record_len};
use crate::storage::{File, Storage};

/// Adds entries to the log, a group at a time. There is one writer.
pub(crate) struct Writer {
    segments: Arc<Segments>,
    tail: Tail,
    /// A segment gets no more entries once this many bytes would be exceeded.
    segment_bytes: u64,
    buffer: Vec<u8>,
}

/// The current segment's file.
enum Tail {
    /// Its durable bytes are followed by nothing.
    Clean(Box<dyn File>),
    /// A write or a sync failed: nothing is known of what follows the durable bytes, nor of those in the cache.
    Suspect,
    /// It is closed, and the next segment is not begun yet.
    Closed,
}

impl Writer {
    pub(crate) fn new(segments: Arc<Segments>, file: Box<dyn File>, segment_bytes: u64) -> Self {
        Self {
            segments,
            tail: Tail::Clean(file),
            segment_bytes,
            buffer: Vec::new(),
        }
    }

    pub(crate) fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    /// Writes the entries behind all others, syncs, and returns the index of the first. On return they are durable;
    /// after an error none of them is in the log, and the next call starts over.
    pub(crate) fn commit(&mut self, entries: &[&Prepared]) -> Result<u64, LogError> {
        let first = self.segments.size();
        let lengths = entries.iter().map(|entry| record_len(entry.payload.len()));
        let bytes: usize = lengths.clone().sum();
        let file = self.file_for(bytes as u64)?;

        self.buffer.clear();
        for (index, entry) in (first..).zip(entries) {
            put_record(&mut self.buffer, index, first, entry);
        }
        let (segment, end) = self.segments.current();
        let path = path_of(segment);
        if let Err(error) = file
            .write_at(end, &self.buffer)
            .map_err(LogError::io("write", &path))
        {
            // Most often the disk is full: take back what was written of it.
            if file.set_len(end).and_then(|()| file.sync()).is_ok() {
                self.tail = Tail::Clean(file);
            }
            return Err(error);
        }
        file.sync().map_err(LogError::io("sync", &path))?;
        self.tail = Tail::Clean(file);
        self.segments.added(lengths);
        Ok(first)
    }

    /// Takes the file that the next `bytes` go to. Until it is put back, the tail counts as suspect.
    fn file_for(&mut self, bytes: u64) -> Result<Box<dyn File>, LogError> {
        if matches!(self.tail, Tail::Suspect) {
            self.tail = Tail::Clean(self.verify_again()?);
        }
        let (_, end) = self.segments.current();
        if end > HEADER_LEN && end + bytes > self.segment_bytes {
            self.tail = Tail::Closed;
        }
        match std::mem::replace(&mut self.tail, Tail::Closed) {
            Tail::Clean(file) => {
                self.tail = Tail::Suspect;
                Ok(file)
            }
            Tail::Closed | Tail::Suspect => {
                let file = self.begin_segment()?;
                self.tail = Tail::Suspect;
                Ok(file)
            }
        }
    }

    fn begin_segment(&self) -> Result<Box<dyn File>, LogError> {
        let storage = self.segments.storage().as_ref();
        let (closed, _) = self.segments.current();
        offsets::store(storage, closed, &self.segments.current_offsets())?;
        let file = create_segment(storage, self.segments.size())?;
        self.segments.rolled();
        Ok(file)
    }

    /// Opens the current segment anew, cuts what is not durable, and reads back everything that should be there.
    fn verify_again(&self) -> Result<Box<dyn File>, LogError> {
        let storage = self.segments.storage();
        let (first, end) = self.segments.current();
        let path = path_of(first);
        let lost = || LogError::damaged(format!("`{path}` has not kept what was synced to it"));
        let open = || storage.open(&path).map_err(LogError::io("open", &path));
        let file = open()?;
        if file.len().map_err(LogError::io("read", &path))? < end {
            return Err(lost());
        }
        file.set_len(end).map_err(LogError::io("cut", &path))?;
        file.sync().map_err(LogError::io("sync", &path))?;
        let mut scanner = Scanner::new(open()?, HEADER_LEN, end, first);
        while let Found::Record(_) = scanner.next_record().map_err(LogError::io("read", &path))? {}
        if !scanner.is_at_end() || scanner.index() != self.segments.size() {
            return Err(lost());
        }
        Ok(file)
    }
}

/// Makes an empty segment that is durable, its name too.
pub(crate) fn create_segment(storage: &dyn Storage, first: u64) -> Result<Box<dyn File>, LogError> {
    let path = path_of(first);
    let file = storage.create(&path).map_err(LogError::io("create", &path))?;
    file.write_at(0, &header(first))
        .map_err(LogError::io("write", &path))?;
    file.sync().map_err(LogError::io("sync", &path))?;
    storage
        .sync_dir(SEGMENTS_DIR)
        .map_err(LogError::io("sync", SEGMENTS_DIR))?;
    Ok(file)
}
