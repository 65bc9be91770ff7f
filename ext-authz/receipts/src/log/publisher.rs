use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::LOG_DIR;
use super::book::Book;
use super::error::LogError;
use super::segments::Segments;
use crate::checkpoint::{MIN_SIGNED_SIZE, Unsigned};
use crate::root::SignedRoot;
use crate::storage::{Storage, parent};
use crate::tree::{Edge, TILE_WIDTH, Tile, TileFile, TileKind};

/// How many full tiles are collected before they are written together.
const TILES_AT_ONCE: usize = 128;

/// Keeps the derived part of the log up with the entries: tiles, then the signed root that covers them.
///
/// Partial tiles are removed once a published checkpoint covers the full tile: readers then find that one instead, as the
/// specification tells them to. Those that no published checkpoint has, as the tree they are of was not signed, are removed once
/// there is a wider one.
pub(crate) struct Publisher {
    segments: Arc<Segments>,
    origin: String,
    /// Of the tree whose tiles are all durable.
    edge: Edge,
    book: Book,
    /// Tiles, as full ones, that have partial forms on disk.
    with_partials: BTreeSet<Tile>,
    /// Whether some of them may be of trees that were not signed, and are not the newest.
    leftovers: Leftovers,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leftovers {
    None,
    Possible,
}

impl Publisher {
    /// Goes on from a tree whose tiles are all durable.
    pub(crate) fn new(
        segments: Arc<Segments>,
        origin: String,
        edge: Edge,
        book: Book,
    ) -> Result<Self, LogError> {
        let with_partials = partials_on_disk(segments.storage().as_ref(), edge.size())
            .map_err(LogError::io("list the tiles in", LOG_DIR))?;
        Ok(Self {
            segments,
            origin,
            edge,
            book,
            with_partials,
            // A process that ended without a signature left some.
            leftovers: Leftovers::Possible,
        })
    }

    /// How many entries are durable.
    pub(crate) fn size(&self) -> u64 {
        self.segments.size()
    }

    pub(crate) fn book(&self) -> &Book {
        &self.book
    }

    pub(crate) fn book_mut(&mut self) -> &mut Book {
        &mut self.book
    }

    /// Whether there are durable entries that no signature covers, and that can be signed.
    pub(crate) fn owes_a_signature(&self) -> bool {
        let size = self.size();
        size >= MIN_SIGNED_SIZE && size != self.signed_size()
    }

    /// Makes the tiles of all durable entries durable, and returns what is to be signed, if it is new.
    ///
    /// A tree of fewer than [`MIN_SIGNED_SIZE`] entries is not signed.
    pub(crate) fn prepare(&mut self, now_ms: u64) -> Result<Option<Unsigned>, LogError> {
        self.book.settle(now_ms)?;
        let before = self.edge.size();
        if self.segments.size() > before {
            let mut edge = self.edge.clone();
            self.extend(&mut edge)?;
            self.with_partials
                .extend(edge.partials(before).iter().map(|file| file.tile.completed()));
            self.edge = edge;
            self.remove_leftovers();
            if self.signed_size() != self.edge.size() {
                self.leftovers = Leftovers::Possible;
            }
        }
        let size = self.edge.size();
        let signed = self.book.root().is_some_and(|root| root.size() == size);
        if signed || size < MIN_SIGNED_SIZE {
            return Ok(None);
        }
        Ok(Some(Unsigned {
            origin: self.origin.clone(),
            size,
            root: self.edge.root(),
        }))
    }

    /// Publishes the signed form of what [`Publisher::prepare`] returned.
    pub(crate) fn publish(&mut self, root: SignedRoot, now_ms: u64) -> Result<(), LogError> {
        let size = root.size();
        self.book.publish(root, now_ms)?;
        let storage = self.segments.storage().as_ref();
        self.with_partials.retain(|&tile| {
            let covered = Tile::in_tree(tile.kind, tile.n, size).is_some_and(|it| it.width == TILE_WIDTH);
            if !covered {
                return true;
            }
            let removed = remove_partials(storage, tile);
            if let Err(error) = &removed {
                tracing::warn!(%tile, %error, "old partial tiles are still there; removal is tried again");
            }
            removed.is_err()
        });
        Ok(())
    }

    /// Entries under the newest root that is durable.
    fn signed_size(&self) -> u64 {
        self.book.root().map_or(0, |root| root.size())
    }

