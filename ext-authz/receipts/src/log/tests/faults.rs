//! Disks that are full, lie, or flip bits.

use super::rig::{Rig, signed};
use crate::entry::Prepared;
use crate::log::ROOT_PATH;
use crate::log::error::LogError;
use crate::log::publisher::Publisher;
use crate::log::writer::Writer;
use crate::root::SignedRoot;
use crate::segment::path_of;
use crate::storage::{Crash, ModelStorage, Storage, read_whole};

const SEGMENT_BYTES: u64 = 64 * 1024;

const NOW: u64 = 1_700_000_000_000;

/// Behind the genesis.
fn open(storage: &ModelStorage) -> Result<(Writer, Publisher), LogError> {
    let rig = Rig::open(storage, SEGMENT_BYTES)?;
    Ok((rig.writer, rig.publisher))
}

fn entries(range: std::ops::Range<u64>) -> Vec<Prepared> {
    range
        .map(|i| Prepared::new([0; 32], i.to_be_bytes().repeat(10)))
        .collect()
}

fn commit(writer: &mut Writer, range: std::ops::Range<u64>) -> Result<u64, LogError> {
    writer.commit(&entries(range).iter().collect::<Vec<_>>())
}

fn flush(publisher: &mut Publisher) -> Result<SignedRoot, LogError> {
    let unsigned = publisher.prepare(NOW)?.expect("something new");
    let root = signed(1, &unsigned);
    publisher.publish(root.clone(), NOW)?;
    Ok(root)
}

/// The genesis, and then the entries of these numbers.
fn assert_holds(writer: &Writer, count: u64) {
    assert_eq!(writer.segments().size(), count);
    let mut cursor = writer.segments().cursor(1);
    for expected in entries(1..count) {
        let payload = cursor
            .next(|record| record.payload.to_vec())
            .expect("reads")
            .expect("it is there");
        assert_eq!(payload, expected.payload);
    }
    assert_eq!(cursor.next(|_| ()).expect("reads"), None);
}

#[test]
fn a_full_disk_refuses_entries_and_takes_them_again_when_there_is_room() {
    // However much of the write fits.
    for room in 0..400 {
        let storage = ModelStorage::new();
        let (mut writer, _) = open(&storage).expect("opens");
        commit(&mut writer, 1..5).expect("commits");
        storage.set_capacity(Some(storage.used() + room));
        let error = commit(&mut writer, 5..8).expect_err("no room");
        assert_eq!(error.label(), "disk_full");
        assert!(error.to_string().contains("free room on the disk"), "{error}");
        assert_holds(&writer, 5);
        for seed in 0..4 {
            let crashed = storage.copy().crash(Crash::Scramble, seed);
            assert_holds(&open(&crashed).expect("opens").0, 5);
        }
        storage.set_capacity(None);
        assert_eq!(commit(&mut writer, 5..9).expect("there is room"), 5);
        assert_holds(&writer, 9);
        drop(writer);
        assert_holds(&open(&storage.crash(Crash::LoseAll, 0)).expect("opens").0, 9);
    }
}

#[test]
fn a_full_disk_at_the_beginning_of_a_segment_does_no_harm() {
    let storage = ModelStorage::new();
    let (mut writer, _) = open(&storage).expect("opens");
    let mut count = 1;
    // On until the next group needs a new segment.
    while writer.segments().current().0 == 0 {
        let used = storage.used();
        storage.set_capacity(Some(used + 7 * 176));
        if commit(&mut writer, count..count + 7).is_err() {
            storage.set_capacity(Some(storage.used()));
            // A group that is small enough for the old segment must not go there: the new one may be on disk already.
            commit(&mut writer, count..count + 1).expect_err("still full");
            storage.set_capacity(None);
            commit(&mut writer, count..count + 7).expect("there is room");
        }
        count += 7;
    }
    storage.set_capacity(None);
    assert_holds(&writer, count);
    drop(writer);
    assert_holds(&open(&storage.crash(Crash::LoseAll, 0)).expect("opens").0, count);
}

