//! The log's source of truth: append-only files of records.
//!
//! A segment is named after its first entry, `00000000000000000042.seg`. Numbers are little-endian.
//!
//! ```text
//! header:  "KNHKSEG1"  first entry u64
//! record:  length u32  crc32 u32  body of `length` bytes, which the CRC-32 (IEEE) covers
//! body:    entry u64   group u64  salt 32  commitment 32  payload
//! ```
//! `group` is the first entry of the group commit that the record was written in. A group is written only after the one
//! before it is durable. So behind a torn record there can be records of the same group, and never one of a later group:
//! where there is one, acknowledged entries were damaged, and that is no torn tail.

use std::io;

use crate::entry::{Commitment, Prepared, SALT_LEN, Salt};
use crate::payload::MAX_PAYLOAD_BYTES;
use crate::storage::{File, read_full};

const MAGIC: &[u8; 8] = b"KNHKSEG1";

/// Bytes of a segment's header.
pub(crate) const HEADER_LEN: u64 = HEADER_BYTES as u64;

const HEADER_BYTES: usize = 16;

/// Bytes before a body.
pub(crate) const FRAME_LEN: usize = 8;

/// Bytes of a body without payload.
const FIXED_LEN: usize = 8 + 8 + SALT_LEN + 32;

/// The largest body.
const MAX_BODY_LEN: usize = FIXED_LEN + MAX_PAYLOAD_BYTES;

/// How much is read at once.
const READ_BYTES: usize = 256 * 1024;

/// Directory of the segments.
pub(crate) const SEGMENTS_DIR: &str = "log/segments";

pub(crate) fn path_of(first: u64) -> String {
    format!("{SEGMENTS_DIR}/{first:020}.seg")
}

/// The first entry of the segment of this file name; `None` for other files.
pub(crate) fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 20)?;
    digits.parse().ok()
}

pub(crate) fn header(first: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..].copy_from_slice(&first.to_le_bytes());
    bytes
}

/// How many bytes a record takes.
pub(crate) fn record_len(payload_len: usize) -> usize {
    FRAME_LEN + FIXED_LEN + payload_len
}

/// Adds a record to a buffer.
pub(crate) fn put_record(buffer: &mut Vec<u8>, index: u64, group: u64, entry: &Prepared) {
    let start = buffer.len();
    buffer.extend([0; FRAME_LEN]);
    buffer.extend(index.to_le_bytes());
    buffer.extend(group.to_le_bytes());
    buffer.extend(entry.salt);
    buffer.extend(entry.commitment);
    buffer.extend(&entry.payload);
    let body = start + FRAME_LEN;
    let length = u32::try_from(buffer.len() - body).unwrap_or(u32::MAX);
    let crc = crc32fast::hash(&buffer[body..]);
    buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
    buffer[start + 4..body].copy_from_slice(&crc.to_le_bytes());
}

/// One entry as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) index: u64,
    group: u64,
    pub(crate) salt: Salt,
    pub(crate) commitment: Commitment,
    pub(crate) payload: &'a [u8],
}

impl<'a> Record<'a> {
    fn parse(body: &'a [u8]) -> Option<Self> {
        let (index, rest) = body.split_first_chunk()?;
        let (group, rest) = rest.split_first_chunk()?;
        let (salt, rest) = rest.split_first_chunk()?;
        let (commitment, payload) = rest.split_first_chunk()?;
        Some(Self {
            index: u64::from_le_bytes(*index),
            group: u64::from_le_bytes(*group),
            salt: *salt,
            commitment: *commitment,
            payload,
        })
    }
}

/// What a scanner found at its place.
pub(crate) enum Found<'a> {
    /// The record that was expected.
    Record(Record<'a>),
    /// The end, right behind a record.
    End,
    /// Something else than the expected record.
    Broken,
}

/// Reads the records of one segment in order.
pub(crate) struct Scanner {
    file: Box<dyn File>,
    /// Where the next record begins.
    offset: u64,
    /// Nothing is read from here on.
    end: u64,
    /// The entry that comes next.
    next: u64,
    buffer: Vec<u8>,
    /// Where in the buffer the next record begins.
    at: usize,
}

impl Scanner {
    /// Starts at `offset`, where the record of entry `next` is to begin.
    pub(crate) fn new(file: Box<dyn File>, offset: u64, end: u64, next: u64) -> Self {
        Self {
            file,
            offset,
            end,
            next,
            buffer: Vec::new(),
            at: 0,
        }
    }

    /// Whether all was read.
    pub(crate) fn is_at_end(&self) -> bool {
        self.offset >= self.end
    }

