//! Whatever is changed in a log's directory, an audit finds it and names the file.

use std::fs;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::fixture::{Fixture, is_segment};
use crate::audit::Report;
use crate::tree::Tile;

/// Whether a file is named, the table of a segment by itself.
fn names(report: &Report, file: &str) -> bool {
    report.findings.iter().any(|it| it.file == file)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_bit_anywhere_is_found_and_its_file_named() {
    let fixture = Fixture::with_a_life().await;
    let files = fixture.files();
    let most = std::cell::Cell::new(0);
    let flip = |file: &str, at: usize, bit: u8| {
        let report = fixture.with_changed(file, |bytes| bytes[at] ^= 1 << bit, || fixture.audit());
        most.set(most.get().max(report.findings.len()));
        prop_assert!(names(&report, file), "{file}, byte {at}, bit {bit}: {report:#?}");
        Ok(())
    };
    // Each file once at least, and the small ones, where every byte means something else, at many places.
    for (file, len) in &files {
        let len = usize::try_from(*len).expect("small");
        let stride = if len < 1_000 { 13 } else { len / 3 };
        for at in (0..len).step_by(stride) {
            flip(file, at, u8::try_from(at % 8).expect("small")).expect("it is found");
        }
    }
    let place = (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        0..8_u8,
    );
    let mut runner = TestRunner::new(Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&place, |(file, at, bit)| {
            let (file, len) = file.get(&files);
            flip(file, at.index(usize::try_from(*len).expect("small")), bit)
        })
        .expect("each one is found");
    assert!(most.get() <= 4, "one bit led to {} findings", most.get());
    assert!(fixture.audit().is_clean(), "and it is whole again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_a_truncated_and_a_longer_file_are_found_and_named() {
    let fixture = Fixture::with_a_life().await;
    let size = fixture.audit().size;
    for (file, len) in fixture.files() {
        let path = fixture.log_dir().join(&file);
        let aside = fixture.dir.path().join("aside");
        fs::rename(&path, &aside).expect("taken away");
        let report = fixture.audit();
        fs::rename(&aside, &path).expect("put back");
        // Partial tiles of earlier trees may be there and may not.
        let is_old = file
            .parse::<Tile>()
            .is_ok_and(|tile| Tile::in_tree(tile.kind, tile.n, size) != Some(tile));
        assert!(is_old || names(&report, &file), "{file} is missing: {report:#?}");

        let len = usize::try_from(len).expect("small");
        for left in [0, len / 2, len - 1] {
            let report = fixture.with_changed(&file, |bytes| bytes.truncate(left), || fixture.audit());
            assert!(
                names(&report, &file),
                "{file} has {left} bytes of {len}: {report:#?}"
            );
        }
        for more in [&[0_u8][..], &[0xff; 40]] {
            let report = fixture.with_changed(&file, |bytes| bytes.extend(more), || fixture.audit());
            assert!(
                names(&report, &file),
                "{file} has {} bytes more: {report:#?}",
                more.len()
            );
        }
    }
    assert!(fixture.audit().is_clean(), "and it is whole again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_log_does_not_have_is_found_and_named() {
    let fixture = Fixture::with_a_life().await;
    let unknown = [
        "note.txt",
        "tile/0/999",
        "tile/entries/099.p/7",
        "tile/3/000",
        "tile/0/01",
        "segments/00000000000000000007.idx",
        "segments/7.seg",
        "checkpoints/01",
        "checkpoints/7",
        "x/y/z",
        "what.new",
    ];
    for file in unknown {
        let path = fixture.log_dir().join(file);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(&path, "something").expect("written");
        let report = fixture.audit();
        fs::remove_file(&path).expect("removed");
        let missing_before = file == "checkpoints/7" && names(&report, "checkpoints/1");
        assert!(names(&report, file) || missing_before, "{file}: {report:#?}");
    }
    let left = fixture.log_dir().join("tile/0/001.new");
    fs::write(&left, "half").expect("written");
    let report = fixture.audit();
    assert!(report.is_clean() && report.notes.len() == 1, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_was_rewritten_with_all_its_check_sums_is_found() {
    let fixture = Fixture::with_a_life().await;
    let segment = fixture
        .files()
        .into_iter()
        .find(|(file, _)| is_segment(file))
        .expect("a segment")
        .0;
    let rewrite = |bytes: &mut Vec<u8>| {
        // The last record of the first segment, made anew over another payload of the same length.
        let mut offset = 16;
        let next = |offset: usize, bytes: &[u8]| {
            offset + 8 + u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four")) as usize
        };
        while next(offset, bytes) < bytes.len() {
            offset = next(offset, bytes);
        }
        let body = offset + 8;
        let at = bytes[body..]
            .windows(4)
            .position(|it| it == b"cart")
            .expect("a subject")
            + body;
        bytes[at] = b'C';
        let (salt, payload) = (&bytes[body + 16..body + 48], &bytes[body + 80..]);
        let entry = crate::entry::commit(salt.try_into().expect("32"), payload);
        bytes[body + 48..body + 80].copy_from_slice(&entry);
        let crc = crc32fast::hash(&bytes[body..]);
        bytes[offset + 4..body].copy_from_slice(&crc.to_le_bytes());
    };
    let report = fixture.with_changed(&segment, rewrite, || fixture.audit());
    assert!(
        report.findings.len() == 1 && names(&report, &segment),
        "{report:#?}"
    );
    assert!(
        report.findings[0]
            .detail
            .contains("not the one that the log's tree has"),
        "{report:#?}"
    );
}
