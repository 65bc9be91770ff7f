use std::fmt::Display;

use super::report::Finding;
use crate::entry::{Commitment, Salt};

/// Where an audit reads a log from. Paths are those of the published log: `checkpoint`, `tile/...`, `checkpoints/<n>`, and in
/// a directory also `root` and `keys`. Several threads read at once.
pub trait Source: Sync {
    /// A file of at most `most` bytes; `None` where it is not there. One that is larger is a [`ReadError`].
    fn read(&self, path: &str, most: usize) -> Result<Option<Vec<u8>>, ReadError>;

    /// Gives the first `width` entries of a bundle to `each`, in order, with their numbers, and where one cannot be read the
    /// reason. Those that are not there at all it leaves out.
    fn entries(&self, bundle: u64, width: u64, each: &mut EachEntry<'_>) -> Result<(), ReadError>;

    /// The file that holds the payload of an entry.
    fn place(&self, index: u64) -> String;

    /// What of the log is to be audited, where its newest checkpoint covers `signed` entries. Called before anything but `root`,
    /// `checkpoint` and `keys` is read.
    fn extent(&self, _signed: u64) -> Result<Extent, ReadError> {
        Ok(Extent::Growing)
    }

    /// The widths of the partial forms that a tile has, as far as the source can list them.
    fn partials(&self, _tile: &str) -> Vec<u64> {
        Vec::new()
    }

    /// What the source alone can know is wrong. Called last.
    fn inspect(&self) -> Inspected {
        Inspected::default()
    }
}

/// Takes one entry, or why it cannot be read.
pub type EachEntry<'e> = dyn FnMut(u64, Result<Content<'_>, String>) + 'e;

/// What an entry commits to.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// The salt.
    pub salt: &'a Salt,
    /// The payload's bytes.
    pub payload: &'a [u8],
    /// The commitment that is stored beside them, where one is.
    pub commitment: Option<&'a Commitment>,
}

/// How much of a log an audit looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// It may grow meanwhile: what the newest checkpoint covered at the beginning.
    Growing,
    /// Nobody writes to it: every entry, of which there are so many.
    Still(u64),
}

/// What a source found by itself.
#[derive(Clone, Debug, Default)]
pub struct Inspected {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What is not wrong, and worth a line.
    pub notes: Vec<String>,
    /// How many files were looked at that are neither tiles nor checkpoints.
    pub files: u64,
}

/// A file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: cannot be read: {reason}")]
pub struct ReadError {
    /// Which.
    pub path: String,
    /// What is wrong, in one line.
    pub reason: String,
}

impl ReadError {
    /// One for this file.
    pub fn new(path: impl Into<String>, reason: &dyn Display) -> Self {
        Self {
            path: path.into(),
            reason: reason.to_string(),
        }
    }
}
