//! What every storage must do, as functions over `impl Storage`. Each panics with what was wrong.
#![allow(clippy::missing_panics_doc)]

use std::io::ErrorKind;

use super::{LockError, Storage, read_full, read_whole, replace};

/// Runs the suite, each part on a storage of its own. What `make` gives beside the storage is kept as long as that is used.
pub fn all<S: Storage, K>(make: impl Fn() -> (S, K)) {
    for part in [files, names, directories, lock, replacing] {
        let (storage, _keep) = make();
        part(&storage);
    }
}

fn files(storage: &dyn Storage) {
    assert_eq!(
        storage.open("a").err().map(|e| e.kind()),
        Some(ErrorKind::NotFound)
    );
    let file = storage.create("a").expect("creates");
    assert_eq!(file.len().expect("its length"), 0);
    file.write_at(0, b"0123456789").expect("writes");
    file.write_at(12, b"ab").expect("writes past the end");
    assert_eq!(read_whole(storage, "a", 14).expect("reads"), b"0123456789\0\0ab");
    assert!(read_whole(storage, "a", 13).is_err(), "the bound holds");
    let mut buffer = [0xff; 4];
    assert_eq!(
        read_full(file.as_ref(), 12, &mut buffer).expect("reads"),
        2,
        "short at the end"
    );
    assert_eq!(
        read_full(file.as_ref(), 99, &mut buffer).expect("reads"),
        0,
        "nothing behind it"
    );
    file.set_len(3).expect("cuts");
    file.set_len(5).expect("fills");
    assert_eq!(read_whole(storage, "a", 99).expect("reads"), b"012\0\0");
    file.sync().expect("syncs");
    let other = storage.open("a").expect("opens");
    other.write_at(0, b"X").expect("writes");
    assert_eq!(
        read_whole(storage, "a", 99).expect("reads"),
        b"X12\0\0",
        "handles share the content"
    );
    assert_eq!(
        storage.create("a").expect("empties").len().expect("its length"),
        0
    );
    storage.sync_files(&[file, other]).expect("syncs many");
}

fn names(storage: &dyn Storage) {
    for name in ["b", "a", "c"] {
        storage
            .create(name)
            .expect("creates")
            .write_at(0, name.as_bytes())
            .expect("writes");
    }
    let held = storage.open("b").expect("opens");
    storage.rename("a", "b").expect("renames over");
    assert_eq!(storage.list("").expect("lists"), ["b", "c"]);
    assert_eq!(read_whole(storage, "b", 9).expect("reads"), b"a");
    assert_eq!(
        held.len()
            .expect("the replaced file is still there for its handle"),
        1
    );
    storage.remove("c").expect("removes");
    assert_eq!(storage.remove("c").expect_err("gone").kind(), ErrorKind::NotFound);
    assert_eq!(
        storage.rename("c", "d").expect_err("gone").kind(),
        ErrorKind::NotFound
    );
    assert_eq!(storage.list("").expect("lists"), ["b"]);
    storage.sync_dir("").expect("syncs");
}

fn directories(storage: &dyn Storage) {
    assert!(
        storage.list("x/y").expect("lists").is_empty(),
        "no such directory, no names"
    );
    assert_eq!(
        storage.create("x/y/f").err().map(|e| e.kind()),
        Some(ErrorKind::NotFound)
    );
    storage.create_dir("x/y").expect("makes both");
    storage.create_dir("x/y").expect("makes it again");
    storage.create("x/y/f").expect("creates");
    storage.sync_dir("x/y").expect("syncs");
    assert_eq!(storage.list("x").expect("lists"), ["y"]);
    assert_eq!(storage.list("x/y").expect("lists"), ["f"]);
    assert!(storage.remove_dir("x/y").is_err(), "it is not empty");
    storage.remove("x/y/f").expect("removes");
    storage.remove_dir("x/y").expect("removes");
    assert_eq!(
        storage.remove_dir("x/y").expect_err("gone").kind(),
        ErrorKind::NotFound
    );
    assert!(storage.list("x").expect("lists").is_empty());
}

fn lock(storage: &dyn Storage) {
    let guard = storage.lock().map_err(|_| "held").expect("it is free");
    assert!(
        matches!(storage.lock(), Err(LockError::Held(_))),
        "it is exclusive"
    );
    drop(guard);
    assert!(storage.lock().is_ok(), "it is free again");
}

fn replacing(storage: &dyn Storage) {
    storage.create_dir("d").expect("makes");
    for content in [b"one".as_slice(), b"second", b""] {
        replace(storage, "d/f", content).expect("replaces");
        assert_eq!(read_whole(storage, "d/f", 99).expect("reads"), content);
        assert_eq!(
            storage.list("d").expect("lists"),
            ["f"],
            "nothing unfinished is left"
        );
    }
}
