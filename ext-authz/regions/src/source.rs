//! Where batches come from: the region's own log, or the mirror of another one that is given back to its region.

use std::io;
use std::sync::Arc;

use knhk_receipts::{Log, LogError, PublicKey, SignedCheckpoint};

use crate::mirror::Mirror;
use crate::sender::Leads;
use crate::wire::{Batch, Hash, KeyId, MAX_BATCH_ITEMS, MAX_ITEMS_BYTES, MAX_KEPT, RootAt};

/// A checkpoint that entries lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The checkpoint.
    pub checkpoint: SignedCheckpoint,
    /// The COSE signature over the same root, where it is known.
    pub cose: Option<[u8; 64]>,
    /// The key that signed both.
    pub key: PublicKey,
}

/// Entries behind the newest checkpoint that all entries of are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// How many entries there are in all.
    pub size: u64,
    /// A checkpoint of a larger tree that begins with them.
    pub target: Target,
    /// The proof of that.
    pub proof: Vec<Hash>,
}

/// The trees that a key signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The key.
    pub key: PublicKey,
    /// Size of the first one.
    pub first: Option<u64>,
    /// Size of the last one, once another key took over.
    pub last: Option<u64>,
}

/// A log that can be sent. Blocking: its functions read from disk.
pub trait Source: Send + Sync {
    /// The region whose log it is.
    fn region(&self) -> &str;

    /// The newest signed tree; none before the first.
    fn newest(&self) -> Option<Target>;

    /// Where there are entries behind the newest signed tree: how many there are in all, and what proves them.
    fn tail(&self) -> Option<Tail>;

    /// The log's keys, in their order. Who follows the keys is led from one turn to the next. Empty where that is not wanted:
    /// then all checkpoints at which keys follow each other go along.
    fn turns(&self) -> Vec<Turn>;

    /// Kept checkpoints of more than `above` entries, up to `up_to`: the first `most` of them.
    fn kept(&self, above: u64, up_to: u64, most: usize) -> Result<Vec<SignedCheckpoint>, LogError>;

    /// The root of the first `size` entries, of which the newest checkpoint covers all.
    fn root_of(&self, size: u64) -> Result<Hash, LogError>;

    /// The proof that the tree of `size` entries begins with that of `from`, 1 or more.
    fn consistency(&self, from: u64, size: u64) -> Result<Vec<Hash>, LogError>;

    /// Adds items from `from` up to `end` to `bytes`, until those have `most`, the first one always. Says how many.
    fn items(&self, from: u64, end: u64, most: usize, bytes: &mut Vec<u8>) -> Result<u64, LogError>;
}

/// What a batch is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The first entry.
    pub from: u64,
    /// How many entries the newest checkpoint has that the receiver took: it may hold entries behind that one.
    pub covered: u64,
    /// The key that the receiver trusts, where that is known.
    pub trusted: Option<KeyId>,
    /// About how many bytes of entries; one entry goes always.
    pub most_bytes: usize,
}

/// A batch as it is sent, with what the sender has to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The encoded [`Batch`].
    pub bytes: Vec<u8>,
    /// Its first entry.
    pub from: u64,
    /// The index behind its last one.
    pub end: u64,
    /// Entries of the checkpoint that it leads to.
    pub signed: u64,
    /// The key that signed that one.
    pub key: KeyId,
}

impl Packed {
    /// Where it leads the peer that takes it.
    pub fn leads(&self) -> Leads {
        Leads {
            end: self.end,
            covered: (self.end >= self.signed).then_some(self.signed),
            key: self.key,
        }
    }
}

