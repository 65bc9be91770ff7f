use super::report::Finding;
use super::tiles::{Tiles, differs};
use crate::tree::{Hash, TILE_WIDTH, TileKind, root_of};

/// The tree over the bundles so far: of each level above the leaves the tile that is not full yet. Compares each tile that
/// becomes full with the one that is stored.
#[derive(Default)]
pub(crate) struct Growing {
    /// Entries, a multiple of [`TILE_WIDTH`].
    size: u64,
    /// Level 1 first.
    levels: Vec<Vec<Hash>>,
}

impl Growing {
    /// The root, where behind the whole bundles there are these leaves of the next one. `None` for no entry at all.
    pub(crate) fn root(&self, leaves: &[Hash]) -> Option<Hash> {
        let mut below = (!leaves.is_empty()).then(|| root_of(leaves));
        for tile in &self.levels {
            let mut items = tile.clone();
            items.extend(below);
            below = (!items.is_empty()).then(|| root_of(&items));
        }
        below
    }

    /// Adds a bundle that is whole.
    pub(crate) fn push(&mut self, leaves: &[Hash], tiles: &Tiles<'_>, findings: &mut Vec<Finding>) {
        self.size += TILE_WIDTH;
        let (mut level, mut hash) = (1, root_of(leaves));
        loop {
            let at = usize::from(level) - 1;
            if self.levels.len() == at {
                self.levels.push(Vec::new());
            }
            self.levels[at].push(hash);
            if (self.levels[at].len() as u64) < TILE_WIDTH {
                return;
            }
            let n = TileKind::Level(level).items(self.size) / TILE_WIDTH - 1;
            compare(tiles, level, n, &self.levels[at], findings);
            hash = root_of(&self.levels[at]);
            self.levels[at].clear();
            level += 1;
        }
    }

    /// Compares the tiles that are not full.
    pub(crate) fn finish(&self, tiles: &Tiles<'_>, findings: &mut Vec<Finding>) {
        for (items, level) in self.levels.iter().zip(1..) {
            if !items.is_empty() {
                let n = TileKind::Level(level).items(self.size) / TILE_WIDTH;
                compare(tiles, level, n, items, findings);
            }
        }
    }
}

fn compare(tiles: &Tiles<'_>, level: u8, n: u64, items: &[Hash], findings: &mut Vec<Finding>) {
    let kind = TileKind::Level(level);
    let (path, stored) = tiles.signed(kind, n, findings);
    let wrong = stored
        .iter()
        .zip(items)
        .position(|(stored, item)| stored.is_some_and(|it| it != *item));
    findings.extend(wrong.map(|at| differs(&path, kind, n, at)));
    tiles.others(kind, n, items, findings);
}
