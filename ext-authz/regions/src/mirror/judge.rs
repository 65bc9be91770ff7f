//! Whether a batch is taken, and what is then to be written. Nothing is written here.

use std::io;

use knhk_receipts::checkpoint::MIN_SIGNED_SIZE;
use knhk_receipts::cose::RootSignature;
use knhk_receipts::entry::{Prepared, commit, leaf_hash};
use knhk_receipts::kept::longest_note;
use knhk_receipts::{CheckpointError, LogError, MAX_KEYS, Payload, PublicKey, SignedCheckpoint, bundle};
use tlog_tiles::{Hash as Node, check_tree};

use super::evidence::Fork;
use super::head::{Head, Lead};
use super::refusal::Refusal;
use super::trust::Standing;
use crate::announce::{Announced, announced};
use crate::tree::{Growth, Tree};
use crate::wire::{Batch, Hash, KeyId};

/// What a mirror holds, as far as a batch is judged by it.
pub(crate) struct Held<'h> {
    pub(crate) head: &'h Head,
    /// Over all entries that are here.
    pub(crate) tree: &'h Tree,
    /// Our own keys, where it is our own log that is being restored.
    pub(crate) ours: &'h [PublicKey],
    /// What entries behind the newest checkpoint announce.
    pub(crate) uncovered: &'h [(u64, Announced)],
    /// Leaf hashes of a block of entries.
    pub(crate) leaves: &'h dyn Fn(u64) -> io::Result<Vec<Hash>>,
}

/// What is to be written, in this order. All of it is proven.
pub(crate) struct Step {
    /// Checkpoints of keys before the pinned one, which lead over these entries.
    pub(crate) earlier: Vec<SignedCheckpoint>,
    /// What proves the entries, before they are written: so that there is never one without.
    pub(crate) led: Option<Head>,
    /// Entries behind those that are here, and the tree with them.
    pub(crate) entries: Vec<Prepared>,
    pub(crate) growth: Option<Growth>,
    /// What they announce.
    pub(crate) announced: Vec<(u64, Announced)>,
    /// Checkpoints to be kept, as keys follow each other there.
    pub(crate) keep: Vec<SignedCheckpoint>,
    /// What is known then, where that is news.
    pub(crate) head: Option<Head>,
}

