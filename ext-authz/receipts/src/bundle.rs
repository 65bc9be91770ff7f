//! Payload bundles: what the entries of a bundle commit to, for readers of the log.
//!
//! Bundle N holds the same 256 entries as the entry bundle N of C2SP tlog-tiles, and its path is built alike: `payloads/<N>`,
//! or `payloads/<N>.p/<W>` for the first W of them. Its body is a CBOR sequence (RFC 8742) with one item an entry, in
//! deterministic CBOR (RFC 8949, 4.2.1):
//!
//! ```text
//! item = [salt, payload]          both bytes; the entry is the commitment to them, see `entry`
//! ```

use crate::entry::{SALT_LEN, Salt};
use crate::payload::MAX_PAYLOAD_BYTES;
use crate::tree::{Tile, TileKind};

/// What the path of a bundle begins with.
pub const PATH_PREFIX: &str = "payloads/";

/// What an item begins with: an array of two, and a byte string of [`SALT_LEN`] bytes.
const ITEM_HEAD: [u8; 3] = [0x82, 0x58, 0x20];

/// Bytes of an item before the length of its payload.
const SALTED: usize = ITEM_HEAD.len() + SALT_LEN;

/// The largest item, in bytes.
pub const MAX_ITEM_BYTES: usize = SALTED + 5 + MAX_PAYLOAD_BYTES;

/// One entry's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// The salt of the commitment.
    pub salt: &'a Salt,
    /// The payload's bytes.
    pub payload: &'a [u8],
}

/// Bytes are not an item of a payload bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Not an array of a salt and a payload.
    #[error("it is not an array of a salt and a payload in deterministic CBOR")]
    Malformed,
    /// The payload is larger than any.
    #[error("its payload has {len} bytes, and at most {MAX_PAYLOAD_BYTES} are read")]
    TooLarge {
        /// How many it says.
        len: u64,
    },
}

impl BundleError {
    /// A stable name for metrics and programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed_bundle",
            Self::TooLarge { .. } => "too_large",
        }
    }
}

/// The path of bundle `n`, with the first `width` of its entries: 1 to 256.
pub fn path(n: u64, width: u64) -> String {
    let tile = Tile {
        kind: TileKind::Entries,
        n,
        width,
    };
    tile.to_string().replacen("tile/entries/", PATH_PREFIX, 1)
}

/// The bundle of a path: the entry bundle with the same entries. `None` for every other text.
pub(crate) fn parse_path(path: &str) -> Option<Tile> {
    let number = path.strip_prefix(PATH_PREFIX)?;
    format!("tile/entries/{number}").parse().ok()
}

/// Adds an item to a bundle.
pub fn put(bytes: &mut Vec<u8>, salt: &Salt, payload: &[u8]) {
    bytes.extend(ITEM_HEAD);
    bytes.extend(salt);
    let len = payload.len() as u64;
    match len {
        0..0x18 => bytes.push(0x40 | len.to_be_bytes()[7]),
        0x18..0x100 => bytes.extend([0x58, len.to_be_bytes()[7]]),
        0x100..0x1_0000 => {
            bytes.push(0x59);
            bytes.extend(&len.to_be_bytes()[6..]);
        }
        0x1_0000..0x1_0000_0000 => {
            bytes.push(0x5a);
            bytes.extend(&len.to_be_bytes()[4..]);
        }
        _ => {
            bytes.push(0x5b);
            bytes.extend(len.to_be_bytes());
        }
    }
    bytes.extend(payload);
}

/// The first item of these bytes, and how long it is. `None` where they end before it does: more bytes may make it whole.
/// Accepts exactly what [`put`] makes of a payload of at most [`MAX_PAYLOAD_BYTES`].
pub fn split(bytes: &[u8]) -> Result<Option<(Item<'_>, usize)>, BundleError> {
    let known = bytes.len().min(ITEM_HEAD.len());
    if bytes[..known] != ITEM_HEAD[..known] {
        return Err(BundleError::Malformed);
    }
    let Some((head, rest)) = bytes.split_at_checked(SALTED) else {
        return Ok(None);
    };
    let salt = head.last_chunk().ok_or(BundleError::Malformed)?;
    let Some((len, taken)) = byte_string(rest)? else {
        return Ok(None);
    };
    let Some(payload) = rest.get(taken..taken + len) else {
        return Ok(None);
    };
    Ok(Some((Item { salt, payload }, SALTED + taken + len)))
}