/// Makes the batch that is ordered. `None` before anything is signed. An order behind the newest checkpoint gets an empty batch at
/// its end.
pub fn pack(source: &dyn Source, order: Order) -> Result<Option<Packed>, LogError> {
    let newest = source.newest();
    let signed = newest.as_ref().map_or(0, |it| it.checkpoint.size());
    if let Some(tail) = source
        .tail()
        .filter(|tail| order.from >= signed && order.from < tail.size)
    {
        // From the signed tree on they can be told from a second history, and without what the receiver has they are fewer.
        for from in [signed, order.from] {
            if let Some(packed) = pack_tail(source, from, &tail)? {
                return Ok(Some(packed));
            }
        }
    }
    let Some(newest) = newest else {
        return Ok(None);
    };
    let turns = source.turns();
    let trusted = turns
        .iter()
        .position(|turn| Some(turn.key.key_id()) == order.trusted);
    let target = match next_turn(&turns, trusted, order.covered, newest.checkpoint.size()) {
        Some((size, key)) => kept_target(source, size, key)?.unwrap_or(newest),
        None => newest,
    };
    let (size, most) = (target.checkpoint.size(), order.most_bytes.min(MAX_ITEMS_BYTES));
    let from = order.from.min(size);
    let end = size.min(from + MAX_BATCH_ITEMS);
    let (mut items, mut kept) = (Vec::with_capacity(most), Vec::new());
    let mut count = source.items(from, end, most, &mut items)?;
    if count > 0 {
        kept = earlier(source, &turns, trusted, from, from + count, &target)?;
    }
    if let Some(last) = kept.get(MAX_KEPT - 1) {
        // More of them than go into one batch: it ends with the last that does.
        items.clear();
        count = source.items(from, last.size(), most, &mut items)?;
    }
    let end = from + count;
    let before = if from == 0 {
        None
    } else {
        Some(RootAt {
            root: source.root_of(from)?,
            proof: proof(source, from, size)?,
        })
    };
    let batch = Batch {
        region: source.region(),
        origin: target.checkpoint.origin(),
        from,
        count,
        items: &items,
        proof: proof(source, end, size)?,
        cose: target.cose,
        key: target.key,
        before,
        kept,
        checkpoint: target.checkpoint.clone(),
    };
    Ok(Some(packed(&batch)))
}

fn packed(batch: &Batch<'_>) -> Packed {
    Packed {
        bytes: batch.to_bytes(),
        from: batch.from,
        end: batch.from + batch.count,
        signed: batch.checkpoint.size(),
        key: batch.key.key_id(),
    }
}

/// Entries that are proven by a checkpoint that not all entries of are there. They go together or not at all: the proof is of all
/// of them, and what comes before them is not proven by it.
fn pack_tail(source: &dyn Source, from: u64, tail: &Tail) -> Result<Option<Packed>, LogError> {
    let mut items = Vec::new();
    if tail.size - from > MAX_BATCH_ITEMS
        || source.items(from, tail.size, MAX_ITEMS_BYTES, &mut items)? < tail.size - from
    {
        return Ok(None);
    }
    let batch = Batch {
        region: source.region(),
        origin: tail.target.checkpoint.origin(),
        from,
        count: tail.size - from,
        items: &items,
        checkpoint: tail.target.checkpoint.clone(),
        key: tail.target.key.clone(),
        cose: tail.target.cose,
        before: None,
        proof: tail.proof.clone(),
        kept: Vec::new(),
    };
    Ok(Some(packed(&batch)))
}

/// The next checkpoint behind the `covered` entries at which a key begins or ends, from the trusted key's turn on, if the newest is not before it.
fn next_turn(turns: &[Turn], trusted: Option<usize>, covered: u64, newest: u64) -> Option<(u64, &PublicKey)> {
    let turns = turns.get(trusted?..)?;
    let sizes = turns.iter().flat_map(|turn| {
        [turn.first, turn.last]
            .into_iter()
            .flatten()
            .map(|size| (size, &turn.key))
    });
    sizes
        .filter(|(size, _)| *size > covered && *size < newest)
        .min_by_key(|(size, _)| *size)
}

fn kept_target(source: &dyn Source, size: u64, key: &PublicKey) -> Result<Option<Target>, LogError> {
    let kept = source.kept(size - 1, size, 1)?.pop();
    Ok(kept.map(|checkpoint| Target {
        checkpoint,
        cose: None,
        key: key.clone(),
    }))
}

