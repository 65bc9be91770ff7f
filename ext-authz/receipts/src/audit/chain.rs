use super::pins::{Pin, Pinned, Shown};
use super::points::Point;
use super::report::{AuditedKey, Finding};
use crate::checkpoint::CheckpointError;
use crate::key::{MAX_KEYS, PublicKey};
use crate::log::{KeyState, Keyring, LogKey};
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
    /// Entries that announce a key, and that no checkpoint covers yet.
    uncovered: Vec<Announced>,
    /// A checkpoint could not be used: what follows may rest on it.
    broken: bool,
    /// More keys were announced than a log can have: no further ones are taken in.
    full: bool,
}

/// An entry that announces a key, as far as it is still to be judged.
struct Announced {
    index: u64,
    /// Key ID of the key that signed then, by the entry.
    previous: [u8; 32],
    place: String,
}

impl Announced {
    fn follows_another(self, than: &PublicKey) -> Finding {
        let index = self.index;
        let what = format!("entry {index} announces a key after another one than {than}, which signs");
        Finding::new("keys", self.place, what)
    }
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

    /// An entry that announces a key. Which key was to sign then shows when a checkpoint covers it: that key may have signed
    /// nothing before, as when two keys take over with nothing in between. Holds no more than [`MAX_KEYS`] keys, whatever comes.
    pub(crate) fn announce(
        &mut self,
        index: u64,
        receipt: &KeyReceipt,
        place: String,
    ) -> Result<(), Finding> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        if self.full {
            return Ok(());
        }
        let listed = self.keys.iter().any(|it| it.der() == receipt.public_key_der);
        if !listed && self.keys.len() >= MAX_KEYS {
            (self.full, self.broken) = (true, true);
            let what =
                format!("entry {index} announces one key more than the {MAX_KEYS} that a log can have");
            return Err(Finding::new("keys", place, what));
        }
        let Some(key) = receipt.proven(&self.origin) else {
            let what = format!("entry {index} announces a key without a proof by that key");
            return Err(Finding::new("keys", place, what));
        };
        ring.announced(index, receipt);
        if !listed {
            self.keys.push(key);
        }
        let previous = receipt.previous;
        // The first one of each is named, and there are not more than keys.
        if self.uncovered.iter().any(|it| it.previous == previous) {
            return Ok(());
        }
        let announced = Announced {
            index,
            previous,
            place,
        };
        if self.broken || ring.by_id(&previous).is_some() {
            self.uncovered.push(announced);
            return Ok(());
        }
        Err(announced.follows_another(&ring.active().key))
    }

    /// A checkpoint before the next one could not be used, so which key signed last is not known for sure.
    pub(crate) fn rests_on_damage(&mut self) {
        self.broken = true;
    }

    /// A checkpoint, in the order of sizes. All keys that entries in its tree announce must have been told before, and no
    /// other ones.
    pub(crate) fn signed(&mut self, point: &Point) -> Result<(), Finding> {
        let checked = self.check(point);
        self.broken |= checked.is_err();
        checked
    }

    /// Judges the entries that the checkpoint told last is the first to cover: the key that signed it is the one before
    /// theirs.
    pub(crate) fn covered(&mut self) -> Vec<Finding> {
        let covered = std::mem::take(&mut self.uncovered);
        let Some(ring) = self.ring.as_ref().filter(|_| !self.broken) else {
            return Vec::new();
        };
        let signer = &ring.active().key;
        let id = signer.key_id();
        let others = covered.into_iter().filter(|it| it.previous != id);
        others.map(|it| it.follows_another(signer)).collect()
    }

    /// No more checkpoints come. What is still uncovered follows the key that signed last, or one that may sign next.
    pub(crate) fn ended(&mut self) -> Vec<Finding> {
        let uncovered = std::mem::take(&mut self.uncovered);
        let Some(ring) = self.ring.as_ref().filter(|_| !self.broken) else {
            return Vec::new();
        };
        let next = |it: &LogKey| {
            let last = self.last.filter(|last| *last > it.announced);
            last.is_some_and(|last| ring.with_successor(it.announced, last).is_some())
        };
        let signs = |id: &[u8; 32]| {
            let known = ring.by_id(id);
            known.is_some_and(|it| it.state == KeyState::Active || next(it))
        };
        let others = uncovered.into_iter().filter(|it| !signs(&it.previous));
        others.map(|it| it.follows_another(&ring.active().key)).collect()
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
        let taken_over = |last| ring.with_successor(listed.active().announced, last);
        let taken_over = self.last.and_then(taken_over);
        let same = |ring: &Keyring| listed.lists(ring);
        if same(ring) || taken_over.as_ref().is_some_and(same) {
            Ok(())
        } else {
            Err("its keys are not those of the entries and checkpoints".to_owned())
        }
    }

    /// The key of this ID, if the log has one.
    pub(crate) fn key(&self, id: &[u8; 32]) -> Option<&PublicKey> {
        self.keys.iter().find(|key| key.key_id() == *id)
    }

    /// Compares the keys with those that are trusted. Where a checkpoint could not be used that may be its fault alone.
    pub(crate) fn compare(&self, pins: &[Pin]) -> Pinned {
        let shown = Shown {
            keys: self.ring.as_ref().map_or(&[], Keyring::keys),
            last: self.last,
        };
        let mut pinned = shown.compare(pins);
        if self.broken {
            pinned.findings.clear();
        }
        pinned
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

#[cfg(test)]
mod tests {
    use p256::ecdsa::signature::hazmat::PrehashSigner as _;
    use p256::ecdsa::{Signature, SigningKey};
    use p256::pkcs8::EncodePublicKey as _;

    use super::*;

    const ORIGIN: &str = "knhk.dev/log/test";

    /// The private key of a number; not 0.
    fn key(number: u64) -> SigningKey {
        let mut scalar = [0; 32];
        scalar[24..].copy_from_slice(&number.to_be_bytes());
        SigningKey::from_slice(&scalar).expect("below the curve's order")
    }

    fn der(key: &SigningKey) -> Vec<u8> {
        let der = key.verifying_key().to_public_key_der();
        der.expect("a public key").into_vec()
    }

    fn id(number: u64) -> [u8; 32] {
        PublicKey::from_der(&der(&key(number))).expect("a key").key_id()
    }

    fn announcement(number: u64, previous: [u8; 32]) -> KeyReceipt {
        let key = key(number);
        let public_key_der = der(&key);
        let digest = KeyReceipt::proof_digest(ORIGIN, &public_key_der);
        let proof: Signature = key.sign_prehash(&digest).expect("a signature");
        KeyReceipt {
            region: "test".to_owned(),
            time_unix_ms: 1,
            public_key_der,
            provider: "test".to_owned(),
            version: number.to_string(),
            previous,
            who: "test".to_owned(),
            proof: proof.to_der().as_bytes().to_vec(),
        }
    }

    fn begun() -> Chain {
        let mut chain = Chain::new(ORIGIN);
        let genesis = Genesis {
            region: "test".to_owned(),
            time_unix_ms: 1,
            origin: ORIGIN.to_owned(),
            public_key_der: der(&key(1)),
            provider: "test".to_owned(),
            version: "1".to_owned(),
        };
        chain.begin(&genesis, "first".to_owned()).expect("it begins");
        chain
    }

    #[test]
    fn more_keys_than_a_log_can_have_are_one_finding_and_are_not_held() {
        let (mut chain, first, mut found) = (begun(), id(1), Vec::new());
        for index in 1..MAX_KEYS as u64 + 50 {
            let receipt = announcement(index + 1, first);
            found.extend(chain.announce(index, &receipt, format!("entry {index}")).err());
        }
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].label, found[0].file.as_str()), ("keys", "entry 4096"));
        assert_eq!((chain.keys.len(), chain.keys().len()), (MAX_KEYS, MAX_KEYS));
        assert_eq!(chain.uncovered.len(), 1, "one for each key before");
    }

    #[test]
    fn a_key_that_follows_none_of_the_log_is_found_at_once() {
        let mut chain = begun();
        let found = chain.announce(1, &announcement(2, [7; 32]), "here".to_owned());
        let found = found.expect_err("found");
        assert_eq!((found.label, found.file.as_str()), ("keys", "here"));
        assert!(chain.ended().is_empty(), "it is told once");
    }
}
