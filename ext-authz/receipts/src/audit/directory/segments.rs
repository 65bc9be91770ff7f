use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::super::report::Finding;
use super::super::source::{Content, EachEntry, ReadError};
use crate::log::{OFFSETS_FILE_BYTES, Offsets};
use crate::segment::{FRAME_LEN, HEADER_LEN, Record, body_len, check, first_of, header};

/// How much is read at once.
const READ_BYTES: usize = 256 * 1024;

/// How far behind a record that cannot be read another one is looked for.
const RESYNC_BYTES: u64 = 8 * 1024 * 1024;

type Find<'f> = dyn Fn(Finding) + 'f;

/// Where each entry is.
#[derive(Default)]
pub(super) struct Segments(Vec<Segment>);

struct Segment {
    first: u64,
    /// Places of every 64th record.
    offsets: Offsets,
    role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It gets no more entries, and ends with its last one.
    Closed,
    Last,
    /// The last one, and behind its last entry are bytes that are none.
    Cut,
}

fn name(first: u64, extension: &str) -> String {
    format!("segments/{first:020}.{extension}")
}

impl Segments {
    /// Reads the tables of the closed segments, and looks through the others; `until` an entry, where the last one grows.
    pub(super) fn open(root: &Path, until: Option<u64>, find: &Find<'_>) -> Result<Self, ReadError> {
        let dir = std::fs::read_dir(root.join("segments")).map_err(|e| ReadError::new("segments", &e))?;
        let mut firsts = Vec::new();
        for entry in dir {
            let entry = entry.map_err(|e| ReadError::new("segments", &e))?;
            firsts.extend(entry.file_name().to_str().and_then(first_of));
        }
        firsts.sort_unstable();
        let (mut segments, mut expected) = (Vec::new(), 0);
        for (at, &first) in firsts.iter().enumerate() {
            if first > expected {
                let what = format!(
                    "the file is missing: it begins with entry {expected}, and the next one is of entry {first}"
                );
                find(Finding::new("entries", name(expected, "seg"), what));
            } else if first < expected {
                let what = format!(
                    "it begins with entry {first}, and the one before it goes up to entry {expected}"
                );
                find(Finding::new("entries", name(first, "seg"), what));
            }
            let role = if at + 1 == firsts.len() {
                Role::Last
            } else {
                Role::Closed
            };
            let segment = Segment::open(root, first, role, until, find)?;
            expected = first + segment.offsets.entries();
            segments.push(segment);
        }
        Ok(Self(segments))
    }

    /// How many entries there are, by the last segment.
    pub(super) fn entries(&self) -> u64 {
        self.0.last().map_or(0, |it| it.first + it.offsets.entries())
    }

    /// The file that has the entry, or would have it.
    pub(super) fn place(&self, index: u64) -> String {
        let Some(segment) = self.0.iter().rfind(|it| it.first <= index) else {
            return name(0, "seg");
        };
        let behind = segment.first + segment.offsets.entries();
        if index < behind || segment.role == Role::Cut {
            segment.path()
        } else {
            name(behind, "seg")
        }
    }

    pub(super) fn read(
        &self,
        root: &Path,
        from: u64,
        to: u64,
        each: &mut EachEntry<'_>,
        find: &Find<'_>,
    ) -> Result<(), ReadError> {
        let begin = self
            .0
            .partition_point(|it| it.first + it.offsets.entries() <= from);
        for segment in self.0[begin..].iter().take_while(|it| it.first < to) {
            segment
                .read(root, from, to, each, find)
                .map_err(|e| ReadError::new(segment.path(), &e))?;
        }
        Ok(())
    }
}

impl Segment {
    fn open(
        root: &Path,
        first: u64,
        role: Role,
        until: Option<u64>,
        find: &Find<'_>,
    ) -> Result<Self, ReadError> {
        let path = name(first, "seg");
        let failed = |e: io::Error| ReadError::new(path.as_str(), &e);
        let file = File::open(root.join(&path)).map_err(failed)?;
        let mut window = Window::new(&file).map_err(failed)?;
        if window.bytes(0, header(first).len()).map_err(failed)? != Some(&header(first)) {
            find(Finding::new(
                "entries",
                &path,
                "it does not begin as a segment of this name",
            ));
        }
        let stored = match role {
            Role::Last | Role::Cut => None,
            Role::Closed => table(root, first, find)?,
        };
        if let Some(offsets) = stored {
            return Ok(Self { first, offsets, role });
        }
        let (offsets, end) = scan(&mut window, first, until).map_err(failed)?;
        if until.is_none() && end < window.len {
            let last = first + offsets.entries();
            let what = format!(
                "entry {last} cannot be read at byte {end}, nor are the {} bytes from there: damage, or a write that was cut \
                 off and never acknowledged, which the next start of the service cuts",
                window.len - end
            );
            find(Finding::new("entries", &path, what));
            let role = Role::Cut;
            return Ok(Self { first, offsets, role });
        }
        Ok(Self { first, offsets, role })
    }

    fn path(&self) -> String {
        name(self.first, "seg")
    }

