//! What a region has on disk: its own data, and the mirrors of the others.

use std::collections::BTreeMap;

use knhk_receipts::storage::{Crash, ModelStorage, Storage};
use rand::RngExt;
use rand::rngs::SmallRng;

/// A region's own data, and the mirrors of the others.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) data: ModelStorage,
    pub(crate) mirrors: BTreeMap<String, ModelStorage>,
}

impl Disk {
    pub(crate) fn new(peers: impl Iterator<Item = String>) -> Self {
        Self {
            data: ModelStorage::new(),
            mirrors: peers.map(|peer| (peer, ModelStorage::new())).collect(),
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &ModelStorage> {
        std::iter::once(&self.data).chain(self.mirrors.values())
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.all().any(|it| it.list("").is_err())
    }

    pub(crate) fn each(&self, mut make: impl FnMut(&ModelStorage) -> ModelStorage) -> Self {
        Self {
            data: make(&self.data),
            mirrors: self
                .mirrors
                .iter()
                .map(|(peer, it)| (peer.clone(), make(it)))
                .collect(),
        }
    }

    pub(crate) fn crash(&self, kind: Crash, rng: &mut SmallRng) -> Self {
        self.each(|it| it.crash(kind, rng.random()))
    }

    /// Where it has the log of a region.
    pub(crate) fn copy_of(&self, region: &str) -> &ModelStorage {
        self.mirrors.get(region).unwrap_or(&self.data)
    }
}