impl Held<'_> {
    pub(crate) fn judge(&self, batch: &Batch<'_>, now_unix_ms: u64) -> Result<Step, Refusal> {
        if batch.origin != self.head.origin || batch.region != self.head.region {
            return Err(self.other_log(batch.origin));
        }
        let standing = self.check_signed(batch)?;
        let (held, size) = (self.tree.size(), batch.checkpoint.size());
        if batch.from > held {
            return Err(Refusal::Gap {
                from: batch.from,
                held,
            });
        }
        self.check_before(batch, now_unix_ms)?;
        if size <= held && self.root_of(size)? != batch.checkpoint.root() {
            let shown = Shown {
                checkpoint: &batch.checkpoint,
                root: batch.checkpoint.root(),
                proof: &[],
            };
            return Err(self.fork(size, shown, now_unix_ms)?);
        }
        if size > self.head.size() {
            check_turn(standing, batch)?;
        }
        let growing = self.grow(batch)?;
        self.step(batch, growing)
    }

    /// Whether another region's checkpoint of this log is of the same history, as far as that can be seen here.
    pub(crate) fn witness(&self, seen: &SignedCheckpoint, now_unix_ms: u64) -> Result<(), Refusal> {
        let trust = &self.head.trust;
        let known: Vec<_> = trust
            .current
            .iter()
            .chain(&trust.next)
            .chain(&trust.retired)
            .cloned()
            .collect();
        let size = seen.size();
        // One that no known key signed proves nothing, and may be of a key that is not known yet.
        if seen.verify(&known).is_err() || size > self.tree.size() || size < MIN_SIGNED_SIZE {
            return Ok(());
        }
        if self.root_of(size)? == seen.root() {
            return Ok(());
        }
        let shown = Shown {
            checkpoint: seen,
            root: seen.root(),
            proof: &[],
        };
        Err(self.fork(size, shown, now_unix_ms)?)
    }

    fn other_log(&self, origin: &str) -> Refusal {
        Refusal::OtherLog {
            origin: origin.to_owned(),
            wanted: self.head.origin.clone(),
        }
    }

    /// A checkpoint as the log itself publishes it.
    fn check_form(&self, checkpoint: &SignedCheckpoint) -> Result<(), Refusal> {
        if checkpoint.origin() != self.head.origin {
            return Err(self.other_log(checkpoint.origin()));
        }
        if checkpoint.size() < MIN_SIGNED_SIZE {
            let reason = "its tree is smaller than any that is signed";
            return Err(Refusal::BadCheckpoint { reason });
        }
        if checkpoint.as_bytes().len() > longest_note(self.head.origin.len()) {
            let reason = "it has more than the log's own signature";
            return Err(Refusal::BadCheckpoint { reason });
        }
        Ok(())
    }

    /// What the key that signed is to the log. Both signatures are the key's.
    fn check_signed(&self, batch: &Batch<'_>) -> Result<Standing, Refusal> {
        let (checkpoint, key) = (&batch.checkpoint, &batch.key);
        self.check_form(checkpoint)?;
        let standing = self.standing(key);
        if standing == Standing::Unknown {
            return Err(Refusal::UnknownKey {
                key: key.to_string(),
                trusted: shown(&self.head.trust.key_id()),
            });
        }
        let cose = batch.cose.map(|signature| RootSignature {
            kid: key.key_id(),
            signature,
        });
        if cose.is_some_and(|it| !it.verifies(key, &checkpoint.root())) {
            return Err(Refusal::BadSignature);
        }
        match checkpoint.verify(std::slice::from_ref(key)) {
            Ok(_) => Ok(standing),
            Err(CheckpointError::UnknownKey { .. }) => Err(Refusal::BadCheckpoint {
                reason: "the key that it is sent with did not sign it",
            }),
            Err(_) => Err(Refusal::BadSignature),
        }
    }

    fn standing(&self, key: &PublicKey) -> Standing {
        match self.head.trust.standing(key) {
            Standing::Unknown if self.ours.contains(key) => Standing::Ours,
            standing => standing,
        }
    }

    /// The entries before the batch are those that are here.
    fn check_before(&self, batch: &Batch<'_>, now_unix_ms: u64) -> Result<(), Refusal> {
        let (from, checkpoint) = (batch.from, &batch.checkpoint);
        let Some(before) = &batch.before else {
            return Ok(());
        };
        if !leads(&before.proof, from, before.root, checkpoint) {
            return Err(Refusal::BadProof { from });
        }
        if self.root_of(from)? == before.root {
            return Ok(());
        }
        let shown = Shown {
            checkpoint,
            root: before.root,
            proof: &before.proof,
        };
        Err(self.fork(from, shown, now_unix_ms)?)
    }

    /// Parses the entries that are new, commits to them, and checks that they lead to the checkpoint.
    fn grow(&self, batch: &Batch<'_>) -> Result<Growing, Refusal> {
        let (held, end, size) = (self.tree.size(), batch.end(), batch.checkpoint.size());
        let mismatch = || Refusal::Mismatch { end, size };
        let new = usize::try_from(end.saturating_sub(held)).unwrap_or(usize::MAX);
        let mut growing = Growing {
            entries: Vec::with_capacity(new.min(batch.items.len() / MIN_ITEM_BYTES)),
            announced: Vec::new(),
            growth: self.tree.growth(),
            log_keys: self.head.announced.clone(),
        };
        let mut earlier = batch.kept.iter().filter(|it| it.size() > held).peekable();
        let mut rest = batch.items;
        for index in batch.from..end {
            let (item, taken) = bundle::split(rest).ok().flatten().ok_or_else(mismatch)?;
            rest = &rest[taken..];
            if index < held {
                continue;
            }
            if index == 0 {
                self.check_genesis(item.payload)?;
            }
            let found = announced(&self.head.origin, &self.head.region, item.payload);
            growing.take_in(index, found)?;
            let entry = Prepared::new(*item.salt, item.payload.to_vec());
            growing.growth.push(leaf_hash(&entry.commitment));
            growing.entries.push(entry);
            if let Some(kept) = earlier.next_if(|it| it.size() == index + 1) {
                self.check_form(kept)?;
                if kept.verify(&growing.log_keys).is_err() {
                    return Err(Refusal::BadSignature);
                }
                if kept.root() != growing.growth.root() {
                    return Err(mismatch());
                }
            }
        }
        let proven = end <= held || leads(&batch.proof, end, growing.growth.root(), &batch.checkpoint);
        if rest.is_empty() && proven {
            Ok(growing)
        } else if self.is_old_copy(batch)? {
            Err(Refusal::OldCopy { end: held, size })
        } else {
            Err(mismatch())
        }
    }

    /// Whether the batch's entries lead to its checkpoint from where it begins, and what is here does not: then nothing was changed
    /// on the way, and our own log is another one here than with a peer.
    fn is_old_copy(&self, batch: &Batch<'_>) -> Result<bool, Refusal> {
        if self.ours.is_empty() || batch.from >= self.tree.size() {
            return Ok(false);
        }
        let growth = self.tree.growth_at(batch.from, self.leaves);
        let mut growth = growth.map_err(|error| storage("read the entries of", error))?;
        let mut rest = batch.items;
        for _ in batch.from..batch.end() {
            let Ok(Some((item, taken))) = bundle::split(rest) else {
                return Ok(false);
            };
            growth.push(leaf_hash(&commit(item.salt, item.payload)));
            rest = &rest[taken..];
        }
        let leads = leads(&batch.proof, batch.end(), growth.root(), &batch.checkpoint);
        Ok(rest.is_empty() && leads)
    }

    fn check_genesis(&self, payload: &[u8]) -> Result<(), Refusal> {
        let head = self.head;
        match Payload::from_bytes(payload) {
            Ok(Payload::Genesis(it)) if it.origin == head.origin && it.region == head.region => Ok(()),
            _ => Err(Refusal::BadCheckpoint {
                reason: "its first entry is not the genesis of this log",
            }),
        }
    }

    fn step(&self, batch: &Batch<'_>, growing: Growing) -> Result<Step, Refusal> {
        let Growing {
            entries,
            announced,
            growth,
            log_keys,
        } = growing;
        let (held, size) = (self.tree.size(), batch.checkpoint.size());
        let now_held = growth.size();
        let mut step = Step {
            earlier: batch.kept.iter().filter(|it| it.size() > held).cloned().collect(),
            led: None,
            growth: (!entries.is_empty()).then_some(growth),
            entries,
            announced,
            keep: Vec::new(),
            head: None,
        };
        if step.growth.is_some() {
            let lead = Lead {
                checkpoint: batch.checkpoint.clone(),
                size: now_held,
                proof: batch.proof.clone(),
            };
            step.led = Some(Head {
                lead: Some(lead),
                announced: log_keys.clone(),
                ..self.head.clone()
            });
        }
        if now_held >= size && size > self.head.size() {
            let taken = self.taken(batch, &step.announced)?;
            step.head = Some(Head {
                announced: log_keys,
                ..taken.head
            });
            step.keep = taken.keep;
        }
        Ok(step)
    }

    /// The checkpoint is the newest one now: all entries that it covers are here. Those at which a key takes over are kept, and
    /// such that the sender has only as kept ones.
    fn taken(&self, batch: &Batch<'_>, announced: &[(u64, Announced)]) -> Result<Taken, Refusal> {
        let size = batch.checkpoint.size();
        let covered = self.uncovered.iter().chain(announced);
        let covered = covered.filter(|(index, _)| *index < size).map(|(_, it)| it);
        let trust = self
            .head
            .trust
            .signed(&batch.key, covered)
            .ok_or(Refusal::TooManyKeys)?;
        let takes_over = self.head.trust.current.as_ref() != Some(&batch.key);
        let mut keep = Vec::new();
        if takes_over {
            keep.extend(self.head.checkpoint.clone());
        }
        if takes_over || batch.cose.is_none() {
            keep.push(batch.checkpoint.clone());
        }
        let beyond = |lead: &Lead| lead.checkpoint.size() > size && lead.size > size;
        let head = Head {
            trust,
            checkpoint: Some(batch.checkpoint.clone()),
            cose: batch.cose,
            lead: self.head.lead.clone().filter(beyond),
            ..self.head.clone()
        };
        Ok(Taken { head, keep })
    }

    fn root_of(&self, size: u64) -> Result<Hash, Refusal> {
        let root = self.tree.root_of(size, self.leaves);
        root.map_err(|error| storage("read the entries of", error))
    }

    /// A signed tree whose first `size` entries are not those that are here. It is a second history where what is here is signed as
    /// well; else what is here may still be completed otherwise.
    fn fork(&self, size: u64, shown: Shown<'_>, now_unix_ms: u64) -> Result<Refusal, Refusal> {
        let Some((held, held_proof)) = self.signed_over(size)? else {
            let (end, size) = (size, shown.checkpoint.size());
            return Ok(if self.ours.is_empty() {
                Refusal::Mismatch { end, size }
            } else {
                Refusal::OldCopy { end, size }
            });
        };
        Ok(Refusal::Fork(Box::new(Fork {
            region: self.head.region.clone(),
            held,
            shown: shown.checkpoint.clone(),
            size,
            held_root: self.root_of(size)?,
            shown_root: shown.root,
            held_proof,
            shown_proof: shown.proof.to_vec(),
            seen_unix_ms: now_unix_ms,
        })))
    }

    /// A signed checkpoint over the first `size` entries here, and the proof that its tree begins with them, where there is one.
    fn signed_over(&self, size: u64) -> Result<Option<SignedOver>, Refusal> {
        if let Some(checkpoint) = self.head.checkpoint.as_ref().filter(|it| size <= it.size()) {
            let proof = self.tree.consistency(size, checkpoint.size(), self.leaves);
            let proof = proof.map_err(|error| storage("read the entries of", error))?;
            return Ok(Some((checkpoint.clone(), Some(proof))));
        }
        let lead = self.head.lead.as_ref().filter(|lead| size <= lead.size);
        Ok(lead.map(|lead| {
            let proof = (lead.size == size).then(|| lead.proof.clone());
            (lead.checkpoint.clone(), proof)
        }))
    }
}

