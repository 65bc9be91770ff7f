//! Starting from what a crash left behind.
//!
//! The segments are the truth. The last one may end in records that were never acknowledged; a broken one among those, and
//! what follows it, is cut. What was signed (`log/root`) says which entries must be there, and their root. A start first looks
//! at everything and changes nothing ([`survey`]): where something contradicts something else it is refused, with every file as
//! it was. Then it cuts what is unfinished, and makes anew what is derived and missing ([`Survey::repair`]).

use std::io;
use std::sync::Arc;

use super::book::Book;
use super::error::LogError;
use super::kept::{self, KEPT_DIR, Kept};
use super::keyring::Keyring;
use super::publisher::{Publisher, extend, write_tiles};
use super::segments::Segments;
use super::tail::{Tail, open_segments};
use super::writer::Writer;
use super::{CHECKPOINT_PATH, LOG_DIR, ROOT_PATH, keys, reading};
use crate::checkpoint::MAX_CHECKPOINT_BYTES;
use crate::payload::{Genesis, Payload};
use crate::root::{MAX_ROOT_BYTES, SignedRoot};
use crate::storage::{Storage, read_whole};
use crate::tree::{Edge, TILE_WIDTH, Tile};

/// What is on disk, all of it in agreement.
pub(crate) struct Survey {
    origin: String,
    segments: Arc<Segments>,
    tail: Tail,
    root: Option<SignedRoot>,
    edge: Edge,
    tiles_are_whole: bool,
    /// None while the log has no entry.
    keys: Option<keys::Found>,
    kept: kept::Found,
}

/// Looks at everything, and changes nothing.
pub(crate) fn survey(storage: &Arc<dyn Storage>, origin: &str) -> Result<Survey, LogError> {
    let root = read_root(storage.as_ref())?;
    if let Some(root) = root.as_ref().filter(|root| root.checkpoint.origin() != origin) {
        return Err(LogError::OtherLog {
            found: root.checkpoint.origin().to_owned(),
            wanted: origin.to_owned(),
        });
    }
    let (segments, tail) = open_segments(storage)?;
    let segments = Arc::new(segments);
    let kept = Kept::find(storage.as_ref(), origin)?;
    let (edge, tiles_are_whole) = match &root {
        None => (Edge::default(), true),
        Some(root) => edge_at(&segments, root)?,
    };
    let keys = if let Some(genesis) = genesis(&segments, origin)? {
        Some(keys::find(&segments, &genesis, root.as_ref(), &kept)?)
    } else {
        require_new(storage.as_ref(), &kept)?;
        None
    };
    Ok(Survey {
        origin: origin.to_owned(),
        segments,
        tail,
        root,
        edge,
        tiles_are_whole,
        keys,
        kept,
    })
}

impl Survey {
    /// Whether there is no entry yet.
    pub(crate) fn is_new(&self) -> bool {
        self.keys.is_none()
    }

    /// Brings the log to a state that can go on. `first` makes the genesis of a log that is new. Does nothing a second time.
    pub(crate) fn repair(
        self,
        segment_bytes: u64,
        now_ms: u64,
        first: impl FnOnce(&mut Writer) -> Result<Keyring, LogError>,
    ) -> Result<(Writer, Publisher), LogError> {
        let storage = Arc::clone(self.segments.storage());
        let file = self.tail.repair(&self.segments)?;
        // Root and keys may be there by renames that are not durable yet.
        storage.sync_dir(LOG_DIR).map_err(LogError::io("sync", LOG_DIR))?;
        let mut writer = Writer::new(Arc::clone(&self.segments), file, segment_bytes);
        if !self.tiles_are_whole {
            write_all_tiles(&self.segments, self.edge.size())?;
        }
        let kept = Kept::repair(Arc::clone(&storage), &self.kept)?;
        let (keyring, listed) = match self.keys {
            Some(found) => (found.keyring, found.is_on_disk),
            None => (first(&mut writer)?, false),
        };
        let shown = self.root.as_ref().filter(|root| is_shown(storage.as_ref(), root));
        let shown = shown.map(SignedRoot::size);
        let mut book = Book::new(storage, self.root, keyring.clone(), kept, now_ms);
        if let Some(size) = shown {
            book.has_shown(size);
        }
        if !listed {
            book.put(keyring)?;
        }
        book.settle(now_ms)?;
        let publisher = Publisher::new(self.segments, self.origin, self.edge, book)?;
        Ok((writer, publisher))
    }
}

