//! Transitions of rollouts that their states no longer hold, so that a history has all of them.
//!
//! A rollout's state has its last [`MAX_HISTORY`] transitions. Those that are [`SETTLED_BEHIND`] the newest or older are also in
//! `data/history/NAME/FIRST.jsonl`: one entry a line, [`PER_FILE`] entries a file, whose name is the number of its first
//! one. Files only grow; a line that a crash has cut off is none and is written again, since the state still has its entry.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use knhk_promotion::{HistoryEntry, MAX_HISTORY, Rollout};
use thiserror::Error;

/// So far behind the newest transition is one that nothing can change any more: a rollback is in force before the log has it,
/// and after a crash another one may have its number.
const SETTLED_BEHIND: usize = 256;
/// Entries of one file: what is read to answer for any of them.
const PER_FILE: usize = 256;
/// Files that are open at once.
const MAX_OPEN: usize = 16;
/// The directory below `data`.
pub(crate) const HISTORY_DIRECTORY: &str = "history";

const _: () = assert!(SETTLED_BEHIND < MAX_HISTORY);

/// What cannot be read or written.
#[derive(Debug, Error)]
pub(crate) enum HistoryError {
    #[error("{path}: cannot be written: {source}; check the disk and the directory's owner")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path}: cannot be read: {source}; what it held is in the log's receipts")]
    Read { path: PathBuf, source: io::Error },
}

impl HistoryError {
    /// A stable, low-cardinality name.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Write { .. } => "history_write",
            Self::Read { .. } => "history_read",
        }
    }
}

/// Writes what settles. One per data directory.
#[derive(Debug)]
pub(crate) struct Archive {
    root: PathBuf,
    /// Where each rollout's file ends, once it was looked at.
    ends: HashMap<String, End>,
    /// Written and not yet synced.
    unsynced: HashMap<PathBuf, File>,
}

/// The end of what is written of a rollout.
#[derive(Debug, Clone, Default)]
struct End {
    /// Its number; 0 before the first.
    seq: u64,
    /// The file it is in, and how many that one has.
    file: Option<(PathBuf, usize)>,
}

impl Archive {
    /// Of this data directory.
    pub(crate) fn of(data: &Path) -> Self {
        Self {
            root: data.join(HISTORY_DIRECTORY),
            ends: HashMap::new(),
            unsynced: HashMap::new(),
        }
    }

    /// Writes those transitions of a rollout that are settled and not written yet.
    pub(crate) fn settle(&mut self, rollout: &Rollout) -> Result<(), HistoryError> {
        let history = rollout.history();
        let settled = history.len().saturating_sub(SETTLED_BEHIND);
        let settled = history.get(..settled).unwrap_or_default();
        let Some(newest) = settled.last() else {
            return Ok(());
        };
        let directory = self.root.join(rollout.name());
        let mut end = match self.ends.get(rollout.name()) {
            Some(end) => end.clone(),
            None => End::of(&directory)?,
        };
        if newest.seq > end.seq {
            fs::create_dir_all(&directory).map_err(writing(&directory))?;
            let written = settled.partition_point(|entry| entry.seq <= end.seq);
            for entry in settled.iter().skip(written) {
                end = self.write(&directory, &end, entry)?;
            }
        }
        self.ends.insert(rollout.name().to_owned(), end);
        Ok(())
    }

    fn write(&mut self, directory: &Path, end: &End, entry: &HistoryEntry) -> Result<End, HistoryError> {
        let (path, held) = match &end.file {
            Some((path, held)) if *held < PER_FILE => (path.clone(), *held),
            Some(_) | None => {
                // Only the last file may lose its end.
                self.sync()?;
                (directory.join(format!("{:020}.jsonl", entry.seq)), 0)
            }
        };
        if !self.unsynced.contains_key(&path) {
            if self.unsynced.len() >= MAX_OPEN {
                self.sync()?;
            }
            let file = OpenOptions::new().append(true).create(true).open(&path);
            self.unsynced.insert(path.clone(), file.map_err(writing(&path))?);
        }
        let mut line = serde_json::to_vec(entry).map_err(|error| writing(&path)(error.into()))?;
        line.push(b'\n');
        if let Some(file) = self.unsynced.get_mut(&path) {
            file.write_all(&line).map_err(writing(&path))?;
        }
        Ok(End {
            seq: entry.seq,
            file: Some((path, held + 1)),
        })
    }

