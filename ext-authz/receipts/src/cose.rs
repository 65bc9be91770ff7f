//! The tree's root as RFC 9942 COSE Receipts (verifiable data structure 1, RFC 9162 SHA-256).
//!
//! ```text
//! receipt   = 18([protected, { 396: { -1: [proof] } }, nil, signature])       tagged COSE_Sign1, RFC 9052
//! protected = << { 1: -7, 4: kid, 395: 1 } >>                                 ES256; kid is SHA-256 of the key's SPKI DER
//! proof     = << [tree size, leaf index, [hash, ...]] >>                      from the leaf's sibling to the root's child
//! signature = r || s, 64 bytes, over SHA-256 of << ["Signature1", protected, h'', root] >>
//! ```
//! The payload, which is detached, is the 32 bytes of the root. One signature a flush serves every receipt under that root.
//! All of it is deterministic CBOR (RFC 8949, 4.2.1), and nothing else is accepted.

use minicbor::Decoder;
use minicbor::data::Tag;
use p256::ecdsa::Signature;
use sha2::{Digest, Sha256};

use crate::checkpoint::Root;
use crate::key::PublicKey;
use crate::payload::{DecodeError, array_len, fixed_bytes, in_memory};

/// The largest COSE receipt that is read, in bytes.
pub const MAX_COSE_BYTES: usize = 4096;

/// The most hashes of a path: the height of the largest tree.
pub const MAX_PATH_HASHES: usize = 64;

/// COSE header `alg`, and its value for ECDSA over P-256 with SHA-256.
const ALG: i64 = 1;
const ES256: i64 = -7;

/// COSE header `kid`.
const KID: i64 = 4;

/// COSE header `vds`, and its value for trees of RFC 9162 with SHA-256.
const VDS: i64 = 395;
const RFC9162_SHA256: i64 = 1;

/// COSE header `vdp`, and its key for inclusion proofs.
const VDP: i64 = 396;
const INCLUSION: i64 = -1;

/// Tag of a `COSE_Sign1`.
const SIGN1: u64 = 18;

const FIELD: &str = "cose";

/// A key's signature over a root, in the form of COSE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootSignature {
    /// SHA-256 of the DER of the key's `SubjectPublicKeyInfo`.
    pub kid: [u8; 32],
    /// `r || s`, big-endian.
    pub signature: [u8; 64],
}

impl RootSignature {
    /// What is signed for a root by the key of this ID: SHA-256 of the `Sig_structure` (RFC 9052, 4.4).
    pub fn digest(kid: &[u8; 32], root: &Root) -> [u8; 32] {
        let structure = in_memory(160, |e| {
            e.array(4)?.str("Signature1")?;
            e.bytes(&protected(kid))?.bytes(&[])?.bytes(root)?;
            Ok(())
        });
        Sha256::digest(structure).into()
    }

    /// Takes a signature in ASN.1 DER, if it is one by this key over this root.
    pub fn new(key: &PublicKey, root: &Root, signature_der: &[u8]) -> Option<Self> {
        let signature = Signature::from_der(signature_der).ok()?.to_bytes().into();
        let made = Self {
            kid: key.key_id(),
            signature,
        };
        made.verifies(key, root).then_some(made)
    }

    /// Whether it is a signature by this key over this root.
    pub fn verifies(&self, key: &PublicKey, root: &Root) -> bool {
        let der = Signature::from_slice(&self.signature).map(|it| it.to_der());
        key.key_id() == self.kid
            && der.is_ok_and(|der| key.verifies(&Self::digest(&self.kid, root), der.as_bytes()))
    }
}

/// A COSE receipt: one entry's inclusion under a signed root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoseReceipt {
    /// How many entries the tree has.
    pub tree_size: u64,
    /// The entry's place, from 0.
    pub leaf_index: u64,
    /// Hashes from the leaf's sibling up to the root's child.
    pub path: Vec<[u8; 32]>,
    /// The signature over the root that the path leads to.
    pub signed: RootSignature,
}

