//! The storage's operations on the model's state.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ModelStorage;
use super::state::{Change, Content, Dir, FileId, NameChange, State, dead, name, to_usize};
use crate::storage::{File, LockError, LockGuard, Storage, parent};

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
