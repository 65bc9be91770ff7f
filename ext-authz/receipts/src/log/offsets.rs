//! Where in a segment an entry is: the place of every 64th record. Derived from the segment, and made anew where it is missing.
//!
//! ```text
//! "KNHKIDX1"  first entry u64  entries u64  offsets u64...  crc32 u32 of all before it
//! ```

use super::error::LogError;
use crate::segment::{Found, HEADER_LEN, SEGMENTS_DIR, Scanner, has_header, path_of};
use crate::storage::{Storage, read_whole, replace};

const MAGIC: &[u8; 8] = b"KNHKIDX1";

/// The largest table file that is read, in bytes. One of a usual segment has 20 KiB.
pub(crate) const MAX_FILE_BYTES: usize = 16 * 1024 * 1024;

/// Places of every [`Offsets::STRIDE`]th record of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offsets {
    entries: u64,
    places: Vec<u64>,
}

impl Offsets {
    /// One place is kept of so many records.
    pub(crate) const STRIDE: u64 = 64;

    /// The next record begins at `offset`.
    pub(crate) fn push(&mut self, offset: u64) {
        if self.entries.is_multiple_of(Self::STRIDE) {
            self.places.push(offset);
        }
        self.entries += 1;
    }

    /// How many records there are.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// The nearest kept place at or before the `n`th record: how many records are before it, and where it is.
    pub(crate) fn before(&self, n: u64) -> (u64, u64) {
        let at = n / Self::STRIDE;
        let place = usize::try_from(at).ok().and_then(|at| self.places.get(at));
        place.map_or((0, HEADER_LEN), |&offset| (at * Self::STRIDE, offset))
    }

    fn to_bytes(&self, first: u64) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(first.to_le_bytes());
        bytes.extend(self.entries.to_le_bytes());
        self.places
            .iter()
            .for_each(|place| bytes.extend(place.to_le_bytes()));
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// The table of the segment that begins with this entry, if the bytes are one.
    pub(crate) fn from_bytes(bytes: &[u8], first: u64) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk()?;
        let body = body
            .strip_prefix(MAGIC)
            .filter(|_| crc32fast::hash(body) == u32::from_le_bytes(*crc))?;
        let (numbers, _) = body.as_chunks::<8>();
        let mut numbers = numbers.iter().copied().map(u64::from_le_bytes);
        numbers.next().filter(|found| *found == first)?;
        let entries = numbers.next()?;
        let places: Vec<_> = numbers.collect();
        (places.len() as u64 == entries.div_ceil(Self::STRIDE)).then_some(Self { entries, places })
    }
}

/// Writes the table of a segment that is closed.
pub(crate) fn store(storage: &dyn Storage, first: u64, offsets: &Offsets) -> Result<(), LogError> {
    let path = path_of_table(first);
    replace(storage, &path, &offsets.to_bytes(first)).map_err(LogError::io("write", &path))
}

/// The table of a closed segment, from its file, or else from the segment itself, and then its file is written.
pub(crate) fn of_closed(storage: &dyn Storage, first: u64) -> Result<Offsets, LogError> {
    if let Some(offsets) = stored(storage, first) {
        return Ok(offsets);
    }
    let offsets = scan(storage, first)?;
    // Only the next look-up is slower without it.
    if let Err(error) = store(storage, first, &offsets) {
        tracing::warn!(%error, "the table of a closed segment is not kept");
    }
    Ok(offsets)
}

/// The table of a closed segment, from its file.
pub(crate) fn stored(storage: &dyn Storage, first: u64) -> Option<Offsets> {
    let bytes = read_whole(storage, &path_of_table(first), MAX_FILE_BYTES).ok()?;
    Offsets::from_bytes(&bytes, first)
}

/// The same, from the segment itself.
pub(crate) fn scan(storage: &dyn Storage, first: u64) -> Result<Offsets, LogError> {
    let path = path_of(first);
    let read = LogError::io("read", &path);
    let file = storage.open(&path).map_err(LogError::io("open", &path))?;
    if !has_header(file.as_ref(), first).map_err(&read)? {
        return Err(LogError::damaged(format!("`{path}` does not begin as a segment")));
    }
    let end = file.len().map_err(&read)?;
    let (mut scanner, mut offsets) = (Scanner::new(file, HEADER_LEN, end, first), Offsets::default());
    loop {
        let offset = scanner.offset();
        match scanner.next_record().map_err(&read)? {
            Found::Record(_) => offsets.push(offset),
            Found::End => return Ok(offsets),
            Found::Broken => {
                let index = scanner.index();
                return Err(LogError::damaged(format!(
                    "entry {index} in `{path}` cannot be read at byte {offset}"
                )));
            }
        }
    }
}

fn path_of_table(first: u64) -> String {
    format!("{SEGMENTS_DIR}/{first:020}.idx")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_round_trips_and_a_changed_one_is_not_used() {
        for entries in [0, 1, 63, 64, 65, 1000] {
            let mut offsets = Offsets::default();
            (0..entries).for_each(|i| offsets.push(16 + i * 100));
            let bytes = offsets.to_bytes(7);
            assert_eq!(Offsets::from_bytes(&bytes, 7), Some(offsets.clone()));
            assert_eq!(Offsets::from_bytes(&bytes, 8), None, "of another segment");
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                assert_eq!(Offsets::from_bytes(&changed, 7), None, "byte {at}");
            }
            for n in 0..entries {
                let (skipped, offset) = offsets.before(n);
                assert!(skipped <= n && n - skipped < Offsets::STRIDE);
                assert_eq!(offset, 16 + skipped * 100);
            }
        }
    }
}
