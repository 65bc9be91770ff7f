use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::LogError;
use crate::checkpoint::SignedCheckpoint;
use crate::kept::{MAX_FILE_BYTES, NOTES_A_FILE, longest_record, record, split};
use crate::storage::{Storage, read_whole};

/// Directory of the files.
pub(crate) const KEPT_DIR: &str = "log/checkpoints";

/// The checkpoints that are kept; see [`crate::kept`] for the files. One adds to them, others read what is whole.
pub(crate) struct Kept {
    storage: Arc<dyn Storage>,
    end: End,
    shown: Arc<Mutex<End>>,
}

/// Where the next note goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    /// The last file.
    file: u64,
    /// Notes in it.
    notes: u64,
    /// Bytes of those.
    bytes: u64,
    /// Size of the newest tree that is kept.
    newest: Option<u64>,
}

/// What a start found.
pub(crate) struct Found {
    end: End,
    /// Whether the last file is there, and how long it is: what is behind `end` was not written whole.
    len: Option<u64>,
}

impl Found {
    /// Size of the newest tree that is kept.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.end.newest
    }
}

impl Kept {
    /// Looks at the files. Changes nothing.
    pub(crate) fn find(storage: &dyn Storage, origin: &str) -> Result<Found, LogError> {
        let names = storage.list(KEPT_DIR).map_err(LogError::io("list", KEPT_DIR))?;
        let mut files: Vec<u64> = names.iter().filter_map(|name| number(name)).collect();
        files.sort_unstable();
        if let Some((missing, _)) = (0..).zip(&files).find(|(expected, found)| expected != *found) {
            return Err(LogError::damaged(format!("`{}` is missing", path_of(missing))));
        }
        let Some(&last) = files.last() else {
            return Ok(Found {
                end: End::default(),
                len: None,
            });
        };
        let (mut end, len) = read_end(storage, last)?;
        if len - end.bytes > longest_record(origin.len()) as u64 {
            return Err(LogError::damaged(format!(
                "`{}` cannot be read at byte {}",
                path_of(last),
                end.bytes
            )));
        }
        if last > 0 && end.notes == 0 {
            end.newest = read_end(storage, last - 1)?.0.newest;
        }
        Ok(Found { end, len: Some(len) })
    }

    /// Goes on from what was found: cuts what was not written whole, and makes the rest durable.
    pub(crate) fn repair(storage: Arc<dyn Storage>, found: &Found) -> Result<Self, LogError> {
        if let Some(len) = found.len {
            let path = path_of(found.end.file);
            let repair = || -> io::Result<()> {
                let file = storage.open(&path)?;
                if len > found.end.bytes {
                    file.set_len(found.end.bytes)?;
                }
                file.sync()?;
                storage.sync_dir(KEPT_DIR)
            };
            repair().map_err(LogError::io("repair", &path))?;
        }
        Ok(Self {
            storage,
            end: found.end,
            shown: Arc::new(Mutex::new(found.end)),
        })
    }

    /// Makes a checkpoint durable behind the others, unless it is the newest of them.
    pub(crate) fn keep(&mut self, checkpoint: &SignedCheckpoint) -> Result<(), LogError> {
        if self.end.newest == Some(checkpoint.size()) {
            return Ok(());
        }
        let mut end = self.end;
        if end.notes == NOTES_A_FILE {
            end = End {
                file: end.file + 1,
                notes: 0,
                bytes: 0,
                newest: end.newest,
            };
        }
        let path = path_of(end.file);
        let record = record(checkpoint.as_bytes());
        self.write(&path, end.bytes, &record)
            .map_err(LogError::io("write", &path))?;
        end.notes += 1;
        end.bytes += record.len() as u64;
        end.newest = Some(checkpoint.size());
        self.end = end;
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = end;
        Ok(())
    }

    /// Size of the newest tree that is kept.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.end.newest
    }

    fn write(&self, path: &str, at: u64, record: &[u8]) -> io::Result<()> {
        let file = match self.storage.open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.storage.create_dir(KEPT_DIR)?;
                self.storage.create(path)?
            }
            other => other?,
        };
        // What a write that failed has left.
        if file.len()? > at {
            file.set_len(at)?;
        }
        file.write_at(at, record)?;
        file.sync()?;
        if at == 0 {
            self.storage.sync_dir(KEPT_DIR)?;
        }
        Ok(())
    }

    /// For readers.
    pub(crate) fn reader(&self) -> Reader {
        Reader {
            storage: Arc::clone(&self.storage),
            shown: Arc::clone(&self.shown),
        }
    }
}

/// Reads the files while another adds to them.
pub(crate) struct Reader {
    storage: Arc<dyn Storage>,
    shown: Arc<Mutex<End>>,
}

impl Reader {
    /// How many files there are; 1 while there is nothing.
    pub(crate) fn files(&self) -> u64 {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).file + 1
    }

    /// The whole notes of a file; `None` where there is no such file.
    pub(crate) fn read(&self, file: u64) -> Result<Option<Vec<u8>>, LogError> {
        let end = *self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if file > end.file || (file == end.file && end.notes == 0) {
            return Ok(None);
        }
        let path = path_of(file);
        let mut bytes = read_file(self.storage.as_ref(), file)?;
        if file == end.file {
            bytes.truncate(usize::try_from(end.bytes).unwrap_or(usize::MAX));
        }
        if bytes.is_empty() {
            return Err(LogError::damaged(format!("`{path}` is empty")));
        }
        Ok(Some(bytes))
    }
}

/// Every note that is kept, oldest first. Reads file by file, up to the first one that is not there.
pub(crate) fn each(
    storage: &dyn Storage,
    mut look: impl FnMut(&SignedCheckpoint) -> Result<(), LogError>,
) -> Result<(), LogError> {
    for file in 0.. {
        let bytes = match storage.open(&path_of(file)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            _ => read_file(storage, file)?,
        };
        let mut rest = bytes.as_slice();
        while let Some((note, behind)) = split(rest) {
            look(&parse(file, note)?)?;
            rest = behind;
        }
    }
    Ok(())
}

fn read_end(storage: &dyn Storage, file: u64) -> Result<(End, u64), LogError> {
    let bytes = read_file(storage, file)?;
    let (mut rest, mut notes, mut newest) = (bytes.as_slice(), 0, None);
    while let Some((note, behind)) = split(rest) {
        let Ok(checkpoint) = SignedCheckpoint::from_bytes(note) else {
            break;
        };
        newest = Some(checkpoint.size());
        notes += 1;
        rest = behind;
    }
    let end = End {
        file,
        notes,
        bytes: (bytes.len() - rest.len()) as u64,
        newest,
    };
    Ok((end, bytes.len() as u64))
}

fn read_file(storage: &dyn Storage, file: u64) -> Result<Vec<u8>, LogError> {
    let path = path_of(file);
    read_whole(storage, &path, MAX_FILE_BYTES).map_err(LogError::io("read", &path))
}

fn parse(file: u64, note: &[u8]) -> Result<SignedCheckpoint, LogError> {
    SignedCheckpoint::from_bytes(note)
        .map_err(|e| LogError::damaged(format!("a checkpoint in `{}`: {e}", path_of(file))))
}

fn path_of(file: u64) -> String {
    format!("{KEPT_DIR}/{file}")
}

fn number(name: &str) -> Option<u64> {
    name.parse().ok().filter(|n: &u64| n.to_string() == name)
}
