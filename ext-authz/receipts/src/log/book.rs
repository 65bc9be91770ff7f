use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::LogError;
use super::kept::Kept;
use super::keyring::{KEYS_PATH, Keyring, LogKey};
use super::{CHECKPOINT_PATH, ROOT_PATH};
use crate::payload::KeyReceipt;
use crate::root::SignedRoot;
use crate::storage::{Storage, replace};

/// Checkpoints are kept at most so often, in milliseconds; those where the key changes always are.
const KEEP_EVERY_MS: u64 = 60_000;

/// What was signed, by which key, and what is kept of it.
///
/// `log/root` is replaced first. All else follows from it, and is brought up to it by [`Book::settle`]: the published
/// checkpoint, the kept ones, and the keys. A key signs only after `log/keys` names it as the active one, durably.
pub(crate) struct Book {
    storage: Arc<dyn Storage>,
    root: Option<Arc<SignedRoot>>,
    keyring: Keyring,
    kept: Kept,
    /// Size of the checkpoint in the published file.
    shown: Option<u64>,
    /// When a checkpoint was kept, or the log opened.
    kept_at_ms: u64,
    listed: Listed,
}

/// The keys, for readers.
pub(crate) type Listed = Arc<Mutex<Vec<LogKey>>>;

impl Book {
    /// Goes on from files that agree with each other.
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        root: Option<SignedRoot>,
        keyring: Keyring,
        kept: Kept,
        now_ms: u64,
    ) -> Self {
        let listed = Arc::new(Mutex::new(keyring.keys().to_vec()));
        Self {
            storage,
            root: root.map(Arc::new),
            keyring,
            kept,
            shown: None,
            kept_at_ms: now_ms,
            listed,
        }
    }

    /// The newest root that is durable.
    pub(crate) fn root(&self) -> Option<&Arc<SignedRoot>> {
        self.root.as_ref()
    }

    pub(crate) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }

    pub(crate) fn listed(&self) -> &Listed {
        &self.listed
    }

    /// The published file has the checkpoint of this size already.
    pub(crate) fn has_shown(&mut self, size: u64) {
        self.shown = Some(size);
    }

    /// Makes a root by the active key durable, and everything that follows from it. An error after that may still leave
    /// the root in force.
    pub(crate) fn publish(&mut self, root: SignedRoot, now_ms: u64) -> Result<(), LogError> {
        replace(self.storage.as_ref(), ROOT_PATH, &root.to_bytes())
            .map_err(LogError::io("write", ROOT_PATH))?;
        self.root = Some(Arc::new(root));
        self.settle(now_ms)
    }

    /// Brings what follows from the root up to it. Nothing is signed before this has succeeded.
    pub(crate) fn settle(&mut self, now_ms: u64) -> Result<(), LogError> {
        let Some(root) = self.root.clone() else {
            return Ok(());
        };
        if self.shown != Some(root.size()) {
            self.show(&root).map_err(LogError::io("write", CHECKPOINT_PATH))?;
            self.shown = Some(root.size());
        }
        let active = self.keyring.active();
        let first = active.first_size.is_none() && active.key.key_id() == root.cose.kid;
        let to_keep = first || self.keyring.last_to_keep() == Some(root.size());
        if to_keep || now_ms.abs_diff(self.kept_at_ms) >= KEEP_EVERY_MS {
            self.kept.keep(&root.checkpoint)?;
            self.kept_at_ms = now_ms;
        }
        if first {
            self.put(self.keyring.with_first(root.size()))?;
        }
        Ok(())
    }

    /// Notes that entries from `size` on may announce a key.
    pub(crate) fn begin_rotation(&mut self, size: u64) -> Result<(), LogError> {
        self.put(self.keyring.with_announcing(Some(size)))
    }

    /// An entry that announces a key is durable.
    pub(crate) fn announced(&mut self, index: u64, receipt: &KeyReceipt) {
        self.keyring.announced(index, receipt);
        self.list();
    }

    /// From the next flush on the key that this entry announced signs. The root, by the key that signs until now, must cover
    /// the entry. It is kept before anything is changed.
    pub(crate) fn take_over(&mut self, announced: u64, now_ms: u64) -> Result<(), LogError> {
        self.settle(now_ms)?;
        let uncovered = LogError::NotCovered { index: announced };
        let active = self.keyring.active().key.key_id();
        let covering = self.root.clone().filter(|root| root.size() > announced);
        let Some(root) = covering.filter(|root| root.cose.kid == active) else {
            return Err(uncovered);
        };
        let next = self
            .keyring
            .with_successor(announced, root.size())
            .ok_or(uncovered)?;
        self.kept.keep(&root.checkpoint)?;
        self.put(next)
    }

    /// Makes the keys durable, then uses them.
    pub(crate) fn put(&mut self, keyring: Keyring) -> Result<(), LogError> {
        replace(self.storage.as_ref(), KEYS_PATH, &keyring.to_bytes())
            .map_err(LogError::io("write", KEYS_PATH))?;
        self.keyring = keyring;
        self.list();
        Ok(())
    }

    fn list(&self) {
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = self.keyring.keys().to_vec();
    }

    /// Replaces the published checkpoint. It is not synced: `log/root` is, and a start compares the two.
    fn show(&self, root: &SignedRoot) -> io::Result<()> {
        let unfinished = format!("{CHECKPOINT_PATH}.new");
        let file = self.storage.create(&unfinished)?;
        file.write_at(0, root.checkpoint.as_bytes())?;
        self.storage.rename(&unfinished, CHECKPOINT_PATH)
    }
}
