//! The two halves of the log without threads, clock or tasks, and a model of what they promised.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::checkpoint::{SignedCheckpoint, Unsigned};
use crate::cose::RootSignature;
use crate::entry::{Prepared, leaf_hash};
use crate::log::error::LogError;
use crate::log::keyring::{KeyState, Keyring};
use crate::log::publisher::Publisher;
use crate::log::recovery::survey;
use crate::log::segments::Segments;
use crate::log::writer::Writer;
use crate::log::{CHECKPOINT_PATH, kept, tiles};
use crate::payload::{Genesis, KeyReceipt, Payload};
use crate::root::SignedRoot;
use crate::storage::{ModelStorage, Storage, read_whole};
use crate::testing::TestSigner;
use crate::tree::{TILE_WIDTH, Tile, TileKind, TreeReader, reference};

pub(super) const ORIGIN: &str = "knhk.dev/log/test";

/// What the log promised before the crash.
#[derive(Clone, Default)]
pub(super) struct Promised {
    /// Acknowledged entries, in order: commitment and payload.
    pub(super) entries: Vec<([u8; 32], Vec<u8>)>,
    /// Every tree that was handed to the signer, and the key that was to sign: the signatures may be out there.
    pub(super) signed: Vec<(Unsigned, u8)>,
    /// The newest root whose publication returned.
    pub(super) published: Option<SignedRoot>,
    /// The key that took over last, and returned.
    pub(super) active: u8,
    /// A key whose rotation has begun since then.
    pub(super) rotating: Option<u8>,
}

impl Promised {
    pub(super) fn new() -> Self {
        Self {
            active: 1,
            ..Self::default()
        }
    }
}

pub(super) struct Rig {
    pub(super) writer: Writer,
    pub(super) publisher: Publisher,
    now_ms: u64,
    drawn: u64,
}

impl Rig {
    /// Recovers. The first key is the one of number 1.
    pub(super) fn open(storage: &ModelStorage, segment_bytes: u64) -> Result<Self, LogError> {
        let shared: Arc<dyn Storage> = Arc::new(storage.clone());
        let now_ms = 1_700_000_000_000;
        let survey = survey(&shared, ORIGIN)?;
        let (writer, publisher) = survey.repair(segment_bytes, now_ms, genesis)?;
        Ok(Self {
            writer,
            publisher,
            now_ms,
            drawn: 0,
        })
    }

    pub(super) fn segments(&self) -> &Arc<Segments> {
        self.writer.segments()
    }

    /// Time passes.
    pub(super) fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    pub(super) fn append(&mut self, count: u64, promised: &mut Promised) -> Result<(), LogError> {
        let entries: Vec<_> = (0..count).map(|_| self.entry()).collect();
        self.commit(&entries, promised)?;
        Ok(())
    }

    pub(super) fn commit(&mut self, entries: &[Prepared], promised: &mut Promised) -> Result<u64, LogError> {
        let first = self.writer.commit(&entries.iter().collect::<Vec<_>>())?;
        assert_eq!(first, promised.entries.len() as u64, "indexes are contiguous");
        let kept = entries
            .iter()
            .map(|entry| (entry.commitment, entry.payload.clone()));
        promised.entries.extend(kept);
        Ok(first)
    }

    /// Takes the entries behind the acknowledged ones as promised too.
    pub(super) fn keep(&self, promised: &mut Promised) -> Result<(), LogError> {
        let mut cursor = self.segments().cursor(promised.entries.len() as u64);
        while let Some(entry) = cursor.next(|it| (it.commitment, it.payload.to_vec()))? {
            promised.entries.push(entry);
        }
        Ok(())
    }

    /// An entry like no other, of 0 to 300 bytes.
    fn entry(&mut self) -> Prepared {
        self.drawn += 1;
        let salt =
            reference::entry(self.drawn ^ u64::from_be_bytes(*b"a salt..") ^ (self.segments().size() << 32));
        let len = usize::from(salt[0]) + usize::from(salt[1] % 45);
        Prepared::new(salt, salt.iter().copied().cycle().take(len).collect())
    }

    pub(super) fn flush(&mut self, promised: &mut Promised) -> Result<(), LogError> {
        let Some(unsigned) = self.publisher.prepare(self.now_ms)? else {
            return Ok(());
        };
        let seed = self.active();
        promised.signed.push((unsigned.clone(), seed));
        let root = signed(seed, &unsigned);
        self.publisher.publish(root.clone(), self.now_ms)?;
        promised.published = Some(root);
        Ok(())
    }

    /// A flush up to where it needs a signature, and gets none.
    pub(super) fn prepare(&mut self) -> Option<Unsigned> {
        self.publisher.prepare(self.now_ms).expect("the disk is there")
    }

    /// The number of the key that signs.
    pub(super) fn active(&self) -> u8 {
        seed_of(self.publisher.book().keyring())
    }

