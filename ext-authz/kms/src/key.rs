use std::fmt;

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::ecdsa::{Signature as Ecdsa, VerifyingKey};
use p256::pkcs8::{DecodePublicKey, EncodePublicKey, LineEnding};
use sha2::{Digest, Sha256};

use crate::{Detail, KmsError};

/// Names one version of a key at its provider: `v1` in a local directory or Vault, 32 hexadecimal digits in Azure, a key's ARN
/// in AWS. The name is printable ASCII without spaces, so it fits into a log line, a header and a command line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyVersion(String);

impl KeyVersion {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 512;

    /// Takes a provider's name of a version.
    pub fn new(name: impl Into<String>) -> Result<Self, KmsError> {
        let name = name.into();
        if name.is_empty() || name.len() > Self::MAX_LEN || !name.chars().all(|c| c.is_ascii_graphic()) {
            return Err(KmsError::MalformedVersion {
                given: Detail::new(name),
            });
        }
        Ok(Self(name))
    }

    /// The provider's name of the version.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `v1`, `v2`, ...: versions of a key whose provider counts them.
    pub(crate) fn numbered(number: u32) -> Self {
        Self(format!("v{number}"))
    }

    /// The number of a version that [`KeyVersion::numbered`] could have made.
    pub(crate) fn number(&self) -> Option<u32> {
        let digits = self.0.strip_prefix('v')?;
        let canonical = !digits.starts_with(['0', '+']);
        digits.parse().ok().filter(|_| canonical)
    }
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The public half of a P-256 key, as the DER of its `SubjectPublicKeyInfo` (RFC 5280), uncompressed point.
#[derive(Clone, PartialEq, Eq)]
pub struct Spki {
    der: Vec<u8>,
    pem: String,
    key: VerifyingKey,
}

impl Spki {
    /// Parses DER. The bytes kept are the one canonical encoding of the key, so a key has one key ID.
    pub fn from_der(der: &[u8]) -> Result<Self, KmsError> {
        let key = VerifyingKey::from_public_key_der(der).map_err(|e| KmsError::MalformedPublicKey {
            reason: e.to_string(),
        })?;
        Self::from_key(key)
    }

    /// Parses one PEM block, `PUBLIC KEY`, to the same canonical encoding.
    pub fn from_pem(pem: &str) -> Result<Self, KmsError> {
        let key = VerifyingKey::from_public_key_pem(pem).map_err(|e| KmsError::MalformedPublicKey {
            reason: e.to_string(),
        })?;
        Self::from_key(key)
    }

    pub(crate) fn from_key(key: VerifyingKey) -> Result<Self, KmsError> {
        let malformed = |reason: String| KmsError::MalformedPublicKey { reason };
        let der = key
            .to_public_key_der()
            .map_err(|e| malformed(e.to_string()))?
            .into_vec();
        let pem = key
            .to_public_key_pem(LineEnding::LF)
            .map_err(|e| malformed(e.to_string()))?;
        Ok(Self { der, pem, key })
    }

