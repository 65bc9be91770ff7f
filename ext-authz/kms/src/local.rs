//! Keys in files, for development and single machines: whoever can read the files can sign.
//!
//! A directory of mode 0700 holds one file of mode 0600 for each version, `v1.pem`, `v2.pem`, ...: PKCS#8 in PEM.
//! The highest number is the current version. The first one is made when there is none.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature as Ecdsa, SigningKey};
use p256::elliptic_curve::Generate;
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding};
use rand::TryCryptoRng;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use crate::{Algorithm, KeyMetadata, KeyState, KeyVersion, Kms, KmsError, Signature, Spki, VersionInfo};

/// The largest key file that is read, in bytes. A P-256 key in PKCS#8 PEM has 241.
pub const MAX_KEY_FILE_BYTES: u64 = 16 * 1024;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const FIRST_VERSION: u32 = 1;

/// Keys in a directory.
pub struct LocalKms {
    dir: PathBuf,
    /// By number, ascending; never empty.
    keys: Vec<Key>,
}

impl LocalKms {
    /// Opens the directory, and makes it and a first key from the operating system's randomness when there is none.
    ///
    /// Refused: a directory or a key file that others than its owner may read or write, and a file that is no P-256 key.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, KmsError> {
        Self::open_with_rng(dir, &mut SysRng)
    }

    /// As [`LocalKms::open`], with another random source for a first key.
    pub fn open_with_rng<R: TryCryptoRng>(dir: impl AsRef<Path>, rng: &mut R) -> Result<Self, KmsError> {
        let dir = dir.as_ref();
        make_dir(dir)?;
        refuse_wider(
            dir,
            DIR_MODE,
            &fs::metadata(dir).map_err(io_error("look at", dir))?,
        )?;
        let mut numbers = versions_in(dir)?;
        if numbers.is_empty() {
            let key = SigningKey::try_generate_from_rng(rng).map_err(|e| KmsError::Randomness {
                reason: e.to_string(),
            })?;
            write_key(dir, FIRST_VERSION, &key)?;
            numbers.push(FIRST_VERSION);
        }
        let keys = numbers
            .into_iter()
            .map(|number| Key::read(dir, number))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            dir: dir.to_owned(),
            keys,
        })
    }

    fn key(&self, version: &KeyVersion) -> Result<&Key, KmsError> {
        self.keys
            .iter()
            .find(|key| key.version == *version)
            .ok_or_else(|| KmsError::UnknownVersion {
                version: version.clone(),
            })
    }
}

#[async_trait]
impl Kms for LocalKms {
    async fn current(&self) -> Result<KeyVersion, KmsError> {
        let newest = self.keys.last().ok_or_else(|| KmsError::UnknownVersion {
            version: KeyVersion::numbered(FIRST_VERSION),
        })?;
        Ok(newest.version.clone())
    }

    async fn public_key(&self, version: &KeyVersion) -> Result<Spki, KmsError> {
        Ok(self.key(version)?.public.clone())
    }

    async fn sign(&self, version: &KeyVersion, digest: &[u8; 32]) -> Result<Signature, KmsError> {
        let signature: Ecdsa =
            self.key(version)?
                .secret
                .sign_prehash(digest)
                .map_err(|e| KmsError::MalformedSignature {
                    reason: e.to_string(),
                })?;
        Ok(signature.into())
    }

    async fn key_metadata(&self) -> Result<KeyMetadata, KmsError> {
        Ok(KeyMetadata {
            id: self.dir.display().to_string(),
            algorithm: Algorithm::EcdsaP256Sha256,
            state: KeyState::Enabled,
            provider: "local",
            region: None,
            versions: self
                .keys
                .iter()
                .map(|key| VersionInfo {
                    version: key.version.clone(),
                    created_unix_ms: key.created_unix_ms,
                })
                .collect(),
        })
    }
}

/// Says which keys there are, and nothing of what is in them.
impl fmt::Debug for LocalKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions: Vec<_> = self.keys.iter().map(|key| (&key.version, &key.public)).collect();
        f.debug_struct("LocalKms")
            .field("dir", &self.dir)
            .field("versions", &versions)
            .finish()
    }
}

/// `secret` is wiped from memory when it is dropped (`SigningKey` is `ZeroizeOnDrop`).
struct Key {
    version: KeyVersion,
    secret: SigningKey,
    public: Spki,
    created_unix_ms: Option<u64>,
}

