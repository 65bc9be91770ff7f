//! What this region knows of its own log, to judge its peers' answers by.

use std::sync::PoisonError;

use knhk_receipts::{Log, PublicKey, SignedCheckpoint};
use knhk_regions::sender::Own;
use knhk_regions::wire::{Hash, KeyId};

use super::Regions;

/// The open log, and the peers' keys. Reads from disk.
pub(super) struct OpenLog<'a> {
    pub(super) origin: &'a str,
    pub(super) log: &'a Log,
    pub(super) regions: &'a Regions,
}

impl Own for OpenLog<'_> {
    fn origin(&self) -> &str {
        self.origin
    }

    fn signed(&self) -> u64 {
        self.log.root().map_or(0, |root| root.size())
    }

    fn root_of(&self, size: u64) -> Option<Hash> {
        let newest = self.log.root().filter(|root| root.size() == size);
        match newest {
            Some(newest) => Some(newest.checkpoint.root()),
            None => self.log.root_of(size).ok(),
        }
    }

    fn is_signed_by_us(&self, checkpoint: &SignedCheckpoint) -> bool {
        let keys: Vec<_> = self.log.keys().into_iter().map(|it| it.key).collect();
        checkpoint.verify(&keys).is_ok()
    }

    fn ack_key(&self, peer: &str, kid: &KeyId) -> Option<PublicKey> {
        let peer = self.regions.peers.get(peer)?;
        let keys = peer.ack_keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().find(|key| key.key_id() == *kid).cloned()
    }
}