    /// Where the record that comes next begins; after [`Found::Broken`], where the broken one does.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The entry that comes next.
    pub(crate) fn index(&self) -> u64 {
        self.next
    }

    pub(crate) fn next_record(&mut self) -> io::Result<Found<'_>> {
        if self.is_at_end() {
            return Ok(Found::End);
        }
        let Some(frame) = self.peek(FRAME_LEN)? else {
            return Ok(Found::Broken);
        };
        let Some(length) = body_len(frame) else {
            return Ok(Found::Broken);
        };
        let total = FRAME_LEN + length;
        if self.peek(total)?.is_none() {
            return Ok(Found::Broken);
        }
        let start = self.at;
        match check(&self.buffer[start..start + total]) {
            Some(record) if record.index == self.next => {
                self.at += total;
                self.offset += total as u64;
                self.next += 1;
                Ok(Found::Record(record))
            }
            _ => Ok(Found::Broken),
        }
    }

    /// Whether somewhere behind the broken record there is one of a later group.
    pub(crate) fn later_group_follows(&self) -> io::Result<bool> {
        let mut offset = self.offset + 1;
        let mut window = vec![0; READ_BYTES + FRAME_LEN + FIXED_LEN];
        while offset < self.end {
            let wanted = usize::try_from(self.end - offset)
                .unwrap_or(usize::MAX)
                .min(window.len());
            let read = read_full(self.file.as_ref(), offset, &mut window[..wanted])?;
            for at in 0..read.min(READ_BYTES) {
                let candidate = &window[at..read];
                if self.looks_later(candidate) && self.is_record(offset + at as u64)? {
                    return Ok(true);
                }
            }
            if read < wanted {
                break;
            }
            offset += READ_BYTES as u64;
        }
        Ok(false)
    }

    /// A cheap look: plausible length, and an entry of a group that begins behind the broken entry.
    fn looks_later(&self, bytes: &[u8]) -> bool {
        let plausible = body_len(bytes).is_some();
        let numbers = bytes.get(FRAME_LEN..).and_then(<[u8]>::split_first_chunk);
        let Some((index, rest)) = numbers.filter(|_| plausible) else {
            return false;
        };
        let Some((group, _)) = rest.split_first_chunk() else {
            return false;
        };
        let (index, group) = (u64::from_le_bytes(*index), u64::from_le_bytes(*group));
        // A segment holds fewer entries than bytes.
        let most = self.next.saturating_add(self.end);
        group > self.next && group <= index && index <= most
    }

    fn is_record(&self, offset: u64) -> io::Result<bool> {
        let mut frame = [0; FRAME_LEN];
        read_full(self.file.as_ref(), offset, &mut frame)?;
        let Some(length) = body_len(&frame) else {
            return Ok(false);
        };
        let mut bytes = vec![0; FRAME_LEN + length];
        let read = read_full(self.file.as_ref(), offset, &mut bytes)?;
        Ok(read == bytes.len() && check(&bytes).is_some())
    }

    /// The next `len` bytes, or `None` where there are fewer.
    fn peek(&mut self, len: usize) -> io::Result<Option<&[u8]>> {
        if self.buffer.len() - self.at < len {
            self.buffer.drain(..self.at);
            self.at = 0;
            let have = self.buffer.len();
            let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
            self.buffer.resize(len.max(READ_BYTES).min(left).max(have), 0);
            let read = read_full(
                self.file.as_ref(),
                self.offset + have as u64,
                &mut self.buffer[have..],
            )?;
            self.buffer.truncate(have + read);
        }
        Ok(self.buffer.get(self.at..self.at + len))
    }
}

/// The length of the body, if it can be one.
pub(crate) fn body_len(frame: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*frame.first_chunk()?) as usize;
    (FIXED_LEN..=MAX_BODY_LEN).contains(&length).then_some(length)
}

/// The record of a frame and its body, if the CRC fits.
pub(crate) fn check(bytes: &[u8]) -> Option<Record<'_>> {
    let (frame, body) = bytes.split_first_chunk::<FRAME_LEN>()?;
    let crc = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
    if crc32fast::hash(body) == crc {
        Record::parse(body)
    } else {
        None
    }
}

/// Whether a file that is as long as a header or longer begins with the header of this segment.
pub(crate) fn has_header(file: &dyn File, first: u64) -> io::Result<bool> {
    let mut bytes = [0; HEADER_BYTES];
    let read = read_full(file, 0, &mut bytes)?;
    Ok(read == bytes.len() && bytes == header(first))
}
