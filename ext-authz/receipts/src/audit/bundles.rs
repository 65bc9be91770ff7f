use super::report::Finding;
use super::source::Content;
use super::tiles::{Tiles, differs};
use crate::entry::{Commitment, commit, leaf_hash};
use crate::payload::{Genesis, KeyReceipt, Payload};
use crate::tree::{Hash, TILE_WIDTH, TileKind};

/// A bundle that was looked at.
pub(crate) struct Checked {
    /// The leaf hashes of its entries, as far as they are known without a gap.
    pub(crate) leaves: Vec<Hash>,
    /// Payloads that concern the log itself.
    pub(crate) own: Vec<(u64, Own)>,
    pub(crate) findings: Vec<Finding>,
}

/// A payload that the log wrote for itself.
pub(crate) enum Own {
    Genesis(Genesis),
    Key(KeyReceipt),
}

/// Looks at the first `width` entries of a bundle: payload, commitment, entry, leaf hash, each against the others.
pub(crate) fn check(tiles: &Tiles<'_>, region: &str, bundle: u64, width: u64) -> Checked {
    let mut reading = Reading {
        tiles,
        region,
        first: bundle * TILE_WIDTH,
        entries: vec![None; usize::try_from(width).unwrap_or(0)],
        own: Vec::new(),
        findings: Vec::new(),
        missing: None,
    };
    if let Err(error) = tiles
        .source
        .entries(bundle, width, &mut |index, content| reading.take(index, content))
    {
        reading.findings.push(error.into());
    } else {
        reading.name_missing();
    }
    let Reading {
        entries,
        own,
        mut findings,
        ..
    } = reading;
    let leaves = compare(tiles, bundle, &entries, &mut findings);
    Checked {
        leaves,
        own,
        findings,
    }
}

/// The entries of a bundle by their payloads.
struct Reading<'a> {
    tiles: &'a Tiles<'a>,
    region: &'a str,
    first: u64,
    /// None: not there, or not readable.
    entries: Vec<Option<Commitment>>,
    own: Vec<(u64, Own)>,
    findings: Vec<Finding>,
    /// The last one that cannot be read and was named.
    missing: Option<u64>,
}

impl Reading<'_> {
    fn take(&mut self, index: u64, content: Result<Content<'_>, String>) {
        let content = match content {
            Ok(content) => content,
            Err(reason) => {
                self.missing = Some(index);
                return self.find(index, format!("entry {index} cannot be read: {reason}"));
            }
        };
        let computed = commit(content.salt, content.payload);
        let entry = content.commitment.copied().unwrap_or(computed);
        if entry != computed {
            let what = "payload and salt do not give the commitment that stands beside them";
            self.find(index, format!("entry {index}: {what}"));
        }
        let place = index
            .checked_sub(self.first)
            .and_then(|at| usize::try_from(at).ok());
        if let Some(slot) = place.and_then(|at| self.entries.get_mut(at)) {
            *slot = Some(entry);
        }
        match Payload::from_bytes(content.payload) {
            Ok(payload) => self.look(index, payload),
            Err(error) => self.find(index, format!("the payload of entry {index}: {error}")),
        }
    }

    fn look(&mut self, index: u64, payload: Payload) {
        if payload.region() != self.region {
            let what = format!(
                "entry {index} is of region `{}`, not `{}`",
                payload.region(),
                self.region
            );
            self.find(index, what);
        }
        let kind = payload.kind();
        match payload {
            Payload::Genesis(genesis) if index == 0 => self.own.push((index, Own::Genesis(genesis))),
            Payload::Key(key) if index > 0 => self.own.push((index, Own::Key(key))),
            Payload::Genesis(_) => self.find(index, format!("entry {index} is a second genesis")),
            _ if index == 0 => self.find(0, format!("entry 0 is a {kind}, not the genesis")),
            Payload::Decision(_) | Payload::Action(_) | Payload::Policy(_) | Payload::Key(_) => {}
        }
    }

    /// Entries that the source left out. One that cannot be read may have taken those behind it along.
    fn name_missing(&mut self) {
        let gap = self
            .entries
            .iter()
            .position(Option::is_none)
            .map(|at| self.first + at as u64);
        if let Some(index) = gap.filter(|_| self.missing.is_none()) {
            self.find(index, format!("entry {index} is missing"));
        }
    }

    fn find(&mut self, index: u64, what: String) {
        self.findings
            .push(Finding::new("entries", self.tiles.source.place(index), what));
    }
}

/// Compares what payloads, entry bundle and hash tile say of each entry. Two that agree are believed against the third;
/// where only two are there, the payload's commitment is.
fn compare(
    tiles: &Tiles<'_>,
    bundle: u64,
    entries: &[Option<Commitment>],
    findings: &mut Vec<Finding>,
) -> Vec<Hash> {
    let (entry_path, in_bundle) = tiles.signed(TileKind::Entries, bundle, findings);
    let (hash_path, in_tile) = tiles.signed(TileKind::Level(0), bundle, findings);
    let (mut wrong_entry, mut wrong_hash, mut gap) = (None, None, false);
    let (mut believed, mut leaves) = (
        Vec::with_capacity(entries.len()),
        Vec::with_capacity(entries.len()),
    );
    for (at, entry) in entries.iter().enumerate() {
        let index = bundle * TILE_WIDTH + at as u64;
        let (other, hash) = (
            in_bundle.get(at).copied().flatten(),
            in_tile.get(at).copied().flatten(),
        );
        let chosen = match (*entry, other) {
            (Some(entry), Some(other)) if entry != other && hash == Some(leaf_hash(&other)) => {
                let what = format!("entry {index} is not the one that the log's tree has");
                findings.push(Finding::new("entries", tiles.source.place(index), what));
                Some(other)
            }
            (Some(entry), Some(other)) => {
                if entry != other {
                    wrong_entry.get_or_insert(at);
                }
                Some(entry)
            }
            (entry, other) => entry.or(other),
        };
        let leaf = chosen.as_ref().map(leaf_hash).or(hash);
        if let (Some(leaf), Some(hash)) = (leaf, hash)
            && leaf != hash
        {
            wrong_hash.get_or_insert(at);
        }
        gap |= leaf.is_none();
        if let Some(leaf) = leaf.filter(|_| !gap) {
            leaves.push(leaf);
            believed.extend(chosen);
        }
    }
    if let Some(at) = wrong_entry {
        findings.push(differs(&entry_path, TileKind::Entries, bundle, at));
    }
    if let Some(at) = wrong_hash {
        findings.push(differs(&hash_path, TileKind::Level(0), bundle, at));
    }
    if believed.len() == leaves.len() {
        tiles.others(TileKind::Entries, bundle, &believed, findings);
    }
    tiles.others(TileKind::Level(0), bundle, &leaves, findings);
    leaves
}
