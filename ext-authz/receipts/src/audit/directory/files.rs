use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::super::report::Finding;
use super::super::source::{Extent, Inspected, ReadError};
use crate::segment::first_of;
use crate::tree::{TILE_WIDTH, Tile};

/// What the name of a file ends with until it is whole.
const UNFINISHED: &str = ".new";

/// Every file of a log's directory by its name.
#[derive(Default)]
pub(super) struct Files {
    /// Full tiles, and the widths of their partial forms.
    partials: BTreeMap<String, Vec<u64>>,
    inspected: Inspected,
    /// Numbers of the files of kept checkpoints.
    kept: Vec<u64>,
    singles: Vec<String>,
}

/// Files that a signed log has once.
const SINGLES: [&str; 3] = ["checkpoint", "keys", "root"];

impl Files {
    pub(super) fn list(root: &Path, extent: Extent, signed: u64) -> Result<Self, ReadError> {
        let mut files = Self::default();
        let entries = match extent {
            Extent::Growing => None,
            Extent::Still(entries) => Some(entries.max(signed)),
        };
        files.walk(root, "", entries)?;
        files.check_names();
        Ok(files)
    }

    /// The widths of a full tile's partial forms.
    pub(super) fn partials(&self, tile: &str) -> Vec<u64> {
        self.partials.get(tile).cloned().unwrap_or_default()
    }

    pub(super) fn inspected(&self) -> Inspected {
        self.inspected.clone()
    }

    fn walk(&mut self, root: &Path, dir: &str, entries: Option<u64>) -> Result<(), ReadError> {
        let listed = match fs::read_dir(root.join(dir)) {
            Ok(listed) => listed,
            // A log that grows removes partial tiles.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && entries.is_none() => return Ok(()),
            Err(e) => return Err(ReadError::new(dir, &e)),
        };
        for entry in listed {
            let entry = entry.map_err(|e| ReadError::new(dir, &e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if dir.is_empty() {
                name
            } else {
                format!("{dir}/{name}")
            };
            let kind = entry.file_type().map_err(|e| ReadError::new(path.as_str(), &e))?;
            if kind.is_dir() {
                self.walk(root, &path, entries)?;
            } else if kind.is_file() {
                self.take(root, path, entries);
            } else {
                self.unknown(path, "it is neither a file nor a directory");
            }
        }
        Ok(())
    }

    fn take(&mut self, root: &Path, path: String, entries: Option<u64>) {
        if let Some(whole) = path.strip_suffix(UNFINISHED) {
            if Self::is_ours(root, whole) {
                let note = format!("{path}: left by a write that was cut off; nothing reads it");
                self.inspected.notes.push(note);
            } else {
                self.unknown(path, "the log has no such file");
            }
        } else if let Ok(tile) = path.parse::<Tile>() {
            self.tile(path, tile, entries);
        } else if Self::is_ours(root, &path) {
            self.inspected.files += 1;
            if let Some(number) = kept_number(&path) {
                self.kept.push(number);
            }
            if SINGLES.contains(&path.as_str()) {
                self.singles.push(path);
            }
        } else {
            self.unknown(path, "the log has no such file");
        }
    }

    /// Whether it has the name of a file of the log, a tile included.
    fn is_ours(root: &Path, path: &str) -> bool {
        let segment = path.strip_prefix("segments/").and_then(|name| {
            let table = name.strip_suffix(".idx").map(|number| format!("{number}.seg"));
            first_of(table.as_deref().unwrap_or(name))?;
            // A table belongs to a segment.
            table
                .is_none_or(|of| root.join("segments").join(of).exists())
                .then_some(())
        });
        segment.is_some()
            || SINGLES.contains(&path)
            || kept_number(path).is_some()
            || path.parse::<Tile>().is_ok()
    }

    fn tile(&mut self, path: String, tile: Tile, entries: Option<u64>) {
        let known = entries.is_none_or(|entries| {
            let begins = tile
                .n
                .checked_mul(TILE_WIDTH)
                .is_some_and(|at| at < tile.kind.items(entries));
            begins && (tile.width < TILE_WIDTH || Tile::in_tree(tile.kind, tile.n, entries) == Some(tile))
        });
        if !known {
            let what = "it has more than the log: there are fewer entries";
            self.inspected.findings.push(Finding::new("tiles", path, what));
        } else if tile.width < TILE_WIDTH {
            self.partials
                .entry(tile.completed().to_string())
                .or_default()
                .push(tile.width);
        }
    }

    fn unknown(&mut self, path: String, what: &str) {
        if self.inspected.findings.len() < super::super::MAX_FINDINGS {
            self.inspected.findings.push(Finding::new("files", path, what));
        }
    }

    fn check_names(&mut self) {
        self.kept.sort_unstable();
        let kept = self.kept.len() as u64;
        if let Some(missing) = (0..kept).find(|n| !self.kept.contains(n)) {
            let finding = Finding::new(
                "checkpoints",
                format!("checkpoints/{missing}"),
                "the file is missing",
            );
            self.inspected.findings.push(finding);
        }
        // The published checkpoint is missed where it is read.
        for single in SINGLES.iter().filter(|name| **name != "checkpoint") {
            if !self.singles.iter().any(|it| it == single) {
                self.inspected
                    .findings
                    .push(Finding::new("files", *single, "the file is missing"));
            }
        }
        if kept == 0 {
            let finding = Finding::new("checkpoints", "checkpoints/0", "the file is missing");
            self.inspected.findings.push(finding);
        }
    }
}

fn kept_number(path: &str) -> Option<u64> {
    let name = path.strip_prefix("checkpoints/")?;
    name.parse()
        .ok()
        .filter(|number: &u64| number.to_string() == name)
}
