use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Digest as Digested, SHA256};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use pem_rfc7468::LineEnding;
use sha2::{Digest, Sha256};

use crate::payload::to_hex;

/// The most keys of a log, and that are read from one PEM text.
pub const MAX_KEYS: usize = 4096;

/// The largest PEM text that is read, in bytes.
pub const MAX_PEM_BYTES: usize = 1024 * 1024;

/// Bytes of the `SubjectPublicKeyInfo` of a P-256 key in DER.
const SPKI_LEN: usize = SPKI_HEAD.len() + POINT_LEN;

/// What the DER of every P-256 key begins with: `id-ecPublicKey`, `prime256v1` (RFC 5480, 2.1.1), and a bit string of
/// [`POINT_LEN`] bytes.
const SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Bytes of an uncompressed point (SEC 1, 2.3.3): 4, then both coordinates.
const POINT_LEN: usize = 65;

/// How an uncompressed point begins.
const UNCOMPRESSED: u8 = 4;

const LABEL: &str = "PUBLIC KEY";
const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

/// A P-256 public key that checkpoints are verified with. Parsed once; each verification uses it as it is.
#[derive(Clone)]
pub struct PublicKey {
    key: Arc<ParsedPublicKey>,
    der: [u8; SPKI_LEN],
    id: [u8; 32],
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
    /// Parses the DER of a `SubjectPublicKeyInfo`. A key has one form: the curve by its name and the point uncompressed, as
    /// OpenSSL and every key management write it. So it has one key ID too.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        Self::parse(der).map_err(|reason| KeyError::Malformed {
            number: 1,
            reason: reason.to_owned(),
        })
    }

    fn parse(der: &[u8]) -> Result<Self, &'static str> {
        let point = der
            .strip_prefix(&SPKI_HEAD)
            .ok_or("it is not the SubjectPublicKeyInfo of a P-256 key with an uncompressed point")?;
        if point.first() != Some(&UNCOMPRESSED) {
            return Err("its point is not in the uncompressed form");
        }
        let der: [u8; SPKI_LEN] = der
            .try_into()
            .map_err(|_| "its length is not that of a P-256 key")?;
        let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .map_err(|_| "its point is not on the curve")?;
        Ok(Self {
            key: Arc::new(key),
            der,
            id: Sha256::digest(der).into(),
        })
    }

    /// Parses every `PUBLIC KEY` block of a PEM text (RFC 7468). Text around the blocks is ignored, as OpenSSL does. At least
    /// one.
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
            let (_, der) = pem_rfc7468::decode_vec(&rest.as_bytes()[start..end])
                .map_err(|error| malformed(error.to_string()))?;
            keys.push(Self::parse(&der).map_err(|reason| malformed(reason.to_owned()))?);
            rest = &rest[end..];
        }
        if keys.is_empty() {
            Err(KeyError::NoKey)
        } else {
            Ok(keys)
        }
    }

    /// The DER of its `SubjectPublicKeyInfo`.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// One PEM block with a final newline.
    #[allow(clippy::missing_panics_doc)]
    pub fn pem(&self) -> String {
        pem_rfc7468::encode_string(LABEL, LineEnding::LF, &self.der).expect("its length is fixed and small")
    }

    /// SHA-256 of the DER.
    pub fn key_id(&self) -> [u8; 32] {
        self.id
    }

    /// The key ID of C2SP signed notes for ECDSA: the first four bytes of SHA-256 of the DER.
    pub fn note_key_id(&self) -> u32 {
        u32::from_be_bytes([self.id[0], self.id[1], self.id[2], self.id[3]])
    }

    /// Whether this is an ECDSA signature, in strict DER, by this key over this SHA-256 digest.
    pub fn verifies(&self, digest: &[u8; 32], signature_der: &[u8]) -> bool {
        Digested::import_less_safe(digest, &SHA256)
            .and_then(|digest| self.key.verify_digest_sig(&digest, signature_der))
            .is_ok()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for PublicKey {}

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

    #[test]
    fn a_key_has_one_form() {
        let good = TestSigner::new(1).public_key();
        let refused = |der: &[u8]| PublicKey::from_der(der).expect_err("no key").to_string();
        for at in 0..SPKI_HEAD.len() {
            let mut changed = good.der().to_vec();
            changed[at] ^= 1;
            refused(&changed);
        }
        let mut off_curve = good.der().to_vec();
        off_curve[SPKI_LEN - 1] ^= 1;
        assert!(refused(&off_curve).contains("on the curve"));
        refused(&[good.der(), &[0]].concat());
        refused(&good.der()[..SPKI_LEN - 1]);
        refused(&[]);

        // The compressed form of the same key (SEC 1, 2.3.3) would give it a second key ID.
        let point = &good.der()[SPKI_HEAD.len()..];
        let mut compressed = SPKI_HEAD.to_vec();
        (compressed[1], compressed[24]) = (0x39, 0x22);
        compressed.push(2 | (point[POINT_LEN - 1] & 1));
        compressed.extend(&point[1..33]);
        refused(&compressed);
        let infinity = [&SPKI_HEAD[..], &[0; POINT_LEN]].concat();
        refused(&infinity);
    }

    #[test]
    fn a_signature_is_strict_der_over_the_digest_itself() {
        let signer = TestSigner::new(1);
        let (key, digest) = (signer.public_key(), [7; 32]);
        let signature = signer.sign(&digest);
        assert!(key.verifies(&digest, &signature));
        assert!(
            !key.verifies(&Sha256::digest(digest).into(), &signature),
            "of the digest, not of its digest"
        );
        assert!(!TestSigner::new(2).public_key().verifies(&digest, &signature));
        assert!(
            !key.verifies(&digest, &[&signature[..], &[0]].concat()),
            "a byte behind it"
        );
        assert!(!key.verifies(&digest, &[]));
        // The same numbers, with the length of the sequence in two bytes: BER, and not DER.
        let long = [&[0x30, 0x81, signature[1]], &signature[2..]].concat();
        assert!(!key.verifies(&digest, &long));
        // The same numbers, the first with a needless zero.
        let mut padded = signature.clone();
        padded[1] += 1;
        padded[3] += 1;
        padded.insert(4, 0);
        assert!(!key.verifies(&digest, &padded));
        for at in 0..signature.len() {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            assert!(!key.verifies(&digest, &changed), "byte {at}");
        }
    }
}
