//! The signed state of a log: a C2SP tlog-checkpoint in a C2SP signed-note, signed with ECDSA over P-256 (type 0x02).
//!
//! ```text
//! knhk.dev/log/us-east-1                          the origin
//! 42                                              entries in the tree
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=    its root hash, base64
//!
//! — knhk.dev/log/us-east-1 BASE64                 4 bytes of key ID, then the signature
//! ```
//! The key ID is the first four bytes of SHA-256 of the key's `SubjectPublicKeyInfo` in DER. The signature is ASN.1 DER over
//! SHA-256 of the text up to and including the newline before the empty line.

use std::fmt;

use sha2::{Digest, Sha256};
use signed_note::{Note, Signature, VerificationError, Verifier, Verifiers};
use tlog_tiles::{Checkpoint as Text, Hash};

use crate::key::PublicKey;

/// The largest checkpoint that is read, in bytes. One of ours has about 250; others may add signatures.
pub const MAX_CHECKPOINT_BYTES: usize = 16 * 1024;

/// The longest origin, in bytes.
pub const MAX_ORIGIN_BYTES: usize = 255;

/// The largest tree that is believed in.
pub const MAX_TREE_SIZE: u64 = 1 << 48;

/// The smallest tree that is signed: the path of a proof in it is never empty, which RFC 9942 needs.
pub const MIN_SIGNED_SIZE: u64 = 2;

/// A root hash.
pub type Root = [u8; 32];

/// Why bytes are not a checkpoint, or not one of a known key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Not in the form of a signed checkpoint.
    #[error("it is not a signed checkpoint: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// None of its signatures is by one of the keys.
    #[error("none of the {keys} given keys signed it; it is signed by the log's key, see `knhk key list`")]
    UnknownKey {
        /// How many keys were given.
        keys: usize,
    },
    /// A signature says that it is by one of the keys and is not.
    #[error("the signature by the key {key} is wrong: text or signature were changed")]
    BadSignature {
        /// The key, `sha256:...`.
        key: String,
    },
}

impl CheckpointError {
    /// A stable name for metrics and programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed_checkpoint",
            Self::UnknownKey { .. } => "unknown_key",
            Self::BadSignature { .. } => "bad_signature",
        }
    }

    fn malformed(reason: &dyn fmt::Display) -> Self {
        Self::Malformed {
            reason: reason.to_string(),
        }
    }
}

/// What a signer is asked to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsigned {
    /// The log's name, first line of the checkpoint and name of the signature.
    pub origin: String,
    /// How many entries the tree has.
    pub size: u64,
    /// The tree's root hash.
    pub root: Root,
}

impl Unsigned {
    /// SHA-256 of the text: what is signed.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.text()).into()
    }

    /// Puts the signature under the text, if it is one by this key.
    pub fn signed(
        &self,
        key: &PublicKey,
        signature_der: Vec<u8>,
    ) -> Result<SignedCheckpoint, CheckpointError> {
        if !key.verifies(&self.digest(), &signature_der) {
            return Err(CheckpointError::BadSignature { key: key.to_string() });
        }
        let signature = Signature::new(self.origin.clone(), key.note_key_id(), signature_der)
            .map_err(|e| CheckpointError::malformed(&e))?;
        let note = Note::new(&self.text(), &[signature]).map_err(|e| CheckpointError::malformed(&e))?;
        SignedCheckpoint::from_bytes(&note.to_bytes())
    }

    fn text(&self) -> Vec<u8> {
        format!("{}\n{}\n{}\n", self.origin, self.size, Hash(self.root)).into_bytes()
    }
}

/// A checkpoint as it is published. Well-formed; whether a known key signed it is what [`SignedCheckpoint::verify`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    note: Vec<u8>,
    unsigned: Unsigned,
}

impl SignedCheckpoint {
    /// Parses a signed note whose text is a checkpoint.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointError> {
        if bytes.len() > MAX_CHECKPOINT_BYTES {
            return Err(CheckpointError::malformed(&format_args!(
                "it has {} bytes, and at most {MAX_CHECKPOINT_BYTES} are read",
                bytes.len()
            )));
        }
        let note = Note::from_bytes(bytes).map_err(|e| CheckpointError::malformed(&e))?;
        let text = Text::from_bytes(note.text()).map_err(|e| CheckpointError::malformed(&e))?;
        let unsigned = Unsigned {
            origin: text.origin().to_owned(),
            size: text.size(),
            root: text.hash().0,
        };
        if unsigned.origin.len() > MAX_ORIGIN_BYTES {
            return Err(CheckpointError::malformed(&format_args!(
                "its origin has more than {MAX_ORIGIN_BYTES} bytes"
            )));
        }
        if unsigned.size > MAX_TREE_SIZE {
            return Err(CheckpointError::malformed(&format_args!(
                "its size is above {MAX_TREE_SIZE}"
            )));
        }
        Ok(Self {
            note: bytes.to_vec(),
            unsigned,
        })
    }

    /// The note, byte for byte as it was signed and published.
    pub fn as_bytes(&self) -> &[u8] {
        &self.note
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.unsigned.origin
    }

    /// How many entries the tree has.
    pub fn size(&self) -> u64 {
        self.unsigned.size
    }

    /// The tree's root hash.
    pub fn root(&self) -> Root {
        self.unsigned.root
    }

    /// Which of the keys signed it, under the log's own name.
    pub fn verify<'k>(&self, keys: &'k [PublicKey]) -> Result<&'k PublicKey, CheckpointError> {
        let note = Note::from_bytes(&self.note).map_err(|e| CheckpointError::malformed(&e))?;
        // One key at a time: two keys can have the same four bytes of ID, and a rotated log has many keys.
        let mut bad = None;
        for key in keys {
            let known = Known {
                origin: self.origin(),
                key,
            };
            match note.verify(&known) {
                Ok(_) => return Ok(key),
                Err(signed_note::NoteError::InvalidSignature { .. }) => bad = Some(key),
                Err(_) => {}
            }
        }
        Err(match bad {
            Some(key) => CheckpointError::BadSignature { key: key.to_string() },
            None => CheckpointError::UnknownKey { keys: keys.len() },
        })
    }
}