    /// The DER bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The same as one PEM block, `PUBLIC KEY`, with a final newline.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the DER: how receipts and logs name the key.
    pub fn key_id(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    /// Whether `signature` was made over `digest` with this key.
    pub fn verifies(&self, digest: &[u8; 32], signature: &Signature) -> bool {
        self.key.verify_prehash(digest, &signature.0).is_ok()
    }
}

impl fmt::Debug for Spki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spki(sha256:")?;
        for byte in self.key_id() {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

/// An ECDSA signature over P-256: two scalars in range. Providers answer in DER or as raw `r || s`; both are one value here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature(Ecdsa);

impl Signature {
    /// Parses an ASN.1 DER `SEQUENCE { r INTEGER, s INTEGER }`.
    pub fn from_der(der: &[u8]) -> Result<Self, KmsError> {
        Ecdsa::from_der(der)
            .map(Self)
            .map_err(|e| KmsError::MalformedSignature {
                reason: e.to_string(),
            })
    }

    /// Parses `r || s`, each 32 bytes, big-endian.
    pub fn from_raw(raw: &[u8; 64]) -> Result<Self, KmsError> {
        Ecdsa::from_slice(raw)
            .map(Self)
            .map_err(|e| KmsError::MalformedSignature {
                reason: e.to_string(),
            })
    }

    /// The ASN.1 DER form.
    pub fn to_der(&self) -> Vec<u8> {
        self.0.to_der().as_bytes().to_vec()
    }

    /// `r || s`, each 32 bytes, big-endian.
    pub fn to_raw(&self) -> [u8; 64] {
        self.0.to_bytes().into()
    }
}

impl From<Ecdsa> for Signature {
    fn from(signature: Ecdsa) -> Self {
        Self(signature)
    }
}

/// How a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Algorithm {
    /// ECDSA over P-256 with SHA-256, the one that every provider has.
    EcdsaP256Sha256,
}

impl Algorithm {
    /// The name used in output: `ECDSA_P256_SHA256`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256Sha256 => "ECDSA_P256_SHA256",
        }
    }
}

/// Whether a key can sign now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyState {
    /// It signs.
    Enabled,
    /// It is switched off and can be switched on again.
    Disabled,
    /// It is to be deleted and signs no more.
    PendingDeletion,
    /// It cannot sign for another reason: it is being made, imported, or its hardware is away.
    Unavailable,
}

impl KeyState {
    /// The name used in output: `enabled`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::PendingDeletion => "pending_deletion",
            Self::Unavailable => "unavailable",
        }
    }
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionInfo {
    /// Its name at the provider.
    pub version: KeyVersion,
    /// When it was made, in milliseconds since the Unix epoch, where the provider knows.
    pub created_unix_ms: Option<u64>,
}

/// A key, all its versions, and where it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyMetadata {
    /// The key's name at the provider; a directory for `local`.
    pub id: String,
    /// How it signs.
    pub algorithm: Algorithm,
    /// Whether it can sign now.
    pub state: KeyState,
    /// When the key, which is its first version, was made, in milliseconds since the Unix epoch, where the provider knows.
    pub created_unix_ms: Option<u64>,
    /// `local`, `aws`, `azure` or `vault`.
    pub provider: &'static str,
    /// The provider's region, where it has one.
    pub region: Option<String>,
    /// Every version, the oldest first; never empty, and the last one is the current one.
    pub versions: Vec<VersionInfo>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_name_is_bounded_and_plain() {
        for bad in ["", "a b", "a\n", "é", &"a".repeat(KeyVersion::MAX_LEN + 1)] {
            assert_eq!(KeyVersion::new(bad).expect_err(bad).label(), "malformed_version");
        }
        for good in [
            "v1",
            "0123456789abcdef0123456789abcdef",
            "arn:aws-us-gov:kms:us-gov-east-1:123456789012:key/mrk-1234abcd12ab34cd56ef1234567890ab",
            &"a".repeat(KeyVersion::MAX_LEN),
        ] {
            assert_eq!(KeyVersion::new(good).expect("a good name").as_str(), good);
        }
    }

    #[test]
    fn signatures_out_of_range_are_refused() {
        assert_eq!(
            Signature::from_raw(&[0; 64]).expect_err("r and s are 0").label(),
            "malformed_signature"
        );
        assert_eq!(
            Signature::from_raw(&[0xff; 64]).expect_err("above n").label(),
            "malformed_signature"
        );
        assert_eq!(
            Signature::from_der(&[0x30, 0]).expect_err("empty").label(),
            "malformed_signature"
        );
    }

    #[test]
    fn a_key_on_another_curve_is_refused() {
        // SubjectPublicKeyInfo of an Ed25519 key.
        let mut der = vec![
            0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
        ];
        der.extend([7; 32]);
        assert_eq!(
            Spki::from_der(&der).expect_err("wrong curve").label(),
            "malformed_public_key"
        );
    }
}
