use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::error::LogError;
use super::offsets::{self, Offsets};
use crate::segment::{Found, HEADER_LEN, Record, SEGMENTS_DIR, Scanner, path_of};
use crate::storage::Storage;

/// How many offset tables of closed segments are kept in memory, of a few kilobytes each.
const CACHED_TABLES: usize = 8;

/// Where every durable entry is. Shared by the writer, which alone changes it, and all readers.
pub(crate) struct Segments {
    storage: Arc<dyn Storage>,
    map: RwLock<Map>,
    tables: Mutex<VecDeque<(u64, Arc<Offsets>)>>,
}

struct Map {
    /// First entries of the segments that get no more entries, ascending.
    closed: Vec<u64>,
    current: Current,
}

/// The segment that entries are added to.
pub(crate) struct Current {
    pub(crate) first: u64,
    pub(crate) offsets: Offsets,
    /// Bytes that are durable.
    pub(crate) end: u64,
}

impl Segments {
    pub(crate) fn new(storage: Arc<dyn Storage>, closed: Vec<u64>, current: Current) -> Self {
        Self {
            storage,
            map: RwLock::new(Map { closed, current }),
            tables: Mutex::default(),
        }
    }

    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// How many entries are durable.
    pub(crate) fn size(&self) -> u64 {
        self.read(|map| map.current.next())
    }

    /// First entry and durable bytes of the current segment.
    pub(crate) fn current(&self) -> (u64, u64) {
        self.read(|map| (map.current.first, map.current.end))
    }

    /// Records of these lengths were made durable at the end of the current segment.
    pub(crate) fn added(&self, lengths: impl Iterator<Item = usize>) {
        self.write(|map| {
            for length in lengths {
                map.current.offsets.push(map.current.end);
                map.current.end += length as u64;
            }
        });
    }

    /// The current segment is closed, and a new one begins with the next entry. Returns the old one's table.
    pub(crate) fn rolled(&self) -> (u64, Offsets) {
        self.write(|map| {
            let next = Current {
                first: map.current.next(),
                offsets: Offsets::default(),
                end: HEADER_LEN,
            };
            let old = std::mem::replace(&mut map.current, next);
            map.closed.push(old.first);
            (old.first, old.offsets)
        })
    }

    /// A table of the current segment, for the file that is written when it is closed.
    pub(crate) fn current_offsets(&self) -> Offsets {
        self.read(|map| map.current.offsets.clone())
    }

    /// Reads entries in order from `from`, up to what is durable now.
    pub(crate) fn cursor(self: &Arc<Self>, from: u64) -> Cursor {
        Cursor {
            segments: Arc::clone(self),
            next: from,
            end: self.size(),
            scanner: None,
        }
    }

    /// Opens a scanner at an entry that is durable.
    fn seek(&self, index: u64) -> Result<Scanner, LogError> {
        let (first, place) = self.read(|map| {
            if index >= map.current.first {
                return (
                    map.current.first,
                    Some((
                        map.current.offsets.before(index - map.current.first),
                        map.current.end,
                    )),
                );
            }
            let after = map.closed.partition_point(|&first| first <= index);
            (after.checked_sub(1).map_or(0, |at| map.closed[at]), None)
        });
        let path = path_of(first);
        let file = self.storage.open(&path).map_err(LogError::io("open", &path))?;
        let ((skipped, offset), end) = if let Some(place) = place {
            place
        } else {
            let end = file.len().map_err(LogError::io("read", &path))?;
            (self.table(first)?.before(index - first), end)
        };
        let mut scanner = Scanner::new(file, offset, end, first + skipped);
        while scanner.index() < index {
            match scanner.next_record().map_err(LogError::io("read", &path))? {
                Found::Record(_) => {}
                Found::End | Found::Broken => return Err(broken(&scanner)),
            }
        }
        Ok(scanner)
    }

    /// The offset table of a closed segment: from memory, from its file, or made anew.
    fn table(&self, first: u64) -> Result<Arc<Offsets>, LogError> {
        let lock = || self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = lock().iter().find(|(of, _)| *of == first) {
            return Ok(Arc::clone(table));
        }
        let table = Arc::new(offsets::of_closed(self.storage.as_ref(), first)?);
        let mut tables = lock();
        tables.truncate(CACHED_TABLES - 1);
        tables.push_front((first, Arc::clone(&table)));
        Ok(table)
    }

    fn read<T>(&self, look: impl FnOnce(&Map) -> T) -> T {
        look(&self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Map) -> T) -> T {
        change(&mut self.map.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Current {
    fn next(&self) -> u64 {
        self.first + self.offsets.entries()
    }
}

/// Reads durable entries in order.
pub(crate) struct Cursor {
    segments: Arc<Segments>,
    next: u64,
    end: u64,
    scanner: Option<Scanner>,
}

impl Cursor {
    /// The next entry, or `None` behind the last one that was durable when the cursor was made.
    pub(crate) fn next<T>(&mut self, look: impl FnOnce(&Record<'_>) -> T) -> Result<Option<T>, LogError> {
        if self.next >= self.end {
            return Ok(None);
        }
        // Behind the last record that was durable when the file was opened: in the same file now, or in the next one.
        if self.scanner.as_ref().is_none_or(Scanner::is_at_end) {
            self.scanner = None;
        }
        let scanner = match &mut self.scanner {
            Some(scanner) => scanner,
            none => none.insert(self.segments.seek(self.next)?),
        };
        match scanner
            .next_record()
            .map_err(LogError::io("read", SEGMENTS_DIR))?
        {
            Found::Record(record) => {
                self.next += 1;
                Ok(Some(look(&record)))
            }
            Found::End | Found::Broken => Err(broken(scanner)),
        }
    }
}

/// An entry that is durable, and is not where it was written.
fn broken(scanner: &Scanner) -> LogError {
    LogError::damaged(format!(
        "entry {} cannot be read at byte {} of its file in `{SEGMENTS_DIR}`",
        scanner.index(),
        scanner.offset()
    ))
}
