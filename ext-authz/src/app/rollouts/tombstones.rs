//! Rollouts that were deleted, where other regions may still tell of them: their end has a generation too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Ends that are remembered; of more, the ones with the smallest names are forgotten first. Who reaches this deletes and renames
/// rollouts for years, and a region that was away for as long might bring a forgotten one back.
const MAX_TOMBSTONES: usize = 4096;

/// A rollout's end. In a receipt it is the state after a deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Tombstone {
    /// The region where it was deleted.
    pub(crate) deleted_in: String,
    /// Behind every generation that it had there.
    pub(crate) generation: u64,
}

/// Ends by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Tombstones(BTreeMap<String, Tombstone>);

impl Tombstones {
    pub(crate) fn get(&self, name: &str) -> Option<&Tombstone> {
        self.0.get(name)
    }

    pub(crate) fn insert(&mut self, name: &str, tombstone: Tombstone) {
        self.0.insert(name.to_owned(), tombstone);
        while self.0.len() > MAX_TOMBSTONES {
            self.0.pop_first();
        }
    }

    /// The name is used again.
    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Tombstone)> {
        self.0.iter()
    }
}
