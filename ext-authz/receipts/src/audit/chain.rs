use super::points::Point;
use super::report::{AuditedKey, Finding};
use crate::checkpoint::CheckpointError;
use crate::key::PublicKey;
use crate::log::{KeyState, Keyring};
use crate::payload::{Genesis, KeyReceipt};

/// The log's keys as its entries and checkpoints show them: each one announced by an entry under a checkpoint of the key
/// before it.
#[derive(Default)]
pub(crate) struct Chain {
    origin: String,
    /// None while there is no usable genesis.
    ring: Option<Keyring>,
    keys: Vec<PublicKey>,
    /// The largest tree that was signed.
    last: Option<u64>,
    /// A checkpoint could not be used: what follows may rest on it.
    broken: bool,
}

impl Chain {
    pub(crate) fn new(origin: &str) -> Self {
        Self {
            origin: origin.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn begin(&mut self, genesis: &Genesis, place: String) -> Result<(), Finding> {
        if genesis.origin != self.origin {
            let what = format!(
                "the genesis is of log `{}`, the checkpoint of `{}`",
                genesis.origin, self.origin
            );
            return Err(Finding::new("checkpoints", place, what));
        }
        self.ring = Keyring::begin(genesis);
        let Some(ring) = &self.ring else {
            return Err(Finding::new("keys", place, "the genesis has no P-256 key"));
        };
        self.keys = ring.keys().iter().map(|key| key.key.clone()).collect();
        Ok(())
    }

    pub(crate) fn announce(
        &mut self,
        index: u64,
        receipt: &KeyReceipt,
        place: String,
    ) -> Result<(), Finding> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        let Some(key) = receipt.proven(&self.origin) else {
            let what = format!("entry {index} announces a key without a proof by that key");
            return Err(Finding::new("keys", place, what));
        };
        let active = ring.active().key.key_id();
        ring.announced(index, receipt);
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
        if receipt.previous == active || self.broken {
            return Ok(());
        }
        let what = format!(
            "entry {index} announces a key after another one than {}, which signs",
            ring.active().key
        );
        Err(Finding::new("keys", place, what))
    }

    /// A checkpoint before the next one could not be used, so which key signed last is not known for sure.
    pub(crate) fn rests_on_damage(&mut self) {
        self.broken = true;
    }

    /// A checkpoint, in the order of sizes. All keys that entries in its tree announce must have been told before.
    pub(crate) fn signed(&mut self, point: &Point) -> Result<(), Finding> {
        let checked = self.check(point);
        self.broken |= checked.is_err();
        checked
    }

    fn check(&mut self, point: &Point) -> Result<(), Finding> {
        let (checkpoint, size) = (&point.checkpoint, point.checkpoint.size());
        let wrong = |what: String| {
            Err(Finding::new(
                "checkpoints",
                &point.file,
                format!("the checkpoint of {size} entries {what}"),
            ))
        };
        if checkpoint.origin() != self.origin {
            let what = format!(
                "the checkpoint of {size} entries is of log `{}`",
                checkpoint.origin()
            );
            return Err(Finding::new("checkpoints", &point.file, what));
        }
        let Some(ring) = &self.ring else {
            return wrong("cannot be verified: the log's first key is not known".to_owned());
        };
        let by = match checkpoint.verify(&self.keys) {
            Ok(key) => key.clone(),
            Err(CheckpointError::UnknownKey { .. }) => {
                return wrong("is signed by no key that an entry in it announces".to_owned());
            }
            Err(error) => return wrong(format!("is not valid: {error}")),
        };
        let known = ring.by_id(&by.key_id()).cloned();
        let Some(known) = known else {
            return wrong(format!("is signed by {by}, which was replaced before it signed"));
        };
        let mut next = ring.clone();
        if known.state != KeyState::Active {
            let covered = self.last.filter(|last| *last > known.announced || self.broken);
            let successor = covered.and_then(|last| ring.with_successor(known.announced, last));
            let Some(successor) = successor else {
                return wrong(format!("is signed by {by}, whose turn it is not"));
            };
            next = successor;
        }
        self.ring = Some(next.with_first(size));
        self.last = self.last.max(Some(size));
        Ok(())
    }

    /// Whether a file of keys says the same.
    pub(crate) fn agrees_with(&self, bytes: &[u8]) -> Result<(), String> {
        let Some(listed) = Keyring::from_bytes(bytes) else {
            return Err("it is not as it was written: format or check sum are wrong".to_owned());
        };
        let Some(ring) = self.ring.as_ref().filter(|_| !self.broken) else {
            return Ok(());
        };
        let listed = listed.with_announcing(None);
        let taken_over = |last| ring.with_successor(listed.active().announced, last);
        if listed == *ring || self.last.and_then(taken_over).as_ref() == Some(&listed) {
            Ok(())
        } else {
            Err("its keys are not those of the entries and checkpoints".to_owned())
        }
    }

    /// The key of this ID, if the log has one.
    pub(crate) fn key(&self, id: &[u8; 32]) -> Option<&PublicKey> {
        self.keys.iter().find(|key| key.key_id() == *id)
    }

    /// Whether one of these keys signs or signed.
    pub(crate) fn rests_on(&self, pinned: &[PublicKey]) -> bool {
        let keys = self.ring.iter().flat_map(Keyring::keys);
        keys.into_iter()
            .any(|it| it.state != KeyState::Announced && pinned.contains(&it.key))
    }

    pub(crate) fn keys(&self) -> Vec<AuditedKey> {
        let keys = self.ring.iter().flat_map(Keyring::keys);
        keys.map(|it| AuditedKey {
            id: it.key.to_string(),
            provider: it.provider.clone(),
            version: it.version.clone(),
            announced: it.announced,
            first_size: it.first_size,
            last_size: it.last_size,
            state: it.state.as_str(),
        })
        .collect()
    }
}