/// Once a segment's file may be on disk, no entry goes to the one before it.
#[test]
fn a_segment_that_was_not_begun_well_is_begun_again() {
    // The syncs of the old segment's table, and of the new segment's header.
    for failing in 0..2 {
        let storage = ModelStorage::new();
        let (mut writer, _) = open(&storage).expect("opens");
        let mut count = 1;
        while writer.segments().current().1 + 7 * 168 <= SEGMENT_BYTES {
            commit(&mut writer, count..count + 7).expect("commits");
            count += 7;
        }
        assert!(
            writer.segments().current().1 + 168 <= SEGMENT_BYTES,
            "one would still fit"
        );
        storage.fail_sync_after(failing);
        commit(&mut writer, count..count + 7).expect_err("the sync failed");
        commit(&mut writer, count..count + 1).expect("begins the segment");
        assert_eq!(writer.segments().current().0, count, "it went to the new segment");
        assert!(
            storage
                .paths()
                .contains(&"log/segments/00000000000000000000.idx".to_owned()),
            "a table is kept"
        );
        assert_holds(&writer, count + 1);
        drop(writer);
        assert_holds(
            &open(&storage.crash(Crash::LoseAll, 0)).expect("opens").0,
            count + 1,
        );
    }
}

#[test]
fn a_failed_sync_is_never_taken_for_a_success() {
    let storage = ModelStorage::new();
    let (mut writer, _) = open(&storage).expect("opens");
    commit(&mut writer, 1..5).expect("commits");
    storage.fail_sync_after(0);
    assert_eq!(
        commit(&mut writer, 5..8).expect_err("the sync failed").label(),
        "io"
    );
    assert_holds(&writer, 5);
    // And again while it repairs.
    storage.fail_sync_after(0);
    assert_eq!(
        commit(&mut writer, 5..8).expect_err("the sync failed").label(),
        "io"
    );
    assert_eq!(commit(&mut writer, 5..9).expect("the disk is well again"), 5);
    assert_holds(&writer, 9);
    drop(writer);
    for seed in 0..20 {
        assert_holds(&open(&storage.crash(Crash::Scramble, seed)).expect("opens").0, 9);
    }
}

#[test]
fn a_segment_that_lost_synced_bytes_takes_no_more_entries() {
    let storage = ModelStorage::new();
    let (mut writer, _) = open(&storage).expect("opens");
    commit(&mut writer, 1..5).expect("commits");
    storage.fail_sync_after(0);
    commit(&mut writer, 5..8).expect_err("the sync failed");
    storage.flip_bit(&path_of(0), 300, 2);
    for _ in 0..2 {
        assert_eq!(
            commit(&mut writer, 5..8).expect_err("it is damaged").label(),
            "damaged"
        );
    }
}

/// Whichever bit of an acknowledged entry flips: the start is refused or all is there, and nothing is cut.
#[test]
fn a_flipped_bit_is_no_torn_tail() {
    let storage = ModelStorage::new();
    let (mut writer, mut publisher) = open(&storage).expect("opens");
    commit(&mut writer, 1..2).expect("commits");
    commit(&mut writer, 2..3).expect("commits");
    flush(&mut publisher).expect("flushes");
    commit(&mut writer, 3..5).expect("commits");
    commit(&mut writer, 5..6).expect("commits");
    drop((writer, publisher));
    let len = read_whole(&storage, &path_of(0), 9999).expect("reads").len();
    let last_group = len - 168;
    for byte in 0..last_group {
        let copy = storage.copy();
        copy.flip_bit(&path_of(0), byte, u8::try_from(byte % 8).expect("small"));
        let error = open(&copy).map(|_| ()).expect_err("damage");
        assert_eq!(error.label(), "damaged", "byte {byte}: {error}");
        assert_eq!(
            read_whole(&copy, &path_of(0), 9999).expect("reads").len(),
            len,
            "byte {byte}: it was cut"
        );
    }
}

