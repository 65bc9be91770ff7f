//! The mirror of another region's log: verified before it is written, durable before it is acknowledged, never overwritten.
//!
//! ```text
//! log/segments/...        the entries with salts and payloads, as in the log itself
//! log/checkpoints/...     the checkpoints at which its keys follow each other
//! mirror/head             the newest checkpoint, the keys that are trusted, see `head`
//! mirror/blocks           root of each whole block of 256 entries, 32 bytes; derived
//! mirror/evidence/...     two histories, where the region showed such, see [`Fork`]
//! ```
//! In the data directory of a region itself the same files say that its own log is being restored from its peers.

mod evidence;
mod head;
mod judge;
mod refusal;
mod trust;

use std::io;
use std::sync::Arc;

use knhk_receipts::entry::leaf_hash;
use knhk_receipts::storage::{Storage, read_whole, replace};
use knhk_receipts::{LogError, MAX_KEYS, PublicKey, Replica, SignedCheckpoint, SignedRoot};

use evidence::Evidence;
pub use evidence::Fork;
use head::{HEAD_PATH, Head, MAX_HEAD_BYTES};
use judge::{Held, Step};
pub use refusal::Refusal;
use trust::Trust;

use crate::acks::AckSigner;
use crate::announce::{Announced, announced};
use crate::source::{Tail, Target};
use crate::tree::{BLOCK, Tree};
use crate::wire::{Answer, Batch, Hash, KeyId, Refused};

const MIRROR_DIR: &str = "mirror";
const BLOCKS_PATH: &str = "mirror/blocks";

/// The largest file of blocks that is read, in bytes: of a log of 2^31 entries.
const MAX_BLOCKS_BYTES: usize = 256 * 1024 * 1024;

/// Whose log is mirrored, and by which key it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// The region.
    pub region: String,
    /// The log's name.
    pub origin: String,
    /// SHA-256 of the DER of a key of the log, which an operator chose to trust: `regions.peers[].log_key`.
    pub pin: KeyId,
}

/// A copy of another region's log. Blocking: to be called where that is allowed.
pub struct Mirror {
    storage: Arc<dyn Storage>,
    replica: Replica,
    head: Head,
    tree: Tree,
    /// What entries behind the newest checkpoint announce.
    uncovered: Vec<(u64, Announced)>,
    evidence: Evidence,
    /// Our own keys, where it is our own log that is being restored.
    ours: Vec<PublicKey>,
}

impl Mirror {
    /// Opens the mirror, or begins it. Nobody else may use the storage.
    ///
    /// Refused: a storage that mirrors another log, and one whose entries are not those of its checkpoint.
    pub fn open(storage: Arc<dyn Storage>, of: &Mirrored) -> Result<Self, LogError> {
        let trust = |known: Option<Trust>| known.unwrap_or_else(|| Trust::new(of.pin)).pinned(of.pin);
        Self::begin(storage, &of.region, &of.origin, trust, Vec::new())
    }

    /// The same for a log of our own, of which peers hold parts that any of our keys signed.
    pub(crate) fn of_our_own(
        storage: Arc<dyn Storage>,
        region: &str,
        origin: &str,
        keys: Vec<PublicKey>,
    ) -> Result<Self, LogError> {
        let begun = Trust::of_our_own(&keys);
        Self::begin(storage, region, origin, |known| known.unwrap_or(begun), keys)
    }

