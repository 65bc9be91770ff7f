//! The judge of a simulation, and of real processes in `tests/`. It shares nothing with sender, mirror or log: it reads the files of every region with a parser of its
//! own, computes every commitment and every root itself, and compares.
//!
//! What it says is true of the bytes on disk, whatever the regions believe.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

pub(crate) type Hash = [u8; 32];

/// Files as they are on a disk.
pub(crate) trait Files {
    /// What is in a directory.
    fn names(&self, dir: &str) -> Result<Vec<String>, String>;
    /// A whole file.
    fn whole(&self, path: &str) -> Result<Vec<u8>, String>;
}

/// What one region's disk has of one log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copy {
    /// Leaf hashes of the entries, from their salts and payloads.
    pub(crate) leaves: Vec<Hash>,
    /// Size and root of the newest signed checkpoint.
    pub(crate) signed: Option<(u64, Hash)>,
}

impl Copy {
    /// Reads a storage. An error names what is wrong with the bytes.
    pub(crate) fn read(storage: &dyn Files) -> Result<Self, String> {
        let mut leaves = Vec::new();
        let mut names = storage.names("log/segments")?;
        names.sort_unstable();
        names.retain(|name| name.strip_suffix(".seg").is_some());
        let last = names.last().cloned();
        for name in names {
            let bytes = storage.whole(&format!("log/segments/{name}"))?;
            read_segment(&bytes, &mut leaves, Some(&name) == last.as_ref())?;
        }
        let head = storage
            .whole("mirror/head")
            .ok()
            .and_then(|bytes| value_of(&bytes, 9));
        let root = storage
            .whole("log/root")
            .ok()
            .and_then(|bytes| value_of(&bytes, 1));
        let signed = root.or(head).map(|note| read_note(&note)).transpose()?;
        let copy = Self { leaves, signed };
        if let Some((size, root)) = copy.signed
            && copy.root(size) != Some(root)
        {
            return Err(format!(
                "its {size} entries do not have the root of its checkpoint"
            ));
        }
        Ok(copy)
    }

    /// RFC 6962, 2.1, over the first entries. None where there are fewer.
    pub(crate) fn root(&self, size: u64) -> Option<Hash> {
        let size = usize::try_from(size).ok()?;
        self.leaves.get(..size).map(merkle)
    }

    pub(crate) fn size(&self) -> u64 {
        self.leaves.len() as u64
    }
}

/// A promise that was made: of the log of this region so many entries, with this root, are held by a quorum.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Promise {
    pub(crate) region: String,
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

/// All copies of one log, by the region that has them.
pub(crate) type Copies = BTreeMap<String, Copy>;

/// At least so many copies have what was promised.
pub(crate) fn is_kept(promise: &Promise, copies: &Copies, least: usize) -> Result<(), String> {
    let has = |it: &&Copy| it.root(promise.size) == Some(promise.root);
    let holders = copies.values().filter(has).count();
    if holders >= least {
        return Ok(());
    }
    let sizes: Vec<_> = copies
        .iter()
        .map(|(region, it)| format!("{region} {}", it.size()))
        .collect();
    let Promise { region, size, .. } = promise;
    Err(format!(
        "{size} entries of {region} were promised to be on {least} regions, and are on {holders} ({})",
        sizes.join(", ")
    ))
}

/// Every copy is the beginning of every longer one.
pub(crate) fn is_one_history(region: &str, copies: &Copies) -> Result<(), String> {
    let longest = copies.values().max_by_key(|it| it.size());
    let Some(longest) = longest else { return Ok(()) };
    for (holder, copy) in copies {
        if !longest.leaves.starts_with(&copy.leaves) {
            return Err(format!("{holder} has another history of {region} than others"));
        }
    }
    Ok(())
}

/// Every copy has the same entries under the same checkpoint.
pub(crate) fn are_equal(region: &str, copies: &Copies) -> Result<(), String> {
    let mut all = copies.iter().map(|(holder, it)| (holder, &it.leaves, it.signed));
    let Some((_, leaves, signed)) = all.next() else {
        return Ok(());
    };
    match all.find(|(_, others, other)| *others != leaves || *other != signed) {
        None => Ok(()),
        Some((holder, others, other)) => Err(format!(
            "{holder} has {} entries of {region} under {:?}, another one {} under {:?}",
            others.len(),
            other.map(|it| it.0),
            leaves.len(),
            signed.map(|it| it.0)
        )),
    }
}

