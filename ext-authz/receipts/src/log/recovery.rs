//! Starting from what a crash left behind.
//!
//! The segments are the truth. The last one may end in records that were never acknowledged; a broken one among those, and
//! what follows it, is cut. Everything else is derived, and is checked against the last published checkpoint: the log must
//! have all the entries that the checkpoint covers, and their root must be the checkpoint's. Otherwise the start is refused.

use std::io;
use std::sync::Arc;

use super::error::LogError;
use super::offsets::{self, Offsets};
use super::publisher::{Publisher, extend, write_tiles};
use super::segments::{Current, Segments};
use super::writer::{Writer, create_segment};
use super::{CHECKPOINT_PATH, LOG_DIR};
use crate::checkpoint::{MAX_CHECKPOINT_BYTES, SignedCheckpoint};
use crate::key::PublicKey;
use crate::segment::{Found, HEADER_LEN, SEGMENTS_DIR, Scanner, first_of, has_header, path_of};
use crate::storage::{File, Storage, read_whole};
use crate::tree::{Edge, TILE_WIDTH, Tile};

/// Brings the log back to a state that can go on. Does nothing a second time.
pub(crate) fn recover(
    storage: &Arc<dyn Storage>,
    origin: &str,
    key: &PublicKey,
    segment_bytes: u64,
) -> Result<(Writer, Publisher), LogError> {
    storage
        .create_dir(SEGMENTS_DIR)
        .map_err(LogError::io("make", SEGMENTS_DIR))?;
    let checkpoint = read_checkpoint(storage.as_ref())?;
    let (segments, file) = open_segments(storage)?;
    let segments = Arc::new(segments);
    let edge = match &checkpoint {
        None => Edge::default(),
        Some(checkpoint) if checkpoint.origin() != origin => {
            let (found, wanted) = (checkpoint.origin().to_owned(), origin.to_owned());
            return Err(LogError::OtherLog { found, wanted });
        }
        Some(checkpoint) => edge_at(&segments, checkpoint)?,
    };
    // A checkpoint by an earlier key, or with a damaged signature, is signed anew at the next flush.
    let trusted = checkpoint.filter(|it| it.verify(std::slice::from_ref(key)).is_ok());
    let writer = Writer::new(Arc::clone(&segments), file, segment_bytes);
    let publisher = Publisher::new(segments, origin.to_owned(), edge, trusted)?;
    Ok((writer, publisher))
}

fn read_checkpoint(storage: &dyn Storage) -> Result<Option<SignedCheckpoint>, LogError> {
    let bytes = match read_whole(storage, CHECKPOINT_PATH, MAX_CHECKPOINT_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(LogError::io("read", CHECKPOINT_PATH)(e)),
    };
    let checkpoint = SignedCheckpoint::from_bytes(&bytes);
    checkpoint
        .map(Some)
        .map_err(|e| LogError::damaged(format!("`{CHECKPOINT_PATH}`: {e}")))
}

fn open_segments(storage: &Arc<dyn Storage>) -> Result<(Segments, Box<dyn File>), LogError> {
    let names = storage
        .list(SEGMENTS_DIR)
        .map_err(LogError::io("list", SEGMENTS_DIR))?;
    let mut closed: Vec<u64> = names.iter().filter_map(|name| first_of(name)).collect();
    let first = closed.pop().unwrap_or(0);
    let mut expected = 0;
    for &segment in &closed {
        require_first(segment, expected)?;
        expected += offsets::of_closed(storage.as_ref(), segment)?.entries();
    }
    require_first(first, expected)?;
    let (current, file) = open_last(storage.as_ref(), first)?;
    Ok((Segments::new(Arc::clone(storage), closed, current), file))
}

fn require_first(found: u64, expected: u64) -> Result<(), LogError> {
    if found == expected {
        return Ok(());
    }
    Err(LogError::damaged(format!(
        "`{SEGMENTS_DIR}` has a segment of entry {found} where that of entry {expected} should be"
    )))
}

/// Opens the segment that may have been written to in the moment of a crash, and cuts what is broken at its end.
fn open_last(storage: &dyn Storage, first: u64) -> Result<(Current, Box<dyn File>), LogError> {
    let path = path_of(first);
    let read = LogError::io("read", &path);
    let file = match storage.open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return empty(storage, first),
        Err(e) => return Err(LogError::io("open", &path)(e)),
    };
    let len = file.len().map_err(&read)?;
    if !has_header(file.as_ref(), first).map_err(&read)? {
        // Records are written only behind a header that is durable.
        if len <= HEADER_LEN {
            return empty(storage, first);
        }
        return Err(LogError::damaged(format!("`{path}` does not begin as a segment")));
    }
    let again = storage.open(&path).map_err(LogError::io("open", &path))?;
    let (mut scanner, mut offsets) = (Scanner::new(again, HEADER_LEN, len, first), Offsets::default());
    loop {
        let offset = scanner.offset();
        match scanner.next_record().map_err(&read)? {
            Found::Record(_) => offsets.push(offset),
            Found::End => break,
            Found::Broken => {
                if scanner.later_group_follows().map_err(&read)? {
                    let index = scanner.index();
                    return Err(LogError::damaged(format!(
                        "entry {index} in `{path}` cannot be read at byte {offset}, and later entries are there"
                    )));
                }
                tracing::warn!(
                    path,
                    from = offset,
                    bytes = len - offset,
                    "cut an unfinished write"
                );
                file.set_len(offset).map_err(LogError::io("cut", &path))?;
                break;
            }
        }
    }
    let end = scanner.offset();
    // What was read may be in the cache only, when the process died and the machine did not.
    file.sync().map_err(LogError::io("sync", &path))?;
    storage
        .sync_dir(SEGMENTS_DIR)
        .map_err(LogError::io("sync", SEGMENTS_DIR))?;
    Ok((Current { first, offsets, end }, file))
}

fn empty(storage: &dyn Storage, first: u64) -> Result<(Current, Box<dyn File>), LogError> {
    let file = create_segment(storage, first)?;
    Ok((
        Current {
            first,
            offsets: Offsets::default(),
            end: HEADER_LEN,
        },
        file,
    ))
}

/// The right edge of the checkpoint's tree, whose root is checked, and whose tiles are all there afterwards.
fn edge_at(segments: &Arc<Segments>, checkpoint: &SignedCheckpoint) -> Result<Edge, LogError> {
    let (size, have) = (checkpoint.size(), segments.size());
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
        if edge.root() == checkpoint.root() && edge.partials(0).iter().all(|file| exists(storage, file.tile))
        {
            return Ok(edge);
        }
    }
    tracing::warn!(
        size,
        "tiles are missing or damaged; computing the tree from all entries"
    );
    let mut edge = Edge::default();
    extend(segments, &mut edge, size, nowhere)?;
    if edge.root() != checkpoint.root() {
        return Err(LogError::damaged(format!(
            "the root of its {size} entries is not the one of its checkpoint"
        )));
    }
    let mut edge = Edge::default();
    extend(segments, &mut edge, size, &mut |files| {
        write_tiles(storage, files)
    })?;
    write_tiles(storage, &edge.partials(0))?;
    Ok(edge)
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
