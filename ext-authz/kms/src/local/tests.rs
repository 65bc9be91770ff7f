use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::conformance;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it exists").permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
}

#[tokio::test]
async fn conforms() {
    let dir = dir();
    let kms = LocalKms::open(dir.path().join("keys")).expect("opens");
    let unknown = KeyVersion::new("v4000000000").expect("a good name");
    conformance::happy(&kms, &unknown, dir.path()).await;
}

#[tokio::test]
async fn the_first_start_makes_a_key_and_later_ones_keep_it() {
    let dir = dir();
    let keys = dir.path().join("keys");
    let first = LocalKms::open(&keys).expect("opens");
    let second = LocalKms::open(&keys).expect("opens again");
    let version = first.current().await.expect("a version");
    assert_eq!(version.as_str(), "v1");
    assert_eq!(
        first.public_key(&version).await.expect("known"),
        second.public_key(&version).await.expect("known")
    );
    assert_eq!((mode(&keys), mode(&keys.join("v1.pem"))), (0o700, 0o600));
    assert_eq!(
        fs::read_dir(&keys).expect("lists").count(),
        1,
        "nothing unfinished is left"
    );
}

#[tokio::test]
async fn the_highest_number_is_current_and_older_ones_still_sign() {
    let dir = dir();
    let (keys, other) = (dir.path().join("keys"), dir.path().join("other"));
    drop((
        LocalKms::open(&keys).expect("opens"),
        LocalKms::open(&other).expect("opens"),
    ));
    fs::copy(other.join("v1.pem"), keys.join("v10.pem")).expect("copies");
    fs::copy(other.join("v1.pem"), keys.join("v02.pem")).expect("copies");
    let kms = LocalKms::open(&keys).expect("opens");
    assert_eq!(kms.current().await.expect("a version").as_str(), "v10");
    let versions: Vec<_> = kms.key_metadata().await.expect("metadata").versions;
    let names: Vec<_> = versions.iter().map(|info| info.version.as_str()).collect();
    assert_eq!(names, ["v1", "v10"], "`v02.pem` is not a name of ours");
    conformance::signs_with_the_version_asked_for(&kms, &KeyVersion::numbered(1)).await;
}

#[test]
fn wider_permissions_are_refused_and_the_error_says_what_to_do() {
    let dir = dir();
    let keys = dir.path().join("keys");
    drop(LocalKms::open(&keys).expect("opens"));
    for (path, bad, good) in [(keys.join("v1.pem"), 0o640, 0o600), (keys.clone(), 0o750, 0o700)] {
        chmod(&path, bad);
        let error = LocalKms::open(&keys).expect_err("others could read");
        assert_eq!(error.label(), "key_permissions");
        let text = error.to_string();
        assert!(
            text.contains(&format!("chmod {good:o} {}", path.display())),
            "{text}"
        );
        assert!(!text.contains('\n'), "{text}");
        chmod(&path, good);
    }
    LocalKms::open(&keys).expect("opens again");
    chmod(&keys.join("v1.pem"), 0o400);
    LocalKms::open(&keys).expect("narrower is fine");
}

#[test]
fn a_file_that_is_no_key_is_refused() {
    let dir = dir();
    let keys = dir.path().join("keys");
    drop(LocalKms::open(&keys).expect("opens"));
    for bad in [String::new(), "no key".to_owned(), "x".repeat(20_000)] {
        fs::write(keys.join("v1.pem"), bad).expect("writes");
        assert_eq!(
            LocalKms::open(&keys).expect_err("no key").label(),
            "malformed_key"
        );
    }
}

#[test]
fn an_unfinished_key_of_an_earlier_start_is_replaced() {
    let dir = dir();
    let keys = dir.path().join("keys");
    drop(KeyDir::open(&keys).expect("makes"));
    fs::write(keys.join("v1.pem.new"), "half a k").expect("writes");
    LocalKms::open(&keys).expect("opens");
    assert_eq!(fs::read_dir(&keys).expect("lists").count(), 1);
}

#[test]
fn a_key_is_never_written_over_another() {
    let dir = dir();
    let keys = dir.path().join("keys");
    let kms = LocalKms::open(&keys).expect("opens");
    let before = fs::read(keys.join("v1.pem")).expect("reads");
    let error = kms
        .store
        .dir
        .write(1, &kms.store.keys()[0].secret)
        .expect_err("there is one");
    assert_eq!(error.label(), "io");
    assert_eq!(fs::read(keys.join("v1.pem")).expect("reads"), before);
}

