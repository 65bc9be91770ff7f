//! How bytes are shown in JSON.

use knhk_decision::PolicyId;
use serde::{Serialize, Serializer};

/// `EPOCH.N`, as in the header `x-knhk-policy`.
pub(super) fn policy_id<S: Serializer>(id: &PolicyId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// Lower-case hexadecimal.
pub(crate) fn hex<S: Serializer>(bytes: &impl AsRef<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&to_hex(bytes.as_ref()))
}

/// The same where there may be none.
// serde passes the field as it is.
#[allow(clippy::ref_option)]
pub(super) fn hex_if_any<S: Serializer>(
    bytes: &Option<impl AsRef<[u8]>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    bytes
        .as_ref()
        .map(|bytes| to_hex(bytes.as_ref()))
        .serialize(serializer)
}

/// JSON in bytes, as text.
pub(super) fn text<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

/// The same where there may be none.
// serde passes the field as it is.
#[allow(clippy::ref_option)]
pub(super) fn text_if_any<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    bytes
        .as_deref()
        .map(String::from_utf8_lossy)
        .serialize(serializer)
}

/// Lower-case hexadecimal.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}