/// The length of a byte string, and how long that is itself.
fn byte_string(bytes: &[u8]) -> Result<Option<(usize, usize)>, BundleError> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let (digits, least) = match first {
        0x40..0x58 => (0, 0),
        0x58 => (1, 0x18),
        0x59 => (2, 0x100),
        0x5a => (4, 0x1_0000),
        0x5b => (8, 0x1_0000_0000),
        _ => return Err(BundleError::Malformed),
    };
    let Some(number) = rest.get(..digits) else {
        return Ok(None);
    };
    let len = if digits == 0 {
        u64::from(first - 0x40)
    } else {
        number.iter().fold(0, |len, &digit| len << 8 | u64::from(digit))
    };
    if len < least {
        return Err(BundleError::Malformed);
    }
    match usize::try_from(len) {
        Ok(short) if short <= MAX_PAYLOAD_BYTES => Ok(Some((short, 1 + digits))),
        _ => Err(BundleError::TooLarge { len }),
    }
}

#[cfg(test)]
mod tests {
    use minicbor::Encoder;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_built_as_those_of_entry_bundles() {
        assert_eq!(path(0, 256), "payloads/000");
        assert_eq!(path(1_234_067, 7), "payloads/x001/x234/067.p/7");
        let tile = parse_path("payloads/x001/000.p/255").expect("a path");
        assert_eq!((tile.kind, tile.n, tile.width), (TileKind::Entries, 1000, 255));
        for bad in [
            "",
            "payloads/",
            "payloads/0",
            "payloads/000.p/0",
            "payloads/000.p/256",
            "tile/entries/000",
            "payloads/../key",
        ] {
            assert_eq!(parse_path(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_item_is_what_a_cbor_encoder_writes() {
        for len in [0, 1, 23, 24, 255, 256, 65_535, 65_536, MAX_PAYLOAD_BYTES] {
            let (payload, mut ours, mut theirs) = (vec![7; len], Vec::new(), Vec::new());
            put(&mut ours, &[9; SALT_LEN], &payload);
            let mut encoder = Encoder::new(&mut theirs);
            encoder
                .array(2)
                .expect("writes")
                .bytes(&[9; SALT_LEN])
                .expect("writes")
                .bytes(&payload)
                .expect("writes");
            assert!(ours == theirs, "{len}");
            let (item, taken) = split(&ours).expect("an item").expect("a whole one");
            assert!(
                (item.salt, item.payload, taken) == (&[9; SALT_LEN], payload.as_slice(), ours.len()),
                "{len}"
            );
        }
    }

    #[test]
    fn a_length_has_one_form_and_a_bound() {
        let with = |length: &[u8]| [&ITEM_HEAD[..], &[0; SALT_LEN], length].concat();
        for long in [
            &[0x58, 0x17][..],
            &[0x59, 0, 0xff],
            &[0x5a, 0, 0, 0xff, 0xff],
            &[0x5b, 0, 0, 0, 0, 0xff, 0, 0, 0],
            &[0x5f],
            &[0x60],
            &[0x83],
        ] {
            assert_eq!(split(&with(long)), Err(BundleError::Malformed), "{long:?}");
        }
        let len = MAX_PAYLOAD_BYTES as u64 + 1;
        let huge = [&[0x5a], &len.to_be_bytes()[4..]].concat();
        assert_eq!(split(&with(&huge)), Err(BundleError::TooLarge { len }));
        assert_eq!(
            split(&with(&[0x5b; 9])).expect_err("far too large").label(),
            "too_large"
        );
    }

    proptest! {
        #[test]
        fn a_bundle_is_split_into_its_items_wherever_it_is_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 1..8),
            cut: prop::sample::Index,
        ) {
            let mut bytes = Vec::new();
            for (salt, payload) in (0_u8..).zip(&payloads) {
                put(&mut bytes, &[salt; SALT_LEN], payload);
            }
            let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
            while let Some((item, taken)) = split(rest).expect("items") {
                found.push(item.payload.to_vec());
                rest = &rest[taken..];
            }
            prop_assert_eq!((found, rest.len()), (payloads, 0));
            let mut rest = &bytes[..cut.index(bytes.len())];
            while let Some((_, taken)) = split(rest).expect("the beginning of items") {
                rest = &rest[taken..];
            }
        }

        #[test]
        fn any_bytes_are_split_or_refused(head in prop::bool::ANY, tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = if head { [&ITEM_HEAD[..], &tail].concat() } else { tail };
            if let Ok(Some((item, taken))) = split(&bytes) {
                let mut again = Vec::new();
                put(&mut again, item.salt, item.payload);
                prop_assert_eq!(&again[..], &bytes[..taken]);
            }
        }
    }
}