    /// The rollout was deleted: its name may be used again, and counts from 1 then.
    pub(crate) fn forget(&mut self, rollout: &str) -> Result<(), HistoryError> {
        self.ends.remove(rollout);
        let directory = self.root.join(rollout);
        self.unsynced.retain(|path, _| !path.starts_with(&directory));
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(writing(&directory)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Returns once all that was written is on the disk.
    pub(crate) fn sync(&mut self) -> Result<(), HistoryError> {
        for (path, file) in self.unsynced.drain() {
            file.sync_all().map_err(writing(&path))?;
            for directory in path.ancestors().skip(1).take(3) {
                let synced = File::open(directory).and_then(|directory| directory.sync_all());
                synced.map_err(writing(directory))?;
            }
        }
        Ok(())
    }
}

impl End {
    /// What a directory holds, without a line that was cut off.
    fn of(directory: &Path) -> Result<Self, HistoryError> {
        let Some(path) = files(directory)?.pop() else {
            return Ok(Self::default());
        };
        let (entries, whole) = read(&path)?;
        let file = OpenOptions::new().write(true).open(&path);
        file.and_then(|file| file.set_len(whole))
            .map_err(writing(&path))?;
        let first = first_of(&path).unwrap_or_default();
        Ok(Self {
            seq: entries.last().map_or(first.saturating_sub(1), |entry| entry.seq),
            file: Some((path, entries.len())),
        })
    }
}

/// At most `limit` transitions of a rollout behind number `after`, oldest first.
pub(crate) fn page(
    data: &Path,
    rollout: &Rollout,
    after: u64,
    limit: usize,
) -> Result<Vec<HistoryEntry>, HistoryError> {
    let held = rollout.history();
    let first_held = held.first().map_or(u64::MAX, |entry| entry.seq);
    let mut page = Vec::new();
    if after.saturating_add(1) < first_held {
        let files = files(&data.join(HISTORY_DIRECTORY).join(rollout.name()))?;
        // The last file that begins at or before the next number, and those behind it.
        let begins = files.partition_point(|path| first_of(path).is_some_and(|first| first <= after + 1));
        for path in files.iter().skip(begins.saturating_sub(1)) {
            let entries = read(path)?.0.into_iter();
            page.extend(entries.filter(|entry| entry.seq > after && entry.seq < first_held));
            if page.len() >= limit {
                break;
            }
        }
    }
    page.extend(held.iter().filter(|entry| entry.seq > after).cloned());
    page.truncate(limit);
    Ok(page)
}

/// A rollout's files, oldest first. None where there is no directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>, HistoryError> {
    let reading = |source| HistoryError::Read {
        path: directory.to_owned(),
        source,
    };
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(reading)?,
    };
    let paths: Result<Vec<PathBuf>, io::Error> = listed.map(|entry| Ok(entry?.path())).collect();
    let mut files = paths.map_err(reading)?;
    files.retain(|path| first_of(path).is_some());
    // Their names have one length.
    files.sort();
    Ok(files)
}

/// The number of a file's first entry.
fn first_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".jsonl")?.parse().ok()
}

/// A file's entries up to the first line that is not whole, and how many bytes they take.
fn read(path: &Path) -> Result<(Vec<HistoryEntry>, u64), HistoryError> {
    let bytes = fs::read(path).map_err(|source| HistoryError::Read {
        path: path.to_owned(),
        source,
    })?;
    let (mut entries, mut whole) = (Vec::new(), 0);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let end = whole + line.len() as u64;
        let is_last = end == bytes.len() as u64;
        let entry = match line.strip_suffix(b"\n") {
            Some(line) => serde_json::from_slice(line),
            None => break,
        };
        match entry {
            Ok(entry) => entries.push(entry),
            Err(_) if is_last => break,
            Err(error) => {
                return Err(HistoryError::Read {
                    path: path.to_owned(),
                    source: error.into(),
                });
            }
        }
        whole = end;
    }
    Ok((entries, whole))
}

fn writing(path: &Path) -> impl FnOnce(io::Error) -> HistoryError {
    let path = path.to_owned();
    move |source| HistoryError::Write { path, source }
}

#[cfg(test)]
mod tests;
