//! What a log says of itself to those who copy it: the keys that are to sign it, and the key that its region acknowledges with.

use knhk_receipts::{ActionReceipt, KeyReceipt, Payload, PublicKey};
use serde::{Deserialize, Serialize};

use crate::wire::KeyId;

/// What the action receipt is called that announces the key a region acknowledges with.
pub const ACK_KEY_ACTION: &str = "region.ack-key";

/// How every encoded payload goes on behind its map's head: version 1, then the kind (see [`knhk_receipts::payload`]).
const KIND_AT: [u8; 3] = [0x00, 0x01, 0x01];

/// Kinds of payloads that can announce something.
const GENESIS: u8 = 0;
const ACTION: u8 = 2;
const KEY: u8 = 4;

/// Something that an entry announces. It counts once a checkpoint by a trusted key covers the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The key that the log began with.
    FirstKey(PublicKey),
    /// A key that is to sign the log, after the one with this ID.
    SigningKey {
        /// The key, which has proven that it can sign.
        key: PublicKey,
        /// The key that signed then.
        previous: KeyId,
    },
    /// The key that the log's region acknowledges other logs with from now on.
    AckKey(PublicKey),
}

/// The announcement in an encoded payload of the log of this origin and region, if there is one. A payload of another kind costs a
/// look at its first bytes.
pub fn announced(origin: &str, region: &str, payload: &[u8]) -> Option<Announced> {
    let (head, rest) = payload.get(1..)?.split_first_chunk::<3>()?;
    if *head != KIND_AT || !matches!(rest.first(), Some(&GENESIS | &ACTION | &KEY)) {
        return None;
    }
    match Payload::from_bytes(payload).ok()? {
        Payload::Genesis(genesis) => PublicKey::from_der(&genesis.public_key_der)
            .ok()
            .map(Announced::FirstKey),
        Payload::Key(receipt) => signing_key(origin, &receipt),
        Payload::Action(action) if action.region == region => ack_key_of(&action).map(Announced::AckKey),
        _ => None,
    }
}

impl Announced {
    /// A key of the log itself.
    pub(crate) fn log_key(&self) -> Option<&PublicKey> {
        match self {
            Self::FirstKey(key) | Self::SigningKey { key, .. } => Some(key),
            Self::AckKey(_) => None,
        }
    }
}

fn signing_key(origin: &str, receipt: &KeyReceipt) -> Option<Announced> {
    let key = receipt.proven(origin)?;
    let previous = receipt.previous;
    Some(Announced::SigningKey { key, previous })
}

/// The state after the action, as JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AckKeyDocument {
    /// Always `ES256`: ECDSA over P-256 with SHA-256.
    algorithm: String,
    /// The key, `PUBLIC KEY` in PEM.
    public_key: String,
}

const ALGORITHM: &str = "ES256";

/// The receipt by which a region's own log announces the key that the region acknowledges other logs with.
pub fn ack_key_action(region: &str, key: &PublicKey, time_unix_ms: u64) -> ActionReceipt {
    let document = AckKeyDocument {
        algorithm: ALGORITHM.to_owned(),
        public_key: key.pem(),
    };
    ActionReceipt {
        region: region.to_owned(),
        time_unix_ms,
        who: "knhk".to_owned(),
        what: ACK_KEY_ACTION.to_owned(),
        target: key.to_string(),
        before: None,
        // Two texts: writing them as JSON cannot fail.
        after: serde_json::to_vec(&document).ok(),
        reason: "the key that this region acknowledges other regions' logs with".to_owned(),
    }
}

/// The key that such a receipt announces.
pub fn ack_key_of(action: &ActionReceipt) -> Option<PublicKey> {
    if action.what != ACK_KEY_ACTION {
        return None;
    }
    let document: AckKeyDocument = serde_json::from_slice(action.after.as_deref()?).ok()?;
    let mut keys = PublicKey::from_pem(&document.public_key).ok()?;
    let key = keys.pop()?;
    let is_it = keys.is_empty() && document.algorithm == ALGORITHM && action.target == key.to_string();
    is_it.then_some(key)
}

#[cfg(test)]
mod tests {
    use knhk_receipts::payload::samples::any_payload;
    use knhk_receipts::testing::TestSigner;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_announced_ack_key_is_found_again() {
        let key = TestSigner::new(3).public_key();
        let action = ack_key_action("eu-west-1", &key, 7);
        assert_eq!(ack_key_of(&action), Some(key.clone()));
        let payload = Payload::Action(action.clone()).to_bytes();
        let found = announced("o", "eu-west-1", &payload);
        assert_eq!(found, Some(Announced::AckKey(key)));
        assert_eq!(announced("o", "us-east-1", &payload), None, "of another region");
        let other = ActionReceipt {
            what: "rollout.apply".to_owned(),
            ..action.clone()
        };
        assert_eq!(ack_key_of(&other), None);
        let other = ActionReceipt {
            target: "sha256:00".to_owned(),
            ..action
        };
        assert_eq!(ack_key_of(&other), None, "it names another key");
    }

    #[test]
    fn an_announced_signing_key_needs_its_proof() {
        let signer = TestSigner::new(2);
        let der = signer.public_key().der().to_vec();
        let receipt = KeyReceipt {
            region: "r".to_owned(),
            time_unix_ms: 1,
            proof: signer.sign(&KeyReceipt::proof_digest("o", &der)),
            public_key_der: der,
            provider: "test".to_owned(),
            version: "k2".to_owned(),
            previous: [9; 32],
            who: "knhk".to_owned(),
        };
        let payload = Payload::Key(receipt).to_bytes();
        let (key, previous) = (signer.public_key(), [9; 32]);
        assert_eq!(
            announced("o", "r", &payload),
            Some(Announced::SigningKey { key, previous })
        );
        assert_eq!(
            announced("p", "r", &payload),
            None,
            "the proof is for another log"
        );
    }

    proptest! {
        /// The look at the first bytes misses nothing.
        #[test]
        fn only_what_can_announce_something_is_decoded(payload in any_payload()) {
            let bytes = payload.to_bytes();
            let looked_at = bytes[1..4] == KIND_AT && [GENESIS, ACTION, KEY].contains(&bytes[4]);
            prop_assert_eq!(looked_at, matches!(payload, Payload::Genesis(_) | Payload::Key(_) | Payload::Action(_)));
        }
    }
}
