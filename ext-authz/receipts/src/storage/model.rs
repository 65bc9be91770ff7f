//! A storage in memory that knows what a crash may do to it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{File, LockError, LockGuard, Storage, parent};

/// The piece of a write that is kept or lost as one. Smaller than any real sector: the log must not care.
const SECTOR: usize = 64;

/// What happens to writes and names that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process died, the machine did not: everything is still there, and still not synced.
    Process,
    /// The machine died, and lost all of it.
    LoseAll,
    /// The machine died, and all of it happened to be written.
    KeepAll,
    /// The machine died, and each sector, length and name was written or lost on its own.
    Scramble,
}

/// Files in memory. Each operation that changes something is one step; see [`ModelStorage::crash_after`].
#[derive(Clone)]
pub struct ModelStorage {
    state: Arc<Mutex<State>>,
    locked: Arc<AtomicBool>,
}

#[derive(Clone, Default)]
struct State {
    dirs: BTreeMap<String, Dir>,
    files: Vec<Content>,
    steps: u64,
    crash_after: Option<u64>,
    /// The next sync fails when this reaches 0.
    fail_sync_in: Option<u64>,
    /// Bytes that all files together may have.
    capacity: Option<usize>,
}

type FileId = usize;

#[derive(Clone, Default)]
struct Dir {
    live: BTreeMap<String, FileId>,
    durable: BTreeMap<String, FileId>,
    pending: Vec<NameChange>,
}

#[derive(Clone)]
enum NameChange {
    Link(String, FileId),
    Unlink(String),
    Rename(String, String, FileId),
}

#[derive(Clone, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

impl Default for ModelStorage {
    fn default() -> Self {
        let mut state = State::default();
        state.dirs.insert(String::new(), Dir::default());
        Self {
            state: Arc::new(Mutex::new(state)),
            locked: Arc::default(),
        }
    }
}

impl ModelStorage {
    /// An empty storage without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many steps there were.
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// After this many further steps the machine dies: the next one may be done in part, and everything after it fails.
    pub fn crash_after(&self, steps: u64) {
        let mut state = self.state();
        state.crash_after = Some(state.steps + steps);
    }

