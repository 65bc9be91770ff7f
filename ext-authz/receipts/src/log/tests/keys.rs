//! The list of keys and the kept checkpoints on disk: found again, made anew, or refused.

use super::rig::{Promised, Rig, announcement, check};
use crate::entry::Prepared;
use crate::kept::NOTES_A_FILE;
use crate::log::keyring::{KEYS_PATH, KeyState, Keyring};
use crate::payload::{KeyReceipt, Payload};
use crate::storage::{ModelStorage, Storage, read_whole};

const SEGMENT_BYTES: u64 = 64 * 1024;

const KEPT: &str = "log/checkpoints/0";

fn open(storage: &ModelStorage) -> Rig {
    Rig::open(storage, SEGMENT_BYTES).expect("opens")
}

fn refused(storage: &ModelStorage) -> String {
    let error = Rig::open(storage, SEGMENT_BYTES)
        .map(|_| ())
        .expect_err("refused");
    assert_eq!(error.label(), "damaged", "{error}");
    error.to_string()
}

/// A log of three keys, the last of which has signed, with two kept checkpoints each and some between.
fn rotated() -> (ModelStorage, Promised) {
    let (storage, mut promised) = (ModelStorage::new(), Promised::new());
    let mut rig = open(&storage);
    rig.keep(&mut promised).expect("reads");
    for seed in 1..=3 {
        for _ in 0..3 {
            rig.wait(61_000);
            rig.append(3, &mut promised).expect("appends");
            rig.flush(&mut promised).expect("flushes");
        }
        if seed < 3 {
            rig.rotate(&mut promised).expect("rotates");
        }
    }
    check(&rig, &storage, &promised);
    (storage, promised)
}

#[test]
fn the_list_of_keys_is_made_anew_from_the_log() {
    let (storage, promised) = rotated();
    let keyring = open(&storage).publisher.book().keyring().clone();
    assert_eq!(keyring.keys().len(), 3);
    let bytes = read_whole(&storage, KEYS_PATH, 1 << 16).expect("reads");
    assert_eq!(Keyring::from_bytes(&bytes), Some(keyring.clone()));
    let missing = storage.copy();
    missing.remove(KEYS_PATH).expect("removes");
    let damaged = (0..bytes.len()).step_by(7).map(|byte| {
        let copy = storage.copy();
        copy.flip_bit(KEYS_PATH, byte, u8::try_from(byte % 8).expect("small"));
        copy
    });
    for copy in damaged.chain([missing]) {
        let rig = open(&copy);
        assert_eq!(rig.publisher.book().keyring(), &keyring);
        assert_eq!(read_whole(&copy, KEYS_PATH, 1 << 16).expect("reads"), bytes);
        check(&rig, &copy, &promised);
    }
}

/// What no audit accepts is not gone on with: a key that signs though its proof is by another one.
#[test]
fn a_key_without_its_proof_refuses_the_start() {
    for proof_by in [2, 9] {
        let (storage, mut promised) = (ModelStorage::new(), Promised::new());
        let mut rig = open(&storage);
        rig.keep(&mut promised).expect("reads");
        rig.append(3, &mut promised).expect("appends");
        let receipt = KeyReceipt {
            proof: announcement(rig.publisher.book().keyring(), proof_by).proof,
            ..announcement(rig.publisher.book().keyring(), 2)
        };
        rig.publisher.book_mut().begin_rotation(4).expect("noted");
        let payload = Payload::Key(receipt.clone()).to_bytes();
        let index = rig
            .commit(&[Prepared::new([2; 32], payload)], &mut promised)
            .expect("appends");
        let announcing = storage.copy();
        rig.publisher.book_mut().announced(index, &receipt);
        rig.flush(&mut promised).expect("flushes");
        rig.publisher
            .book_mut()
            .take_over(index, 1_700_000_000_000)
            .expect("takes over");
        rig.append(1, &mut promised).expect("appends");
        rig.flush(&mut promised).expect("flushes");
        drop(rig);
        let without_list = storage.copy();
        without_list.remove(KEYS_PATH).expect("removes");
        for storage in [storage, without_list, announcing] {
            if proof_by == 2 {
                open(&storage);
            } else {
                assert!(refused(&storage).contains("without a proof"));
            }
        }
    }
}

/// A key that signed before any checkpoint of the key before it covered its entry.
#[test]
fn a_key_whose_entry_was_not_covered_refuses_the_start() {
    let (storage, mut promised) = (ModelStorage::new(), Promised::new());
    let mut rig = open(&storage);
    rig.keep(&mut promised).expect("reads");
    rig.append(3, &mut promised).expect("appends");
    rig.flush(&mut promised).expect("flushes");
    let receipt = announcement(rig.publisher.book().keyring(), 2);
    let payload = Payload::Key(receipt.clone()).to_bytes();
    let index = rig
        .commit(&[Prepared::new([2; 32], payload)], &mut promised)
        .expect("appends");
    rig.publisher.book_mut().announced(index, &receipt);
    let next = rig.publisher.book().keyring().with_successor(index, 4);
    rig.publisher
        .book_mut()
        .put(next.expect("it is announced"))
        .expect("written");
    rig.flush(&mut promised).expect("the new key signs");
    drop(rig);
    storage.remove(KEYS_PATH).expect("removes");
    assert!(refused(&storage).contains("whose turn it is not"));
}

