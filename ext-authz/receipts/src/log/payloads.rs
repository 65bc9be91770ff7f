//! Payload bundles for readers of the log.

use super::Log;
use super::error::LogError;
use super::segments::Cursor;
use crate::bundle::{self, put};
use crate::tree::{TILE_WIDTH, Tile};

/// A piece has so many bytes, or one item where that is larger.
const PIECE_BYTES: usize = 256 * 1024;

/// A payload bundle, piece by piece: one can be far larger than what should be in memory at once. Each piece is whole items,
/// so every piece is a CBOR sequence too. Reads from disk.
pub struct Payloads {
    cursor: Cursor,
    left: u64,
}

impl Log {
    /// The payload bundle of this path, `payloads/<N>[.p/<W>]`, see [`crate::bundle`]. What the newest checkpoint does not
    /// cover is not there.
    pub fn payloads(&self, path: &str) -> Result<Payloads, LogError> {
        let none = || LogError::NoTile {
            path: path.chars().take(80).collect(),
        };
        let wanted = bundle::parse_path(path).ok_or_else(none)?;
        let signed = self.checkpoint().ok_or_else(none)?.size();
        let published = Tile::in_tree(wanted.kind, wanted.n, signed).ok_or_else(none)?;
        if wanted.width > published.width {
            return Err(none());
        }
        Ok(Payloads {
            cursor: self.inner.segments.cursor(wanted.n * TILE_WIDTH),
            left: wanted.width,
        })
    }
}

impl Iterator for Payloads {
    type Item = Result<Vec<u8>, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut piece = Vec::new();
        while self.left > 0 && piece.len() < PIECE_BYTES {
            match self
                .cursor
                .next(|record| put(&mut piece, &record.salt, record.payload))
            {
                Ok(Some(())) => self.left -= 1,
                Ok(None) => {
                    self.left = 0;
                    return Some(Err(LogError::damaged("an entry under its checkpoint is missing")));
                }
                Err(error) => {
                    self.left = 0;
                    return Some(Err(error));
                }
            }
        }
        (!piece.is_empty()).then_some(Ok(piece))
    }
}