impl CoseReceipt {
    /// The tagged `COSE_Sign1`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let proof = in_memory(32 + 34 * self.path.len(), |e| {
            e.array(3)?.u64(self.tree_size)?.u64(self.leaf_index)?;
            e.array(self.path.len() as u64)?;
            self.path.iter().try_for_each(|hash| e.bytes(hash).map(|_| ()))
        });
        in_memory(160 + proof.len(), |e| {
            e.tag(Tag::new(SIGN1))?.array(4)?;
            e.bytes(&protected(&self.signed.kid))?;
            e.map(1)?.i64(VDP)?.map(1)?.i64(INCLUSION)?;
            e.array(1)?.bytes(&proof)?;
            e.null()?.bytes(&self.signed.signature)?;
            Ok(())
        })
    }

    /// Parses exactly what [`CoseReceipt::to_bytes`] makes, at most [`MAX_COSE_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_COSE_BYTES {
            return Err(DecodeError::TooLarge {
                len: bytes.len(),
                bound: MAX_COSE_BYTES,
            });
        }
        let receipt = parse(&mut Decoder::new(bytes))?;
        if receipt.to_bytes() != bytes {
            return Err(DecodeError::NotDeterministic);
        }
        Ok(receipt)
    }
}

fn protected(kid: &[u8; 32]) -> Vec<u8> {
    in_memory(48, |e| {
        e.map(3)?;
        e.i64(ALG)?.i64(ES256)?;
        e.i64(KID)?.bytes(kid)?;
        e.i64(VDS)?.i64(RFC9162_SHA256)?;
        Ok(())
    })
}

/// Reads the values. What is beside them, constants too, is compared by encoding again.
fn parse(d: &mut Decoder<'_>) -> Result<CoseReceipt, DecodeError> {
    let read = |e: minicbor::decode::Error| DecodeError::malformed(FIELD, &e);
    let tag = d.tag().map_err(read)?;
    if tag != Tag::new(SIGN1) || array_len(d, FIELD)? != 4 {
        return Err(DecodeError::malformed(FIELD, &"it is not a tagged COSE_Sign1"));
    }
    let kid = kid_of(d.bytes().map_err(read)?)?;
    let is = |wanted: i64, found: i64| {
        if wanted == found {
            Ok(())
        } else {
            Err(DecodeError::malformed(
                FIELD,
                &format_args!("it has {found} where {wanted} is to be"),
            ))
        }
    };
    map_of(d, 1)?;
    is(VDP, d.i64().map_err(read)?)?;
    map_of(d, 1)?;
    is(INCLUSION, d.i64().map_err(read)?)?;
    if array_len(d, FIELD)? != 1 {
        return Err(DecodeError::malformed(FIELD, &"it has not one inclusion proof"));
    }
    let (tree_size, leaf_index, path) = proof(d.bytes().map_err(read)?)?;
    d.null().map_err(read)?;
    let signature = fixed_bytes(d, "cose.signature")?;
    Ok(CoseReceipt {
        tree_size,
        leaf_index,
        path,
        signed: RootSignature { kid, signature },
    })
}

fn kid_of(protected: &[u8]) -> Result<[u8; 32], DecodeError> {
    let mut d = Decoder::new(protected);
    let read = |e: minicbor::decode::Error| DecodeError::malformed("cose.protected", &e);
    map_of(&mut d, 3)?;
    for _ in [ALG, ES256, KID] {
        d.i64().map_err(read)?;
    }
    fixed_bytes(&mut d, "cose.kid")
}

fn proof(bytes: &[u8]) -> Result<(u64, u64, Vec<[u8; 32]>), DecodeError> {
    const FIELD: &str = "cose.proof";
    let mut d = Decoder::new(bytes);
    let read = |e: minicbor::decode::Error| DecodeError::malformed(FIELD, &e);
    if array_len(&mut d, FIELD)? != 3 {
        return Err(DecodeError::malformed(FIELD, &"it has not three values"));
    }
    let (tree_size, leaf_index) = (d.u64().map_err(read)?, d.u64().map_err(read)?);
    let len = array_len(&mut d, FIELD)?;
    if len > MAX_PATH_HASHES as u64 {
        return Err(DecodeError::malformed(
            FIELD,
            &format_args!("it has {len} hashes, and at most {MAX_PATH_HASHES} are read"),
        ));
    }
    let path = (0..len)
        .map(|_| fixed_bytes(&mut d, FIELD))
        .collect::<Result<_, _>>()?;
    Ok((tree_size, leaf_index, path))
}

