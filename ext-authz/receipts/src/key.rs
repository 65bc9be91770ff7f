use std::fmt;

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::{DecodePublicKey, EncodePublicKey, LineEnding};
use sha2::{Digest, Sha256};

use crate::payload::to_hex;

/// The most keys that are read from one PEM text.
pub const MAX_KEYS: usize = 256;

/// The largest PEM text that is read, in bytes.
pub const MAX_PEM_BYTES: usize = 256 * 1024;

const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

/// A P-256 public key that checkpoints are verified with.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
    der: Vec<u8>,
}

/// Why a text or bytes give no public key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// More bytes or keys than are read.
    #[error("the key file is too large: at most {MAX_KEYS} keys in {MAX_PEM_BYTES} bytes are read")]
    TooLarge,
    /// No key in it.
    #[error(
        "the key file has no `{BEGIN}` block; give a P-256 public key in PEM, as `knhk key show` prints it"
    )]
    NoKey,
    /// A block is not a P-256 key.
    #[error("public key {number} is not a P-256 public key in PEM ({reason})")]
    Malformed {
        /// Which one, from 1.
        number: usize,
        /// What is wrong.
        reason: String,
    },
}

impl KeyError {
    /// A stable name for metrics and programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLarge => "key_too_large",
            Self::NoKey => "no_key",
            Self::Malformed { .. } => "malformed_key",
        }
    }
}

impl PublicKey {
    /// Parses the DER of a `SubjectPublicKeyInfo`.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let malformed = |reason: String| KeyError::Malformed { number: 1, reason };
        let key = VerifyingKey::from_public_key_der(der).map_err(|e| malformed(e.to_string()))?;
        Self::from_key(key).map_err(malformed)
    }

    /// Parses every `PUBLIC KEY` block of a PEM text. Text around the blocks is ignored, as OpenSSL does. At least one.
    pub fn from_pem(text: &str) -> Result<Vec<Self>, KeyError> {
        if text.len() > MAX_PEM_BYTES {
            return Err(KeyError::TooLarge);
        }
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find(BEGIN) {
            let number = keys.len() + 1;
            if number > MAX_KEYS {
                return Err(KeyError::TooLarge);
            }
            let malformed = |reason: String| KeyError::Malformed { number, reason };
            let end = rest[start..]
                .find(END)
                .ok_or_else(|| malformed(format!("it has no `{END}`")))?;
            let end = start + end + END.len();
            let key =
                VerifyingKey::from_public_key_pem(&rest[start..end]).map_err(|e| malformed(e.to_string()))?;
            keys.push(Self::from_key(key).map_err(malformed)?);
            rest = &rest[end..];
        }
        if keys.is_empty() {
            Err(KeyError::NoKey)
        } else {
            Ok(keys)
        }
    }

    fn from_key(key: VerifyingKey) -> Result<Self, String> {
        let der = key.to_public_key_der().map_err(|e| e.to_string())?.into_vec();
        Ok(Self { key, der })
    }

    /// The DER of its `SubjectPublicKeyInfo`.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// One PEM block with a final newline.
    #[allow(clippy::missing_panics_doc)]
    pub fn pem(&self) -> String {
        self.key
            .to_public_key_pem(LineEnding::LF)
            .expect("its DER was made before")
    }

    /// SHA-256 of the DER.
    pub fn key_id(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    /// The key ID of C2SP signed notes for ECDSA: the first four bytes of SHA-256 of the DER.
    pub fn note_key_id(&self) -> u32 {
        let id = self.key_id();
        u32::from_be_bytes([id[0], id[1], id[2], id[3]])
    }

    /// Whether this is an ECDSA signature, in DER, by this key over this SHA-256 digest.
    pub fn verifies(&self, digest: &[u8; 32], signature_der: &[u8]) -> bool {
        Signature::from_der(signature_der)
            .is_ok_and(|signature| self.key.verify_prehash(digest, &signature).is_ok())
    }
}

/// `sha256:` and the key ID in hexadecimal.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", to_hex(&self.key_id()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestSigner;

    #[test]
    fn one_or_several_keys_are_read_and_what_is_around_them_is_not() {
        let keys: Vec<_> = (1..4).map(|seed| TestSigner::new(seed).public_key()).collect();
        let pem = keys.iter().fold(String::new(), |text, key| {
            text + "# a comment\n" + &key.pem() + "\n"
        });
        assert_eq!(PublicKey::from_pem(&pem).expect("three keys"), keys);
        assert_eq!(PublicKey::from_pem(&keys[0].pem()).expect("one key"), keys[..1]);
        assert_eq!(PublicKey::from_der(keys[1].der()).expect("a key"), keys[1]);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let good = TestSigner::new(1).public_key().pem();
        let cut = &good[..good.len() - 10];
        let label = |text: &str| PublicKey::from_pem(text).expect_err("no key").label();
        assert_eq!(label(""), "no_key");
        assert_eq!(label("-----BEGIN PRIVATE KEY-----"), "no_key");
        assert_eq!(label(cut), "malformed_key");
        assert_eq!(label(&format!("{good}{BEGIN}\nAAAA\n{END}\n")), "malformed_key");
        assert_eq!(label(&good.repeat(MAX_KEYS + 1)), "key_too_large");
        assert_eq!(label(&" ".repeat(MAX_PEM_BYTES + 1)), "key_too_large");
    }
}