    /// As the flusher does it, and dies in it where the machine dies.
    pub(super) fn rotate(&mut self, promised: &mut Promised) -> Result<(), LogError> {
        let seed = self.active() + 1;
        promised.rotating = Some(seed);
        let to = TestSigner::key_of(seed);
        let book = self.publisher.book();
        let index = if let Some(index) = book.keyring().resumable(&to) {
            index
        } else {
            let receipt = announcement(book.keyring(), seed);
            let size = self.publisher.size();
            self.publisher.book_mut().begin_rotation(size)?;
            let payload = Payload::Key(receipt.clone()).to_bytes();
            let index = self.commit(&[Prepared::new([seed; 32], payload)], promised)?;
            self.publisher.book_mut().announced(index, &receipt);
            index
        };
        self.flush(promised)?;
        self.publisher.book_mut().take_over(index, self.now_ms)?;
        promised.active = seed;
        promised.rotating = None;
        Ok(())
    }
}

fn genesis(writer: &mut Writer) -> Result<Keyring, LogError> {
    let key = TestSigner::key_of(1);
    let genesis = Genesis {
        region: "test".to_owned(),
        time_unix_ms: 1,
        origin: ORIGIN.to_owned(),
        public_key_der: key.public.der().to_vec(),
        provider: key.provider,
        version: key.version,
    };
    let keyring = Keyring::begin(&genesis).expect("it has a key");
    writer.commit(&[&Prepared::new([1; 32], Payload::Genesis(genesis).to_bytes())])?;
    Ok(keyring)
}

/// The announcement of a key that follows the active one.
pub(super) fn announcement(keyring: &Keyring, seed: u8) -> KeyReceipt {
    let to = TestSigner::key_of(seed);
    let digest = KeyReceipt::proof_digest(ORIGIN, to.public.der());
    KeyReceipt {
        region: "test".to_owned(),
        time_unix_ms: 2,
        public_key_der: to.public.der().to_vec(),
        provider: to.provider,
        version: to.version,
        previous: keyring.active().key.key_id(),
        who: "test".to_owned(),
        proof: remembered(seed, digest),
    }
}

fn seed_of(keyring: &Keyring) -> u8 {
    let version = keyring.active().version.strip_prefix('k');
    version.expect("a test key").parse().expect("its number")
}

/// What was made of a digest by the key of a number.
type Memo<T> = HashMap<([u8; 32], u8), T>;

/// Both signatures over a tree by the key of a number.
pub(super) fn signed(seed: u8, unsigned: &Unsigned) -> SignedRoot {
    thread_local! {
        static MADE: RefCell<Memo<SignedRoot>> = RefCell::default();
    }
    let make = || {
        let key = TestSigner::key_of(seed).public;
        let cose = RootSignature::digest(&key.key_id(), &unsigned.root);
        SignedRoot {
            checkpoint: unsigned
                .signed(&key, remembered(seed, unsigned.digest()))
                .expect("its own signature"),
            cose: RootSignature::new(&key, &unsigned.root, &remembered(seed, cose))
                .expect("its own signature"),
        }
    };
    MADE.with_borrow_mut(|made| made.entry((unsigned.digest(), seed)).or_insert_with(make).clone())
}

/// Signs, or remembers: a schedule signs the same again for each step that it crashes at.
fn remembered(seed: u8, digest: [u8; 32]) -> Vec<u8> {
    thread_local! {
        static MADE: RefCell<Memo<Vec<u8>>> = RefCell::default();
    }
    let make = || TestSigner::new(seed).sign(&digest);
    MADE.with_borrow_mut(|made| made.entry((digest, seed)).or_insert_with(make).clone())
}

/// Everything that must hold of what was recovered.
pub(super) fn check(rig: &Rig, storage: &ModelStorage, promised: &Promised) {
    let mut cursor = rig.segments().cursor(0);
    let mut found = Vec::new();
    while let Some(it) = cursor
        .next(|it| (it.commitment, it.payload.to_vec()))
        .expect("every entry can be read")
    {
        found.push(it);
    }
    assert!(
        found.len() >= promised.entries.len(),
        "acknowledged entries are lost"
    );
    assert_eq!(
        found[..promised.entries.len()],
        promised.entries,
        "acknowledged entries have changed"
    );
    let (entries, payloads): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    for (unsigned, _) in &promised.signed {
        let size = usize::try_from(unsigned.size).expect("small");
        assert!(
            size <= entries.len(),
            "the log is shorter than a tree that was signed"
        );
        assert_eq!(
            reference::root(&entries[..size]),
            unsigned.root,
            "a signed tree is contradicted"
        );
    }
    check_keys(rig, storage, promised, &payloads);
    let Some(published) = rig.publisher.book().root() else {
        assert!(promised.published.is_none(), "a published root is lost");
        return;
    };
    assert!(
        promised
            .published
            .as_ref()
            .is_none_or(|it| it.size() <= published.size()),
        "the root went back"
    );
    let size = published.size();
    assert_eq!(
        reference::root(&entries[..usize::try_from(size).expect("small")]),
        published.checkpoint.root()
    );
    assert_eq!(
        read_whole(storage, CHECKPOINT_PATH, 9999).expect("it is there"),
        published.checkpoint.as_bytes()
    );
    check_tiles(storage, size, &entries);
}

