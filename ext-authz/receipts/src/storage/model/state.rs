//! What is there, what is durable, and what is between the two.

use std::collections::BTreeMap;
use std::io;

use crate::storage::parent;

/// The piece of a write that is kept or lost as one. Smaller than any real sector: the log must not care.
const SECTOR: usize = 64;

#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) dirs: BTreeMap<String, Dir>,
    pub(super) files: Vec<Content>,
    pub(super) steps: u64,
    pub(super) crash_after: Option<u64>,
    /// The next sync fails when this reaches 0.
    pub(super) fail_sync_in: Option<u64>,
    /// Bytes that all files together may have.
    pub(super) capacity: Option<usize>,
}

pub(super) type FileId = usize;

#[derive(Clone, Default)]
pub(super) struct Dir {
    pub(super) live: BTreeMap<String, FileId>,
    pub(super) durable: BTreeMap<String, FileId>,
    pub(super) pending: Vec<NameChange>,
}

#[derive(Clone)]
pub(super) enum NameChange {
    Link(String, FileId),
    Unlink(String),
    Rename(String, String, FileId),
}

#[derive(Clone, Default)]
pub(super) struct Content {
    pub(super) live: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) pending: Vec<Change>,
}

#[derive(Clone)]
pub(super) enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

impl Dir {
    pub(super) fn settle(&mut self, keeps: &mut impl FnMut() -> bool) {
        for change in std::mem::take(&mut self.pending) {
            if keeps() {
                change.apply(&mut self.durable);
            }
        }
        self.live = self.durable.clone();
    }

    pub(super) fn change(&mut self, change: NameChange) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }
}

impl NameChange {
    pub(super) fn apply(&self, names: &mut BTreeMap<String, FileId>) {
        match self {
            Self::Link(name, id) => {
                names.insert(name.clone(), *id);
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
            Self::Rename(from, to, id) => {
                names.remove(from);
                names.insert(to.clone(), *id);
            }
        }
    }
}

impl Content {
    pub(super) fn settle(&mut self, keeps: &mut impl FnMut() -> bool) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::SetLen(len) if keeps() => self.durable.resize(to_usize(len), 0),
                Change::SetLen(_) => {}
                Change::Write(offset, bytes) => {
                    for (i, sector) in bytes.chunks(SECTOR).enumerate() {
                        if keeps() {
                            write(&mut self.durable, to_usize(offset) + i * SECTOR, sector);
                        }
                    }
                }
            }
        }
        self.live = self.durable.clone();
    }

    pub(super) fn change(&mut self, change: Change) {
        match &change {
            Change::Write(offset, bytes) => write(&mut self.live, to_usize(*offset), bytes),
            Change::SetLen(len) => self.live.resize(to_usize(*len), 0),
        }
        self.pending.push(change);
    }
}

pub(super) fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

pub(super) fn to_usize(n: u64) -> usize {
    usize::try_from(n).expect("a model's file fits in memory")
}

pub(super) fn dead() -> io::Error {
    io::Error::other("the machine is dead")
}

pub(super) fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no `{path}`"))
}

pub(super) fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

impl State {
    /// Counts a step. `Ok(true)`: do it. `Ok(false)`: the machine dies in it.
    pub(super) fn step(&mut self) -> io::Result<bool> {
        self.alive()?;
        self.steps += 1;
        Ok(self.crash_after.is_none_or(|at| self.steps <= at))
    }

    pub(super) fn alive(&self) -> io::Result<()> {
        if self.crash_after.is_some_and(|at| self.steps > at) {
            Err(dead())
        } else {
            Ok(())
        }
    }

    pub(super) fn dir(&mut self, path: &str) -> io::Result<&mut Dir> {
        self.dirs.get_mut(path).ok_or_else(|| not_found(path))
    }

    pub(super) fn find(&self, path: &str) -> io::Result<FileId> {
        let dir = self.dirs.get(parent(path));
        dir.and_then(|dir| dir.live.get(name(path)))
            .copied()
            .ok_or_else(|| not_found(path))
    }

    pub(super) fn used(&self) -> usize {
        let linked = self.dirs.values().flat_map(|dir| dir.live.values());
        linked.map(|&id| self.files[id].live.len()).sum()
    }
}

impl Content {
    pub(super) fn settle_durable(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write(offset, bytes) => write(&mut self.durable, to_usize(offset), &bytes),
                Change::SetLen(len) => self.durable.resize(to_usize(len), 0),
            }
        }
    }
}
