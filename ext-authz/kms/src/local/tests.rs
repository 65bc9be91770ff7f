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
