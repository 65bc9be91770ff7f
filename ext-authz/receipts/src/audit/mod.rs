//! The whole log against itself: every entry, tile and checkpoint, and the keys from the first one on.
//!
//! An audit trusts nothing that it reads. It computes every commitment from its payload, every hash from the entries, and the
//! root at the size of every checkpoint; it follows the keys from the genesis through every entry that announces one; and it
//! compares all of that with what the log has stored. What does not agree is a [`Finding`] that names the file, and the audit
//! goes on with what can still be compared: one changed bit is one finding.
//!
//! What it needs of a log is a [`Source`]: [`Directory`] is one, and a reader of the published files another.

mod bundles;
mod chain;
mod directory;
mod pins;
mod points;
mod published;
mod report;
mod run;
mod source;
mod tiles;
mod tree;

#[cfg(test)]
mod tests;

pub use directory::Directory;
pub use pins::{Pin, PinnedKey, Trees};
pub use published::BundleReader;
pub use report::{AuditCheck, AuditedKey, Finding, MAX_FINDINGS, Report};
pub use run::{Audit, AuditError, Progress, audit};
pub use source::{Content, EachEntry, Extent, Inspected, ReadError, Source};