/// Header of 16 bytes, then records: length, CRC-32, and the body: entry, group, salt, commitment, payload.
fn read_segment(bytes: &[u8], leaves: &mut Vec<Hash>, is_last: bool) -> Result<(), String> {
    if bytes.len() < 16 && is_last {
        return Ok(());
    }
    if &bytes[..8] != b"KNHKSEG1" || number(&bytes[8..16]) != leaves.len() as u64 {
        return Err("a segment does not begin where the one before ends".to_owned());
    }
    let mut rest = &bytes[16..];
    while rest.len() >= 8 {
        let len = u32::from_le_bytes(rest[..4].try_into().expect("four")) as usize;
        let Some(body) = rest.get(8..8 + len).filter(|body| body.len() >= 80) else {
            break;
        };
        if crc32(body) != u32::from_le_bytes(rest[4..8].try_into().expect("four")) {
            break;
        }
        rest = &rest[8 + len..];
        let index = leaves.len();
        if number(&body[..8]) != index as u64 {
            return Err(format!("entry {index} is not where it should be"));
        }
        let commitment = sha256(&[b"knhk.dev/receipts/commitment/v1\0", &body[16..48], &body[80..]]);
        if commitment != body[48..80] {
            return Err(format!("entry {index} does not commit to its payload"));
        }
        leaves.push(sha256(&[&[0], &commitment]));
    }
    if rest.is_empty() || is_last {
        Ok(())
    } else {
        Err("a closed segment ends in the midst of a record".to_owned())
    }
}

/// Origin, size, root in base64.
fn read_note(note: &[u8]) -> Result<(u64, Hash), String> {
    let text = String::from_utf8_lossy(note);
    let mut lines = text.lines().skip(1);
    let size = lines.next().and_then(|line| line.parse().ok());
    let root = lines.next().and_then(base64);
    size.zip(root).ok_or_else(|| format!("no checkpoint: {text}"))
}

fn base64(text: &str) -> Option<Hash> {
    let value = |c: u8| {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        alphabet.iter().position(|it| *it == c)
    };
    let (mut bits, mut have, mut bytes) = (0_usize, 0, Vec::new());
    for c in text.bytes().take_while(|c| *c != b'=') {
        bits = (bits << 6 | value(c)?) & 0xffff;
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push(u8::try_from(bits >> have & 0xff).expect("a byte"));
        }
    }
    bytes.try_into().ok()
}

/// The bytes that a CBOR map of small numbers has under a key.
fn value_of(map: &[u8], key: u64) -> Option<Vec<u8>> {
    let (mut rest, entries) = head(map)?.1;
    for _ in 0..entries {
        let (0, (after, found)) = head(rest)? else {
            return None;
        };
        if found == key {
            let (2, (after, len)) = head(after)? else {
                return None;
            };
            return after.get(..usize::try_from(len).ok()?).map(<[u8]>::to_vec);
        }
        rest = skip(after)?;
    }
    None
}

/// Major type, what follows the head, and its number.
fn head(bytes: &[u8]) -> Option<(u8, (&[u8], u64))> {
    let (&first, rest) = bytes.split_first()?;
    let len = match first & 31 {
        small @ 0..24 => return Some((first >> 5, (rest, u64::from(small)))),
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => return None,
    };
    let digits = rest.get(..len)?;
    let value = digits
        .iter()
        .fold(0, |value, digit| value << 8 | u64::from(*digit));
    Some((first >> 5, (&rest[len..], value)))
}

fn skip(bytes: &[u8]) -> Option<&[u8]> {
    let (major, (mut rest, number)) = head(bytes)?;
    match major {
        2 | 3 => rest.get(usize::try_from(number).ok()?..),
        4 | 5 => {
            for _ in 0..number * u64::from(major - 3) {
                rest = skip(rest)?;
            }
            Some(rest)
        }
        0 | 1 | 7 => Some(rest),
        _ => None,
    }
}

fn merkle(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => sha256(&[]),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            sha256(&[&[1], &merkle(left), &merkle(right)])
        }
    }
}

fn sha256(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

/// CRC-32 (IEEE), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}
