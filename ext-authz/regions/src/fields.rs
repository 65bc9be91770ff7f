//! Values that several formats have, read within their bounds.

use knhk_receipts::cbor::{Encoder, Written, array_len, fixed_bytes};
use knhk_receipts::cose::MAX_PATH_HASHES;
use knhk_receipts::{DecodeError, PublicKey, SignedCheckpoint};
use minicbor::Decoder;

use crate::wire::Hash;

/// Refuses more bytes than are read.
pub(crate) fn bounded(bytes: &[u8], bound: usize) -> Result<(), DecodeError> {
    let len = bytes.len();
    if len > bound {
        return Err(DecodeError::TooLarge { len, bound });
    }
    Ok(())
}

/// A text of at most so many bytes.
pub(crate) fn short<'b>(
    d: &mut Decoder<'b>,
    field: &'static str,
    most: usize,
) -> Result<&'b str, DecodeError> {
    let text = d.str().map_err(|e| DecodeError::malformed(field, &e))?;
    if text.len() > most {
        let reason = format_args!("it has {} bytes, and at most {most} are read", text.len());
        return Err(DecodeError::malformed(field, &reason));
    }
    Ok(text)
}

pub(crate) fn checkpoint(d: &mut Decoder<'_>, field: &'static str) -> Result<SignedCheckpoint, DecodeError> {
    let note = d.bytes().map_err(|e| DecodeError::malformed(field, &e))?;
    SignedCheckpoint::from_bytes(note).map_err(|e| DecodeError::malformed(field, &e))
}

pub(crate) fn public_key(d: &mut Decoder<'_>, field: &'static str) -> Result<PublicKey, DecodeError> {
    let der = d.bytes().map_err(|e| DecodeError::malformed(field, &e))?;
    PublicKey::from_der(der).map_err(|e| DecodeError::malformed(field, &e))
}

/// An array of at most `most` items.
pub(crate) fn list<'b, T>(
    d: &mut Decoder<'b>,
    field: &'static str,
    most: usize,
    mut read: impl FnMut(&mut Decoder<'b>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let len = array_len(d, field)?;
    if len > most as u64 {
        let reason = format_args!("it has {len} items, and at most {most} are read");
        return Err(DecodeError::malformed(field, &reason));
    }
    (0..len).map(|_| read(d)).collect()
}

pub(crate) fn proof(d: &mut Decoder<'_>, field: &'static str) -> Result<Vec<Hash>, DecodeError> {
    list(d, field, MAX_PATH_HASHES, |d| fixed_bytes(d, field))
}

pub(crate) fn put_proof(e: &mut Encoder<'_>, proof: &[Hash]) -> Written {
    e.array(proof.len() as u64)?;
    proof.iter().try_for_each(|hash| e.bytes(hash).map(|_| ()))
}

/// Counts what is there of optional values, for a map's head.
pub(crate) fn present(optional: &[bool]) -> u64 {
    optional.iter().filter(|present| **present).count() as u64
}
