//! Keys to buckets, and to groups.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Buckets of a rollout: one for each step that a weight can take.
pub const BUCKETS: u32 = 1_000_000;

/// Groups of a rollout's keys: what heavy keys are told by, see [`crate::Routed::group`].
pub const GROUPS: u8 = 16;

/// The bucket, 0 to 999,999, of `key` in the rollout with this salt.
///
/// XXH3-64 over the salt, one zero byte and the key; then `(hash * 1,000,000) >> 64`. The same key always gets the
/// same bucket, so a request stays with its variant while the weight stays, and as the weight grows no key goes back.
pub fn bucket(salt: &str, key: &[u8]) -> u32 {
    let mut hash = KeyHash::new(salt);
    hash.push(key);
    hash.finish().bucket()
}

/// A key's hash: both bucket and group, independent of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hashed(u64);

impl Hashed {
    /// (hash * 1,000,000) >> 64.
    pub(crate) fn bucket(self) -> u32 {
        let scaled = (u128::from(self.0) * u128::from(BUCKETS)) >> 64;
        // Below BUCKETS, as the hash is below 2^64.
        #[allow(clippy::cast_possible_truncation)]
        let bucket = scaled as u32;
        bucket
    }

    /// Its low four bits.
    pub(crate) fn group(self) -> u8 {
        // Below GROUPS.
        #[allow(clippy::cast_possible_truncation)]
        let group = (self.0 % u64::from(GROUPS)) as u8;
        group
    }
}

/// A key's hash in the making, for keys that are put together from pieces.
pub(crate) struct KeyHash {
    short: [u8; KeyHash::SHORT],
    len: usize,
    long: Option<Xxh3>,
}

impl KeyHash {
    /// Salt and key up to here are hashed in one go, which is several times as fast as piece by piece.
    const SHORT: usize = 240;

    pub(crate) fn new(salt: &str) -> Self {
        let mut hash = Self {
            short: [0; Self::SHORT],
            len: 0,
            long: None,
        };
        hash.push(salt.as_bytes());
        hash.push(&[0]);
        hash
    }

    pub(crate) fn push(&mut self, piece: &[u8]) {
        if let Some(long) = &mut self.long {
            long.update(piece);
            return;
        }
        let end = self.len.saturating_add(piece.len());
        if let Some(room) = self.short.get_mut(self.len..end) {
            room.copy_from_slice(piece);
            self.len = end;
        } else {
            let mut long = Xxh3::new();
            long.update(self.held());
            long.update(piece);
            self.long = Some(long);
        }
    }

    pub(crate) fn finish(&self) -> Hashed {
        Hashed(
            self.long
                .as_ref()
                .map_or_else(|| xxh3_64(self.held()), Xxh3::digest),
        )
    }

    fn held(&self) -> &[u8] {
        self.short.get(..self.len).unwrap_or_default()
    }
}
