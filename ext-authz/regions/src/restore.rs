//! A region's own log, back from its peers: received as a mirror is, every batch proven before it is written, in the region's own data
//! directory. Until it is whole `mirror/head` is there, and a start goes on with it instead of opening a log that is too short.

use std::sync::Arc;

use knhk_receipts::cose::RootSignature;
use knhk_receipts::storage::Storage;
use knhk_receipts::{LogError, PublicKey, SignedCheckpoint, SignedRoot};

use crate::mirror::{Mirror, Refusal, mirrored};
use crate::wire::Batch;

/// The log that is restored, and by which keys it is known.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Our region.
    pub region: String,
    /// The log's name.
    pub origin: String,
    /// Our keys, the newest one last ([`crate::start::OwnAtRest::keys`]). Peers hold different parts of the log, and give what any
    /// of these signed, or a key that an entry under such a checkpoint announces.
    pub keys: Vec<PublicKey>,
}

/// A restoration under way. Blocking.
pub struct Restore {
    mirror: Mirror,
    wanted: u64,
}

/// Why a restored log is not put in place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The peers had the newest checkpoint without the signature of COSE receipts: our key has to make it again.
    #[error(
        "the restored checkpoint of {size} entries came without its COSE signature; it has to be signed again"
    )]
    NoCose {
        /// The checkpoint's size.
        size: u64,
    },
    /// A peer holds more of it than was restored.
    #[error(
        "the log is restored up to a checkpoint of {has} entries, and peers hold one of {wanted}: without them it would be a second history; wait for the peers that hold it"
    )]
    TooShort {
        /// The restored checkpoint's size.
        has: u64,
        /// The size of the one that peers hold.
        wanted: u64,
    },
    /// The disk.
    #[error(transparent)]
    Storage(#[from] LogError),
}

impl RestoreError {
    /// A stable name for metrics and programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoCose { .. } => "no_cose",
            Self::TooShort { .. } => "too_short",
            Self::Storage(error) => error.label(),
        }
    }
}

impl Restore {
    /// Begins in the data directory of the region, or goes on there. What the log has already is kept and has to be the beginning of
    /// what comes. `wanted` is the size of the largest checkpoint that a peer holds ([`crate::start::Holding::covered`]).
    pub fn open(storage: Arc<dyn Storage>, log: Restored, wanted: u64) -> Result<Self, LogError> {
        let mirror = Mirror::of_our_own(storage, &log.region, &log.origin, log.keys)?;
        Ok(Self { mirror, wanted })
    }

    /// Goes on with what was interrupted, where no peer holds more of it: [`Restore::finish`] is all that is left. `None` where
    /// nothing was being restored.
    pub fn resume(storage: Arc<dyn Storage>, keys: Vec<PublicKey>) -> Result<Option<Self>, LogError> {
        let Some((region, origin)) = mirrored(storage.as_ref())? else {
            return Ok(None);
        };
        let log = Restored { region, origin, keys };
        Self::open(storage, log, 0).map(Some)
    }

    /// Whether all is there that peers hold under a checkpoint.
    pub fn is_whole(&self) -> bool {
        self.covered() >= self.wanted
    }

    fn covered(&self) -> u64 {
        self.mirror.checkpoint().map_or(0, SignedCheckpoint::size)
    }

    /// The entry that is wanted next.
    pub fn next(&self) -> u64 {
        self.mirror.held()
    }

    /// Takes in what a peer gave for [`Restore::next`]. Says whether that brought something: if not, this peer has no more.
    pub fn receive(&mut self, batch: &[u8], now_unix_ms: u64) -> Result<bool, Refusal> {
        let before = (self.mirror.held(), self.covered());
        self.mirror.receive(&Batch::from_bytes(batch)?, now_unix_ms)?;
        Ok((self.mirror.held(), self.covered()) != before)
    }

    /// The newest checkpoint, where its COSE signature is missing: a signer makes it again, over the same root.
    pub fn without_cose(&self) -> Option<&SignedCheckpoint> {
        let missing = self.mirror.signed_root().is_none();
        self.mirror.checkpoint().filter(|_| missing)
    }

    /// Puts the log in place, with the COSE signature of [`Restore::without_cose`] where that is needed. From then on
    /// `Log::open` takes it.
    pub fn finish(self, cose: Option<RootSignature>) -> Result<(), RestoreError> {
        if !self.is_whole() {
            let (has, wanted) = (self.covered(), self.wanted);
            return Err(RestoreError::TooShort { has, wanted });
        }
        if let Some(checkpoint) = self.mirror.checkpoint() {
            let signed = |cose| SignedRoot {
                checkpoint: checkpoint.clone(),
                cose,
            };
            let size = checkpoint.size();
            let root = self.mirror.signed_root().or(cose.map(signed));
            let root = root.ok_or(RestoreError::NoCose { size })?;
            self.mirror.replica().install(&root)?;
        }
        Ok(self.mirror.remove_head()?)
    }
}
