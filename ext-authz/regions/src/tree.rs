//! The Merkle tree (RFC 6962) of a log that is copied: what is needed to add entries, to compute the root of any beginning, and to
//! prove one beginning within another. 32 bytes for each 256 entries are in memory.

use std::cell::RefCell;
use std::io;

use tlog_tiles::{
    EMPTY_HASH, Error, Hash as Node, HashReader, node_hash, prove_tree, split_stored_hash_index, tree_hash,
};

use crate::wire::Hash;

/// Entries of a block, as of a tile.
pub(crate) const BLOCK: u64 = 256;

/// The level of a block's root: [`BLOCK`] is two to this power.
const BLOCK_LEVEL: u8 = 8;

/// The perfect subtrees that a growing tree is made of, from the left, the largest first: at most 64 hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frontier {
    size: u64,
    /// Level and root.
    peaks: Vec<(u8, Hash)>,
}

impl Frontier {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Adds an entry by its leaf hash. Returns the root of the block that it fills.
    pub(crate) fn push(&mut self, leaf: Hash) -> Option<Hash> {
        self.size += 1;
        self.merge(0, leaf)
    }

    /// Adds a whole block by its root, to whole blocks.
    fn push_block(&mut self, root: Hash) {
        debug_assert!(
            self.size.is_multiple_of(BLOCK),
            "a block begins inside another one"
        );
        self.size += BLOCK;
        self.merge(BLOCK_LEVEL, root);
    }

    fn merge(&mut self, mut level: u8, mut hash: Hash) -> Option<Hash> {
        let mut block = None;
        while let Some((_, left)) = self.peaks.pop_if(|(last, _)| *last == level) {
            hash = node_hash(Node(left), Node(hash)).0;
            level += 1;
            if level == BLOCK_LEVEL {
                block = Some(hash);
            }
        }
        self.peaks.push((level, hash));
        block
    }

    pub(crate) fn root(&self) -> Hash {
        let right = self.peaks.iter().rev().map(|(_, hash)| Node(*hash));
        right
            .reduce(|right, left| node_hash(left, right))
            .unwrap_or(EMPTY_HASH)
            .0
    }
}

/// The whole tree. The leaves of a block are read where they are needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    frontier: Frontier,
    /// Roots of the whole blocks.
    blocks: Vec<Hash>,
}

/// What a tree grows by, computed and not yet part of it.
#[derive(Clone, Debug)]
pub(crate) struct Growth {
    frontier: Frontier,
    blocks: Vec<Hash>,
}

impl Growth {
    pub(crate) fn push(&mut self, leaf: Hash) {
        self.blocks.extend(self.frontier.push(leaf));
    }

    pub(crate) fn size(&self) -> u64 {
        self.frontier.size()
    }

    pub(crate) fn root(&self) -> Hash {
        self.frontier.root()
    }
}

impl Tree {
    /// The tree of whole blocks, to which the rest is pushed.
    pub(crate) fn of_blocks(blocks: Vec<Hash>) -> Self {
        let mut frontier = Frontier::default();
        for root in &blocks {
            frontier.push_block(*root);
        }
        Self { frontier, blocks }
    }

    pub(crate) fn size(&self) -> u64 {
        self.frontier.size()
    }

    pub(crate) fn root(&self) -> Hash {
        self.frontier.root()
    }

    pub(crate) fn blocks(&self) -> &[Hash] {
        &self.blocks
    }

    /// Begins to grow.
    pub(crate) fn growth(&self) -> Growth {
        Growth {
            frontier: self.frontier.clone(),
            blocks: Vec::new(),
        }
    }

    /// Begins to grow from the first `size` entries, to see what the tree could have become. `leaves` as in [`Tree::root_of`].
    pub(crate) fn growth_at(
        &self,
        size: u64,
        leaves: &dyn Fn(u64) -> io::Result<Vec<Hash>>,
    ) -> io::Result<Growth> {
        let whole = to_usize(size / BLOCK).min(self.blocks.len());
        let mut growth = Self::of_blocks(self.blocks[..whole].to_vec()).growth();
        if growth.size() < size {
            let rest = leaves(size / BLOCK)?;
            let rest = rest.into_iter().take(to_usize(size % BLOCK));
            rest.for_each(|leaf| growth.push(leaf));
        }
        Ok(growth)
    }

    /// Takes in what grew from this very tree.
    pub(crate) fn grow(&mut self, growth: Growth) {
        self.frontier = growth.frontier;
        self.blocks.extend(growth.blocks);
    }

    /// The root of the first `size` entries. `leaves` gives the leaf hashes of a block, as many as there are.
    pub(crate) fn root_of(
        &self,
        size: u64,
        leaves: &dyn Fn(u64) -> io::Result<Vec<Hash>>,
    ) -> io::Result<Hash> {
        if size == self.size() {
            return Ok(self.root());
        }
        let root = tree_hash(size, &self.nodes(leaves)).map_err(io::Error::other)?;
        Ok(root.0)
    }

    /// The proof (RFC 6962, 2.1.2) that the tree of the first `size` entries begins with that of `from`, 1 or more.
    pub(crate) fn consistency(
        &self,
        from: u64,
        size: u64,
        leaves: &dyn Fn(u64) -> io::Result<Vec<Hash>>,
    ) -> io::Result<Vec<Hash>> {
        let proof = prove_tree(size, from, &self.nodes(leaves)).map_err(io::Error::other)?;
        Ok(proof.into_iter().map(|node| node.0).collect())
    }

    fn nodes<'t>(&'t self, leaves: &'t dyn Fn(u64) -> io::Result<Vec<Hash>>) -> Nodes<'t> {
        Nodes {
            tree: self,
            leaves,
            block: RefCell::default(),
        }
    }
}

