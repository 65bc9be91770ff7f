//! Keys in files, for development and single machines: whoever can read the files can sign.
//!
//! A directory of mode 0700 holds one file of mode 0600 for each version, `v1.pem`, `v2.pem`, ...: PKCS#8 in PEM.
//! The highest number is the current version. The first one is made when there is none, and a rotation makes the next.
//!
//! A key is written as `vN.pem.new` and gets its name when it is whole and durable, by a link, which replaces nothing. So a
//! crash leaves a whole key or an unfinished one; the next start removes the latter, which has signed nothing.

mod files;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature as Ecdsa, SigningKey};
use rand::TryRng as _;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use crate::{Algorithm, KeyMetadata, KeyState, KeyVersion, Kms, KmsError, Signature, Spki, VersionInfo};
use files::{Key, KeyDir};

pub use files::MAX_KEY_FILE_BYTES;

const FIRST_VERSION: u32 = 1;

/// A random 32-byte string is no P-256 key once in 2^32 times; this many in a row come from a broken random source.
const MAX_DRAWS: usize = 8;

/// Fills the slice with cryptographically secure random bytes, or says why it cannot.
pub type FillSecret = dyn Fn(&mut [u8]) -> Result<(), String> + Send + Sync;

/// Keys in a directory.
#[derive(Clone)]
pub struct LocalKms {
    store: Arc<Store>,
}

struct Store {
    dir: KeyDir,
    fill: Box<FillSecret>,
    /// By number, ascending; never empty.
    keys: RwLock<Vec<Arc<Key>>>,
    /// Held by the one rotation that may run.
    rotation: Mutex<()>,
}

impl LocalKms {
    /// Opens the directory, and makes it and a first key from the operating system's randomness when there is none.
    ///
    /// Refused: a directory or a key file that others than its owner may read or write, and a file that is no P-256 key.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, KmsError> {
        let fill = |bytes: &mut [u8]| SysRng.try_fill_bytes(bytes).map_err(|e| e.to_string());
        Self::open_with(dir, Box::new(fill))
    }

    /// As [`LocalKms::open`], with another random source for new keys.
    pub fn open_with(dir: impl AsRef<Path>, fill: Box<FillSecret>) -> Result<Self, KmsError> {
        let dir = KeyDir::open(dir.as_ref())?;
        let mut numbers = dir.numbers()?;
        if numbers.is_empty() {
            dir.write(FIRST_VERSION, &new_secret(&fill)?)?;
            numbers.push(FIRST_VERSION);
        }
        let keys = numbers
            .into_iter()
            .map(|number| dir.read(number).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            store: Arc::new(Store {
                dir,
                fill,
                keys: RwLock::new(keys),
                rotation: Mutex::new(()),
            }),
        })
    }
}

impl Store {
    fn keys(&self) -> Vec<Arc<Key>> {
        // A writer only pushes: the list is whole even if it panicked.
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn key(&self, version: &KeyVersion) -> Result<Arc<Key>, KmsError> {
        let found = self.keys().into_iter().find(|key| key.version == *version);
        found.ok_or_else(|| KmsError::UnknownVersion {
            version: version.clone(),
        })
    }

    fn newest(&self) -> Result<Arc<Key>, KmsError> {
        self.keys().pop().ok_or_else(|| KmsError::UnknownVersion {
            version: KeyVersion::numbered(FIRST_VERSION),
        })
    }

    /// A file with a higher number than the newest known is a rotation that could not be finished, since the disk failed
    /// after the key had its name: then that one is finished.
    fn rotate(&self) -> Result<KeyVersion, KmsError> {
        let _alone = self.rotation.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.newest()?.number;
        let begun = self.dir.numbers()?.into_iter().find(|&number| number > newest);
        let next = if let Some(begun) = begun {
            self.dir.sync()?;
            begun
        } else {
            let next = newest.saturating_add(1);
            self.dir.write(next, &new_secret(&self.fill)?)?;
            next
        };
        let key = Arc::new(self.dir.read(next)?);
        let version = key.version.clone();
        self.keys
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(key);
        Ok(version)
    }
}

#[async_trait]
impl Kms for LocalKms {
    async fn current(&self) -> Result<KeyVersion, KmsError> {
        Ok(self.store.newest()?.version.clone())
    }

    async fn public_key(&self, version: &KeyVersion) -> Result<Spki, KmsError> {
        Ok(self.store.key(version)?.public.clone())
    }

    async fn sign(&self, version: &KeyVersion, digest: &[u8; 32]) -> Result<Signature, KmsError> {
        let key = self.store.key(version)?;
        let signature: Ecdsa = key
            .secret
            .sign_prehash(digest)
            .map_err(|e| KmsError::MalformedSignature {
                reason: e.to_string(),
            })?;
        Ok(signature.into())
    }

    async fn rotate_key(&self) -> Result<KeyVersion, KmsError> {
        let store = Arc::clone(&self.store);
        // It waits for the disk.
        let rotation = tokio::task::spawn_blocking(move || store.rotate());
        rotation.await.unwrap_or_else(|ended| {
            Err(KmsError::Io {
                field: "kms.local",
                action: "rotate the key in",
                path: self.store.dir.path().to_owned(),
                source: std::io::Error::other(ended),
            })
        })
    }

    async fn key_metadata(&self) -> Result<KeyMetadata, KmsError> {
        let keys = self.store.keys();
        Ok(KeyMetadata {
            id: self.store.dir.path().display().to_string(),
            algorithm: Algorithm::EcdsaP256Sha256,
            state: KeyState::Enabled,
            created_unix_ms: keys.first().and_then(|key| key.created_unix_ms),
            provider: "local",
            region: None,
            versions: keys
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
        let keys = self.store.keys();
        let versions: Vec<_> = keys.iter().map(|key| (&key.version, &key.public)).collect();
        f.debug_struct("LocalKms")
            .field("dir", &self.store.dir.path())
            .field("versions", &versions)
            .finish()
    }
}

fn new_secret(fill: &FillSecret) -> Result<SigningKey, KmsError> {
    let broken = |reason: String| KmsError::Randomness { reason };
    let mut bytes = Zeroizing::new([0; 32]);
    for _ in 0..MAX_DRAWS {
        fill(bytes.as_mut_slice()).map_err(broken)?;
        if let Ok(key) = SigningKey::from_slice(bytes.as_slice()) {
            return Ok(key);
        }
    }
    Err(broken("what it gives is not random".to_owned()))
}

#[cfg(test)]
mod tests;