/// Every file's path and bytes.
fn contents(storage: &ModelStorage) -> Vec<(String, Vec<u8>)> {
    let paths = storage.paths().into_iter();
    paths
        .map(|path| {
            let bytes = read_whole(storage, &path, 1 << 20).expect("reads");
            (path, bytes)
        })
        .collect()
}

/// The start is refused, in one line, and leaves every file as it is.
fn refused(storage: &ModelStorage) -> (&'static str, String) {
    let before = contents(storage);
    let error = open(storage).map(|_| ()).expect_err("a contradiction");
    assert!(!error.to_string().contains('\n'), "{error}");
    assert_eq!(contents(storage), before, "{error}: a file was changed");
    (error.label(), error.to_string())
}

#[test]
fn lost_entries_a_wrong_root_and_a_damaged_root_refuse_the_start_and_change_nothing() {
    let storage = ModelStorage::new();
    let (mut writer, mut publisher) = open(&storage).expect("opens");
    commit(&mut writer, 1..5).expect("commits");

    let short = storage.copy();
    let (mut longer, mut its) = open(&storage.copy()).expect("opens");
    commit(&mut longer, 5..6).expect("commits");
    let ahead = flush(&mut its).expect("flushes");
    crate::storage::replace(&short, ROOT_PATH, &ahead.to_bytes()).expect("writes");
    let (label, text) = refused(&short);
    assert_eq!(label, "damaged");
    assert!(text.contains("covers 6 entries, and only 5 are there"), "{text}");

    let forked = storage.copy();
    let (mut fork, _) = open(&forked).expect("opens");
    commit(&mut fork, 6..7).expect("commits");
    crate::storage::replace(&forked, ROOT_PATH, &ahead.to_bytes()).expect("writes");
    assert!(refused(&forked).1.contains("root"));

    flush(&mut publisher).expect("flushes");
    let shared: std::sync::Arc<dyn Storage> = std::sync::Arc::new(storage.clone());
    let other = crate::log::recovery::survey(&shared, "knhk.dev/log/other");
    assert_eq!(other.map(|_| ()).expect_err("another log").label(), "other_log");
    let len = read_whole(&storage, ROOT_PATH, 9999).expect("reads").len();
    for byte in 0..len {
        let flipped = storage.copy();
        flipped.flip_bit(ROOT_PATH, byte, u8::try_from(byte % 8).expect("small"));
        let label = refused(&flipped).0;
        assert!(["damaged", "other_log"].contains(&label), "byte {byte}: {label}");
    }
    let missing = storage.copy();
    missing.remove(ROOT_PATH).expect("removes");
    assert_eq!(refused(&missing).0, "damaged");
}

/// Whatever is cut off the segment: what the root covers is missed before anything is cut for good.
#[test]
fn a_truncated_log_is_refused_and_not_altered() {
    let storage = ModelStorage::new();
    let (mut writer, mut publisher) = open(&storage).expect("opens");
    commit(&mut writer, 1..5).expect("commits");
    flush(&mut publisher).expect("flushes");
    let covered = read_whole(&storage, &path_of(0), 9999).expect("reads").len();
    commit(&mut writer, 5..7).expect("commits");
    drop((writer, publisher));
    let len = read_whole(&storage, &path_of(0), 9999).expect("reads").len();
    for keep in 0..len {
        let cut = storage.copy();
        let file = cut.open(&path_of(0)).expect("opens");
        file.set_len(keep as u64).expect("cuts");
        file.sync().expect("syncs");
        if keep < covered {
            assert_eq!(refused(&cut).0, "damaged", "{keep} bytes");
        } else {
            assert_holds(
                &open(&cut).expect("a torn tail").0,
                5 + u64::from(keep >= covered + 168),
            );
        }
    }
}

