use serde::Serialize;
use sha2::{Digest, Sha256};

use super::show;
use crate::key::PublicKey;

/// Separates what a new key signs, to show that it can, from everything else that keys sign.
const PROOF_DOMAIN: &[u8] = b"knhk-key/v1\0";

/// How every encoded key receipt begins: a map of ten keys, version 1, kind 4.
const BEGINNING: [u8; 5] = [0xaa, 0x00, 0x01, 0x01, 0x04];

/// A key that is to sign the log's checkpoints after the one that signs them now. The entry alone changes nothing: the key
/// counts for who follows the log once a checkpoint by the key before it covers the entry.
///
/// Further keys: 4 the `SubjectPublicKeyInfo` DER of the key (bytes), 5 provider (text), 6 version (text), 7 key ID of the key
/// that signs now (bytes), 8 who (text), 9 proof (bytes).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyReceipt {
    /// The log's region.
    pub region: String,
    /// When it was announced, by the service's clock.
    pub time_unix_ms: u64,
    /// The new key, as DER.
    #[serde(serialize_with = "show::hex")]
    pub public_key_der: Vec<u8>,
    /// Who holds its private half: `local`, `aws`, `azure` or `vault`.
    pub provider: String,
    /// The provider's name of that version of the key.
    pub version: String,
    /// SHA-256 of the DER of the key that signed checkpoints when this one was announced.
    #[serde(serialize_with = "show::hex")]
    pub previous: [u8; 32],
    /// Who asked for it: a SPIFFE ID, a local user, or `knhk` for the service itself.
    pub who: String,
    /// The new key's signature, in ASN.1 DER, over [`KeyReceipt::proof_digest`]: it can really sign.
    #[serde(serialize_with = "show::hex")]
    pub proof: Vec<u8>,
}

impl KeyReceipt {
    /// What the new key signs: SHA-256 of `"knhk-key/v1"`, a zero byte, the log's origin, a zero byte, and the key's DER.
    pub fn proof_digest(origin: &str, public_key_der: &[u8]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(PROOF_DOMAIN);
        hasher.update(origin);
        hasher.update([0]);
        hasher.update(public_key_der);
        hasher.finalize().into()
    }

    /// The new key, if the proof is its signature for the log of this origin.
    pub fn proven(&self, origin: &str) -> Option<PublicKey> {
        let key = PublicKey::from_der(&self.public_key_der).ok()?;
        let digest = Self::proof_digest(origin, &self.public_key_der);
        key.verifies(&digest, &self.proof).then_some(key)
    }
}

/// A cheap look at an encoded payload, for reading through a whole log.
pub(crate) fn is_key_receipt(payload: &[u8]) -> bool {
    payload.starts_with(&BEGINNING)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::payload::Payload;
    use crate::payload::samples::any_payload;

    proptest! {
        #[test]
        fn key_receipts_are_told_by_their_beginning(payload in any_payload()) {
            prop_assert_eq!(is_key_receipt(&payload.to_bytes()), matches!(payload, Payload::Key(_)));
        }
    }
}
