use serde::Serialize;

use super::source::ReadError;

/// An audit ends early once it has found so many things: a log that is wrong everywhere needs no longer list.
pub const MAX_FINDINGS: usize = 100;

/// Something that is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check that it is of, a stable name: `entries`, `tiles`, `checkpoints`, `keys`, `cose`, `files`; or `unreadable`.
    pub label: &'static str,
    /// The file, relative to the log's directory or address.
    pub file: String,
    /// What is wrong, in one line.
    pub detail: String,
    /// How often it was found in this file; `detail` is of the first time.
    pub count: u64,
}

impl Finding {
    /// Something that was found once.
    pub fn new(label: &'static str, file: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            label,
            file: file.into(),
            detail: detail.into(),
            count: 1,
        }
    }
}

impl From<ReadError> for Finding {
    fn from(error: ReadError) -> Self {
        Self::new(
            "unreadable",
            error.path,
            format!("cannot be read: {}", error.reason),
        )
    }
}

/// `FILE: what is wrong`.
impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.file, self.detail)?;
        match self.count {
            1 => Ok(()),
            n => write!(f, " (and {} more in this file)", n - 1),
        }
    }
}

/// What was found so far, each thing once a file.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    pub(crate) fn add(&mut self, finding: Finding) {
        let same = |it: &&mut Finding| it.label == finding.label && it.file == finding.file;
        if let Some(known) = self.0.iter_mut().find(same) {
            known.count += finding.count;
        } else if self.0.len() < MAX_FINDINGS {
            self.0.push(finding);
        }
    }

    /// Whether something is wrong in this check.
    pub(crate) fn has(&self, label: &str) -> bool {
        self.0.iter().any(|it| it.label == label)
    }

    pub(crate) fn are_enough(&self) -> bool {
        self.0.len() >= MAX_FINDINGS
    }

    pub(crate) fn into_vec(self) -> Vec<Finding> {
        self.0
    }
}

/// A key of the log, and what it signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditedKey {
    /// `sha256:` and the key ID.
    pub id: String,
    /// Who holds its private half.
    pub provider: String,
    /// The provider's name of the version.
    pub version: String,
    /// The entry that announced it; 0 is the genesis.
    pub announced: u64,
    /// Size of the first tree that it signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_size: Option<u64>,
    /// Size of the last tree that it signed, once another key took over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_size: Option<u64>,
    /// `announced`, `active` or `retired`.
    pub state: &'static str,
}

/// One kind of check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditCheck {
    /// `entries`, `tiles`, `checkpoints`, `keys`, `cose` or `files`.
    pub name: &'static str,
    /// One line for a person, with the values.
    pub detail: String,
    /// How many findings are of it.
    pub findings: usize,
}

/// What an audit looked at, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The log's name.
    pub origin: String,
    /// Entries under the newest checkpoint.
    pub size: u64,
    /// The root of those, computed from the entries, in hexadecimal.
    pub root: String,
    /// Entries that were looked at: more than `size` where some are not signed yet.
    pub entries: u64,
    /// How many of them no checkpoint covers: whoever can write to the disk can change those.
    pub unsigned: u64,
    /// Tiles and entry bundles that were compared.
    pub tiles: u64,
    /// Checkpoints whose signature and root were compared.
    pub checkpoints: u64,
    /// The log's keys, in the order of their entries.
    pub keys: Vec<AuditedKey>,
    /// Whether one of the keys is one that was given.
    pub pinned: bool,
    /// One line for each kind of check, whatever came of it.
    pub checks: Vec<AuditCheck>,
    /// What is wrong; empty where nothing is. At most [`MAX_FINDINGS`], and with so many the audit ended early.
    pub findings: Vec<Finding>,
    /// What is not wrong, and worth a line.
    pub notes: Vec<String>,
}

/// The lines of a report. `COSE` and the files beside tiles and checkpoints are there only in a directory.
pub(crate) fn checks(report: &Report, has_root: bool, files: u64) -> Vec<AuditCheck> {
    let signing = report.keys.iter().filter(|key| key.first_size.is_some()).count();
    let pin = if report.pinned {
        "pinned"
    } else {
        "the log's own, not pinned: give --key"
    };
    let entries = match report.unsigned {
        0 => format!("{} entries: payload, commitment, leaf", report.entries),
        more => format!(
            "{} entries, {more} of them not signed yet: payload, commitment, leaf",
            report.entries
        ),
    };
    let mut lines = vec![
        ("entries", entries),
        ("tiles", format!("{} tiles and entry bundles", report.tiles)),
        (
            "checkpoints",
            format!("{} checkpoints: signature, root, consistency", report.checkpoints),
        ),
        (
            "keys",
            format!("{signing} keys in a chain from the genesis; {pin}"),
        ),
    ];
    if has_root {
        lines.push(("cose", "the newest root's signature for COSE receipts".to_owned()));
    }
    if files > 0 {
        lines.push(("files", format!("{files} other files; no unknown ones")));
    }
    lines
        .into_iter()
        .map(|(name, detail)| AuditCheck {
            name,
            detail,
            findings: report.findings.iter().filter(|it| it.label == name).count(),
        })
        .collect()
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}