/// One ECDSA key under a log's name, as `signed_note` wants verifiers.
struct Known<'a> {
    origin: &'a str,
    key: &'a PublicKey,
}

impl Verifier for Known<'_> {
    fn name(&self) -> &str {
        self.origin
    }

    fn key_id(&self) -> u32 {
        self.key.note_key_id()
    }

    fn verify(&self, text: &[u8], signature: &[u8]) -> bool {
        self.key.verifies(&Sha256::digest(text).into(), signature)
    }
}

impl Verifiers for Known<'_> {
    fn verifier(&self, name: &str, id: u32) -> Result<&dyn Verifier, VerificationError> {
        if name == self.origin && id == self.key.note_key_id() {
            Ok(self)
        } else {
            Err(VerificationError::UnknownKey {
                name: name.to_owned(),
                id,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::TestSigner;

    fn unsigned() -> Unsigned {
        Unsigned {
            origin: "knhk.dev/log/test".to_owned(),
            size: 42,
            root: [7; 32],
        }
    }

    fn signed(signer: &TestSigner) -> SignedCheckpoint {
        let signature = signer.sign(&unsigned().digest());
        unsigned()
            .signed(&signer.public_key(), signature)
            .expect("its own signature")
    }

    #[test]
    fn a_checkpoint_round_trips_and_verifies_with_its_key_among_others() {
        let signer = TestSigner::new(1);
        let checkpoint = signed(&signer);
        let again = SignedCheckpoint::from_bytes(checkpoint.as_bytes()).expect("its own bytes");
        assert_eq!(again, checkpoint);
        assert_eq!(
            (again.origin(), again.size(), again.root()),
            ("knhk.dev/log/test", 42, [7; 32])
        );
        let keys = [TestSigner::new(2).public_key(), signer.public_key()];
        assert_eq!(again.verify(&keys).expect("signed"), &keys[1]);
        assert_eq!(
            again.verify(&keys[..1]),
            Err(CheckpointError::UnknownKey { keys: 1 })
        );
        assert_eq!(again.verify(&[]).expect_err("no key").label(), "unknown_key");
    }

    #[test]
    fn the_note_has_the_documented_form() {
        let signer = TestSigner::new(1);
        let checkpoint = signed(&signer);
        let text = String::from_utf8(checkpoint.as_bytes().to_vec()).expect("text");
        let lines: Vec<_> = text.split('\n').collect();
        assert_eq!(lines[..2], ["knhk.dev/log/test", "42"]);
        assert_eq!(lines[2], "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
        assert_eq!(lines[3], "");
        let line = Signature::from_bytes(lines[4].as_bytes()).expect("a signature line");
        assert_eq!(line.name(), "knhk.dev/log/test");
        let spki_digest = Sha256::digest(signer.public_key().der());
        assert_eq!(line.id().to_be_bytes(), spki_digest[..4]);
        let covered = format!("{}\n", lines[..3].join("\n"));
        assert!(
            signer
                .public_key()
                .verifies(&Sha256::digest(covered).into(), line.signature())
        );
    }

    #[test]
    fn a_signature_by_another_key_is_never_put_under_it() {
        let signature = TestSigner::new(2).sign(&unsigned().digest());
        let error = unsigned()
            .signed(&TestSigner::new(1).public_key(), signature)
            .expect_err("another key");
        assert_eq!(error.label(), "bad_signature");
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_found(at in 0..10_000_usize, bit in 0..8_u8) {
            let signer = TestSigner::new(1);
            let mut bytes = signed(&signer).as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let verified = SignedCheckpoint::from_bytes(&bytes)
                .and_then(|checkpoint| checkpoint.verify(&[signer.public_key()]).cloned());
            prop_assert!(verified.is_err());
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = SignedCheckpoint::from_bytes(&bytes);
        }
    }
}
