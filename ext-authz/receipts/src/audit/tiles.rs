use std::sync::atomic::{AtomicU64, Ordering};

use super::report::Finding;
use super::source::{Extent, Source};
use crate::entry::Commitment;
use crate::tree::{Hash, TILE_WIDTH, Tile, TileKind};

/// Bytes of an entry in an entry bundle, with its length.
const ENTRY_BYTES: usize = 34;

/// How an entry begins there: its length.
const ENTRY_HEAD: [u8; 2] = [0, 32];

/// The most bytes of a tile, and one more, so that one too many is seen.
const MAX_TILE_BYTES: usize = 256 * ENTRY_BYTES + 1;

/// Reads tiles and compares them.
pub(crate) struct Tiles<'s> {
    pub(crate) source: &'s dyn Source,
    /// Entries that the newest checkpoint covers: their tiles have to be there.
    pub(crate) signed: u64,
    pub(crate) extent: Extent,
    compared: AtomicU64,
}

/// What one tile says of its items: `None` where it says nothing that can be used.
pub(crate) type Items = Vec<Option<Hash>>;

impl<'s> Tiles<'s> {
    pub(crate) fn new(source: &'s dyn Source, signed: u64, extent: Extent) -> Self {
        Self {
            source,
            signed,
            extent,
            compared: AtomicU64::new(0),
        }
    }

    pub(crate) fn compared(&self) -> u64 {
        self.compared.load(Ordering::Relaxed)
    }

    /// The tile `n` as the signed tree has it; empty where that has nothing of it. With the path it was read from.
    pub(crate) fn signed(&self, kind: TileKind, n: u64, findings: &mut Vec<Finding>) -> (String, Items) {
        let Some(tile) = Tile::in_tree(kind, n, self.signed) else {
            return (String::new(), Vec::new());
        };
        // A partial tile goes once the full one is there, and readers take that instead (C2SP tlog-tiles).
        for candidate in [tile, tile.completed()] {
            match self.read(candidate) {
                Err(finding) => {
                    findings.push(finding);
                    return (candidate.to_string(), Vec::new());
                }
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    let mut items = parse(candidate, &bytes, findings);
                    items.truncate(usize::try_from(tile.width).unwrap_or(usize::MAX));
                    return (candidate.to_string(), items);
                }
            }
        }
        findings.push(Finding::new("tiles", tile.to_string(), "the file is missing"));
        (tile.to_string(), Vec::new())
    }

    /// Compares every other form of the tile that is there with its items, which are those of all entries.
    pub(crate) fn others(&self, kind: TileKind, n: u64, items: &[Hash], findings: &mut Vec<Finding>) {
        let full = Tile::full(kind, n);
        let signed = Tile::in_tree(kind, n, self.signed).map_or(0, |tile| tile.width);
        let mut widths = self.source.partials(&full.to_string());
        widths.retain(|width| *width != signed);
        if items.len() as u64 == TILE_WIDTH && signed < TILE_WIDTH && self.extent != Extent::Growing {
            widths.push(TILE_WIDTH);
        }
        for width in widths {
            let tile = Tile { width, ..full };
            let path = tile.to_string();
            let known = usize::try_from(width).ok().and_then(|width| items.get(..width));
            match (self.read(tile), known) {
                (Err(finding), _) => findings.push(finding),
                (Ok(None), _) => {}
                (Ok(Some(_)), None) if self.extent == Extent::Growing => {}
                (Ok(Some(_)), None) => {
                    findings.push(Finding::new(
                        "tiles",
                        path,
                        "it has more than the log: there are fewer entries",
                    ));
                }
                (Ok(Some(bytes)), Some(known)) => {
                    let found = parse(tile, &bytes, findings);
                    if let Some(at) =
                        (0..known.len()).find(|&at| found.get(at).copied().flatten() != Some(known[at]))
                        && found.len() == known.len()
                    {
                        findings.push(differs(&path, kind, n, at));
                    }
                }
            }
        }
    }

    fn read(&self, tile: Tile) -> Result<Option<Vec<u8>>, Finding> {
        let bytes = self.source.read(&tile.to_string(), MAX_TILE_BYTES)?;
        if bytes.is_some() {
            self.compared.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes)
    }
}

/// The finding that an item of a tile is another than the entries give.
pub(crate) fn differs(path: &str, kind: TileKind, n: u64, at: usize) -> Finding {
    let first = n.saturating_mul(TILE_WIDTH).saturating_add(at as u64);
    let what = match kind {
        TileKind::Entries => format!("entry {first} in it is not the one that its payload commits to"),
        TileKind::Level(0) => format!("the hash of entry {first} in it is wrong"),
        TileKind::Level(level) => {
            format!(
                "hash {at} in it is wrong: it is that of item {first} of level {}",
                u64::from(level) * 8
            )
        }
    };
    Finding::new("tiles", path, what)
}

/// The items of a file. Says so where its length is not that of its width, or an entry's length is wrong.
fn parse(tile: Tile, bytes: &[u8], findings: &mut Vec<Finding>) -> Items {
    let item = match tile.kind {
        TileKind::Entries => ENTRY_BYTES,
        TileKind::Level(_) => 32,
    };
    let wanted = usize::try_from(tile.width)
        .unwrap_or(usize::MAX)
        .saturating_mul(item);
    if bytes.len() != wanted {
        let detail = format!("it has {} bytes, not {wanted}", bytes.len());
        findings.push(Finding::new("tiles", tile.to_string(), detail));
    }
    let mut wrong = None;
    let items: Items = bytes[..bytes.len().min(wanted)]
        .chunks_exact(item)
        .enumerate()
        .map(|(at, bytes)| {
            let hash: Option<&Commitment> = match tile.kind {
                TileKind::Entries => bytes.strip_prefix(&ENTRY_HEAD).and_then(|it| it.try_into().ok()),
                TileKind::Level(_) => bytes.try_into().ok(),
            };
            if hash.is_none() {
                wrong.get_or_insert(at);
            }
            hash.copied()
        })
        .collect();
    if let Some(at) = wrong {
        let detail = format!(
            "the length of entry {} in it is not 32",
            tile.n * TILE_WIDTH + at as u64
        );
        findings.push(Finding::new("tiles", tile.to_string(), detail));
    }
    items
}
