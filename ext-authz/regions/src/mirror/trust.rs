use knhk_receipts::{MAX_KEYS, PublicKey};

use crate::announce::Announced;
use crate::wire::KeyId;

/// The most keys of a region's acknowledgements that are known at a time: the newest ones.
pub(crate) const MAX_ACK_KEYS: usize = 8;

/// Which keys' checkpoints are believed. It begins with a key that an operator pinned, and follows the log: a key takes over only
/// where an entry under a checkpoint of the key before it announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trust {
    /// The key that an operator chose, by its ID.
    pub(crate) pin: KeyId,
    /// The key that signed the newest checkpoint. None before the first one.
    pub(crate) current: Option<PublicKey>,
    /// Keys that may sign next: a checkpoint by `current` covers what announces them.
    pub(crate) next: Vec<PublicKey>,
    /// Keys that signed, and never sign again.
    pub(crate) retired: Vec<PublicKey>,
    /// Keys that the log's region acknowledges with, the newest one last.
    pub(crate) ack_keys: Vec<PublicKey>,
}

/// What a key is to the log's checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It signs.
    Current,
    /// It may take over.
    Next,
    /// It signed before another one took over.
    Retired,
    /// It is one of our own keys, and the log is ours: a restoration is told of those before it has what leads to them.
    Ours,
    /// Nothing leads to it.
    Unknown,
}

impl Trust {
    pub(crate) fn new(pin: KeyId) -> Self {
        Self {
            pin,
            current: None,
            next: Vec::new(),
            retired: Vec::new(),
            ack_keys: Vec::new(),
        }
    }

    /// What is known of a log of our own, of which any of these keys signed a part: none leads to the others.
    pub(crate) fn of_our_own(keys: &[PublicKey]) -> Self {
        Self::new(keys.last().map_or([0; 32], PublicKey::key_id))
    }

    /// An operator pinned another key. One that is among those that followed each other here changes nothing; otherwise what led to
    /// the old one counts no more. Keys of acknowledgements stay what they were.
    pub(crate) fn pinned(self, pin: KeyId) -> Self {
        let mut known = self.current.iter().chain(&self.retired);
        if pin == self.pin || known.any(|key| key.key_id() == pin) {
            return Self { pin, ..self };
        }
        let retired = self.retired.into_iter().chain(self.current);
        Self {
            retired: retired.collect(),
            ack_keys: self.ack_keys,
            ..Self::new(pin)
        }
    }

    /// The key whose checkpoints are taken now.
    pub(crate) fn key_id(&self) -> KeyId {
        self.current.as_ref().map_or(self.pin, PublicKey::key_id)
    }

    pub(crate) fn standing(&self, key: &PublicKey) -> Standing {
        if self.key_id() == key.key_id() {
            Standing::Current
        } else if self.next.contains(key) {
            Standing::Next
        } else if self.retired.contains(key) {
            Standing::Retired
        } else {
            Standing::Unknown
        }
    }

    /// A checkpoint by a current or next key was taken, and is the first to cover these announcements. `None` where they are more
    /// keys than a log can have.
    pub(crate) fn signed<'a>(
        &self,
        by: &PublicKey,
        covered: impl Iterator<Item = &'a Announced>,
    ) -> Option<Self> {
        let mut trust = self.clone();
        if trust.current.as_ref() != Some(by) {
            trust.retired.extend(trust.current.replace(by.clone()));
            trust.next.clear();
        }
        for announced in covered {
            match announced {
                Announced::SigningKey { key, previous } if *previous == by.key_id() => {
                    let signed = trust.retired.contains(key) || key == by;
                    if !signed && !trust.next.contains(key) {
                        trust.next.push(key.clone());
                    }
                }
                // It was announced to follow another key, and did not come to that, or did before the pinned one.
                Announced::SigningKey { .. } | Announced::FirstKey(_) => {}
                Announced::AckKey(key) => {
                    trust.ack_keys.retain(|known| known != key);
                    trust.ack_keys.push(key.clone());
                    let surplus = trust.ack_keys.len().saturating_sub(MAX_ACK_KEYS);
                    trust.ack_keys.drain(..surplus);
                }
            }
        }
        (trust.next.len() + trust.retired.len() < MAX_KEYS).then_some(trust)
    }
}

#[cfg(test)]
mod tests {
    use knhk_receipts::testing::TestSigner;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        TestSigner::new(seed).public_key()
    }

    fn announces(seed: u8, previous: u8) -> Announced {
        Announced::SigningKey {
            key: key(seed),
            previous: key(previous).key_id(),
        }
    }

    fn signed(trust: &Trust, by: u8, covered: &[Announced]) -> Trust {
        trust.signed(&key(by), covered.iter()).expect("not too many keys")
    }

    #[test]
    fn a_key_takes_over_only_after_one_that_announced_it() {
        let trust = Trust::new(key(1).key_id());
        assert_eq!(trust.standing(&key(1)), Standing::Current);
        assert_eq!(trust.standing(&key(2)), Standing::Unknown);
        let trust = signed(&trust, 1, &[announces(2, 1), announces(3, 9)]);
        assert_eq!(trust.standing(&key(2)), Standing::Next);
        assert_eq!(
            trust.standing(&key(3)),
            Standing::Unknown,
            "announced after another key"
        );
        let trust = signed(&trust, 2, &[announces(1, 2)]);
        assert_eq!(
            trust.standing(&key(1)),
            Standing::Retired,
            "a key never signs again"
        );
        assert_eq!(
            (trust.standing(&key(2)), trust.key_id()),
            (Standing::Current, key(2).key_id())
        );
    }

    #[test]
    fn of_two_announced_keys_one_takes_over() {
        let trust = Trust::new(key(1).key_id());
        let trust = signed(&trust, 1, &[announces(2, 1), announces(3, 1)]);
        let trust = signed(&trust, 3, &[]);
        assert_eq!(trust.standing(&key(2)), Standing::Unknown, "its turn was before");
    }

    #[test]
    fn a_new_pin_begins_anew() {
        let trust = signed(
            &Trust::new(key(1).key_id()),
            1,
            &[announces(2, 1), Announced::AckKey(key(7))],
        );
        assert_eq!(trust.clone().pinned(key(1).key_id()), trust);
        let later = signed(&trust, 2, &[]);
        let known = later.clone().pinned(key(2).key_id());
        assert_eq!(
            (known.current, known.retired),
            (later.current, later.retired),
            "of the same chain"
        );
        let again = trust.pinned(key(5).key_id());
        assert_eq!(again.standing(&key(5)), Standing::Current);
        assert_eq!(again.standing(&key(2)), Standing::Unknown);
        assert_eq!(again.standing(&key(1)), Standing::Retired);
        assert_eq!(again.ack_keys, [key(7)]);
    }

    #[test]
    fn the_newest_keys_of_acknowledgements_are_known() {
        let announced: Vec<_> = (1..=10).map(|seed| Announced::AckKey(key(seed))).collect();
        let trust = signed(&Trust::new(key(1).key_id()), 1, &announced);
        assert_eq!(trust.ack_keys.len(), MAX_ACK_KEYS);
        assert_eq!(trust.ack_keys.last(), Some(&key(10)));
        let trust = signed(&trust, 1, &[Announced::AckKey(key(9))]);
        assert_eq!(
            (trust.ack_keys.len(), trust.ack_keys.last()),
            (MAX_ACK_KEYS, Some(&key(9)))
        );
    }
}