    /// Removes partial tiles that no published checkpoint has, and that wider ones, durable by now, have taken the place of:
    /// while nothing is signed each flush would leave some more.
    fn remove_leftovers(&mut self) {
        if self.leftovers == Leftovers::None {
            return;
        }
        let (signed, size) = (self.signed_size(), self.edge.size());
        let storage = self.segments.storage().as_ref();
        let removed = self
            .with_partials
            .iter()
            .try_for_each(|&tile| remove_unsigned(storage, tile, signed, size));
        match removed {
            Ok(()) => self.leftovers = Leftovers::None,
            Err(error) => {
                tracing::warn!(%error, "partial tiles of trees without a signature are still there; removal is tried again");
            }
        }
    }

    fn extend(&self, edge: &mut Edge) -> Result<(), LogError> {
        let before = edge.size();
        let storage = self.segments.storage().as_ref();
        extend(&self.segments, edge, self.segments.size(), &mut |files| {
            write_tiles(storage, files)
        })?;
        write_tiles(storage, &edge.partials(before))
    }
}

/// Adds the entries up to `size` to the tree. Full tiles go to `write`, in groups.
pub(crate) fn extend(
    segments: &Arc<Segments>,
    edge: &mut Edge,
    size: u64,
    write: &mut dyn FnMut(&[TileFile]) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let (mut cursor, mut full) = (segments.cursor(edge.size()), Vec::new());
    while edge.size() < size {
        let Some(entry) = cursor.next(|record| record.commitment)? else {
            break;
        };
        edge.push(&entry, &mut full);
        if full.len() >= TILES_AT_ONCE {
            write(&full)?;
            full.clear();
        }
    }
    write(&full)
}

/// Makes tiles durable. A tile that was there before has its old or its new content at every moment.
pub(crate) fn write_tiles(storage: &dyn Storage, tiles: &[TileFile]) -> Result<(), LogError> {
    if tiles.is_empty() {
        return Ok(());
    }
    let write = || -> io::Result<()> {
        let names: Vec<_> = tiles
            .iter()
            .map(|file| format!("{LOG_DIR}/{}", file.tile))
            .collect();
        let mut files = Vec::with_capacity(tiles.len());
        for (name, content) in names.iter().zip(tiles) {
            let file = create_with_dir(storage, &unfinished(name))?;
            file.write_at(0, &content.bytes)?;
            files.push(file);
        }
        storage.sync_files(&files)?;
        for name in &names {
            storage.rename(&unfinished(name), name)?;
        }
        let dirs: BTreeSet<_> = names.iter().map(|name| parent(name)).collect();
        dirs.into_iter().try_for_each(|dir| storage.sync_dir(dir))
    };
    write().map_err(LogError::io("write tiles to", LOG_DIR))
}

fn unfinished(name: &str) -> String {
    format!("{name}.new")
}

fn create_with_dir(storage: &dyn Storage, path: &str) -> io::Result<Box<dyn crate::storage::File>> {
    match storage.create(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            storage.create_dir(parent(path))?;
            storage.create(path)
        }
        other => other,
    }
}

/// Which tiles at the right end of the tree have partial forms. Earlier ones were looked after when they became full.
fn partials_on_disk(storage: &dyn Storage, size: u64) -> io::Result<BTreeSet<Tile>> {
    let mut found = BTreeSet::new();
    let levels = (0..8).map(TileKind::Level);
    for kind in std::iter::once(TileKind::Entries).chain(levels) {
        let last = format!("{LOG_DIR}/{}", Tile::full(kind, kind.items(size) / TILE_WIDTH));
        let dir = parent(&last);
        for name in storage.list(dir)? {
            let path = name.strip_suffix(".p").map(|name| format!("{dir}/{name}"));
            let tile: Option<Tile> = path
                .as_deref()
                .and_then(|path| path.strip_prefix(LOG_DIR)?.strip_prefix('/')?.parse().ok());
            found.extend(tile);
        }
    }
    Ok(found)
}

/// Removes the partial forms of a tile that are wider than in the signed tree and are not the one in the tree of `size` entries.
/// Narrower ones may be those of checkpoints that were published before.
fn remove_unsigned(storage: &dyn Storage, tile: Tile, signed: u64, size: u64) -> io::Result<()> {
    let width_at = |size| Tile::in_tree(tile.kind, tile.n, size).map_or(0, |it| it.width);
    let (signed, now) = (width_at(signed), width_at(size));
    let dir = format!("{LOG_DIR}/{}", tile.partials_dir());
    for name in storage.list(&dir)? {
        let width: Option<u64> = name.parse().ok();
        if width.is_some_and(|width| width > signed && width < now) {
            storage.remove(&format!("{dir}/{name}"))?;
        }
    }
    Ok(())
}

fn remove_partials(storage: &dyn Storage, tile: Tile) -> io::Result<()> {
    let dir = format!("{LOG_DIR}/{}", tile.partials_dir());
    for name in storage.list(&dir)? {
        storage.remove(&format!("{dir}/{name}"))?;
    }
    match storage.remove_dir(&dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