    /// The sync after this many further ones fails once. As on Linux, what it should have written is then never written,
    /// though it can still be read, and the next sync succeeds.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.state().fail_sync_in = Some(syncs);
    }

    /// From now on all files together have room for this many bytes; `None` for any number.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.state().capacity = bytes;
    }

    /// How many bytes all files have together.
    pub fn used(&self) -> usize {
        self.state().used()
    }

    /// Flips one bit of a file, as a failing disk does.
    pub fn flip_bit(&self, path: &str, byte: usize, bit: u8) {
        let mut state = self.state();
        let id = state.find(path).unwrap_or_else(|_| panic!("no file `{path}`"));
        state.files[id].live[byte] ^= 1 << bit;
        state.files[id].durable[byte] ^= 1 << bit;
    }

    /// Every file's path, sorted.
    pub fn paths(&self) -> Vec<String> {
        let state = self.state();
        let join = |dir: &str, name: &str| {
            if dir.is_empty() {
                name.to_owned()
            } else {
                format!("{dir}/{name}")
            }
        };
        state
            .dirs
            .iter()
            .flat_map(|(dir, it)| it.live.keys().map(move |name| join(dir, name)))
            .collect()
    }

    /// Another storage with the same files.
    pub fn copy(&self) -> Self {
        let State { dirs, files, .. } = self.state().clone();
        Self {
            state: Arc::new(Mutex::new(State {
                dirs,
                files,
                ..State::default()
            })),
            locked: Arc::default(),
        }
    }

    /// What is found after a crash. The same seed gives the same outcome. `self` is dead from now on.
    pub fn crash(&self, kind: Crash, seed: u64) -> Self {
        let after = self.copy();
        self.crash_after(0);
        // That step is its last.
        let _ = self.state().step();
        if kind != Crash::Process {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut keeps = || match kind {
                Crash::LoseAll => false,
                Crash::Process | Crash::KeepAll => true,
                Crash::Scramble => rng.random_bool(0.5),
            };
            let mut state = after.state();
            state.dirs.values_mut().for_each(|dir| dir.settle(&mut keeps));
            state
                .files
                .iter_mut()
                .for_each(|content| content.settle(&mut keeps));
        }
        after
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dir {
    fn settle(&mut self, keeps: &mut impl FnMut() -> bool) {
        for change in std::mem::take(&mut self.pending) {
            if keeps() {
                change.apply(&mut self.durable);
            }
        }
        self.live = self.durable.clone();
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, FileId>) {
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
    fn settle(&mut self, keeps: &mut impl FnMut() -> bool) {
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

    fn change(&mut self, change: Change) {
        match &change {
            Change::Write(offset, bytes) => write(&mut self.live, to_usize(*offset), bytes),
            Change::SetLen(len) => self.live.resize(to_usize(*len), 0),
        }
        self.pending.push(change);
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).expect("a model's file fits in memory")
}

fn dead() -> io::Error {
    io::Error::other("the machine is dead")
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no `{path}`"))
}

fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

impl State {
    /// Counts a step. `Ok(true)`: do it. `Ok(false)`: the machine dies in it.
    fn step(&mut self) -> io::Result<bool> {
        self.alive()?;
        self.steps += 1;
        Ok(self.crash_after.is_none_or(|at| self.steps <= at))
    }

    fn alive(&self) -> io::Result<()> {
        if self.crash_after.is_some_and(|at| self.steps > at) {
            Err(dead())
        } else {
            Ok(())
        }
    }

    fn dir(&mut self, path: &str) -> io::Result<&mut Dir> {
        self.dirs.get_mut(path).ok_or_else(|| not_found(path))
    }

    fn find(&self, path: &str) -> io::Result<FileId> {
        let dir = self.dirs.get(parent(path));
        dir.and_then(|dir| dir.live.get(name(path)))
            .copied()
            .ok_or_else(|| not_found(path))
    }

    fn used(&self) -> usize {
        let linked = self.dirs.values().flat_map(|dir| dir.live.values());
        linked.map(|&id| self.files[id].live.len()).sum()
    }
}

impl Storage for ModelStorage {
    fn lock(&self) -> Result<LockGuard, LockError> {
        struct Unlock(Arc<AtomicBool>);
        impl Drop for Unlock {
            fn drop(&mut self) {
                self.0.store(false, Ordering::SeqCst);
            }
        }
        if self.locked.swap(true, Ordering::SeqCst) {
            return Err(LockError::Held(None));
        }
        Ok(Box::new(Unlock(Arc::clone(&self.locked))))
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        let mut end = 0;
        while end < path.len() {
            end = path[end + 1..].find('/').map_or(path.len(), |at| end + 1 + at);
            if !state.dirs.contains_key(&path[..end]) {
                if !state.step()? {
                    return Err(dead());
                }
                state.dirs.insert(path[..end].to_owned(), Dir::default());
            }
        }
        Ok(())
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        let goes_on = state.step()?;
        let id = if let Ok(id) = state.find(path) {
            state.files[id].change(Change::SetLen(0));
            id
        } else {
            let id = state.files.len();
            state
                .dir(parent(path))?
                .change(NameChange::Link(name(path).to_owned(), id));
            state.files.push(Content::default());
            id
        };
        if goes_on {
            Ok(Box::new(ModelFile {
                state: Arc::clone(&self.state),
                id,
            }))
        } else {
            Err(dead())
        }
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn File>> {
        let state = self.state();
        state.alive()?;
        let id = state.find(path)?;
        Ok(Box::new(ModelFile {
            state: Arc::clone(&self.state),
            id,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        assert_eq!(parent(from), parent(to), "renames stay within a directory");
        let mut state = self.state();
        let goes_on = state.step()?;
        let id = state.find(from)?;
        let change = NameChange::Rename(name(from).to_owned(), name(to).to_owned(), id);
        state.dir(parent(from))?.change(change);
        if goes_on { Ok(()) } else { Err(dead()) }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        let goes_on = state.step()?;
        state.find(path)?;
        state
            .dir(parent(path))?
            .change(NameChange::Unlink(name(path).to_owned()));
        if goes_on { Ok(()) } else { Err(dead()) }
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        let goes_on = state.step()?;
        if !state.dir(path)?.live.is_empty() {
            return Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty));
        }
        // The names that a crash could have brought back are gone with it: whether that is so on a disk makes no
        // difference to a reader, who finds the same tile in full.
        if goes_on {
            state.dirs.remove(path);
            Ok(())
        } else {
            Err(dead())
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        let below = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        let dirs = state.dirs.keys().filter_map(|dir| dir.strip_prefix(&below));
        let dirs = dirs.filter(|rest| !rest.is_empty() && !rest.contains('/'));
        let files = state
            .dirs
            .get(path)
            .into_iter()
            .flat_map(|dir| dir.live.keys().map(String::as_str));
        let mut names: Vec<_> = dirs.chain(files).map(str::to_owned).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        if !state.step()? {
            return Err(dead());
        }
        let dir = state.dir(path)?;
        dir.pending.clear();
        dir.durable = dir.live.clone();
        Ok(())
    }
}

struct ModelFile {
    state: Arc<Mutex<State>>,
    id: FileId,
}

impl ModelFile {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl File for ModelFile {
    fn len(&self) -> io::Result<u64> {
        let state = self.state();
        state.alive()?;
        Ok(state.files[self.id].live.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.state();
        state.alive()?;
        let content = &state.files[self.id].live;
        let from = to_usize(offset).min(content.len());
        let len = buffer.len().min(content.len() - from);
        buffer[..len].copy_from_slice(&content[from..from + len]);
        Ok(len)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let goes_on = state.step()?;
        let grows = (to_usize(offset) + bytes.len()).saturating_sub(state.files[self.id].live.len());
        let room = state
            .capacity
            .map_or(usize::MAX, |capacity| capacity.saturating_sub(state.used()));
        let fits = bytes.len() - grows.saturating_sub(room).min(bytes.len());
        state.files[self.id].change(Change::Write(offset, bytes[..fits].to_vec()));
        match (goes_on, fits == bytes.len()) {
            (false, _) => Err(dead()),
            (true, false) => Err(io::Error::from(io::ErrorKind::StorageFull)),
            (true, true) => Ok(()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let goes_on = state.step()?;
        state.files[self.id].change(Change::SetLen(len));
        if goes_on { Ok(()) } else { Err(dead()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        if !state.step()? {
            return Err(dead());
        }
        let fails = state.fail_sync_in == Some(0);
        state.fail_sync_in = state.fail_sync_in.and_then(|left| left.checked_sub(1));
        let content = &mut state.files[self.id];
        if fails {
            content.pending.clear();
            return Err(io::Error::other("input/output error"));
        }
        // Applied one by one, since some earlier ones may have been dropped by a failed sync.
        content.settle_durable();
        Ok(())
    }
}

impl Content {
    fn settle_durable(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write(offset, bytes) => write(&mut self.durable, to_usize(offset), &bytes),
                Change::SetLen(len) => self.durable.resize(to_usize(len), 0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance;

    #[test]
    fn conforms() {
        conformance::all(|| (ModelStorage::new(), ()));
    }

    #[test]
    fn what_was_not_synced_is_lost_and_what_was_is_kept() {
        let storage = ModelStorage::new();
        storage.create_dir("d").expect("makes");
        let file = storage.create("d/a").expect("creates");
        file.write_at(0, b"kept").expect("writes");
        file.sync().expect("syncs");
        assert!(
            storage.crash(Crash::LoseAll, 0).open("d/a").is_err(),
            "its name was not synced"
        );

        let storage = ModelStorage::new();
        storage.create_dir("d").expect("makes");
        let file = storage.create("d/a").expect("creates");
        storage.sync_dir("d").expect("syncs");
        file.write_at(0, b"kept").expect("writes");
        file.sync().expect("syncs");
        file.write_at(4, b"lost").expect("writes");
        let after = storage.crash(Crash::LoseAll, 0);
        assert_eq!(
            super::super::read_whole(&after, "d/a", 99).expect("reads"),
            b"kept"
        );
        assert!(file.len().is_err(), "the old machine is dead");
    }

    #[test]
    fn a_failed_sync_loses_its_writes_for_good() {
        let storage = ModelStorage::new();
        let file = storage.create("a").expect("creates");
        storage.sync_dir("").expect("syncs");
        storage.fail_sync_after(0);
        file.write_at(0, b"lost").expect("writes");
        assert!(file.sync().is_err());
        file.sync().expect("the second one says that all is well");
        assert_eq!(file.len().expect("still shown"), 4);
        assert_eq!(
            storage
                .crash(Crash::KeepAll, 0)
                .open("a")
                .expect("opens")
                .len()
                .expect("its length"),
            0
        );
    }
}
