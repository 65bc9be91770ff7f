//! The rollouts as everybody but the driver sees them.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use knhk_flags::Document;
use knhk_promotion::Rollout;

/// Written by the driver, read by all. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Book(Arc<RwLock<Page>>);

/// A consistent view.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    /// Rollouts by name.
    pub(crate) rollouts: BTreeMap<String, Arc<Rollout>>,
    /// Index of the last entry that the driver recorded; `None` before it recorded any.
    pub(crate) last_recorded: Option<u64>,
    /// The flag definitions in force.
    pub(crate) flags: Arc<Document>,
}

impl Book {
    /// No rollouts yet, and these flags.
    pub(super) fn new(flags: Arc<Document>) -> Self {
        Self(Arc::new(RwLock::new(Page {
            rollouts: BTreeMap::new(),
            last_recorded: None,
            flags,
        })))
    }

    pub(crate) fn page(&self) -> Page {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Rollout>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .rollouts
            .get(name)
            .map(Arc::clone)
    }

    /// A rollout's next state, and the last entry that recorded it.
    pub(super) fn insert(&self, name: String, rollout: Arc<Rollout>, last_recorded: Option<u64>) {
        let mut page = self.0.write().unwrap_or_else(PoisonError::into_inner);
        page.rollouts.insert(name, rollout);
        page.last_recorded = last_recorded;
    }

    /// A rollout is gone, and the last entry that recorded it.
    pub(super) fn remove(&self, name: &str, last_recorded: Option<u64>) {
        let mut page = self.0.write().unwrap_or_else(PoisonError::into_inner);
        page.rollouts.remove(name);
        page.last_recorded = last_recorded;
    }

    /// Other flags are in force, and the last entry that recorded them.
    pub(super) fn set_flags(&self, flags: Arc<Document>, last_recorded: Option<u64>) {
        let mut page = self.0.write().unwrap_or_else(PoisonError::into_inner);
        page.flags = flags;
        page.last_recorded = last_recorded;
    }
}
