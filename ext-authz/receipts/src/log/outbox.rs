//! What other regions are sent of the log: entries with their payloads, and proofs between the trees that they know. Blocking.

use std::sync::Arc;

use super::error::LogError;
use super::kept::Reader;
use super::segments::Segments;
use super::{LOG_DIR, Log, tiles};
use crate::bundle::{MAX_ITEM_BYTES, put};
use crate::checkpoint::SignedCheckpoint;
use crate::kept::split;
use crate::tree::TreeReader;

impl Log {
    /// Adds the entries from `from` up to `end`, which is not among them, to `bytes` as items of a payload bundle, see
    /// [`crate::bundle`], until they have `most` bytes: the first one always, if there is one. Says how many. Reads from disk.
    pub fn items(&self, from: u64, end: u64, most: usize, bytes: &mut Vec<u8>) -> Result<u64, LogError> {
        items(&self.inner.segments, from, end, most, bytes)
    }

    /// The root of the first `size` entries, of which the newest checkpoint covers all. Reads from disk.
    pub fn root_of(&self, size: u64) -> Result<[u8; 32], LogError> {
        self.tree(size, |tree| tree.root(size))
    }

    /// The proof (RFC 6962, 2.1.2) that the tree of `size` entries, of which the newest checkpoint covers all, begins with that
    /// of `from` entries, 1 or more. Reads from disk.
    pub fn consistency_of(&self, from: u64, size: u64) -> Result<Vec<[u8; 32]>, LogError> {
        self.tree(size, |tree| tree.consistency_in(size, from))
    }

    /// Kept checkpoints of more than `above` entries, up to `up_to`: the first `most` of them. That of the first and the last tree
    /// of each key is always among them. Reads from disk.
    pub fn kept_between(
        &self,
        above: u64,
        up_to: u64,
        most: usize,
    ) -> Result<Vec<SignedCheckpoint>, LogError> {
        kept_between(&self.inner.kept, above, up_to, most)
    }

    fn tree<T>(
        &self,
        size: u64,
        ask: impl FnOnce(
            &TreeReader<&dyn Fn(crate::tree::Tile) -> std::io::Result<Vec<u8>>>,
        ) -> std::io::Result<T>,
    ) -> Result<T, LogError> {
        let index = size.saturating_sub(1);
        let signed = self.checkpoint().filter(|it| it.size() >= size);
        let signed = signed.ok_or(LogError::NotCovered { index })?.size();
        let storage = self.inner.segments.storage().as_ref();
        let read = |tile| tiles::read(storage, tile);
        ask(&TreeReader::new(signed, &read)).map_err(LogError::io("read the tiles in", LOG_DIR))
    }
}

pub(super) fn items(
    segments: &Arc<Segments>,
    from: u64,
    end: u64,
    most: usize,
    bytes: &mut Vec<u8>,
) -> Result<u64, LogError> {
    let (begin, mut cursor, mut next) = (bytes.len(), segments.cursor(from), from);
    // What the next item takes is not known before it is read: one that is too much is taken back.
    while next < end && bytes.len() - begin < most {
        let before = bytes.len();
        let put = cursor.next(|record| put(bytes, &record.salt, record.payload))?;
        if put.is_none() {
            break;
        }
        if next > from && bytes.len() - begin > most {
            bytes.truncate(before);
            break;
        }
        debug_assert!(bytes.len() - before <= MAX_ITEM_BYTES);
        next += 1;
    }
    Ok(next - from)
}

/// Kept checkpoints of more than `above` entries, up to `up_to`: the first `most` of them. The file that they begin in is looked for
/// by the first checkpoint of each.
pub(super) fn kept_between(
    kept: &Reader,
    above: u64,
    up_to: u64,
    most: usize,
) -> Result<Vec<SignedCheckpoint>, LogError> {
    let (mut low, mut high) = (0, kept.files());
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        let first = notes(kept, middle)?.first().map(SignedCheckpoint::size);
        if first.is_some_and(|first| first <= above) {
            low = middle;
        } else {
            high = middle;
        }
    }
    let mut found = Vec::new();
    for file in low..kept.files() {
        let notes = notes(kept, file)?;
        let is_last = notes.last().is_none_or(|it| it.size() >= up_to);
        found.extend(
            notes
                .into_iter()
                .filter(|it| it.size() > above && it.size() <= up_to),
        );
        if is_last || found.len() >= most {
            break;
        }
    }
    found.truncate(most);
    Ok(found)
}

fn notes(kept: &Reader, file: u64) -> Result<Vec<SignedCheckpoint>, LogError> {
    let bytes = kept.read(file)?.unwrap_or_default();
    let (mut rest, mut notes) = (bytes.as_slice(), Vec::new());
    while let Some((note, behind)) = split(rest) {
        let note = SignedCheckpoint::from_bytes(note);
        notes.push(note.map_err(|e| LogError::damaged(format!("a kept checkpoint in file {file}: {e}")))?);
        rest = behind;
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checkpoint::Unsigned;
    use crate::kept::NOTES_A_FILE;
    use crate::log::kept::Kept;
    use crate::storage::ModelStorage;
    use crate::testing::TestSigner;

    /// Every third size, over three files.
    fn filled() -> (Vec<u64>, Kept) {
        let storage = Arc::new(ModelStorage::new());
        let found = Kept::find(storage.as_ref(), "knhk.dev/log/test").expect("nothing");
        let mut kept = Kept::repair(storage, &found).expect("nothing to repair");
        let signer = TestSigner::new(1);
        let sizes: Vec<_> = (1..=2 * NOTES_A_FILE + 9).map(|n| 3 * n).collect();
        for &size in &sizes {
            let unsigned = Unsigned {
                origin: "knhk.dev/log/test".to_owned(),
                size,
                root: [7; 32],
            };
            let signature = signer.sign(&unsigned.digest());
            let note = unsigned.signed(&signer.public_key(), signature).expect("signed");
            kept.keep(&note).expect("kept");
        }
        (sizes, kept)
    }

    #[test]
    fn kept_checkpoints_are_found_in_whichever_file_they_are() {
        let (sizes, kept) = filled();
        let reader = kept.reader();
        let last = *sizes.last().expect("many");
        let any_range = (0..last + 5, 0..last + 5, 1..70_usize);
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(60));
        let checked = runner.run(&any_range, |(above, up_to, most)| {
            let found = kept_between(&reader, above, up_to, most).expect("reads");
            let found: Vec<_> = found.iter().map(SignedCheckpoint::size).collect();
            let expected = sizes
                .iter()
                .copied()
                .filter(|size| *size > above && *size <= up_to);
            prop_assert_eq!(found, expected.take(most).collect::<Vec<_>>());
            Ok(())
        });
        checked.expect("as a search through all of them");
        let edge = 3 * NOTES_A_FILE;
        for size in [3, edge, edge + 3, 2 * edge, 2 * edge + 3, last] {
            let found = kept_between(&reader, size - 1, size, 1).expect("reads");
            assert_eq!(found.first().map(SignedCheckpoint::size), Some(size));
        }
    }
}
