use tlog_tiles::{EMPTY_HASH, Hash as Node, node_hash};

use super::{Hash, TILE_WIDTH, Tile, TileKind};
use crate::entry::{Commitment, leaf_hash};

/// The right edge of a growing tree: of each level the tile that is not full yet. At most a few of 8 KiB each,
/// whatever the tree's size. It is all that is needed to add entries, to write tiles, and to compute the root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edge {
    size: u64,
    /// The entries of the last bundle, while it is not full.
    bundle: Vec<Commitment>,
    /// For each level the hashes of its last tile, while that is not full.
    levels: Vec<Vec<Hash>>,
}

/// A tile and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TileFile {
    pub(crate) tile: Tile,
    pub(crate) bytes: Vec<u8>,
}

impl Edge {
    /// The edge of a tree of `size` entries, a multiple of [`TILE_WIDTH`]. `read` gives the bytes of a tile of that tree.
    pub(crate) fn load<E>(size: u64, mut read: impl FnMut(Tile) -> Result<Vec<Hash>, E>) -> Result<Self, E> {
        debug_assert_eq!(
            size % TILE_WIDTH,
            0,
            "the last bundle of such a tree would be missing here"
        );
        let mut levels = Vec::new();
        for level in 0.. {
            let kind = TileKind::Level(level);
            let items = kind.items(size);
            if items == 0 {
                break;
            }
            levels.push(match Tile::in_tree(kind, items / TILE_WIDTH, size) {
                Some(tile) => read(tile)?,
                None => Vec::new(),
            });
        }
        Ok(Self {
            size,
            bundle: Vec::new(),
            levels,
        })
    }

    /// How many entries the tree has.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Adds an entry. Tiles that it fills are put into `full`.
    pub(crate) fn push(&mut self, entry: &Commitment, full: &mut Vec<TileFile>) {
        let n = self.size / TILE_WIDTH;
        self.size += 1;
        self.bundle.push(*entry);
        if self.bundle.len() as u64 == TILE_WIDTH {
            full.push(TileFile {
                tile: Tile::full(TileKind::Entries, n),
                bytes: bundle_bytes(&self.bundle),
            });
            self.bundle.clear();
        }
        self.push_hash(0, leaf_hash(entry), full);
    }

    fn push_hash(&mut self, level: u8, hash: Hash, full: &mut Vec<TileFile>) {
        if self.levels.len() == usize::from(level) {
            self.levels
                .push(Vec::with_capacity(usize::try_from(TILE_WIDTH).unwrap_or(0)));
        }
        let tile = &mut self.levels[usize::from(level)];
        tile.push(hash);
        if tile.len() as u64 == TILE_WIDTH {
            let root = root_of(tile);
            let n = TileKind::Level(level).items(self.size) / TILE_WIDTH - 1;
            full.push(TileFile {
                tile: Tile::full(TileKind::Level(level), n),
                bytes: tile.concat(),
            });
            tile.clear();
            self.push_hash(level + 1, root, full);
        }
    }

    /// The partial tiles of this tree that a tree of `before` entries does not have.
    pub(crate) fn partials(&self, before: u64) -> Vec<TileFile> {
        let entries = (TileKind::Entries, bundle_bytes(&self.bundle));
        let hashes = self
            .levels
            .iter()
            .zip(0..)
            .map(|(tile, level)| (TileKind::Level(level), tile.concat()));
        std::iter::once(entries)
            .chain(hashes)
            .filter(|(kind, _)| kind.items(before) != kind.items(self.size))
            .filter_map(|(kind, bytes)| {
                let tile = Tile::in_tree(kind, kind.items(self.size) / TILE_WIDTH, self.size)?;
                Some(TileFile { tile, bytes })
            })
            .collect()
    }

    /// The root hash of the tree.
    pub(crate) fn root(&self) -> Hash {
        // From the leaves up: what is below a level is the incomplete rightmost item of that level.
        let mut below = None;
        for tile in &self.levels {
            let mut items = tile.clone();
            items.extend(below);
            below = (!items.is_empty()).then(|| root_of(&items));
        }
        below.unwrap_or(EMPTY_HASH.0)
    }
}

/// The root over these nodes, in the shape of RFC 6962: at each level neighbours are paired, and an odd last one moves up.
/// That is the same as splitting at the largest power of two. At least one.
pub(crate) fn root_of(nodes: &[Hash]) -> Hash {
    let mut row: Vec<Node> = nodes.iter().copied().map(Node).collect();
    while row.len() > 1 {
        row = row
            .chunks(2)
            .map(|pair| match *pair {
                [left, right] => node_hash(left, right),
                _ => pair[0],
            })
            .collect();
    }
    row[0].0
}

/// Bytes of an entry.
const ENTRY_LEN: u16 = 32;

fn bundle_bytes(entries: &[Commitment]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * 34);
    for entry in entries {
        bytes.extend(ENTRY_LEN.to_be_bytes());
        bytes.extend(entry);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::tree::reference;

    #[test]
    fn the_root_is_that_of_rfc_6962_at_every_size() {
        let mut edge = Edge::default();
        assert_eq!(edge.root(), reference::root(&[]));
        let mut entries = Vec::new();
        for i in 0..1200 {
            edge.push(&reference::entry(i), &mut Vec::new());
            entries.push(reference::entry(i));
            if i < 70 || i % 37 == 0 || (i + 2) % 256 < 4 {
                assert_eq!(edge.root(), reference::root(&entries), "size {}", i + 1);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Written in any steps, the tiles on disk are the same as those of the whole tree, and an edge that is loaded
        /// from them goes on as the one that wrote them.
        #[test]
        fn tiles_do_not_depend_on_the_steps(steps in prop::collection::vec(1..400_u64, 1..8), big in 0..2_u64) {
            let steps: Vec<_> = steps.into_iter().chain([big * 70_000]).collect();
            let (mut files, mut edge) = (BTreeMap::new(), Edge::default());
            for step in steps {
                let (before, mut full) = (edge.size(), Vec::new());
                for i in before..before + step {
                    edge.push(&reference::entry(i), &mut full);
                }
                full.extend(edge.partials(before));
                for TileFile { tile, bytes } in full {
                    prop_assert!(files.insert(tile, bytes).is_none(), "{tile} was written twice");
                }
            }
            let size = edge.size();
            let mut kinds = vec![TileKind::Entries];
            kinds.extend((0..4).map(TileKind::Level));
            for kind in kinds {
                for n in 0..kind.items(size).div_ceil(TILE_WIDTH) {
                    let tile = Tile::in_tree(kind, n, size).expect("it is in the tree");
                    prop_assert!(files.contains_key(&tile), "{tile} is missing in a tree of {size}");
                }
            }
            let from = size / TILE_WIDTH * TILE_WIDTH;
            let mut loaded = Edge::load(from, |tile| -> Result<_, Infallible> {
                let wider = (tile.width..=TILE_WIDTH).find_map(|width| files.get(&Tile { width, ..tile }));
                let bytes = wider.expect("a tile of the tree");
                let hashes = bytes.chunks(32).map(|hash| hash.try_into().expect("32 bytes"));
                Ok(hashes.take(usize::try_from(tile.width).expect("at most 256")).collect())
            }).expect("reads");
            for i in from..size {
                loaded.push(&reference::entry(i), &mut Vec::new());
            }
            prop_assert_eq!(loaded.root(), edge.root());
            prop_assert_eq!(loaded.partials(0), edge.partials(0));
        }
    }
}
