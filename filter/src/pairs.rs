//! Header pairs as proxy-wasm serialises them, read in place.
//!
//! The form: a count; per pair the lengths of name and value; then per pair name, NUL, value, NUL. Numbers are
//! little-endian `u32`. Whatever the bytes are, reading ends, and a pair that does not fit ends it early.

const WORD: usize = size_of::<u32>();

/// Serialised header pairs.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// The lengths of names and values, alternating.
    lengths: &'a [[u8; WORD]],
    /// The names and values.
    text: &'a [u8],
}

impl<'a> Pairs<'a> {
    /// Reads the frame. Bytes that are no frame hold no pairs.
    pub fn new(bytes: &'a [u8]) -> Self {
        const NONE: Pairs<'static> = Pairs {
            lengths: &[],
            text: &[],
        };
        let Some((count, rest)) = bytes.split_first_chunk::<WORD>() else {
            return NONE;
        };
        let Some(lengths) = usize::try_from(u32::from_le_bytes(*count))
            .ok()
            .and_then(|n| n.checked_mul(2 * WORD))
        else {
            return NONE;
        };
        match rest.split_at_checked(lengths) {
            Some((lengths, text)) => Self {
                lengths: lengths.as_chunks::<WORD>().0,
                text,
            },
            None => NONE,
        }
    }

    /// Name and value of each pair, in order.
    pub fn iter(self) -> Iter<'a> {
        Iter {
            lengths: self.lengths.iter(),
            text: self.text,
        }
    }

    /// The first value of `name`, which has to be in lower case, as the host's names are.
    pub fn first(self, name: &[u8]) -> Option<&'a [u8]> {
        self.iter()
            .find(|(candidate, _)| *candidate == name)
            .map(|(_, value)| value)
    }
}

/// Iterates over [`Pairs`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    lengths: std::slice::Iter<'a, [u8; WORD]>,
    text: &'a [u8],
}

impl<'a> Iter<'a> {
    fn take(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(u32::from_le_bytes(*self.lengths.next()?)).ok()?;
        let (taken, rest) = self.text.split_at_checked(length)?;
        // The NUL that follows.
        self.text = rest.get(1..)?;
        Some(taken)
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let name = self.take()?;
        Some((name, self.take()?))
    }
}

/// Serialises pairs, for headers that go to the host.
pub fn serialize(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
    // No host takes lengths above u32; saturating keeps this total, and the host refuses such a frame.
    let word = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&word(pairs.len()));
    for (name, value) in pairs {
        bytes.extend_from_slice(&word(name.len()));
        bytes.extend_from_slice(&word(value.len()));
    }
    for (name, value) in pairs {
        for text in [name, value] {
            bytes.extend_from_slice(text);
            bytes.push(0);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_back(pairs: Vec<(Vec<u8>, Vec<u8>)>) {
            let borrowed: Vec<_> = pairs.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect();
            let bytes = serialize(&borrowed);
            prop_assert_eq!(Pairs::new(&bytes).iter().collect::<Vec<_>>(), borrowed.clone());
            for (name, _) in &borrowed {
                let first = borrowed.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
                prop_assert_eq!(Pairs::new(&bytes).first(name), first);
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            prop_assert!(Pairs::new(&bytes).iter().count() <= bytes.len());
        }

        #[test]
        fn a_cut_frame_gives_a_prefix(pairs: Vec<(Vec<u8>, Vec<u8>)>, cut: prop::sample::Index) {
            let borrowed: Vec<_> = pairs.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect();
            let bytes = serialize(&borrowed);
            let cut = &bytes[..cut.index(bytes.len())];
            let read: Vec<_> = Pairs::new(cut).iter().collect();
            prop_assert_eq!(read.as_slice(), &borrowed[..read.len()]);
        }
    }
}