    /// Gives those of the entries that are in this segment.
    fn read(
        &self,
        root: &Path,
        from: u64,
        to: u64,
        each: &mut EachEntry<'_>,
        find: &Find<'_>,
    ) -> io::Result<()> {
        let file = File::open(root.join(self.path()))?;
        let mut window = Window::new(&file)?;
        let (from, to) = (from.max(self.first), to.min(self.first + self.offsets.entries()));
        if from >= to {
            return Ok(());
        }
        let (skipped, mut offset) = self.offsets.before(from - self.first);
        let mut index = self.first + skipped;
        while index < to {
            let listed = self.offsets.before(index - self.first);
            if listed.0 == index - self.first && listed.1 != offset {
                let what = format!(
                    "it has entry {index} at byte {} of its segment, which is at byte {offset}",
                    listed.1
                );
                find(Finding::new("files", name(self.first, "idx"), what));
            }
            let next = match window.record(offset)? {
                Some((record, len)) if record.index == index => {
                    if index >= from {
                        each(
                            index,
                            Ok(Content {
                                salt: &record.salt,
                                payload: record.payload,
                                commitment: Some(&record.commitment),
                            }),
                        );
                    }
                    (index + 1, offset + len)
                }
                _ => {
                    let next = self.behind(&mut window, index, offset)?;
                    let last = next.0.min(to);
                    for broken in index.max(from)..last {
                        each(
                            broken,
                            Err(format!("at byte {offset}, where entry {index} begins")),
                        );
                    }
                    next
                }
            };
            (index, offset) = next;
        }
        let is_end = self.role == Role::Closed && to == self.first + self.offsets.entries() && index == to;
        if is_end && offset != window.len {
            let what = format!("behind its last entry {} at byte {offset} are more bytes", to - 1);
            find(Finding::new("entries", self.path(), what));
        }
        Ok(())
    }

    /// Where to go on behind a record that cannot be read: the next one by its length, or the next place in the table.
    fn behind(&self, window: &mut Window<'_>, index: u64, offset: u64) -> io::Result<(u64, u64)> {
        let frame = window.bytes(offset, FRAME_LEN)?;
        if let Some(len) = frame.and_then(body_len) {
            let next = offset + (FRAME_LEN + len) as u64;
            if window
                .record(next)?
                .is_some_and(|(record, _)| record.index == index + 1)
            {
                return Ok((index + 1, next));
            }
        }
        let inside = index - self.first;
        for later in inside + 1..=inside + Offsets::STRIDE {
            let (at, place) = self.offsets.before(later);
            if at == later && place > offset && later < self.offsets.entries() {
                return Ok((self.first + at, place));
            }
        }
        Ok((self.first + self.offsets.entries(), window.len))
    }
}

/// The table of a closed segment, if it is good.
fn table(root: &Path, first: u64, find: &Find<'_>) -> Result<Option<Offsets>, ReadError> {
    let path = name(first, "idx");
    let bytes = match std::fs::metadata(root.join(&path)) {
        Ok(file) if file.len() > OFFSETS_FILE_BYTES as u64 => Vec::new(),
        Ok(_) => std::fs::read(root.join(&path)).map_err(|e| ReadError::new(path.as_str(), &e))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            find(Finding::new("files", path, "the file is missing"));
            return Ok(None);
        }
        Err(e) => return Err(ReadError::new(path, &e)),
    };
    let offsets = Offsets::from_bytes(&bytes, first);
    if offsets.is_none() {
        find(Finding::new(
            "files",
            path,
            "it is not as it was written: format or check sum are wrong",
        ));
    }
    Ok(offsets)
}

/// Finds every record of a segment, and where the last one ends. Where one cannot be read it is taken as there if a later one
/// is.
fn scan(window: &mut Window<'_>, first: u64, until: Option<u64>) -> io::Result<(Offsets, u64)> {
    let (mut offsets, mut offset, mut index) = (Offsets::default(), HEADER_LEN, first);
    while offset < window.len && until.is_none_or(|until| index < until) {
        match window.record(offset)? {
            Some((record, len)) if record.index == index => {
                offsets.push(offset);
                (index, offset) = (index + 1, offset + len);
            }
            _ => {
                let Some((later, place)) = resync(window, index, offset)? else {
                    break;
                };
                (index..later).for_each(|_| offsets.push(offset));
                (index, offset) = (later, place);
            }
        }
    }
    Ok((offsets, offset))
}

/// The first record of a later entry behind this place.
fn resync(window: &mut Window<'_>, index: u64, offset: u64) -> io::Result<Option<(u64, u64)>> {
    let end = window.len.min(offset + RESYNC_BYTES);
    for place in offset + 1..end {
        let plausible = window.bytes(place, FRAME_LEN)?.and_then(body_len).is_some();
        if plausible
            && let Some((record, _)) = window.record(place)?
            && record.index > index
            && record.index - index <= place - offset
        {
            return Ok(Some((record.index, place)));
        }
    }
    Ok(None)
}

/// A part of a file in memory.
struct Window<'f> {
    file: &'f File,
    len: u64,
    start: u64,
    buffer: Vec<u8>,
}

impl<'f> Window<'f> {
    fn new(file: &'f File) -> io::Result<Self> {
        Ok(Self {
            file,
            len: file.metadata()?.len(),
            start: 0,
            buffer: Vec::new(),
        })
    }

    /// Bytes of the file; `None` where it ends before.
    fn bytes(&mut self, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        if len > left {
            return Ok(None);
        }
        let known = offset >= self.start && offset - self.start + len as u64 <= self.buffer.len() as u64;
        if !known {
            self.buffer.resize(len.max(READ_BYTES).min(left), 0);
            self.file.read_exact_at(&mut self.buffer, offset)?;
            self.start = offset;
        }
        let at = usize::try_from(offset - self.start).unwrap_or(0);
        Ok(self.buffer.get(at..at + len))
    }

    /// The record at this place and how long it is, if there is a whole one.
    fn record(&mut self, offset: u64) -> io::Result<Option<(Record<'_>, u64)>> {
        let Some(len) = self.bytes(offset, FRAME_LEN)?.and_then(body_len) else {
            return Ok(None);
        };
        let total = FRAME_LEN + len;
        let record = self.bytes(offset, total)?.and_then(check);
        Ok(record.map(|record| (record, total as u64)))
    }
}