    fn begin(
        storage: Arc<dyn Storage>,
        region: &str,
        origin: &str,
        trust: impl FnOnce(Option<Trust>) -> Trust,
        ours: Vec<PublicKey>,
    ) -> Result<Self, LogError> {
        storage
            .create_dir(MIRROR_DIR)
            .map_err(io_error("make", MIRROR_DIR))?;
        let evidence = Evidence::find(storage.as_ref()).map_err(io_error("list", MIRROR_DIR))?;
        let known = read_head(storage.as_ref(), region, origin)?;
        let trust = trust(known.as_ref().map(|head| head.trust.clone()));
        let mut head = match &known {
            Some(head) => Head {
                trust,
                ..head.clone()
            },
            None => Head::new(region, origin, trust),
        };
        if known.as_ref() == Some(&head) {
            // It may be there by a rename that is not durable yet.
            storage
                .sync_dir(MIRROR_DIR)
                .map_err(io_error("sync", MIRROR_DIR))?;
        } else {
            save(storage.as_ref(), &head)?;
        }
        let replica = Replica::open(Arc::clone(&storage), origin)?;
        let (tree, uncovered) = read_tree(storage.as_ref(), &replica, &head)?;
        if head.announced.is_empty() {
            // What is there already is a log of our own that is to be restored further.
            let keys = uncovered.iter().filter_map(|(_, it)| it.log_key());
            head.announced = keys.take(MAX_KEYS).cloned().collect();
        }
        let mirror = Self {
            storage,
            replica,
            head,
            tree,
            uncovered,
            evidence,
            ours,
        };
        mirror.write_blocks(0);
        Ok(mirror)
    }

    /// Takes a batch in, or refuses it. On return what it brought is durable. A batch that was taken before changes nothing.
    pub fn receive(&mut self, batch: &Batch<'_>, now_unix_ms: u64) -> Result<(), Refusal> {
        if self.evidence.is_open() {
            let region = self.head.region.clone();
            return Err(Refusal::SplitView { region });
        }
        match self.judged(|held| held.judge(batch, now_unix_ms)) {
            Ok(step) => Ok(self.carry_out(step)?),
            Err(refusal) => Err(self.alarmed(refusal)),
        }
    }

    /// Another region holds this checkpoint of the log: an alarm where it is of another history.
    pub fn witness(&mut self, seen: &SignedCheckpoint, now_unix_ms: u64) -> Result<(), Refusal> {
        if seen.origin() != self.head.origin || self.evidence.is_open() {
            return Ok(());
        }
        let judged = self.judged(|held| held.witness(seen, now_unix_ms));
        judged.map_err(|refusal| self.alarmed(refusal))
    }

    /// What is held, acknowledged where it ends in a checkpoint, and why nothing was taken where that is so. While there is an
    /// alarm nothing is acknowledged.
    pub fn answer(&self, refusal: Option<&Refusal>, acks: &AckSigner) -> Answer {
        let trusted = !self.evidence.is_open();
        let checkpoint = self.head.checkpoint.clone();
        Answer {
            held: self.held(),
            trusted: self.head.trust.key_id(),
            ack: checkpoint
                .as_ref()
                .filter(|_| trusted)
                .map(|it| acks.acknowledge(it)),
            checkpoint,
            refused: refusal.map(|it| Refused::new(it.label(), &it.to_string())),
        }
    }

    /// How many entries are held, each proven by a trusted key's checkpoint.
    pub fn held(&self) -> u64 {
        self.tree.size()
    }

    /// The newest checkpoint that all entries of are held.
    pub fn checkpoint(&self) -> Option<&SignedCheckpoint> {
        self.head.checkpoint.as_ref()
    }

    /// The key that signed that one.
    pub fn key(&self) -> Option<&PublicKey> {
        self.head.trust.current.as_ref()
    }

    /// The same with the signature that COSE receipts have. None where the newest checkpoint came without it.
    pub fn signed_root(&self) -> Option<SignedRoot> {
        self.head.signed_root()
    }

    /// Keys that the log announces its region to acknowledge with, the newest one last.
    pub fn ack_keys(&self) -> &[PublicKey] {
        &self.head.trust.ack_keys
    }

    /// Two histories that the region showed and no operator has cleared. Empty where evidence cannot be read: see
    /// [`Mirror::is_alarmed`].
    pub fn forks(&self) -> Vec<Fork> {
        self.evidence.read(self.storage.as_ref())
    }

    /// Whether there is evidence of two histories that no operator has cleared: nothing is taken and acknowledged until then.
    pub fn is_alarmed(&self) -> bool {
        self.evidence.is_open()
    }

    /// An operator has looked at the evidence, which stays: batches of the history that is held are taken again.
    pub fn clear(&mut self) -> Result<(), LogError> {
        let cleared = self.evidence.clear(self.storage.as_ref());
        cleared.map_err(io_error("clear the evidence in", MIRROR_DIR))
    }