/// Reads nodes of the tree. The block that was read last is kept: what one proof needs of leaves is in two blocks at most.
struct Nodes<'t> {
    tree: &'t Tree,
    leaves: &'t dyn Fn(u64) -> io::Result<Vec<Hash>>,
    block: RefCell<Option<(u64, Vec<Hash>)>>,
}

impl Nodes<'_> {
    fn node(&self, index: u64) -> Result<Node, Error> {
        let (level, n) = split_stored_hash_index(index);
        let none = Error::IndexesNotInTree;
        let first = n.checked_shl(u32::from(level)).ok_or(Error::IndexesNotInTree)?;
        if first + (1 << level) > self.tree.size() {
            return Err(none);
        }
        if level >= BLOCK_LEVEL {
            let range = to_usize(first / BLOCK)..to_usize((first + (1 << level)) / BLOCK);
            return self.tree.blocks.get(range).map(perfect).ok_or(none);
        }
        let block = first / BLOCK;
        let mut read = self.block.borrow_mut();
        if read.as_ref().is_none_or(|(of, _)| *of != block) {
            let leaves = (self.leaves)(block).map_err(|e| Error::InvalidInput(e.to_string()))?;
            *read = Some((block, leaves));
        }
        let at = to_usize(first % BLOCK);
        let leaves = read
            .as_ref()
            .and_then(|(_, leaves)| leaves.get(at..at + (1 << level)));
        leaves.map(perfect).ok_or(none)
    }
}

impl HashReader for Nodes<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Node>, Error> {
        indexes.iter().map(|&index| self.node(index)).collect()
    }
}

/// The root over a power of two of nodes.
fn perfect(nodes: &[Hash]) -> Node {
    if let [node] = nodes {
        return Node(*node);
    }
    let (left, right) = nodes.split_at(nodes.len() / 2);
    node_hash(perfect(left), perfect(right))
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};
    use tlog_tiles::check_tree;

    use super::*;

    fn leaf(i: u64) -> Hash {
        Sha256::digest(i.to_be_bytes()).into()
    }

    /// RFC 6962, 2.1, as it is written there, over leaf hashes.
    fn reference(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                let pair = Sha256::new().chain_update([1]).chain_update(reference(left));
                pair.chain_update(reference(right)).finalize().into()
            }
        }
    }

    fn grown(size: u64) -> (Tree, Vec<Hash>) {
        let (mut tree, mut leaves) = (Tree::default(), Vec::new());
        let mut growth = tree.growth();
        for i in 0..size {
            growth.push(leaf(i));
            leaves.push(leaf(i));
        }
        tree.grow(growth);
        (tree, leaves)
    }

    fn block_of(leaves: &[Hash]) -> impl Fn(u64) -> io::Result<Vec<Hash>> + '_ {
        |block| {
            let from = to_usize(block * BLOCK).min(leaves.len());
            Ok(leaves[from..leaves.len().min(from + 256)].to_vec())
        }
    }

    #[test]
    fn the_root_is_that_of_rfc_6962_at_every_size() {
        let mut frontier = Frontier::default();
        let mut leaves = Vec::new();
        assert_eq!(frontier.root(), reference(&leaves));
        for i in 0..600 {
            let block = frontier.push(leaf(i));
            leaves.push(leaf(i));
            assert_eq!(frontier.root(), reference(&leaves), "size {}", i + 1);
            assert_eq!(block.is_some(), (i + 1).is_multiple_of(BLOCK));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_beginning_has_its_root_and_its_proof(
            size in prop::sample::select(vec![1_u64, 2, 255, 256, 257, 300, 511, 512, 513, 1025, 2000]),
            a: prop::sample::Index,
            b: prop::sample::Index,
        ) {
            let (tree, leaves) = grown(size);
            let (a, b) = (1 + a.index(leaves.len()), 1 + b.index(leaves.len()));
            let (from, to) = (a.min(b), a.max(b));
            let read = block_of(&leaves);
            let root = |n: usize| tree.root_of(n as u64, &read).expect("a root");
            prop_assert_eq!(root(from), reference(&leaves[..from]));
            let proof = tree.consistency(from as u64, to as u64, &read).expect("a proof");
            let proof = proof.into_iter().map(Node).collect();
            check_tree(&proof, to as u64, Node(root(to)), from as u64, Node(root(from))).expect("it is the beginning");
            prop_assert!(tree.root_of(size + 1, &read).is_err());
        }

        #[test]
        fn a_tree_of_blocks_goes_on_as_the_one_that_made_them(size in 0..1500_u64, more in 0..600_u64) {
            let (tree, leaves) = grown(size);
            let mut again = Tree::of_blocks(tree.blocks().to_vec());
            let mut growth = again.growth();
            let rest = to_usize(again.size());
            leaves[rest..].iter().for_each(|leaf| growth.push(*leaf));
            (size..size + more).for_each(|i| growth.push(leaf(i)));
            prop_assert_eq!((growth.size(), growth.root()), (size + more, grown(size + more).0.root()));
            again.grow(growth);
            let (whole, _) = grown(size + more);
            prop_assert_eq!(again.blocks(), whole.blocks());
        }

        #[test]
        fn a_beginning_grows_as_it_grew(size in 0..700_u64, at: prop::sample::Index, more in 0..300_u64) {
            let (tree, leaves) = grown(size);
            let from = at.index(leaves.len() + 1) as u64;
            let mut growth = tree.growth_at(from, &block_of(&leaves)).expect("reads");
            (from..from + more).for_each(|i| growth.push(leaf(i)));
            prop_assert_eq!(growth.root(), grown(from + more).0.root());
        }
    }
}
