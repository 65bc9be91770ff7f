//! `MurmurHash3` with 32 bits (Appleby's `MurmurHash3_x86_32`, seed 0), in pieces.
//!
//! Own code, because what is published reads all input at once from a `Read`, and this hashes what is being encoded.

use std::convert::Infallible;

/// A hash under way.
#[derive(Debug)]
pub(crate) struct Murmur3 {
    state: u32,
    /// Bytes that do not make a block yet, the first in the lowest place.
    partial: u32,
    length: u32,
}

impl Murmur3 {
    pub(crate) fn new() -> Self {
        Self {
            state: 0,
            partial: 0,
            length: 0,
        }
    }

    pub(crate) fn finish(self) -> u32 {
        // A last block that is not full is mixed in without the step that follows full ones.
        let tail = if self.length.is_multiple_of(4) {
            0
        } else {
            scrambled(self.partial)
        };
        let mut hash = self.state ^ tail ^ self.length;
        hash ^= hash >> 16;
        hash = hash.wrapping_mul(0x85eb_ca6b);
        hash ^= hash >> 13;
        hash = hash.wrapping_mul(0xc2b2_ae35);
        hash ^ (hash >> 16)
    }

    fn push(&mut self, byte: u8) {
        let place = self.length % 4;
        self.partial |= u32::from(byte) << (8 * place);
        self.length = self.length.wrapping_add(1);
        if place == 3 {
            self.state ^= scrambled(self.partial);
            self.state = self
                .state
                .rotate_left(13)
                .wrapping_mul(5)
                .wrapping_add(0xe654_6b64);
            self.partial = 0;
        }
    }
}

fn scrambled(block: u32) -> u32 {
    block
        .wrapping_mul(0xcc9e_2d51)
        .rotate_left(15)
        .wrapping_mul(0x1b87_3593)
}

impl minicbor::encode::Write for Murmur3 {
    type Error = Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        for byte in bytes {
            self.push(*byte);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use minicbor::encode::Write;

    use super::*;

    /// Values of `MurmurHash3_x86_32` with seed 0 that its users publish.
    #[test]
    fn known_texts_have_their_known_hashes() {
        for (text, hash) in [
            ("", 0),
            ("a", 0x3c25_69b2),
            ("aa", 0x3710_91a9),
            ("hello", 0x248b_fa47),
            ("hello, world", 0x149b_bb7f),
            ("The quick brown fox jumps over the lazy dog", 0x2e4f_f723),
        ] {
            let mut whole = Murmur3::new();
            whole.write_all(text.as_bytes()).expect("infallible");
            assert_eq!(whole.finish(), hash, "{text}");
        }
    }
}
