//! Public keys by which a provider's signatures are checked before they are used.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Call, KeyVersion, KmsError, Signature, Spki};

/// The public key of each version that has signed: the first that was read, since a version's key never changes.
#[derive(Default)]
pub(crate) struct Publics(Mutex<BTreeMap<KeyVersion, Spki>>);

impl Publics {
    pub(crate) fn get(&self, version: &KeyVersion) -> Option<Spki> {
        self.keys().get(version).cloned()
    }

    pub(crate) fn keep(&self, version: &KeyVersion, public: &Spki) {
        self.keys()
            .entry(version.clone())
            .or_insert_with(|| public.clone());
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<KeyVersion, Spki>> {
        // Entries are whole or not there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the signature back if it is one over exactly this digest: not over a digest of it, and not by another key.
pub(crate) fn checked(
    call: &Call,
    public: &Spki,
    digest: &[u8; 32],
    signature: Signature,
) -> Result<Signature, KmsError> {
    if public.verifies(digest, &signature) {
        return Ok(signature);
    }
    Err(call.malformed_answer("the signature does not verify over the digest with the version's public key"))
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::SigningKey;
    use p256::ecdsa::signature::hazmat::PrehashSigner;
    use sha2::{Digest, Sha256};

    use super::*;

    fn key(fill: u8) -> (SigningKey, Spki) {
        let key = SigningKey::from_slice(&[fill; 32]).expect("a key");
        let public = Spki::from_key(*key.verifying_key()).expect("its public half");
        (key, public)
    }

    #[test]
    fn only_a_signature_over_this_digest_by_this_key_is_given_back() {
        let call = Call::new("aws", "sign with", "alias/knhk");
        let (digest, (secret, public)) = ([9; 32], key(1));
        let sign = |secret: &SigningKey, digest: &[u8]| {
            let signature: p256::ecdsa::Signature = secret.sign_prehash(digest).expect("signs");
            Signature::from(signature)
        };
        let good = sign(&secret, &digest);
        assert_eq!(
            checked(&call, &public, &digest, good.clone()).expect("good"),
            good
        );
        let hashed_again = sign(&secret, &Sha256::digest(digest));
        let by_another = sign(&key(2).0, &digest);
        for bad in [hashed_again, by_another] {
            let error = checked(&call, &public, &digest, bad).expect_err("refused");
            assert_eq!(error.label(), "malformed_answer");
        }
    }

    #[test]
    fn the_first_key_of_a_version_stays_its_key() {
        let publics = Publics::default();
        let version = KeyVersion::new("v1").expect("a version");
        assert_eq!(publics.get(&version), None);
        for fill in [1, 2] {
            publics.keep(&version, &key(fill).1);
        }
        assert_eq!(publics.get(&version), Some(key(1).1));
    }
}