fn read_root(storage: &dyn Storage) -> Result<Option<SignedRoot>, LogError> {
    let bytes = match read_whole(storage, ROOT_PATH, MAX_ROOT_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            // It is made durable before any other file that speaks of something signed.
            return match storage.open(CHECKPOINT_PATH) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                _ => Err(LogError::damaged(format!(
                    "`{ROOT_PATH}` is missing, and `{CHECKPOINT_PATH}` is there (lost, or of an earlier version, which wrote none)"
                ))),
            };
        }
        Err(e) => return Err(LogError::io("read", ROOT_PATH)(e)),
    };
    let root = SignedRoot::from_bytes(&bytes);
    root.map(Some)
        .map_err(|e| LogError::damaged(format!("`{ROOT_PATH}`: {e}")))
}

/// Entry 0, if there is an entry.
fn genesis(segments: &Arc<Segments>, origin: &str) -> Result<Option<Genesis>, LogError> {
    if segments.size() == 0 {
        return Ok(None);
    }
    match reading::payload(segments, 0)? {
        Payload::Genesis(genesis) if genesis.origin == origin => Ok(Some(genesis)),
        Payload::Genesis(genesis) => Err(LogError::OtherLog {
            found: genesis.origin,
            wanted: origin.to_owned(),
        }),
        other => Err(LogError::damaged(format!(
            "entry 0 is a {}, not the genesis",
            other.kind()
        ))),
    }
}

/// A log without entries has nothing that follows from entries. A root it cannot have: that has more entries than none.
fn require_new(storage: &dyn Storage, kept: &kept::Found) -> Result<(), LogError> {
    let missing = |path: &str| {
        Err(LogError::damaged(format!(
            "there is no entry, and `{path}` is there"
        )))
    };
    if kept.newest().is_some() {
        return missing(KEPT_DIR);
    }
    match storage.open(super::keyring::KEYS_PATH) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => missing(super::keyring::KEYS_PATH),
    }
}

/// The right edge of the signed tree, whose root is checked, and whether its tiles are all there.
fn edge_at(segments: &Arc<Segments>, root: &SignedRoot) -> Result<(Edge, bool), LogError> {
    let (size, have) = (root.size(), segments.size());
    if size > have {
        return Err(LogError::damaged(format!(
            "its checkpoint covers {size} entries, and only {have} are there"
        )));
    }
    let storage = segments.storage().as_ref();
    let nowhere = &mut |_: &[_]| Ok(());
    // The tail is taken from the last segment, all before it from the tiles.
    let from = segments.current().0.min(size) / TILE_WIDTH * TILE_WIDTH;
    if let Ok(mut edge) = Edge::load(from, |tile| read_hashes(storage, tile, size)) {
        extend(segments, &mut edge, size, nowhere)?;
        let whole = edge.partials(0).iter().all(|file| exists(storage, file.tile));
        if edge.root() == root.checkpoint.root() && whole {
            return Ok((edge, true));
        }
    }
    tracing::warn!(
        size,
        "tiles are missing or damaged; computing the tree from all entries"
    );
    let mut edge = Edge::default();
    extend(segments, &mut edge, size, nowhere)?;
    if edge.root() != root.checkpoint.root() {
        return Err(LogError::damaged(format!(
            "the root of its {size} entries is not the one of its checkpoint"
        )));
    }
    Ok((edge, false))
}

fn write_all_tiles(segments: &Arc<Segments>, size: u64) -> Result<(), LogError> {
    let storage = segments.storage().as_ref();
    let mut edge = Edge::default();
    extend(segments, &mut edge, size, &mut |files| {
        write_tiles(storage, files)
    })?;
    write_tiles(storage, &edge.partials(0))
}

fn exists(storage: &dyn Storage, tile: Tile) -> bool {
    storage.open(&format!("{LOG_DIR}/{tile}")).is_ok()
}

/// The first hashes of a tile, which in the tree of `size` entries may have more.
fn read_hashes(storage: &dyn Storage, tile: Tile, size: u64) -> io::Result<Vec<[u8; 32]>> {
    let on_disk = Tile::in_tree(tile.kind, tile.n, size).ok_or(io::ErrorKind::NotFound)?;
    let bytes = super::tiles::read(storage, on_disk)?;
    let (hashes, _) = bytes.as_chunks::<32>();
    let width = usize::try_from(tile.width).unwrap_or(usize::MAX);
    hashes
        .get(..width)
        .map(<[_]>::to_vec)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn is_shown(storage: &dyn Storage, root: &SignedRoot) -> bool {
    read_whole(storage, CHECKPOINT_PATH, MAX_CHECKPOINT_BYTES)
        .is_ok_and(|bytes| bytes == root.checkpoint.as_bytes())
}
