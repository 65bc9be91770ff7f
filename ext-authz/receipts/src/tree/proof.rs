use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use tlog_tiles::{Error, Hash as Node, HashReader, Tile as TileMath, prove_record, prove_tree, tree_hash};

use super::{Hash, TILE_HEIGHT, Tile, TileKind};

/// Reads nodes of a tree of fixed size from its tiles. Each tile is read once, so a reader is made for one proof and dropped.
pub(crate) struct TreeReader<R> {
    size: u64,
    read: R,
    tiles: RefCell<HashMap<Tile, Vec<u8>>>,
}

impl<R: Fn(Tile) -> std::io::Result<Vec<u8>>> TreeReader<R> {
    /// `read` gives the bytes of a tile of the tree: 32 for each of its items, at least.
    pub(crate) fn new(size: u64, read: R) -> Self {
        Self {
            size,
            read,
            tiles: RefCell::default(),
        }
    }

    /// The inclusion proof of an entry that is in the tree.
    pub(crate) fn inclusion(&self, index: u64) -> std::io::Result<Vec<Hash>> {
        let proof = prove_record(self.size, index, self).map_err(std::io::Error::other)?;
        Ok(proof.into_iter().map(|node| node.0).collect())
    }

    /// The proof (RFC 6962, 2.1.2) that the tree of the first `from` entries, 1 or more, is the beginning of this one.
    pub(crate) fn consistency(&self, from: u64) -> std::io::Result<Vec<Hash>> {
        self.consistency_in(self.size, from)
    }

    /// The same proof within the tree of the first `size` entries, which this one begins with.
    pub(crate) fn consistency_in(&self, size: u64, from: u64) -> std::io::Result<Vec<Hash>> {
        if size > self.size {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        let proof = prove_tree(size, from, self).map_err(std::io::Error::other)?;
        Ok(proof.into_iter().map(|node| node.0).collect())
    }

    /// The root of the first `size` entries.
    pub(crate) fn root(&self, size: u64) -> std::io::Result<Hash> {
        let root = tree_hash(size, self).map_err(std::io::Error::other)?;
        Ok(root.0)
    }

    fn node(&self, stored_index: u64) -> Result<Node, Error> {
        let least = TileMath::from_index(TILE_HEIGHT, stored_index);
        let tile = Tile::in_tree(TileKind::Level(least.level()), least.level_index(), self.size)
            .filter(|tile| u64::from(least.width()) <= tile.width)
            .ok_or(Error::IndexesNotInTree)?;
        let mut tiles = self.tiles.borrow_mut();
        let bytes = match tiles.entry(tile) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let bytes = (self.read)(tile).map_err(|e| Error::InvalidInput(format!("`{tile}`: {e}")))?;
                unknown.insert(bytes)
            }
        };
        least.hash_at_index(bytes, stored_index)
    }
}

impl<R: Fn(Tile) -> std::io::Result<Vec<u8>>> HashReader for TreeReader<R> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Node>, Error> {
        indexes.iter().map(|&index| self.node(index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tlog_tiles::{check_record, check_tree};

    use super::*;
    use crate::entry::leaf_hash;
    use crate::tree::edge::{Edge, TileFile};
    use crate::tree::reference;

    #[test]
    fn every_entry_is_proven_in_trees_of_many_sizes() {
        for size in [2, 3, 255, 256, 257, 511, 513, 70_001] {
            let (mut edge, mut files) = (Edge::default(), Vec::new());
            for i in 0..size {
                edge.push(&reference::entry(i), &mut files);
            }
            files.extend(edge.partials(0));
            let files: BTreeMap<_, _> = files
                .into_iter()
                .map(|TileFile { tile, bytes }| (tile, bytes))
                .collect();
            let read = |tile| {
                files
                    .get(&tile)
                    .cloned()
                    .ok_or_else(|| std::io::Error::other("no such tile"))
            };
            for index in (0..size)
                .step_by(1 + usize::try_from(size / 200).expect("small"))
                .chain([size - 1])
            {
                let proof = TreeReader::new(size, read).inclusion(index).expect("a proof");
                assert!(!proof.is_empty());
                let proof = proof.into_iter().map(Node).collect();
                let leaf = Node(leaf_hash(&reference::entry(index)));
                check_record(&proof, size, Node(edge.root()), index, leaf).expect("it leads to the root");
            }
            assert!(
                TreeReader::new(size, read).inclusion(size).is_err(),
                "behind the end"
            );
        }
    }

    #[test]
    fn every_earlier_tree_is_proven_to_be_the_beginning_and_another_is_not() {
        let (mut edge, mut files) = (Edge::default(), Vec::new());
        let mut roots = vec![edge.root()];
        for i in 0..700 {
            edge.push(&reference::entry(i), &mut files);
            roots.push(edge.root());
        }
        files.extend(edge.partials(0));
        let files: BTreeMap<_, _> = files.into_iter().map(|file| (file.tile, file.bytes)).collect();
        let read = |tile| {
            let found = files.get(&tile).cloned();
            found.ok_or_else(|| std::io::Error::other("no such tile"))
        };
        for (from, root) in (1..).zip(&roots[1..]) {
            let proof = TreeReader::new(700, read).consistency(from).expect("a proof");
            let proof = proof.into_iter().map(Node).collect();
            check_tree(&proof, 700, Node(edge.root()), from, Node(*root)).expect("it is the beginning");
            let mut other = *root;
            other[0] ^= 1;
            check_tree(&proof, 700, Node(edge.root()), from, Node(other)).expect_err("another tree");
        }
        let reader = TreeReader::new(700, read);
        for (from, size) in [(1, 2), (255, 256), (256, 300), (299, 699), (17, 17)] {
            let proof = reader.consistency_in(size, from).expect("a proof");
            let (root, first) = (
                reader.root(size).expect("a root"),
                reader.root(from).expect("a root"),
            );
            let at = |size: u64| roots[usize::try_from(size).expect("small")];
            assert_eq!((root, first), (at(size), at(from)));
            let proof = proof.into_iter().map(Node).collect();
            check_tree(&proof, size, Node(root), from, Node(first)).expect("it is the beginning");
        }
        assert!(
            reader.root(701).is_err() && reader.consistency_in(701, 3).is_err(),
            "behind the end"
        );
        for from in [0, 701] {
            assert!(TreeReader::new(700, read).consistency(from).is_err(), "{from}");
        }
    }

    #[test]
    fn a_short_tile_is_an_error() {
        let read = |_| Ok(vec![0; 31]);
        assert!(TreeReader::new(300, read).inclusion(7).is_err());
    }
}
