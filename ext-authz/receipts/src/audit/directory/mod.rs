//! A log's directory, read without changing anything in it.

mod files;
mod segments;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{FlockOperation, flock};

use self::files::Files;
use self::segments::Segments;
use super::report::Finding;
use super::source::{EachEntry, Extent, Inspected, ReadError, Source};
use crate::tree::TILE_WIDTH;

/// Where in a data directory the log is.
const LOG_DIR: &str = "log";

/// What a log's directory always has.
const SEGMENTS_DIR: &str = "segments";

/// The lock of the service, beside the log.
const LOCK_FILE: &str = "lock";

/// A log on disk. While a service writes to it, what its checkpoint covered at the beginning is looked at; otherwise every
/// file is. Files are only read, so a copy that cannot be written to will do.
pub struct Directory {
    root: PathBuf,
    grows: Grows,
    /// Made once the newest checkpoint is known: the log may grow until then.
    segments: OnceLock<Segments>,
    files: OnceLock<Files>,
    findings: Mutex<Vec<Finding>>,
}

/// Whether a service has the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grows {
    Yes,
    No,
}

impl Directory {
    /// The log in a service's data directory, or the `log` directory itself.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let inner = path.join(LOG_DIR);
        let root = if inner.join(SEGMENTS_DIR).is_dir() {
            inner
        } else {
            path.to_owned()
        };
        if !root.join(SEGMENTS_DIR).is_dir() {
            let what = "there is no log in it; give the `data` directory of a `knhk serve`, or the `log` directory in that";
            return Err(ReadError::new(path.display().to_string(), &what));
        }
        let grows = grows(&root.join("..").join(LOCK_FILE)).map_err(|e| ReadError::new(LOCK_FILE, &e))?;
        Ok(Self {
            root,
            grows,
            segments: OnceLock::new(),
            files: OnceLock::new(),
            findings: Mutex::default(),
        })
    }

    fn segments(&self) -> &Segments {
        self.segments.get_or_init(Segments::default)
    }

    fn find(&self, finding: Finding) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        // The same place is read again by whoever needs a neighbour of it.
        if findings.len() < super::MAX_FINDINGS && !findings.contains(&finding) {
            findings.push(finding);
        }
    }
}

impl Source for Directory {
    fn read(&self, path: &str, most: usize) -> Result<Option<Vec<u8>>, ReadError> {
        let file = match File::open(self.root.join(path)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.kind() == io::ErrorKind::NotADirectory => {
                return Ok(None);
            }
            Err(e) => return Err(ReadError::new(path, &e)),
        };
        let mut bytes = Vec::new();
        file.take(most as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| ReadError::new(path, &e))?;
        if bytes.len() > most {
            return Err(ReadError::new(
                path,
                &format_args!("it has more than {most} bytes"),
            ));
        }
        Ok(Some(bytes))
    }

    fn entries(&self, bundle: u64, width: u64, each: &mut EachEntry<'_>) -> Result<(), ReadError> {
        let from = bundle * TILE_WIDTH;
        self.segments()
            .read(&self.root, from, from + width, each, &|finding| {
                self.find(finding);
            })
    }

    fn place(&self, index: u64) -> String {
        self.segments().place(index)
    }

    fn extent(&self, signed: u64) -> Result<Extent, ReadError> {
        let last = match self.grows {
            Grows::Yes => Some(signed),
            Grows::No => None,
        };
        let segments = Segments::open(&self.root, last, &|finding| self.find(finding))?;
        let entries = segments.entries();
        let _ = self.segments.set(segments);
        let extent = match self.grows {
            Grows::Yes => Extent::Growing,
            Grows::No => Extent::Still(entries),
        };
        let files = Files::list(&self.root, extent, signed)?;
        let _ = self.files.set(files);
        Ok(extent)
    }

    fn partials(&self, tile: &str) -> Vec<u64> {
        self.files
            .get()
            .map(|files| files.partials(tile))
            .unwrap_or_default()
    }

    fn inspect(&self) -> Inspected {
        let mut inspected = self.files.get().map(Files::inspected).unwrap_or_default();
        let findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        inspected.findings.extend(findings.iter().cloned());
        if self.grows == Grows::Yes {
            let note = "a service writes to this directory: audited is what was signed when the audit began";
            inspected.notes.push(note.to_owned());
        }
        inspected
    }
}

/// Whether somebody holds the lock. It is taken for a moment only: a service can be started during an audit.
fn grows(lock: &Path) -> io::Result<Grows> {
    let file = match File::open(lock) {
        Ok(file) => file,
        // A copy of the log alone has none.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Grows::No),
        Err(e) => return Err(e),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Grows::No),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Grows::Yes),
        Err(e) => Err(e.into()),
    }
}