#[test]
fn a_missing_middle_segment_refuses_the_start() {
    let storage = ModelStorage::new();
    let (mut writer, _) = open(&storage).expect("opens");
    let mut firsts = vec![0];
    for i in 1..2000 {
        commit(&mut writer, i..i + 1).expect("commits");
        let first = writer.segments().current().0;
        if firsts.last() != Some(&first) {
            firsts.push(first);
        }
    }
    assert!(firsts.len() >= 4, "{firsts:?}");
    assert_holds(&writer, 2000);
    drop(writer);
    for &first in &firsts[..firsts.len() - 1] {
        let copy = storage.copy();
        copy.remove(&path_of(first)).expect("removes");
        assert_eq!(open(&copy).map(|_| ()).expect_err("a gap").label(), "damaged");
    }
}

/// Tiles and tables are derived: whichever file is missing or changed, they come back, or the entries are still right.
#[test]
fn what_is_derived_is_made_anew() {
    let storage = ModelStorage::new();
    let (mut writer, mut publisher) = open(&storage).expect("opens");
    for at in [1, 255, 300, 600] {
        commit(&mut writer, at..at + 1).expect("commits");
        let next = [255, 300, 600, 1100]
            .into_iter()
            .find(|next| *next > at)
            .expect("there is one");
        commit(&mut writer, at + 1..next).expect("commits");
        flush(&mut publisher).expect("flushes");
    }
    let newest = publisher.book().root().cloned().expect("published");
    drop((writer, publisher));
    let before: Vec<_> = storage.paths();
    let edge_of_tree = ["tile/0/004.p/76", "tile/1/000.p/4", "tile/entries/004.p/76"];
    for path in &before {
        let derived = path.contains("tile") || is_table(path);
        if !derived {
            continue;
        }
        let missing = storage.copy();
        missing.remove(path).expect("removes");
        let (writer, publisher) = open(&missing).expect("it is derived");
        assert_holds(&writer, 1100);
        assert_eq!(publisher.book().root(), Some(&newest));
        if edge_of_tree.iter().any(|edge| path.ends_with(edge)) || is_table(path) {
            assert_eq!(missing.paths(), before, "`{path}` is there again");
        }
    }
}

/// Partial tiles are removed when the full one is published, and never before.
#[test]
fn old_partials_go_when_the_full_tile_is_published() {
    let storage = ModelStorage::new();
    let (mut writer, mut publisher) = open(&storage).expect("opens");
    let partials = |storage: &ModelStorage| {
        storage
            .paths()
            .into_iter()
            .filter(|path| path.contains(".p/"))
            .collect::<Vec<_>>()
    };
    commit(&mut writer, 1..100).expect("commits");
    flush(&mut publisher).expect("flushes");
    commit(&mut writer, 100..250).expect("commits");
    flush(&mut publisher).expect("flushes");
    let both = [
        "log/tile/0/000.p/100",
        "log/tile/0/000.p/250",
        "log/tile/entries/000.p/100",
        "log/tile/entries/000.p/250",
    ];
    assert_eq!(partials(&storage), both);
    commit(&mut writer, 250..300).expect("commits");
    publisher.prepare(NOW).expect("prepares");
    assert!(
        both.iter()
            .all(|path| partials(&storage).contains(&(*path).to_owned())),
        "not signed yet"
    );
    // A crash here: recovery knows of them.
    drop((writer, publisher));
    let (_, mut publisher) = open(&storage).expect("opens");
    flush(&mut publisher).expect("flushes");
    assert_eq!(
        partials(&storage),
        [
            "log/tile/0/001.p/44",
            "log/tile/1/000.p/1",
            "log/tile/entries/001.p/44"
        ]
    );
}

fn is_table(path: &str) -> bool {
    path.split('.').next_back() == Some("idx")
}
