use std::collections::VecDeque;

use super::report::Finding;
use super::source::{Extent, Source};
use crate::checkpoint::SignedCheckpoint;
use crate::kept::{MAX_FILE_BYTES, split};

/// A signed state of the log that its entries have to lead to.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    /// The file that it is from.
    pub(crate) file: String,
    pub(crate) checkpoint: SignedCheckpoint,
}

/// The kept checkpoints and some more, by size. Kept ones are read file by file.
pub(crate) struct Points<'s> {
    kept: Kept<'s>,
    next_kept: Option<Point>,
    others: VecDeque<Point>,
}

impl<'s> Points<'s> {
    /// Up to those of `signed` entries; there are larger ones where the log grows.
    pub(crate) fn new(
        source: &'s dyn Source,
        signed: u64,
        extent: Extent,
        mut others: Vec<Point>,
        findings: &mut Vec<Finding>,
    ) -> Self {
        others.sort_by_key(|point| point.checkpoint.size());
        let mut kept = Kept {
            source,
            signed,
            extent,
            file: 0,
            bytes: Vec::new(),
            at: 0,
            last: None,
            ended: false,
        };
        let next_kept = kept.next(findings);
        Self {
            kept,
            next_kept,
            others: others.into(),
        }
    }

    /// The next one, if its tree has at most `size` entries.
    pub(crate) fn next(&mut self, size: u64, findings: &mut Vec<Finding>) -> Option<Point> {
        let kept = self.next_kept.as_ref().map(|point| point.checkpoint.size());
        let other = self.others.front().map(|point| point.checkpoint.size());
        let kept_first = match (kept, other) {
            (Some(kept), Some(other)) => kept <= other,
            (kept, _) => kept.is_some(),
        };
        if kept_first {
            if kept.is_none_or(|it| it > size) {
                return None;
            }
            let next = self.kept.next(findings);
            return std::mem::replace(&mut self.next_kept, next);
        }
        other.filter(|it| *it <= size)?;
        self.others.pop_front()
    }
}

struct Kept<'s> {
    source: &'s dyn Source,
    signed: u64,
    extent: Extent,
    file: u64,
    bytes: Vec<u8>,
    at: usize,
    /// Size of the one before.
    last: Option<u64>,
    ended: bool,
}

impl Kept<'_> {
    fn path(file: u64) -> String {
        format!("checkpoints/{file}")
    }

    fn next(&mut self, findings: &mut Vec<Finding>) -> Option<Point> {
        while !self.ended {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            if rest.is_empty() {
                self.load(findings);
                continue;
            }
            let path = Self::path(self.file - 1);
            let Some((note, behind)) = split(rest) else {
                let detail = format!("it has no checkpoint at byte {}", self.at);
                findings.push(Finding::new("checkpoints", path, detail));
                self.at = self.bytes.len();
                continue;
            };
            let (begin, note) = (self.at, SignedCheckpoint::from_bytes(note));
            self.at = self.bytes.len() - behind.len();
            match note {
                Ok(checkpoint) if checkpoint.size() > self.signed && self.extent == Extent::Growing => {
                    self.ended = true;
                }
                Ok(checkpoint) if checkpoint.size() > self.signed => {
                    let size = checkpoint.size();
                    let detail = format!(
                        "the one at byte {begin} is of {size} entries, and the newest is of {}",
                        self.signed
                    );
                    findings.push(Finding::new("checkpoints", path, detail));
                }
                Ok(checkpoint) if self.last >= Some(checkpoint.size()) => {
                    let detail = format!("the one at byte {begin} is not larger than the one before it");
                    findings.push(Finding::new("checkpoints", path, detail));
                }
                Ok(checkpoint) => {
                    self.last = Some(checkpoint.size());
                    return Some(Point {
                        file: path,
                        checkpoint,
                    });
                }
                Err(error) => {
                    findings.push(Finding::new(
                        "checkpoints",
                        path,
                        format!("the one at byte {begin}: {error}"),
                    ));
                }
            }
        }
        None
    }

    fn load(&mut self, findings: &mut Vec<Finding>) {
        let path = Self::path(self.file);
        match self.source.read(&path, MAX_FILE_BYTES) {
            Ok(Some(bytes)) => {
                if bytes.is_empty() {
                    findings.push(Finding::new("checkpoints", path, "it is empty"));
                }
                self.bytes = bytes;
                self.at = 0;
                self.file += 1;
            }
            Ok(None) => self.ended = true,
            Err(error) => {
                findings.push(error.into());
                self.ended = true;
            }
        }
    }
}