/// Checkpoints of keys before the trusted one, which the receiver keeps without following them.
fn earlier(
    source: &dyn Source,
    turns: &[Turn],
    trusted: Option<usize>,
    from: u64,
    end: u64,
    target: &Target,
) -> Result<Vec<SignedCheckpoint>, LogError> {
    let is_target = |it: &SignedCheckpoint| it.size() == target.checkpoint.size();
    if turns.is_empty() {
        let mut kept = source.kept(from, end, MAX_KEPT)?;
        kept.retain(|it| !is_target(it));
        return Ok(kept);
    }
    let before = turns.get(..trusted.unwrap_or(0)).unwrap_or_default();
    let mut sizes: Vec<_> = before
        .iter()
        .flat_map(|turn| [turn.first, turn.last])
        .flatten()
        .collect();
    sizes.retain(|size| *size > from && *size <= end && *size != target.checkpoint.size());
    sizes.sort_unstable();
    sizes.dedup();
    sizes.truncate(MAX_KEPT);
    let kept = sizes.into_iter().map(|size| source.kept(size - 1, size, 1));
    let kept: Result<Vec<_>, _> = kept.collect();
    Ok(kept?.into_iter().flatten().collect())
}

fn proof(source: &dyn Source, from: u64, size: u64) -> Result<Vec<Hash>, LogError> {
    if from == 0 || from == size {
        return Ok(Vec::new());
    }
    source.consistency(from, size)
}

impl Source for Log {
    fn region(&self) -> &str {
        Log::region(self)
    }

    fn newest(&self) -> Option<Target> {
        let root = self.root()?;
        let key = self
            .keys()
            .into_iter()
            .find(|it| it.key.key_id() == root.cose.kid)?;
        Some(Target {
            checkpoint: root.checkpoint.clone(),
            cose: Some(root.cose.signature),
            key: key.key,
        })
    }

    /// What is not signed is not sent.
    fn tail(&self) -> Option<Tail> {
        None
    }

    fn turns(&self) -> Vec<Turn> {
        let keys = self.keys().into_iter();
        let turns = keys.map(|it| Turn {
            key: it.key,
            first: it.first_size,
            last: it.last_size,
        });
        turns.collect()
    }

    fn kept(&self, above: u64, up_to: u64, most: usize) -> Result<Vec<SignedCheckpoint>, LogError> {
        self.kept_between(above, up_to, most)
    }

    fn root_of(&self, size: u64) -> Result<Hash, LogError> {
        Log::root_of(self, size)
    }

    fn consistency(&self, from: u64, size: u64) -> Result<Vec<Hash>, LogError> {
        self.consistency_of(from, size)
    }

    fn items(&self, from: u64, end: u64, most: usize, bytes: &mut Vec<u8>) -> Result<u64, LogError> {
        Log::items(self, from, end, most, bytes)
    }
}

impl Source for Mirror {
    fn region(&self) -> &str {
        Mirror::region(self)
    }

    fn newest(&self) -> Option<Target> {
        Some(Target {
            checkpoint: self.checkpoint()?.clone(),
            cose: self.signed_root().map(|root| root.cose.signature),
            key: self.key()?.clone(),
        })
    }

    fn tail(&self) -> Option<Tail> {
        Mirror::tail(self)
    }

    /// A region that gets its log back knows its keys; what it needs is all of them at once.
    fn turns(&self) -> Vec<Turn> {
        Vec::new()
    }

    fn kept(&self, above: u64, up_to: u64, most: usize) -> Result<Vec<SignedCheckpoint>, LogError> {
        self.replica().kept_between(above, up_to, most)
    }

    fn root_of(&self, size: u64) -> Result<Hash, LogError> {
        Mirror::root_of(self, size).map_err(unreadable)
    }

    fn consistency(&self, from: u64, size: u64) -> Result<Vec<Hash>, LogError> {
        Mirror::consistency(self, from, size).map_err(unreadable)
    }

    fn items(&self, from: u64, end: u64, most: usize, bytes: &mut Vec<u8>) -> Result<u64, LogError> {
        self.replica().items(from, end, most, bytes)
    }
}

fn unreadable(source: io::Error) -> LogError {
    LogError::Io {
        action: "read the entries of",
        path: "log/segments".to_owned(),
        source: Arc::new(source),
    }
}
