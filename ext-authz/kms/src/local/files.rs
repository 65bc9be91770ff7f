//! The directory of a local key: what is in it, and how a key gets there whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use p256::ecdsa::SigningKey;
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding};
use zeroize::Zeroizing;

use crate::{KeyVersion, KmsError, Spki};

/// The largest key file that is read, in bytes. A P-256 key in PKCS#8 PEM has 241.
pub const MAX_KEY_FILE_BYTES: u64 = 16 * 1024;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// What a key's file is called until it is whole.
const UNFINISHED: &str = ".new";

/// One key file. `secret` is wiped from memory when it is dropped (`SigningKey` is `ZeroizeOnDrop`).
pub(super) struct Key {
    pub(super) number: u32,
    pub(super) version: KeyVersion,
    pub(super) secret: SigningKey,
    pub(super) public: Spki,
    pub(super) created_unix_ms: Option<u64>,
}

/// A directory that only its owner can look into.
#[derive(Debug)]
pub(super) struct KeyDir(PathBuf);

impl KeyDir {
    /// Opens the directory, made when it is missing, and removes what a crash left unfinished in it.
    pub(super) fn open(path: &Path) -> Result<Self, KmsError> {
        make_dir(path)?;
        let metadata = fs::metadata(path).map_err(io_error("look at", path))?;
        refuse_wider(path, DIR_MODE, &metadata)?;
        let dir = Self(path.to_owned());
        dir.remove_unfinished()?;
        Ok(dir)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The numbers of `vN.pem`, ascending. Other names are not ours.
    pub(super) fn numbers(&self) -> Result<Vec<u32>, KmsError> {
        let mut numbers: Vec<u32> = self.names()?.iter().filter_map(|name| number_of(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Reads a key.
    pub(super) fn read(&self, number: u32) -> Result<Key, KmsError> {
        let path = self.key_path(number);
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
        Ok(Key {
            number,
            version: KeyVersion::numbered(number),
            public: Spki::from_key(*secret.verifying_key())?,
            secret,
            created_unix_ms: created.and_then(|since| u64::try_from(since.as_millis()).ok()),
        })
    }

    /// Writes a key whole and durable, or not at all, and never over another one.
    pub(super) fn write(&self, number: u32, key: &SigningKey) -> Result<(), KmsError> {
        let path = self.key_path(number);
        let unfinished = self.0.join(format!("v{number}.pem{UNFINISHED}"));
        remove_if_there(&unfinished)?;
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
        self.sync()
    }

    /// Makes the directory's entries durable.
    pub(super) fn sync(&self) -> Result<(), KmsError> {
        sync_dir(&self.0)
    }

    fn key_path(&self, number: u32) -> PathBuf {
        self.0.join(format!("v{number}.pem"))
    }

    /// A key without its final name was never used: the name comes before the first signature.
    fn remove_unfinished(&self) -> Result<(), KmsError> {
        for name in self.names()? {
            let ours = name
                .strip_suffix(UNFINISHED)
                .is_some_and(|name| number_of(name).is_some());
            if ours {
                remove_if_there(&self.0.join(&name))?;
            }
        }
        // A key may have its name since a crash that came before this sync.
        self.sync()
    }

    fn names(&self) -> Result<Vec<String>, KmsError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(io_error("list", &self.0))? {
            let name = entry.map_err(io_error("list", &self.0))?.file_name();
            names.extend(name.into_string().ok());
        }
        Ok(names)
    }
}

/// The N of `vN.pem`, from 1, without leading zeros.
fn number_of(name: &str) -> Option<u32> {
    KeyVersion::new(name.strip_suffix(".pem")?).ok()?.number()
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

fn remove_if_there(path: &Path) -> Result<(), KmsError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(e)),
        _ => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> Result<(), KmsError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("sync", dir))
}

fn io_error<'p>(action: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> KmsError + 'p {
    move |source| KmsError::Io {
        field: "kms.local",
        action,
        path: path.to_owned(),
        source,
    }
}
