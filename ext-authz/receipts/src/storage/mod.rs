//! Where the log keeps its files: a small set of operations, so that a test can say what a crash does to each of them.
//!
//! The log makes no assumption beyond these promises. In particular what was written is durable only after
//! [`File::sync`], and a new name or a rename only after [`Storage::sync_dir`] of its directory.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod disk;
#[cfg(any(test, feature = "testing"))]
mod model;

use std::any::Any;
use std::io;

pub use disk::DiskStorage;
#[cfg(any(test, feature = "testing"))]
pub use model::{Crash, ModelStorage};

/// Proof that the storage is ours alone, until it is dropped.
pub type LockGuard = Box<dyn Any + Send + Sync>;

/// Why the storage is not ours.
#[derive(Debug)]
pub enum LockError {
    /// Somebody else holds the lock, and this is the process where it is known.
    Held(Option<u32>),
    /// The lock could not be tried.
    Io(io::Error),
}

/// Files under one root. Paths are relative, with `/`, without `.` and `..`.
pub trait Storage: Send + Sync + 'static {
    /// Takes the exclusive lock of the whole storage, without waiting.
    fn lock(&self) -> Result<LockGuard, LockError>;

    /// Makes a directory and its parents, where they are missing. On return they are durable.
    fn create_dir(&self, path: &str) -> io::Result<()>;

    /// Opens an empty file: a new one, or an existing one that loses its content. Its directory exists, else `NotFound`.
    fn create(&self, path: &str) -> io::Result<Box<dyn File>>;

    /// Opens an existing file, else `NotFound`.
    fn open(&self, path: &str) -> io::Result<Box<dyn File>>;

    /// Renames a file within its directory. What had the new name is replaced: at each moment one of the two has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file, else `NotFound`.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Removes an empty directory, else `NotFound`.
    fn remove_dir(&self, path: &str) -> io::Result<()>;

    /// The names in a directory, sorted; none where there is no such directory.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;

    /// Makes the names in a directory durable: creations, renames and removals up to now.
    fn sync_dir(&self, path: &str) -> io::Result<()>;

    /// Makes all these files durable. An implementation may do so in parallel.
    fn sync_files(&self, files: &[Box<dyn File>]) -> io::Result<()> {
        files.iter().try_for_each(|file| file.sync())
    }
}

/// An open file. It stays usable when its name is removed or replaced.
// An empty log file means nothing: there is always a header.
#[allow(clippy::len_without_is_empty)]
pub trait File: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Reads at most `buffer.len()` bytes, and says how many; 0 at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all bytes, or fails after having written any part of them.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file, or fills it with zeros, to this length.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes content and length durable. After an error nothing is known of what was written since the last success,
    /// and syncing again proves nothing.
    fn sync(&self) -> io::Result<()>;
}

/// The directory of a path; empty for the root.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Replaces a file whole: a crash at any moment leaves the old content or the new one. On return the new one is durable.
pub fn replace(storage: &dyn Storage, path: &str, bytes: &[u8]) -> io::Result<()> {
    let unfinished = format!("{path}.new");
    let file = storage.create(&unfinished)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    storage.rename(&unfinished, path)?;
    storage.sync_dir(parent(path))
}

/// Reads a whole file of at most `bound` bytes.
pub fn read_whole(storage: &dyn Storage, path: &str, bound: usize) -> io::Result<Vec<u8>> {
    let file = storage.open(path)?;
    let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    if len > bound {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has {len} bytes, and at most {bound} are read"),
        ));
    }
    let mut bytes = vec![0; len];
    let read = read_full(file.as_ref(), 0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Fills the buffer unless the file ends before; says how many bytes there were.
pub(crate) fn read_full(file: &dyn File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(offset + filled as u64, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
