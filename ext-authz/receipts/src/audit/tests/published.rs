//! A log by what it publishes, as a reader over the network has it.

use std::sync::Mutex;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::fixture::{Fixture, audit_with};
use crate::audit::{BundleReader, EachEntry, ReadError, Source};
use crate::{Log, LogError, bundle};

/// Reads through the log's own functions, and changes one byte of one file.
struct Published {
    log: Log,
    changed: Option<(String, prop::sample::Index, u8)>,
    asked: Mutex<Vec<String>>,
}

impl Published {
    fn new(log: Log) -> Self {
        Self {
            log,
            changed: None,
            asked: Mutex::default(),
        }
    }

    fn get(&self, path: &str) -> Result<Option<Vec<u8>>, ReadError> {
        let found = if let Some(n) = path.strip_prefix("checkpoints/") {
            self.log.kept_checkpoints(n.parse().expect("a number"))
        } else if path.starts_with(bundle::PATH_PREFIX) {
            self.log
                .payloads(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map(|pieces| pieces.concat())
        } else {
            self.log.tile(path)
        };
        let mut bytes = match found {
            Ok(bytes) => bytes,
            Err(LogError::NoTile { .. }) => return Ok(None),
            Err(error) => return Err(ReadError::new(path, &error)),
        };
        self.asked.lock().expect("no panic").push(path.to_owned());
        if let Some((_, at, bit)) = self.changed.as_ref().filter(|(file, ..)| file == path) {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Ok(Some(bytes))
    }
}

impl Source for Published {
    fn read(&self, path: &str, _most: usize) -> Result<Option<Vec<u8>>, ReadError> {
        self.get(path)
    }

    fn entries(&self, bundle: u64, width: u64, each: &mut EachEntry<'_>) -> Result<(), ReadError> {
        let mut reader = BundleReader::new(bundle, width);
        if let Some(bytes) = self.get(reader.path())? {
            for piece in bytes.chunks(1000) {
                reader.push(piece, each);
            }
            reader.finish(each);
        }
        Ok(())
    }

    fn place(&self, index: u64) -> String {
        let signed = self.log.checkpoint().expect("signed").size();
        // A changed checkpoint may speak of entries that there are not.
        bundle::path(
            index / 256,
            signed.saturating_sub(index / 256 * 256).clamp(1, 256),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_served_bit_that_is_changed_is_found_and_its_file_named() {
    let fixture = Fixture::with_a_life().await;
    let source = Published::new(fixture.open().await);
    let report = audit_with(&source, &[], &[]).expect("a report");
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(report.size, fixture.seen.last().expect("signed").size());
    let mut served = std::mem::take(&mut *source.asked.lock().expect("no panic"));
    served.sort_unstable();
    assert!(served.iter().any(|it| it == "checkpoint") && served.iter().any(|it| it == "checkpoints/0"));
    assert!(served.iter().any(|it| it.starts_with("tile/1/")) && served.iter().any(|it| it.contains(".p/")));

    let mut runner = TestRunner::new(Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    });
    let place = (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        0..8_u8,
    );
    let source = std::cell::RefCell::new(source);
    runner
        .run(&place, |(file, at, bit)| {
            let file = file.get(&served).clone();
            let mut source = source.borrow_mut();
            source.changed = Some((file.clone(), at, bit));
            let report = audit_with(&*source, &[], &[]).expect("a report");
            prop_assert!(
                report.findings.iter().any(|it| it.file == file),
                "{file}, bit {bit}: {report:#?}"
            );
            Ok(())
        })
        .expect("each one is found");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_beyond_the_newest_checkpoint_is_served() {
    let fixture = Fixture::with_a_life().await;
    let log = fixture.open().await;
    let size = log.checkpoint().expect("signed").size();
    log.append((0..600).map(crate::payload::samples::decision).collect())
        .await
        .expect("appends");
    let (last, width) = (size / 256, size % 256);
    let has = |n, width| log.payloads(&bundle::path(n, width)).is_ok();
    assert!(has(last, width) && has(last, 1) && has(0, 256) && has(0, 9));
    for (n, width) in [
        (last, width + 1),
        (last, 256),
        (last + 1, 1),
        (u64::MAX / 256, 256),
    ] {
        assert!(!has(n, width), "{n} of {width}");
    }
    assert!(log.payloads("payloads/../root").is_err());
    assert!(log.kept_checkpoints(0).is_ok() && log.kept_checkpoints(1).is_err());
}
