//! A disk that counts what a log asks of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use knhk_receipts::DiskStorage;
use knhk_receipts::storage::{File, LockError, LockGuard, Storage};

/// Replaced whole by each flush that has something new.
const ROOT_PATH: &str = "log/root";

/// What was asked for so far.
#[derive(Default)]
pub(crate) struct Counts {
    syncs: AtomicU64,
    flushes: AtomicU64,
}

impl Counts {
    /// Syncs of files and directories.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Flushes that made a checkpoint.
    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }
}

pub(crate) struct Counted {
    pub(crate) disk: DiskStorage,
    pub(crate) counts: Arc<Counts>,
}

impl Counted {
    fn file(&self, file: Box<dyn File>) -> Box<dyn File> {
        let counts = Arc::clone(&self.counts);
        Box::new(CountedFile { file, counts })
    }
}

impl Storage for Counted {
    fn lock(&self) -> Result<LockGuard, LockError> {
        self.disk.lock()
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn File>> {
        self.disk.create(path).map(|file| self.file(file))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn File>> {
        self.disk.open(path).map(|file| self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if to == ROOT_PATH {
            self.counts.flushes.fetch_add(1, Ordering::Relaxed);
        }
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        self.disk.remove_dir(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        self.disk.sync_dir(path)
    }

    fn sync_files(&self, files: &[Box<dyn File>]) -> io::Result<()> {
        self.disk.sync_files(files)
    }
}

struct CountedFile {
    file: Box<dyn File>,
    counts: Arc<Counts>,
}

impl File for CountedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync()
    }
}
