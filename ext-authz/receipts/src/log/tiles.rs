use std::io;

use super::LOG_DIR;
use crate::storage::{Storage, read_whole};
use crate::tree::{TILE_WIDTH, Tile, TileKind};

/// The most bytes of a tile: 256 entries with their lengths.
const MAX_TILE_BYTES: usize = 256 * 34;

/// The bytes of a tile of a published tree. Where the partial tile was removed, they are the beginning of the full one.
pub(crate) fn read(storage: &dyn Storage, tile: Tile) -> io::Result<Vec<u8>> {
    let wanted = bytes_of(tile);
    let read = |tile: Tile| read_whole(storage, &format!("{LOG_DIR}/{tile}"), MAX_TILE_BYTES);
    let mut bytes = match read(tile) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && tile.width < TILE_WIDTH => read(tile.completed())?,
        other => other?,
    };
    if bytes.len() < wanted {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("`{tile}` has {} bytes, not {wanted}", bytes.len()),
        ));
    }
    bytes.truncate(wanted);
    Ok(bytes)
}

/// How many bytes a tile has.
pub(crate) fn bytes_of(tile: Tile) -> usize {
    let item = match tile.kind {
        TileKind::Entries => 34,
        TileKind::Level(_) => 32,
    };
    usize::try_from(tile.width)
        .unwrap_or(usize::MAX)
        .saturating_mul(item)
}
