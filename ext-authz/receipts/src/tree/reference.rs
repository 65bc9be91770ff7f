//! The tree of RFC 6962 as the RFC defines it, to compare with.

use sha2::{Digest, Sha256};

use super::Hash;

/// An entry that is like no other.
pub(crate) fn entry(i: u64) -> Hash {
    Sha256::digest(i.to_be_bytes()).into()
}

/// The Merkle tree hash of RFC 6962, 2.1.
pub(crate) fn root(entries: &[Hash]) -> Hash {
    match entries {
        [] => Sha256::digest([]).into(),
        [entry] => Sha256::new()
            .chain_update([0])
            .chain_update(entry)
            .finalize()
            .into(),
        _ => {
            let (left, right) = entries.split_at(entries.len().next_power_of_two() / 2);
            Sha256::new()
                .chain_update([1])
                .chain_update(root(left))
                .chain_update(root(right))
                .finalize()
                .into()
        }
    }
}