/// An older list, as from an old copy of that file: the log knows better.
#[test]
fn an_old_list_of_keys_is_not_believed() {
    let (storage, mut promised) = (ModelStorage::new(), Promised::new());
    let mut rig = open(&storage);
    rig.keep(&mut promised).expect("reads");
    rig.append(3, &mut promised).expect("appends");
    rig.flush(&mut promised).expect("flushes");
    let old = read_whole(&storage, KEYS_PATH, 1 << 16).expect("reads");
    rig.rotate(&mut promised).expect("rotates");
    rig.append(3, &mut promised).expect("appends");
    rig.flush(&mut promised).expect("flushes");
    let keyring = rig.publisher.book().keyring().clone();
    drop(rig);
    crate::storage::replace(&storage, KEYS_PATH, &old).expect("writes");
    let rig = open(&storage);
    assert_eq!(rig.publisher.book().keyring(), &keyring);
    check(&rig, &storage, &promised);
}

/// A key that was to sign, and had not yet, has to be asked for anew where the list is lost.
#[test]
fn without_the_list_a_key_that_signed_nothing_waits_again() {
    let (storage, mut promised) = (ModelStorage::new(), Promised::new());
    let mut rig = open(&storage);
    rig.keep(&mut promised).expect("reads");
    rig.append(3, &mut promised).expect("appends");
    rig.rotate(&mut promised).expect("rotates");
    assert_eq!(rig.active(), 2);
    drop(rig);
    storage.remove(KEYS_PATH).expect("removes");
    let mut rig = open(&storage);
    let states: Vec<_> = rig
        .publisher
        .book()
        .keyring()
        .keys()
        .iter()
        .map(|key| key.state)
        .collect();
    assert_eq!(states, [KeyState::Active, KeyState::Announced]);
    promised.active = 1;
    rig.rotate(&mut promised).expect("goes on");
    assert_eq!(rig.active(), 2);
    rig.append(1, &mut promised).expect("appends");
    rig.flush(&mut promised).expect("flushes");
    check(&rig, &storage, &promised);
}

#[test]
fn kept_checkpoints_that_are_lost_or_damaged_refuse_the_start_where_they_are_needed() {
    let (storage, _) = rotated();
    let missing = storage.copy();
    missing.remove(KEPT).expect("removes");
    refused(&missing);
    let both = missing.copy();
    both.remove(KEYS_PATH).expect("removes");
    refused(&both);

    let bytes = read_whole(&storage, KEPT, 1 << 16).expect("reads");
    // In a note that is not the last one.
    for byte in [0, 10, 200, bytes.len() / 2] {
        let damaged = storage.copy();
        let file = damaged.open(KEPT).expect("opens");
        file.write_at(byte as u64, b"\0").expect("writes");
        file.sync().expect("syncs");
        let before = read_whole(&damaged, KEPT, 1 << 16).expect("reads");
        refused(&damaged);
        assert_eq!(read_whole(&damaged, KEPT, 1 << 16).expect("reads"), before);
    }
}

/// A note that was not written whole goes; what the keys need must be before it.
#[test]
fn an_unfinished_note_is_cut() {
    let (storage, promised) = rotated();
    let whole = read_whole(&storage, KEPT, 1 << 16).expect("reads");
    for len in 1..150 {
        let torn = storage.copy();
        let file = torn.open(KEPT).expect("opens");
        file.write_at(whole.len() as u64, &whole[..len]).expect("writes");
        file.sync().expect("syncs");
        let rig = open(&torn);
        assert_eq!(read_whole(&torn, KEPT, 1 << 16).expect("reads"), whole);
        check(&rig, &torn, &promised);
    }
}

#[test]
fn at_most_one_a_minute_is_kept_and_a_full_file_is_followed_by_another() {
    let (storage, mut promised) = (ModelStorage::new(), Promised::new());
    let mut rig = open(&storage);
    rig.keep(&mut promised).expect("reads");
    let count = |storage: &ModelStorage| {
        let mut count = 0;
        crate::log::kept::each(storage, |_| {
            count += 1;
            Ok(())
        })
        .expect("reads");
        count
    };
    for _ in 0..200 {
        rig.wait(1_000);
        rig.append(1, &mut promised).expect("appends");
        rig.flush(&mut promised).expect("flushes");
    }
    assert_eq!(count(&storage), 1 + 3, "the first, then one a minute");
    while count(&storage) < NOTES_A_FILE + 3 {
        rig.wait(60_000);
        rig.append(1, &mut promised).expect("appends");
        rig.flush(&mut promised).expect("flushes");
    }
    drop(rig);
    let rig = open(&storage);
    let reader = rig.publisher.book().kept().reader();
    let lines = |n| {
        let bytes = reader.read(n).expect("reads").expect("there is one");
        String::from_utf8(bytes)
            .expect("text")
            .matches("knhk.dev/log/test\n")
            .count()
    };
    assert_eq!(lines(0) as u64, NOTES_A_FILE);
    assert_eq!(lines(1), 3);
    assert_eq!(reader.read(2).expect("reads"), None);
}
