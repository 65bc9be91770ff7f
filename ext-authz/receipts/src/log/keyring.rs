//! The keys of the log, the one that signs, and those before it.
//!
//! `log/keys` is one map of deterministic CBOR, and behind it the CRC-32 (IEEE) of its bytes, little-endian. It is derived: from
//! the entries that announce keys, from the kept checkpoints, and from `log/root`.
//!
//! | key | value |
//! |---|---|
//! | 0 | version of this format: 1 |
//! | 1 | key ID of the key that signs: 32 bytes |
//! | 2 | keys, in the order of their entries: array of maps |
//! | 3 | optional: entries from this index on may announce keys that are not listed: a rotation began |
//!
//! A key: 0 `SubjectPublicKeyInfo` DER (bytes), 1 provider (text), 2 version (text), 3 index of its entry, 4 time of its entry,
//! 5 key ID of the key that signed when it was announced (bytes, not for the first), 6 size of the first tree that it signed
//! (optional), 7 size of the last one, once another key took over (optional).

use minicbor::Decoder;

use crate::key::{MAX_KEYS, PublicKey};
use crate::payload::{DecodeError, Genesis, KeyReceipt, MapReader, array_len, in_memory};
use crate::signer::SigningKey;

/// Path of the file.
pub(crate) const KEYS_PATH: &str = "log/keys";

/// The largest file that is read, in bytes.
pub(crate) const MAX_FILE_BYTES: usize = MAX_KEYS * 1024;

const KEYS_VERSION: u64 = 1;

/// A key of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKey {
    /// What its signatures are verified with.
    pub key: PublicKey,
    /// Who holds its private half.
    pub provider: String,
    /// The provider's name of this version.
    pub version: String,
    /// The entry that announced it; 0 is the genesis.
    pub announced: u64,
    /// When it was announced, by the service's clock.
    pub announced_unix_ms: u64,
    /// Key ID of the key that signed when it was announced. None for the first key.
    pub previous: Option<[u8; 32]>,
    /// Size of the first tree that it signed. None before that.
    pub first_size: Option<u64>,
    /// Size of the last tree that it signed. None until another key took over.
    pub last_size: Option<u64>,
    /// Whether it signs, has signed, or is only announced.
    pub state: KeyState,
}

/// What a key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It was announced and signs nothing: its rotation is under way, or failed. `Log::rotate` to it goes on with it.
    Announced,
    /// It signs. There is exactly one.
    Active,
    /// It signed, and never signs again.
    Retired,
}

impl KeyState {
    /// `announced`, `active` or `retired`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Active => "active",
            Self::Retired => "retired",
        }
    }
}

impl LogKey {
    /// As a signer is asked for it.
    pub fn signing_key(&self) -> SigningKey {
        SigningKey {
            public: self.key.clone(),
            provider: self.provider.clone(),
            version: self.version.clone(),
        }
    }
}

/// All keys of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keyring {
    /// In the order of their entries. One that is announced twice is where its later entry is.
    keys: Vec<LogKey>,
    /// From this entry on others may announce keys that are not listed.
    announcing: Option<u64>,
}

impl Keyring {
    /// The keys of a log that has only its genesis. `None` where that has no usable key.
    pub(crate) fn begin(genesis: &Genesis) -> Option<Self> {
        let first = LogKey {
            key: PublicKey::from_der(&genesis.public_key_der).ok()?,
            provider: genesis.provider.clone(),
            version: genesis.version.clone(),
            announced: 0,
            announced_unix_ms: genesis.time_unix_ms,
            previous: None,
            first_size: None,
            last_size: None,
            state: KeyState::Active,
        };
        Some(Self {
            keys: vec![first],
            announcing: None,
        })
    }

    pub(crate) fn keys(&self) -> &[LogKey] {
        &self.keys
    }

    /// The key that signs.
    pub(crate) fn active(&self) -> &LogKey {
        let active = self.keys.iter().find(|key| key.state == KeyState::Active);
        active.expect("a keyring is never without")
    }

    pub(crate) fn by_id(&self, id: &[u8; 32]) -> Option<&LogKey> {
        self.keys.iter().find(|key| key.key.key_id() == *id)
    }

    /// The key before the active one.
    pub(crate) fn previous(&self) -> Option<&LogKey> {
        self.by_id(&self.active().previous?)
    }

    /// An entry that announced this very key to follow the active one, and did not come to that.
    pub(crate) fn resumable(&self, key: &SigningKey) -> Option<u64> {
        let active = self.active().key.key_id();
        let waits = |it: &&LogKey| {
            it.state == KeyState::Announced && it.previous == Some(active) && it.signing_key() == *key
        };
        self.keys.iter().find(waits).map(|it| it.announced)
    }

    /// Where to look for entries that announce keys which are not listed.
    pub(crate) fn announcing(&self) -> Option<u64> {
        self.announcing
    }

    /// Entries from `size` on may announce a key.
    pub(crate) fn with_announcing(&self, size: Option<u64>) -> Self {
        Self {
            announcing: size,
            ..self.clone()
        }
    }

    /// Whether it lists the keys of another ring. Those that entries announce from where it says that some may, it need not.
    pub(crate) fn lists(&self, of: &Self) -> bool {
        let later: Vec<_> = of
            .keys
            .iter()
            .filter(|it| {
                it.state == KeyState::Announced && self.announcing.is_some_and(|from| from <= it.announced)
            })
            .map(|it| &it.key)
            .collect();
        let mine = self.keys.iter().filter(|it| !later.contains(&&it.key));
        mine.eq(of.keys.iter().filter(|it| !later.contains(&&it.key)))
    }