fn map_of(d: &mut Decoder<'_>, len: u64) -> Result<(), DecodeError> {
    match d.map() {
        Ok(Some(found)) if found == len => Ok(()),
        Ok(_) => Err(DecodeError::malformed(
            FIELD,
            &format_args!("a map has not {len} entries"),
        )),
        Err(e) => Err(DecodeError::malformed(FIELD, &e)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::payload::to_hex;
    use crate::testing::TestSigner;

    fn receipt() -> CoseReceipt {
        CoseReceipt {
            tree_size: 42,
            leaf_index: 7,
            path: vec![[0xaa; 32], [0xbb; 32]],
            signed: RootSignature {
                kid: [0x11; 32],
                signature: [0x22; 64],
            },
        }
    }

    /// Fixed for ever: verifiers elsewhere read these bytes.
    #[test]
    fn the_bytes_are_those_of_rfc_9942() {
        let expected = [
            "d284",
            "582aa3",
            "0126",
            &format!("045820{}", "11".repeat(32)),
            "19018b01",
            "a119018ca120815849",
            &format!("83182a07825820{}5820{}", "aa".repeat(32), "bb".repeat(32)),
            "f6",
            &format!("5840{}", "22".repeat(64)),
        ];
        assert_eq!(to_hex(&receipt().to_bytes()), expected.concat());
        let structure = [
            "846a5369676e617475726531",
            "582aa3",
            "0126",
            &format!("045820{}", "11".repeat(32)),
            "19018b01",
            "40",
            &format!("5820{}", "33".repeat(32)),
        ];
        let structure = structure.concat();
        let bytes: Vec<u8> = (0..structure.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&structure[at..at + 2], 16).expect("hexadecimal"))
            .collect();
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        assert_eq!(RootSignature::digest(&[0x11; 32], &[0x33; 32]), digest);
    }

    #[test]
    fn only_a_signature_by_its_key_over_its_root_is_taken() {
        let (signer, root) = (TestSigner::new(1), [5; 32]);
        let key = signer.public_key();
        let der = signer.sign(&RootSignature::digest(&key.key_id(), &root));
        let made = RootSignature::new(&key, &root, &der).expect("its own");
        assert!(made.verifies(&key, &root));
        assert!(!made.verifies(&key, &[6; 32]));
        assert!(!made.verifies(&TestSigner::new(2).public_key(), &root));
        assert_eq!(RootSignature::new(&key, &[6; 32], &der), None);
        assert_eq!(
            RootSignature::new(&TestSigner::new(2).public_key(), &root, &der),
            None
        );
        assert_eq!(RootSignature::new(&key, &root, &der[1..]), None);
    }

    #[test]
    fn other_encodings_and_other_headers_are_refused() {
        let good = receipt().to_bytes();
        assert_eq!(CoseReceipt::from_bytes(&good), Ok(receipt()));
        for at in 0..good.len() {
            assert!(CoseReceipt::from_bytes(&good[..at]).is_err(), "{at} bytes");
        }
        let longer = [good.as_slice(), &[0]].concat();
        assert_eq!(
            CoseReceipt::from_bytes(&longer),
            Err(DecodeError::NotDeterministic)
        );
        // Untagged.
        assert!(CoseReceipt::from_bytes(&good[1..]).is_err());
        // ES384, and another structure.
        for (from, to) in [("0126", "013822"), ("19018b01", "19018b02")] {
            let bytes: Vec<u8> = to_hex(&good).replace(from, to).into_bytes();
            let bytes: Vec<u8> = bytes
                .chunks(2)
                .map(|pair| {
                    u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hexadecimal")
                })
                .collect();
            assert!(CoseReceipt::from_bytes(&bytes).is_err(), "{to}");
        }
        assert_eq!(
            CoseReceipt::from_bytes(&vec![0; MAX_COSE_BYTES + 1])
                .expect_err("too large")
                .label(),
            "too_large"
        );
    }

    proptest! {
        #[test]
        fn a_receipt_round_trips(
            tree_size: u64,
            leaf_index: u64,
            path in prop::collection::vec(any::<[u8; 32]>(), 0..=MAX_PATH_HASHES),
            kid: [u8; 32],
            signature in any::<[u8; 32]>(),
        ) {
            let signature = [signature, signature].concat().try_into().expect("64 bytes");
            let signed = RootSignature { kid, signature };
            let receipt = CoseReceipt { tree_size, leaf_index, path, signed };
            prop_assert_eq!(CoseReceipt::from_bytes(&receipt.to_bytes()), Ok(receipt));
        }

        #[test]
        fn any_change_is_refused_or_read_as_it_is(at: prop::sample::Index, bit in 0..8_u8) {
            let mut bytes = receipt().to_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(changed) = CoseReceipt::from_bytes(&bytes) {
                prop_assert_ne!(&changed, &receipt());
                prop_assert_eq!(changed.to_bytes(), bytes);
            }
        }
    }
}
