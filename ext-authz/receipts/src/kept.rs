//! Checkpoints that are kept, for who compares the log's states over time.
//!
//! `log/checkpoints/<n>`, n from 0, holds [`NOTES_A_FILE`] of them, the last file fewer, oldest first. Each one is preceded by
//! a line with its length in bytes, in decimal. A file only grows:
//!
//! ```text
//! 226
//! knhk.dev/log/us-east-1
//! 42
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
//!
//! — knhk.dev/log/us-east-1 BASE64
//! 226
//! ...
//! ```

/// Notes in a file that is full.
pub const NOTES_A_FILE: u64 = 1024;

/// The largest note that is kept, in bytes. One of ours has at most twice its origin and 178.
pub const MAX_NOTE_BYTES: usize = 1024;

/// The largest file, in bytes.
pub const MAX_FILE_BYTES: usize = (MAX_NOTE_BYTES + 5) * 1024;

/// A note with the line before it.
pub(crate) fn record(note: &[u8]) -> Vec<u8> {
    let mut record = format!("{}\n", note.len()).into_bytes();
    record.extend_from_slice(note);
    record
}

/// The largest record of a log with an origin of this many bytes. Two of its records together are always larger.
pub(crate) fn longest_record(origin: usize) -> usize {
    longest_note(origin) + 4
}

/// The largest note of a log with an origin of this many bytes, as one key signs it.
pub fn longest_note(origin: usize) -> usize {
    2 * origin + 178
}

/// The first note of a file's bytes, and the bytes behind it. `None` at the end, and where no whole note follows.
pub fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let digits = bytes.iter().take(5).position(|byte| *byte == b'\n')?;
    let text = std::str::from_utf8(&bytes[..digits]).ok()?;
    let len: usize = text.parse().ok()?;
    if len == 0 || len > MAX_NOTE_BYTES || len.to_string() != text {
        return None;
    }
    let rest = &bytes[digits + 1..];
    rest.split_at_checked(len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn notes_are_found_again_one_by_one() {
        let notes = [b"a".to_vec(), vec![b'b'; MAX_NOTE_BYTES], b"12\n".to_vec()];
        let bytes: Vec<u8> = notes.iter().flat_map(|note| record(note)).collect();
        let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
        while let Some((note, behind)) = split(rest) {
            found.push(note.to_vec());
            rest = behind;
        }
        assert_eq!((found.as_slice(), rest), (notes.as_slice(), b"".as_slice()));
        for bad in [
            "", "1", "1\n", "0\n", "01\na", "+1\na", "1025\n", "99999\n", "x\na", "-1\na",
        ] {
            assert_eq!(split(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_record_that_is_cut_is_none(note in prop::collection::vec(any::<u8>(), 1..300), cut: prop::sample::Index) {
            let record = record(&note);
            prop_assert_eq!(split(&record), Some((note.as_slice(), b"".as_slice())));
            prop_assert_eq!(split(&record[..cut.index(record.len())]), None);
        }

        #[test]
        fn any_bytes_are_split_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some((note, rest)) = split(&bytes) {
                prop_assert!(bytes.ends_with(rest) && bytes.starts_with(&record(note)));
            }
        }
    }
}
