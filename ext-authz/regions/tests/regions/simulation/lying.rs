//! A disk that says that it has synced, and has not: what a mirror on it acknowledges is not durable. The checker has to find that.

use std::io;

use knhk_receipts::storage::{File, LockError, LockGuard, ModelStorage, Storage};

pub(crate) struct Lying(pub(crate) ModelStorage);

struct LyingFile(Box<dyn File>);

impl Storage for Lying {
    fn lock(&self) -> Result<LockGuard, LockError> {
        self.0.lock()
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.0.create_dir(path)
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(LyingFile(self.0.create(path)?)))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(LyingFile(self.0.open(path)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.remove(path)
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        self.0.remove_dir(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.0.list(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.0.sync_dir(path)
    }
}

impl File for LyingFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.len().map(|_| ())
    }
}
