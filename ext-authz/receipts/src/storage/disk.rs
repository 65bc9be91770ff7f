use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{FlockOperation, flock};

use super::{File, LockError, LockGuard, Storage};

/// Name of the lock file, in the root. It holds the process ID of its holder, for people.
const LOCK_FILE: &str = "lock";
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// How many files are synced at once. A journalling file system makes one commit of syncs that wait together.
const PARALLEL_SYNCS: usize = 8;

/// A directory of a local file system. Directories are made with mode 0700 and files with 0600.
#[derive(Debug)]
pub struct DiskStorage {
    root: PathBuf,
}

impl DiskStorage {
    /// Uses this directory, and makes it with its parents where it is missing.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        make_dirs(&root)?;
        Ok(Self { root })
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.root.clone()
        } else {
            self.root.join(path)
        }
    }
}

impl Storage for DiskStorage {
    fn lock(&self) -> Result<LockGuard, LockError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(self.path(LOCK_FILE))
            .map_err(LockError::Io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Held(holder(&mut file))),
            Err(e) => return Err(LockError::Io(e.into())),
        }
        write_holder(&mut file).map_err(LockError::Io)?;
        Ok(Box::new(file))
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        make_dirs(&self.path(path))
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn File>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(self.path(path))?;
        Ok(Box::new(DiskFile(file)))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(DiskFile(
            OpenOptions::new().read(true).write(true).open(self.path(path))?,
        )))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        fs::remove_dir(self.path(path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(path)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut names = Vec::new();
        for entry in entries {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        sync_dir(&self.path(path))
    }

    fn sync_files(&self, files: &[Box<dyn File>]) -> io::Result<()> {
        let share = files.len().div_ceil(PARALLEL_SYNCS).max(1);
        thread::scope(|scope| {
            let mut chunks = files.chunks(share);
            let own = chunks.next().unwrap_or_default();
            let others: Vec<_> = chunks
                .map(|chunk| scope.spawn(|| chunk.iter().try_for_each(|file| file.sync())))
                .collect();
            let mut result = own.iter().try_for_each(|file| file.sync());
            for other in others {
                let joined = other
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a thread that synced panicked")));
                result = result.and(joined);
            }
            result
        })
    }
}

struct DiskFile(fs::File);

impl File for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    /// `fdatasync`, which makes a changed length durable too: without it the content could not be read back.
    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn make_dirs(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if path.parent().is_some() {
        make_dirs(parent)?;
    }
    match DirBuilder::new().mode(DIR_MODE).create(path) {
        Ok(()) => sync_dir(parent),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

fn holder(file: &mut fs::File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_holder(file: &mut fs::File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance;

    #[test]
    fn conforms() {
        conformance::all(|| {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let storage = DiskStorage::open(dir.path().join("a/b")).expect("opens");
            (storage, dir)
        });
    }

    #[test]
    fn the_lock_names_its_holder() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let storage = DiskStorage::open(dir.path()).expect("opens");
        let guard = storage.lock().expect("nobody has it");
        let again = DiskStorage::open(dir.path()).expect("opens").lock();
        assert!(matches!(again, Err(LockError::Held(Some(pid))) if pid == std::process::id()));
        drop(guard);
        storage.lock().expect("free again");
    }

    #[test]
    fn many_files_are_synced_and_every_error_is_reported() {
        struct Failing;
        impl File for Failing {
            fn len(&self) -> io::Result<u64> {
                Ok(0)
            }
            fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
                Ok(0)
            }
            fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
                Ok(())
            }
            fn set_len(&self, _: u64) -> io::Result<()> {
                Ok(())
            }
            fn sync(&self) -> io::Result<()> {
                Err(io::Error::other("bad block"))
            }
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let storage = DiskStorage::open(dir.path()).expect("opens");
        for failing in 0..20 {
            let files: Vec<Box<dyn File>> = (0..20)
                .map(|i| -> Box<dyn File> {
                    if i == failing {
                        Box::new(Failing)
                    } else {
                        storage.create(&format!("{i}")).expect("creates")
                    }
                })
                .collect();
            assert!(
                storage.sync_files(&files).is_err(),
                "the error of file {failing} was lost"
            );
            let good: Vec<_> = files
                .into_iter()
                .enumerate()
                .filter(|(i, _)| *i != failing)
                .map(|(_, f)| f)
                .collect();
            storage.sync_files(&good).expect("all good");
        }
        storage.sync_files(&[]).expect("nothing to do");
    }
}