    /// What is held behind the newest checkpoint, where it is known what proves that.
    pub(crate) fn tail(&self) -> Option<Tail> {
        let lead = self.head.lead.as_ref().filter(|lead| lead.size == self.held())?;
        let trust = &self.head.trust;
        let keys: Vec<_> = trust.current.iter().chain(&trust.next).cloned().collect();
        let key = lead.checkpoint.verify(&keys).ok()?.clone();
        Some(Tail {
            size: lead.size,
            target: Target {
                checkpoint: lead.checkpoint.clone(),
                cose: None,
                key,
            },
            proof: lead.proof.clone(),
        })
    }

    /// Whose log it is.
    pub fn region(&self) -> &str {
        &self.head.region
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.head.origin
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }

    pub(crate) fn root_of(&self, size: u64) -> io::Result<Hash> {
        self.tree.root_of(size, &|block| leaves(&self.replica, block))
    }

    pub(crate) fn consistency(&self, from: u64, size: u64) -> io::Result<Vec<Hash>> {
        self.tree
            .consistency(from, size, &|block| leaves(&self.replica, block))
    }

    /// Removes what makes the storage a mirror. What is left is a log.
    pub(crate) fn remove_head(self) -> Result<(), LogError> {
        for path in [BLOCKS_PATH, HEAD_PATH] {
            match self.storage.remove(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", path)(e)),
                _ => {}
            }
        }
        self.storage
            .sync_dir(MIRROR_DIR)
            .map_err(io_error("sync", MIRROR_DIR))
    }

    fn judged<T>(&self, judge: impl FnOnce(&Held<'_>) -> Result<T, Refusal>) -> Result<T, Refusal> {
        judge(&Held {
            head: &self.head,
            tree: &self.tree,
            ours: &self.ours,
            uncovered: &self.uncovered,
            leaves: &|block| leaves(&self.replica, block),
        })
    }

    /// Keeps evidence. The alarm holds in this process even where that cannot be written.
    fn alarmed(&mut self, refusal: Refusal) -> Refusal {
        if let Refusal::Fork(fork) = &refusal
            && let Err(error) = self.evidence.put(self.storage.as_ref(), fork)
        {
            tracing::error!(region = self.head.region, %error, "evidence of a split view cannot be written");
        }
        refusal
    }

    fn carry_out(&mut self, step: Step) -> Result<(), LogError> {
        for checkpoint in &step.earlier {
            self.replica.keep(checkpoint)?;
        }
        if let Some(head) = step.led {
            save(self.storage.as_ref(), &head)?;
            self.head = head;
        }
        if let Some(growth) = step.growth {
            self.replica.append(&step.entries)?;
            let blocks = self.tree.blocks().len();
            self.tree.grow(growth);
            self.uncovered.extend(step.announced);
            self.write_blocks(blocks);
        }
        for checkpoint in &step.keep {
            self.replica.keep(checkpoint)?;
        }
        if let Some(head) = step.head {
            save(self.storage.as_ref(), &head)?;
            let size = head.size();
            self.head = head;
            self.uncovered.retain(|(index, _)| *index >= size);
        }
        Ok(())
    }

    /// Writes block roots from this one on. Without them, or with wrong ones, the next start only takes longer.
    fn write_blocks(&self, from: usize) {
        let new: Vec<u8> = self.tree.blocks()[from..].concat();
        if new.is_empty() {
            return;
        }
        let write = || -> io::Result<()> {
            let file = match self.storage.open(BLOCKS_PATH) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.storage.create(BLOCKS_PATH)?,
                other => other?,
            };
            file.write_at(from as u64 * 32, &new)
        };
        if let Err(error) = write() {
            tracing::warn!(region = self.head.region, %error, "the hashes of a mirror are not kept");
        }
    }
}

/// Whether the storage is a mirror, or a log that is being restored.
pub(crate) fn is_mirror(storage: &dyn Storage) -> Result<bool, LogError> {
    match storage.open(HEAD_PATH) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(io_error("open", HEAD_PATH)(e)),
    }
}

