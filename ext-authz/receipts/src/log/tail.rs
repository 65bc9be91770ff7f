use std::io;
use std::sync::Arc;

use super::error::LogError;
use super::offsets::{self, Offsets};
use super::segments::{Current, Segments};
use super::writer::create_segment;
use crate::segment::{Found, HEADER_LEN, SEGMENTS_DIR, Scanner, first_of, has_header, path_of};
use crate::storage::{File, Storage};

/// Tables of closed segments, by first entry.
type Tables = Vec<(u64, Offsets)>;

/// What is to be done with the segments.
pub(crate) struct Tail {
    last: Last,
    /// Not on disk yet.
    tables: Tables,
}

/// What is to be done with the last segment.
enum Last {
    /// There is none with a whole header: it is begun.
    Begin(u64),
    /// Its whole records end here, and what is behind them is cut.
    Cut {
        first: u64,
        file: Box<dyn File>,
        end: u64,
        len: u64,
    },
}

/// Finds every whole record. Changes nothing.
pub(crate) fn open_segments(storage: &Arc<dyn Storage>) -> Result<(Segments, Tail), LogError> {
    let names = storage
        .list(SEGMENTS_DIR)
        .map_err(LogError::io("list", SEGMENTS_DIR))?;
    let mut closed: Vec<u64> = names.iter().filter_map(|name| first_of(name)).collect();
    let first = closed.pop().unwrap_or(0);
    let (mut expected, mut tables) = (0, Tables::new());
    for &segment in &closed {
        require_first(segment, expected)?;
        if let Some(table) = offsets::stored(storage.as_ref(), segment) {
            expected += table.entries();
        } else {
            let table = offsets::scan(storage.as_ref(), segment)?;
            expected += table.entries();
            tables.push((segment, table));
        }
    }
    require_first(first, expected)?;
    let (current, last) = open_last(storage.as_ref(), first)?;
    let segments = Segments::new(Arc::clone(storage), closed, current);
    Ok((segments, Tail { last, tables }))
}

fn require_first(found: u64, expected: u64) -> Result<(), LogError> {
    if found == expected {
        return Ok(());
    }
    Err(LogError::damaged(format!(
        "`{SEGMENTS_DIR}` has a segment of entry {found} where that of entry {expected} should be"
    )))
}

/// Opens the segment that may have been written to in the moment of a crash, and finds where its whole records end.
fn open_last(storage: &dyn Storage, first: u64) -> Result<(Current, Last), LogError> {
    let path = path_of(first);
    let read = LogError::io("read", &path);
    let empty = || {
        let (offsets, end) = (Offsets::default(), HEADER_LEN);
        (Current { first, offsets, end }, Last::Begin(first))
    };
    let file = match storage.open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(empty()),
        Err(e) => return Err(LogError::io("open", &path)(e)),
    };
    let len = file.len().map_err(&read)?;
    if !has_header(file.as_ref(), first).map_err(&read)? {
        // Records are written only behind a header that is durable.
        if len <= HEADER_LEN {
            return Ok(empty());
        }
        return Err(LogError::damaged(format!("`{path}` does not begin as a segment")));
    }
    let again = storage.open(&path).map_err(LogError::io("open", &path))?;
    let (mut scanner, mut offsets) = (Scanner::new(again, HEADER_LEN, len, first), Offsets::default());
    loop {
        let offset = scanner.offset();
        match scanner.next_record().map_err(&read)? {
            Found::Record(_) => offsets.push(offset),
            Found::End => break,
            Found::Broken => {
                if scanner.later_group_follows().map_err(&read)? {
                    let index = scanner.index();
                    return Err(LogError::damaged(format!(
                        "entry {index} in `{path}` cannot be read at byte {offset}, and later entries are there"
                    )));
                }
                break;
            }
        }
    }
    let end = scanner.offset();
    let current = Current { first, offsets, end };
    Ok((
        current,
        Last::Cut {
            first,
            file,
            end,
            len,
        },
    ))
}

impl Tail {
    /// Writes tables that are missing, and makes the last segment end in its last whole record, and all of it durable.
    pub(crate) fn repair(self, segments: &Segments) -> Result<Box<dyn File>, LogError> {
        let storage = segments.storage().as_ref();
        for (segment, table) in &self.tables {
            offsets::store(storage, *segment, table)?;
        }
        match self.last {
            Last::Begin(first) => {
                storage
                    .create_dir(SEGMENTS_DIR)
                    .map_err(LogError::io("make", SEGMENTS_DIR))?;
                create_segment(storage, first)
            }
            Last::Cut {
                first,
                file,
                end,
                len,
            } => {
                let path = path_of(first);
                if end < len {
                    tracing::warn!(path, from = end, bytes = len - end, "cut an unfinished write");
                    file.set_len(end).map_err(LogError::io("cut", &path))?;
                }
                // What was read may be in the cache only, when the process died and the machine did not.
                file.sync().map_err(LogError::io("sync", &path))?;
                storage
                    .sync_dir(SEGMENTS_DIR)
                    .map_err(LogError::io("sync", SEGMENTS_DIR))?;
                Ok(file)
            }
        }
    }
}