#[test]
fn debug_shows_no_secret() {
    let dir = dir();
    let kms = LocalKms::open(dir.path().join("keys")).expect("opens");
    let shown = format!("{kms:?}").to_lowercase();
    for window in kms.store.keys()[0].secret.to_bytes().windows(8) {
        let number = u64::from_be_bytes(window.try_into().expect("8 bytes"));
        assert!(!shown.contains(&format!("{number:016x}")), "{shown}");
    }
    assert!(shown.contains("sha256:"), "{shown}");
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("lists");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("lists").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_rotation_shows_at_once_and_after_the_next_start() {
    let dir = dir();
    let keys = dir.path().join("keys");
    let kms = LocalKms::open(&keys).expect("opens");
    let (clone, digest) = (kms.clone(), [3; 32]);
    let first = kms.current().await.expect("a version");
    let old = kms.sign(&first, &digest).await.expect("signs");
    assert_eq!(clone.rotate_key().await.expect("rotates").as_str(), "v2");
    assert_eq!(kms.current().await.expect("a version").as_str(), "v2");
    assert_eq!(names(&keys), ["v1.pem", "v2.pem"]);
    assert_eq!(mode(&keys.join("v2.pem")), 0o600);
    let again = LocalKms::open(&keys).expect("opens");
    assert_eq!(again.current().await.expect("a version").as_str(), "v2");
    let public = again.public_key(&first).await.expect("the old version");
    assert!(public.verifies(&digest, &old));
}

/// A crash can leave the directory of a rotation from v1 to v2 in four states. Whichever it was, the next start has whole
/// keys only, nothing unfinished, and goes on counting.
#[tokio::test]
async fn a_crash_at_any_step_of_a_rotation_leaves_whole_keys() {
    let (half, whole) = ("v2.pem.new", "v2.pem");
    let made = {
        let dir = dir();
        drop(LocalKms::open(dir.path().join("keys")).expect("opens"));
        fs::read(dir.path().join("keys/v1.pem")).expect("a key")
    };
    for (state, left, current) in [
        ("before anything", vec![], "v1"),
        (
            "while the file is written",
            vec![(half, &made[..made.len() / 2])],
            "v1",
        ),
        ("before the link", vec![(half, &made[..])], "v1"),
        (
            "after the link",
            vec![(half, &made[..]), (whole, &made[..])],
            "v2",
        ),
        ("at the end", vec![(whole, &made[..])], "v2"),
    ] {
        let dir = dir();
        let keys = dir.path().join("keys");
        drop(LocalKms::open(&keys).expect("opens"));
        for (name, content) in left {
            fs::write(keys.join(name), content).expect("writes");
            chmod(&keys.join(name), 0o600);
        }
        let kms = LocalKms::open(&keys).unwrap_or_else(|error| panic!("{state}: {error}"));
        assert_eq!(
            kms.current().await.expect("a version").as_str(),
            current,
            "{state}"
        );
        assert!(!names(&keys).contains(&half.to_owned()), "{state}: it is cleaned");
        let next = kms.rotate_key().await.expect("rotates");
        assert_eq!(
            next.number(),
            current[1..].parse::<u32>().ok().map(|n| n + 1),
            "{state}"
        );
        assert_eq!(
            names(&keys).len(),
            next.number().expect("a number") as usize,
            "{state}"
        );
    }
}

/// A key that has its name and is not known was made by a rotation that failed afterwards, or by another process.
#[tokio::test]
async fn a_rotation_that_failed_after_the_key_had_its_name_is_finished_by_the_next() {
    let dir = dir();
    let keys = dir.path().join("keys");
    let kms = LocalKms::open(&keys).expect("opens");
    let secret = new_secret(&*kms.store.fill).expect("a key");
    kms.store.dir.write(2, &secret).expect("writes");
    assert_eq!(kms.current().await.expect("a version").as_str(), "v1");
    assert_eq!(kms.rotate_key().await.expect("finishes").as_str(), "v2");
    assert_eq!(names(&keys), ["v1.pem", "v2.pem"], "no second key was made");
    assert_eq!(kms.rotate_key().await.expect("rotates").as_str(), "v3");
}

#[tokio::test]
async fn a_rotation_that_fails_leaves_the_old_key_in_use() {
    let dir = dir();
    let keys = dir.path().join("keys");
    let draws = Mutex::new(0);
    let fill = move |bytes: &mut [u8]| {
        let mut draws = draws.lock().expect("no panic");
        *draws += 1;
        bytes.fill(7);
        if *draws == 2 {
            Err("the well is dry".to_owned())
        } else {
            Ok(())
        }
    };
    let kms = LocalKms::open_with(&keys, Box::new(fill)).expect("opens");
    let error = kms.rotate_key().await.expect_err("no randomness");
    assert_eq!(error.label(), "randomness");
    assert!(error.to_string().contains("the well is dry"), "{error}");
    assert_eq!(kms.current().await.expect("a version").as_str(), "v1");
    assert_eq!(names(&keys), ["v1.pem"]);
    // A directory in the place of the unfinished file cannot be removed as a file: the disk refuses.
    fs::create_dir(keys.join("v2.pem.new")).expect("makes");
    assert_eq!(kms.rotate_key().await.expect_err("refused").label(), "io");
    conformance::signs_with_the_version_asked_for(&kms, &KeyVersion::numbered(1)).await;
    fs::remove_dir(keys.join("v2.pem.new")).expect("removes");
    assert_eq!(kms.rotate_key().await.expect("rotates").as_str(), "v2");
}

#[test]
fn a_random_source_that_only_gives_what_is_no_key_is_an_error() {
    let dir = dir();
    let zeros = |bytes: &mut [u8]| {
        bytes.fill(0);
        Ok(())
    };
    let error = LocalKms::open_with(dir.path().join("keys"), Box::new(zeros)).expect_err("zero is no key");
    assert_eq!(error.label(), "randomness");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_at_once_come_one_after_the_other() {
    let dir = dir();
    let keys = dir.path().join("keys");
    let kms = LocalKms::open(&keys).expect("opens");
    let rotations: Vec<_> = (0..8)
        .map(|_| {
            let kms = kms.clone();
            tokio::spawn(async move { kms.rotate_key().await })
        })
        .collect();
    let mut made = Vec::new();
    for rotation in rotations {
        let version = rotation.await.expect("no panic").expect("rotates");
        made.push(version.number().expect("a number"));
    }
    made.sort_unstable();
    assert_eq!(made, (2..=9).collect::<Vec<_>>());
    assert_eq!(names(&keys).len(), 9);
    assert_eq!(kms.current().await.expect("a version").as_str(), "v9");
}