/// Region and origin of the log that the storage mirrors, if it does.
pub(crate) fn mirrored(storage: &dyn Storage) -> Result<Option<(String, String)>, LogError> {
    Ok(load_head(storage)?.map(|head| (head.region, head.origin)))
}

fn read_head(storage: &dyn Storage, region: &str, origin: &str) -> Result<Option<Head>, LogError> {
    match load_head(storage)? {
        Some(head) if head.origin != origin || head.region != region => Err(LogError::OtherLog {
            found: head.origin,
            wanted: origin.to_owned(),
        }),
        head => Ok(head),
    }
}

fn load_head(storage: &dyn Storage) -> Result<Option<Head>, LogError> {
    let bytes = match read_whole(storage, HEAD_PATH, MAX_HEAD_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("read", HEAD_PATH)(e)),
    };
    let head = Head::from_bytes(&bytes).map_err(|e| damaged(format!("`{HEAD_PATH}`: {e}")))?;
    Ok(Some(head))
}

fn save(storage: &dyn Storage, head: &Head) -> Result<(), LogError> {
    replace(storage, HEAD_PATH, &head.to_bytes()).map_err(io_error("write", HEAD_PATH))
}

/// The tree, and what entries behind the newest checkpoint announce.
type Read = (Tree, Vec<(u64, Announced)>);

/// The tree of all entries, and what those behind the newest checkpoint announce. Whole blocks under the checkpoint come from their
/// file where that leads to the checkpoint's root, and else from the entries.
fn read_tree(storage: &dyn Storage, replica: &Replica, head: &Head) -> Result<Read, LogError> {
    if replica.size() < head.size() {
        let (wanted, found) = (head.size(), replica.size());
        return Err(damaged(format!(
            "its checkpoint covers {wanted} entries of `{}`, and only {found} are there",
            head.region
        )));
    }
    let bytes = read_whole(storage, BLOCKS_PATH, MAX_BLOCKS_BYTES).unwrap_or_default();
    let (blocks, _) = bytes.as_chunks::<32>();
    let covered = usize::try_from(head.size() / BLOCK).unwrap_or(usize::MAX);
    if let Some(blocks) = blocks.get(..covered).filter(|blocks| !blocks.is_empty())
        && let Some(found) = grown(Tree::of_blocks(blocks.to_vec()), replica, head)?
    {
        return Ok(found);
    }
    grown(Tree::default(), replica, head)?.ok_or_else(|| {
        damaged(format!(
            "the root of the {} entries of `{}` is not the one of their checkpoint",
            head.size(),
            head.region
        ))
    })
}

/// Adds the entries that are missing in the tree. `None` where they do not lead to the checkpoint's root.
fn grown(mut tree: Tree, replica: &Replica, head: &Head) -> Result<Option<Read>, LogError> {
    let (mut growth, mut uncovered) = (tree.growth(), Vec::new());
    let signed = head.checkpoint.as_ref();
    let mut agrees = signed.is_none_or(|it| it.size() != tree.size() || it.root() == tree.root());
    replica.each(tree.size(), replica.size(), |index, entry, payload| {
        growth.push(leaf_hash(entry));
        agrees &= signed.is_none_or(|it| it.size() != index + 1 || it.root() == growth.root());
        if index >= head.size() {
            let found = announced(&head.origin, &head.region, payload);
            uncovered.extend(found.map(|it| (index, it)));
        }
    })?;
    tree.grow(growth);
    Ok(agrees.then_some((tree, uncovered)))
}

fn leaves(replica: &Replica, block: u64) -> io::Result<Vec<Hash>> {
    let mut leaves = Vec::new();
    replica
        .each(block * BLOCK, (block + 1) * BLOCK, |_, entry, _| {
            leaves.push(leaf_hash(entry));
        })
        .map_err(io::Error::other)?;
    Ok(leaves)
}

fn damaged(what: String) -> LogError {
    LogError::Damaged { what }
}

fn io_error(action: &'static str, path: &'static str) -> impl Fn(io::Error) -> LogError {
    move |source| LogError::Io {
        action,
        path: path.to_owned(),
        source: Arc::new(source),
    }
}
