//! An audit of what the model of a disk has.

use std::sync::Arc;

use super::rig::Rig;
use crate::audit::{Audit, Content, EachEntry, Extent, ReadError, Source, audit};
use crate::log::LOG_DIR;
use crate::log::segments::Segments;
use crate::storage::{ModelStorage, read_whole};
use crate::tree::TILE_WIDTH;

struct Stored<'s> {
    storage: &'s ModelStorage,
    segments: &'s Arc<Segments>,
}

impl Source for Stored<'_> {
    fn read(&self, path: &str, most: usize) -> Result<Option<Vec<u8>>, ReadError> {
        match read_whole(self.storage, &format!("{LOG_DIR}/{path}"), most) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(ReadError::new(path, &e)),
        }
    }

    fn entries(&self, bundle: u64, width: u64, each: &mut EachEntry<'_>) -> Result<(), ReadError> {
        let from = bundle * TILE_WIDTH;
        let mut cursor = self.segments.cursor(from);
        for index in from..from + width {
            let give = |it: &crate::segment::Record<'_>| {
                let content = Content {
                    salt: &it.salt,
                    payload: it.payload,
                    commitment: Some(&it.commitment),
                };
                each(index, Ok(content));
            };
            let read = cursor.next(give);
            read.map_err(|e| ReadError::new(self.place(index), &e))?;
        }
        Ok(())
    }

    fn place(&self, _index: u64) -> String {
        "segments".to_owned()
    }

    fn extent(&self, _signed: u64) -> Result<Extent, ReadError> {
        Ok(Extent::Still(self.segments.size()))
    }
}

/// A log that has signed something is audited with nothing found, its entries without a signature included. That the rig's
/// payloads are none does not count.
pub(super) fn is_clean(rig: &Rig, storage: &ModelStorage) {
    if rig.publisher.book().root().is_none() {
        return;
    }
    let segments = rig.segments();
    let asked = Audit {
        threads: 1,
        pinned: &[],
        since: &[],
        progress: &|_| {},
    };
    let report = audit(&Stored { storage, segments }, &asked).expect("a report");
    let found: Vec<_> = report
        .findings
        .iter()
        .filter(|it| it.label != "entries" || !it.detail.contains("payload"))
        .collect();
    assert!(found.is_empty(), "{report:#?}");
}
