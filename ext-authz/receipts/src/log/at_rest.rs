//! A log that is not open: what was signed of it, by its files alone. Nothing is changed, and nothing is signed.

use std::io;
use std::sync::Arc;

use super::error::LogError;
use super::keyring::{KEYS_PATH, Keyring, MAX_FILE_BYTES};
use super::publisher::extend;
use super::tail::open_segments;
use super::{ROOT_PATH, tiles};
use crate::key::PublicKey;
use crate::root::{MAX_ROOT_BYTES, SignedRoot};
use crate::segment::SEGMENTS_DIR;
use crate::storage::{Storage, read_whole};
use crate::tree::{Edge, TreeReader};

/// What a data directory has of a log that nobody has open.
pub struct AtRest {
    storage: Arc<dyn Storage>,
    root: Option<SignedRoot>,
}

impl AtRest {
    /// Looks for a log. `None` where there is not a file of its entries.
    pub fn find(storage: Arc<dyn Storage>) -> Result<Option<Self>, LogError> {
        let names = storage
            .list(SEGMENTS_DIR)
            .map_err(LogError::io("list", SEGMENTS_DIR))?;
        let root = match read_whole(storage.as_ref(), ROOT_PATH, MAX_ROOT_BYTES) {
            Ok(bytes) => Some(
                SignedRoot::from_bytes(&bytes)
                    .map_err(|e| LogError::damaged(format!("`{ROOT_PATH}`: {e}")))?,
            ),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(LogError::io("read", ROOT_PATH)(e)),
        };
        let is_there = !names.is_empty() || root.is_some();
        Ok(is_there.then_some(Self { storage, root }))
    }

    /// What was signed last.
    pub fn root(&self) -> Option<&SignedRoot> {
        self.root.as_ref()
    }

    /// The root of the first `size` entries, of which what was signed last covers all. Reads tiles, or all those entries where
    /// tiles are missing: a start makes those anew.
    pub fn root_of(&self, size: u64) -> Result<[u8; 32], LogError> {
        let index = size.saturating_sub(1);
        let signed = self.root.as_ref().filter(|it| it.size() >= size);
        let signed = signed.ok_or(LogError::NotCovered { index })?;
        if signed.size() == size {
            return Ok(signed.checkpoint.root());
        }
        let tiles = TreeReader::new(signed.size(), |tile| tiles::read(self.storage.as_ref(), tile));
        tiles.root(size).or_else(|_| self.root_of_entries(size))
    }

    fn root_of_entries(&self, size: u64) -> Result<[u8; 32], LogError> {
        let (segments, _) = open_segments(&self.storage)?;
        let mut edge = Edge::default();
        extend(&Arc::new(segments), &mut edge, size, &mut |_| Ok(()))?;
        if edge.size() < size {
            let found = edge.size();
            return Err(LogError::damaged(format!(
                "only {found} of {size} signed entries are there"
            )));
        }
        Ok(edge.root())
    }

    /// The keys in the log's file of them, in their order; none where that is missing or damaged.
    pub fn keys(&self) -> Vec<PublicKey> {
        let bytes = read_whole(self.storage.as_ref(), KEYS_PATH, MAX_FILE_BYTES).unwrap_or_default();
        let ring = Keyring::from_bytes(&bytes);
        let keys = ring.iter().flat_map(Keyring::keys);
        keys.map(|it| it.key.clone()).collect()
    }
}
