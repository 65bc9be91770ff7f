//! A storage in memory that knows what a crash may do to it.

mod operations;
mod state;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use state::{Dir, State};

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
    #[allow(clippy::missing_panics_doc)]
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
    #[must_use]
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
    #[must_use]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Storage, conformance, read_whole};

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
        assert_eq!(read_whole(&after, "d/a", 99).expect("reads"), b"kept");
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