    /// Takes in an entry that announces a key. One that signs or signed is not taken in again.
    pub(crate) fn announced(&mut self, index: u64, receipt: &KeyReceipt) {
        let Ok(key) = PublicKey::from_der(&receipt.public_key_der) else {
            return;
        };
        let used = |it: &LogKey| it.key == key && it.state != KeyState::Announced;
        if self.keys.iter().any(used) {
            return;
        }
        self.keys.retain(|it| it.key != key);
        self.keys.push(LogKey {
            key,
            provider: receipt.provider.clone(),
            version: receipt.version.clone(),
            announced: index,
            announced_unix_ms: receipt.time_unix_ms,
            previous: Some(receipt.previous),
            first_size: None,
            last_size: None,
            state: KeyState::Announced,
        });
    }

    /// The active key signed a tree, and none before it.
    pub(crate) fn with_first(&self, size: u64) -> Self {
        let mut next = self.clone();
        for key in &mut next.keys {
            if key.state == KeyState::Active {
                key.first_size.get_or_insert(size);
            }
        }
        next
    }

    /// The key that an entry announced takes over from the active one, whose last tree has `last_size` entries.
    pub(crate) fn with_successor(&self, announced: u64, last_size: u64) -> Option<Self> {
        let active = self.active().key.key_id();
        let mut next = self.with_announcing(None);
        let at = next.keys.iter().position(|key| {
            key.announced == announced && key.state == KeyState::Announced && key.previous == Some(active)
        })?;
        for key in &mut next.keys {
            if key.state == KeyState::Active {
                key.state = KeyState::Retired;
                key.last_size = Some(last_size);
            }
        }
        next.keys[at].state = KeyState::Active;
        Some(next)
    }

    /// The largest tree whose checkpoint has to be kept.
    pub(crate) fn last_to_keep(&self) -> Option<u64> {
        let sizes = self.keys.iter().flat_map(|key| [key.first_size, key.last_size]);
        sizes.flatten().max()
    }

    /// The file's bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = in_memory(256 * self.keys.len(), |e| {
            e.map(3 + u64::from(self.announcing.is_some()))?;
            e.u8(0)?.u64(KEYS_VERSION)?;
            e.u8(1)?.bytes(&self.active().key.key_id())?;
            e.u8(2)?.array(self.keys.len() as u64)?;
            for key in &self.keys {
                let optional = [
                    key.previous.is_some(),
                    key.first_size.is_some(),
                    key.last_size.is_some(),
                ];
                let present = optional.into_iter().filter(|present| *present).count();
                e.map(5 + present as u64)?;
                e.u8(0)?.bytes(key.key.der())?;
                e.u8(1)?.str(&key.provider)?;
                e.u8(2)?.str(&key.version)?;
                e.u8(3)?.u64(key.announced)?;
                e.u8(4)?.u64(key.announced_unix_ms)?;
                if let Some(previous) = &key.previous {
                    e.u8(5)?.bytes(previous)?;
                }
                if let Some(size) = key.first_size {
                    e.u8(6)?.u64(size)?;
                }
                if let Some(size) = key.last_size {
                    e.u8(7)?.u64(size)?;
                }
            }
            if let Some(size) = self.announcing {
                e.u8(3)?.u64(size)?;
            }
            Ok(())
        });
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Parses exactly what [`Keyring::to_bytes`] makes. Whether it is what the entries say is not known from it.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let ring = parse(body).ok()?;
        let one_is_active = ring
            .keys
            .iter()
            .filter(|key| key.state == KeyState::Active)
            .count()
            == 1;
        (one_is_active && ring.to_bytes() == bytes).then_some(ring)
    }
}

fn parse(body: &[u8]) -> Result<Keyring, DecodeError> {
    let mut decoder = Decoder::new(body);
    let mut map = MapReader::new(&mut decoder, "keys")?;
    map.version(KEYS_VERSION)?;
    let active: [u8; 32] = map.array(1, "active")?;
    let mut keys = map
        .optional_with(2, |d| {
            let len = array_len(d, "keys")?;
            (0..len).map(|_| key(d)).collect::<Result<Vec<_>, _>>()
        })?
        .ok_or(DecodeError::Missing { field: "keys" })?;
    for key in &mut keys {
        if key.key.key_id() == active {
            key.state = KeyState::Active;
        }
    }
    let announcing = map.optional(3, "announcing", Decoder::u64)?;
    map.finish()?;
    Ok(Keyring { keys, announcing })
}

fn key(d: &mut Decoder<'_>) -> Result<LogKey, DecodeError> {
    let mut map = MapReader::new(d, "key")?;
    let key = PublicKey::from_der(&map.bytes(0, "public_key")?)
        .map_err(|e| DecodeError::malformed("public_key", &e))?;
    let mut key = LogKey {
        key,
        provider: map.text(1, "provider")?,
        version: map.text(2, "version")?,
        announced: map.number(3, "announced")?,
        announced_unix_ms: map.number(4, "announced_time")?,
        previous: map.optional_array(5, "previous")?,
        first_size: map.optional(6, "first_size", Decoder::u64)?,
        last_size: map.optional(7, "last_size", Decoder::u64)?,
        state: KeyState::Announced,
    };
    if key.last_size.is_some() {
        key.state = KeyState::Retired;
    }
    map.finish()?;
    Ok(key)
}