/// The smallest item: head, salt, and the length of an empty payload.
const MIN_ITEM_BYTES: usize = 36;

struct Growing {
    entries: Vec<Prepared>,
    announced: Vec<(u64, Announced)>,
    growth: Growth,
    /// Every key of the log that an entry announces.
    log_keys: Vec<PublicKey>,
}

impl Growing {
    fn take_in(&mut self, index: u64, found: Option<Announced>) -> Result<(), Refusal> {
        let Some(found) = found else { return Ok(()) };
        if let Some(key) = found.log_key()
            && !self.log_keys.contains(key)
        {
            if self.log_keys.len() >= MAX_KEYS {
                return Err(Refusal::TooManyKeys);
            }
            self.log_keys.push(key.clone());
        }
        self.announced.push((index, found));
        Ok(())
    }
}

/// A checkpoint, and the proof that its tree begins as it should, where that is known.
type SignedOver = (SignedCheckpoint, Option<Vec<Hash>>);

/// A checkpoint that was taken.
struct Taken {
    head: Head,
    keep: Vec<SignedCheckpoint>,
}

/// What is shown of a tree's beginning.
#[derive(Clone, Copy)]
struct Shown<'s> {
    checkpoint: &'s SignedCheckpoint,
    root: Hash,
    proof: &'s [Hash],
}

/// Whose turn it is: the key that signed last, or one that it announced.
fn check_turn(standing: Standing, batch: &Batch<'_>) -> Result<(), Refusal> {
    match standing {
        Standing::Current | Standing::Next | Standing::Ours => Ok(()),
        Standing::Retired | Standing::Unknown => Err(Refusal::OldKey {
            key: batch.key.to_string(),
            size: batch.checkpoint.size(),
        }),
    }
}

/// Whether the checkpoint's tree begins with the tree of this size and root.
fn leads(proof: &[Hash], size: u64, root: Hash, checkpoint: &SignedCheckpoint) -> bool {
    if size == checkpoint.size() {
        return proof.is_empty() && root == checkpoint.root();
    }
    if size == 0 {
        return proof.is_empty();
    }
    let proof = proof.iter().copied().map(Node).collect();
    check_tree(
        &proof,
        checkpoint.size(),
        Node(checkpoint.root()),
        size,
        Node(root),
    )
    .is_ok()
}

fn shown(key: &KeyId) -> String {
    key.iter()
        .fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn storage(action: &'static str, error: io::Error) -> Refusal {
    Refusal::Storage(LogError::Io {
        action,
        path: "log/segments".to_owned(),
        source: std::sync::Arc::new(error),
    })
}