impl Key {
    fn read(dir: &Path, number: u32) -> Result<Self, KmsError> {
        let path = key_path(dir, number);
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let metadata = file.metadata().map_err(io_error("look at", &path))?;
        refuse_wider(&path, FILE_MODE, &metadata)?;
        let malformed = |reason: String| KmsError::MalformedKey {
            path: path.clone(),
            reason,
        };
        if metadata.len() > MAX_KEY_FILE_BYTES {
            return Err(malformed(format!("it has more than {MAX_KEY_FILE_BYTES} bytes")));
        }
        // Room for the whole file up front: a buffer that grew would leave copies of the key behind.
        let mut pem = Zeroizing::new(String::with_capacity(
            usize::try_from(MAX_KEY_FILE_BYTES).unwrap_or(0),
        ));
        file.take(MAX_KEY_FILE_BYTES)
            .read_to_string(&mut pem)
            .map_err(io_error("read", &path))?;
        let secret = SigningKey::from_pkcs8_pem(&pem).map_err(|e| malformed(e.to_string()))?;
        let created = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Self {
            version: KeyVersion::numbered(number),
            public: Spki::from_key(*secret.verifying_key())?,
            secret,
            created_unix_ms: created.and_then(|since| u64::try_from(since.as_millis()).ok()),
        })
    }
}

fn key_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("v{number}.pem"))
}

/// Makes the directory with its final mode, and its entry in the parent durable.
fn make_dir(dir: &Path) -> Result<(), KmsError> {
    match DirBuilder::new().mode(DIR_MODE).create(dir) {
        Ok(()) => sync_dir(parent_of(dir)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(io_error("make the directory", dir)(e)),
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn refuse_wider(path: &Path, wanted: u32, metadata: &fs::Metadata) -> Result<(), KmsError> {
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KmsError::Permissions {
            path: path.to_owned(),
            mode,
            wanted,
        });
    }
    Ok(())
}

/// The numbers of `vN.pem` in the directory, ascending. Other names are not ours.
fn versions_in(dir: &Path) -> Result<Vec<u32>, KmsError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let name = entry.map_err(io_error("list", dir))?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix('v')?.strip_suffix(".pem")?.parse().ok())
            .filter(|&number: &u32| number >= FIRST_VERSION && *name == *format!("v{number}.pem"));
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Writes a key whole and durable, or not at all, and never over another one.
fn write_key(dir: &Path, number: u32, key: &SigningKey) -> Result<(), KmsError> {
    let path = key_path(dir, number);
    let unfinished = dir.join(format!("v{number}.pem.new"));
    match fs::remove_file(&unfinished) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &unfinished)(e)),
        _ => {}
    }
    let pem = key
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|e| KmsError::MalformedKey {
            path: path.clone(),
            reason: e.to_string(),
        })?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(&unfinished)
        .map_err(io_error("create", &unfinished))?;
    file.write_all(pem.as_bytes())
        .map_err(io_error("write", &unfinished))?;
    file.sync_all().map_err(io_error("sync", &unfinished))?;
    // A link, not a rename: it fails where a key is already.
    fs::hard_link(&unfinished, &path).map_err(io_error("create", &path))?;
    fs::remove_file(&unfinished).map_err(io_error("remove", &unfinished))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<(), KmsError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("sync", dir))
}

fn io_error<'p>(action: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> KmsError + 'p {
    move |source| KmsError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
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
        conformance::all(&kms, dir.path()).await;
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
        make_dir(&keys).expect("makes");
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
        let error = write_key(&keys, 1, &kms.keys[0].secret).expect_err("there is one");
        assert_eq!(error.label(), "io");
        assert_eq!(fs::read(keys.join("v1.pem")).expect("reads"), before);
    }

    #[test]
    fn debug_shows_no_secret() {
        let dir = dir();
        let kms = LocalKms::open(dir.path().join("keys")).expect("opens");
        let shown = format!("{kms:?}").to_lowercase();
        for window in kms.keys[0].secret.to_bytes().windows(8) {
            let number = u64::from_be_bytes(window.try_into().expect("8 bytes"));
            assert!(!shown.contains(&format!("{number:016x}")), "{shown}");
        }
        assert!(shown.contains("sha256:"), "{shown}");
    }
}