/// Who signs, who signed, and that an auditor who trusts the first key can follow to the newest root.
fn check_keys(rig: &Rig, storage: &ModelStorage, promised: &Promised, payloads: &[Vec<u8>]) {
    let active = rig.active();
    assert!(
        active == promised.active || Some(active) == promised.rotating,
        "{active} signs, where {} or {:?} is to",
        promised.active,
        promised.rotating
    );
    let order: Vec<_> = promised.signed.iter().map(|(_, seed)| *seed).collect();
    assert!(order.is_sorted(), "a key signed after its successor: {order:?}");
    assert!(
        order.iter().all(|seed| *seed <= active),
        "the key went back behind one that signed"
    );

    // Trust moves from key to key, along kept checkpoints.
    let (mut trusted, mut covered, mut last) = (1, 0_u64, 0);
    let mut follow = |checkpoint: &SignedCheckpoint| {
        assert!(checkpoint.size() >= last, "kept checkpoints go up");
        let by = |seed| checkpoint.verify(&[TestSigner::key_of(seed).public]).is_ok();
        if !by(trusted) {
            let next = TestSigner::key_of(trusted + 1).public;
            let announced = payloads[..usize::try_from(covered).expect("small")]
                .iter()
                .filter_map(|payload| match Payload::from_bytes(payload) {
                    Ok(Payload::Key(receipt)) => Some(receipt),
                    _ => None,
                })
                .any(|receipt| {
                    receipt.previous == TestSigner::key_of(trusted).public.key_id()
                        && receipt.proven(ORIGIN).as_ref() == Some(&next)
                });
            assert!(
                announced,
                "key {} is announced under a checkpoint of {trusted}",
                trusted + 1
            );
            assert!(by(trusted + 1), "signed by the one that was announced");
            trusted += 1;
        }
        (covered, last) = (checkpoint.size(), checkpoint.size());
    };
    kept::each(storage, |checkpoint| {
        follow(checkpoint);
        Ok(())
    })
    .expect("kept checkpoints can be read");
    if let Some(root) = rig.publisher.book().root() {
        follow(&root.checkpoint);
        let key = TestSigner::key_of(trusted).public;
        root.verify(&[key])
            .expect("both signatures are by the trusted key");
    }
    // The key in force may not have signed yet.
    assert!(
        active == trusted || active == trusted + 1,
        "trust leads to {trusted}, {active} signs"
    );
    check_list(rig, promised);
}

/// The list of keys says what happened.
fn check_list(rig: &Rig, promised: &Promised) {
    for key in rig.publisher.book().keyring().keys() {
        let seed: u8 = key.version[1..].parse().expect("its number");
        let sizes = |seed| {
            promised
                .signed
                .iter()
                .filter(move |(_, by)| *by == seed)
                .map(|(it, _)| it.size)
        };
        match key.state {
            KeyState::Announced => assert_eq!(sizes(seed).count(), 0, "key {seed} signed"),
            KeyState::Active => assert_eq!(seed, rig.active()),
            KeyState::Retired => {
                assert!(sizes(seed).any(|size| Some(size) == key.first_size), "{key:?}");
                assert!(sizes(seed).any(|size| Some(size) == key.last_size), "{key:?}");
            }
        }
    }
}

/// Every tile of a published tree is there and right.
fn check_tiles(storage: &ModelStorage, size: u64, entries: &[[u8; 32]]) {
    for n in 0..size.div_ceil(TILE_WIDTH) {
        let tile = Tile::in_tree(TileKind::Entries, n, size).expect("in the tree");
        let bytes = tiles::read(storage, tile).expect("a bundle of the tree");
        let from = usize::try_from(n * TILE_WIDTH).expect("small");
        let expected: Vec<u8> = entries[from..][..bytes.len() / 34]
            .iter()
            .flat_map(|entry| [0_u8, 32].into_iter().chain(*entry))
            .collect();
        assert_eq!(bytes, expected, "{tile}");
    }
    for index in [0, size / 2, size - 1] {
        let proof = TreeReader::new(size, |tile| tiles::read(storage, tile))
            .inclusion(index)
            .expect("a proof");
        let proof = proof.into_iter().map(tlog_tiles::Hash).collect();
        let at = |n: u64| usize::try_from(n).expect("small");
        let root = tlog_tiles::Hash(reference::root(&entries[..at(size)]));
        let leaf = tlog_tiles::Hash(leaf_hash(&entries[at(index)]));
        tlog_tiles::check_record(&proof, size, root, index, leaf).expect("the proof leads to the root");
    }
}
