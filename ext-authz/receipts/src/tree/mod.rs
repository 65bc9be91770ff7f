//! The Merkle tree over the entries (RFC 6962 hashing), kept as C2SP tlog-tiles.

mod edge;
mod proof;
#[cfg(test)]
pub(crate) mod reference;
mod tile;

pub(crate) use edge::{Edge, TileFile, root_of};
pub(crate) use proof::TreeReader;
pub(crate) use tile::{Tile, TileKind};

/// Hashes in a full tile, and entries in a full bundle.
pub(crate) const TILE_WIDTH: u64 = 256;

/// Levels of the tree that one tile spans: `TILE_WIDTH` is two to this power.
pub(crate) const TILE_HEIGHT: u8 = 8;

/// One node of the tree, or one entry.
pub(crate) type Hash = [u8; 32];
