//! Seeded schedules of appends and flushes, with a crash at every step of the storage, against a model of what was promised.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::checkpoint::{SignedCheckpoint, Unsigned};
use crate::entry::Prepared;
use crate::log::error::LogError;
use crate::log::publisher::Publisher;
use crate::log::recovery::recover;
use crate::log::segments::Segments;
use crate::log::writer::Writer;
use crate::log::{CHECKPOINT_PATH, tiles};
use crate::storage::{Crash, ModelStorage, Storage, read_whole};
use crate::testing::TestSigner;
use crate::tree::{TILE_WIDTH, Tile, TileKind, TreeReader, reference};

pub(super) const ORIGIN: &str = "knhk.dev/log/test";

/// Small enough that a few groups fill one.
const SEGMENT_BYTES: u64 = 2_000;

/// What the log promised before the crash.
#[derive(Clone, Default)]
struct Promised {
    /// Acknowledged entries, in order: commitment and payload.
    entries: Vec<([u8; 32], Vec<u8>)>,
    /// Every tree that was handed to the signer: a signature may be out there.
    signed: Vec<Unsigned>,
    /// The newest checkpoint whose publication returned.
    published: Option<SignedCheckpoint>,
}

/// The two halves of the log without threads, clock or tasks.
struct Rig {
    writer: Writer,
    publisher: Publisher,
    signer: TestSigner,
    drawn: u64,
}

impl Rig {
    fn open(storage: &ModelStorage) -> Result<Self, LogError> {
        let signer = TestSigner::new(1);
        let storage: Arc<dyn Storage> = Arc::new(storage.clone());
        let (writer, publisher) = recover(&storage, ORIGIN, &signer.public_key(), SEGMENT_BYTES)?;
        Ok(Self {
            writer,
            publisher,
            signer,
            drawn: 0,
        })
    }

    fn segments(&self) -> &Arc<Segments> {
        self.writer.segments()
    }

    fn append(&mut self, count: u64, promised: &mut Promised) -> Result<(), LogError> {
        let entries: Vec<_> = (0..count).map(|_| self.entry()).collect();
        let first = self.writer.commit(&entries.iter().collect::<Vec<_>>())?;
        assert_eq!(first, promised.entries.len() as u64, "indexes are contiguous");
        promised
            .entries
            .extend(entries.into_iter().map(|entry| (entry.commitment, entry.payload)));
        Ok(())
    }

    /// Takes the entries behind the acknowledged ones as promised too.
    fn keep(&self, promised: &mut Promised) -> Result<(), LogError> {
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

    fn flush(&mut self, promised: &mut Promised) -> Result<(), LogError> {
        let Some(unsigned) = self.publisher.prepare()? else {
            return Ok(());
        };
        promised.signed.push(unsigned.clone());
        let checkpoint = signed(&self.signer, &unsigned);
        self.publisher.publish(checkpoint.clone())?;
        promised.published = Some(checkpoint);
        Ok(())
    }
}

/// Signs, or remembers: a schedule signs the same trees again for each step that it crashes at.
fn signed(signer: &TestSigner, unsigned: &Unsigned) -> SignedCheckpoint {
    thread_local! {
        static MADE: RefCell<HashMap<[u8; 32], SignedCheckpoint>> = RefCell::default();
    }
    let digest = unsigned.digest();
    let make = || {
        unsigned
            .signed(&signer.public_key(), signer.sign(&digest))
            .expect("its own signature")
    };
    MADE.with_borrow_mut(|made| made.entry(digest).or_insert_with(make).clone())
}

/// Runs a schedule until it ends or the machine dies in it.
fn run(storage: &ModelStorage, schedule: u64, promised: &mut Promised) -> Result<(), LogError> {
    let mut rng = SmallRng::seed_from_u64(schedule);
    // Some schedules have so many entries that tiles of two levels come in.
    let most = if schedule.is_multiple_of(8) { 150 } else { 8 };
    let mut rig = Rig::open(storage)?;
    for _ in 0..rng.random_range(3..10) {
        match rng.random_range(0..10) {
            0..6 => rig.append(rng.random_range(1..=most), promised)?,
            6..9 => rig.flush(promised)?,
            _ => {
                drop(rig);
                rig = Rig::open(storage)?;
            }
        }
    }
    Ok(())
}

/// Everything that must hold of what was recovered.
fn check(rig: &Rig, storage: &ModelStorage, promised: &Promised) {
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
    let entries: Vec<_> = found.into_iter().map(|(commitment, _)| commitment).collect();
    for unsigned in &promised.signed {
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
    let Some(published) = rig.publisher.published() else {
        assert!(promised.published.is_none(), "a published checkpoint is lost");
        return;
    };
    assert!(
        promised
            .published
            .as_ref()
            .is_none_or(|it| it.size() <= published.size()),
        "the checkpoint went back"
    );
    let size = published.size();
    assert_eq!(
        reference::root(&entries[..usize::try_from(size).expect("small")]),
        published.root()
    );
    assert_eq!(
        read_whole(storage, CHECKPOINT_PATH, 9999).expect("it is there"),
        published.as_bytes()
    );
    check_tiles(storage, size, &entries);
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
        let leaf = tlog_tiles::Hash(crate::entry::leaf_hash(&entries[at(index)]));
        tlog_tiles::check_record(&proof, size, root, index, leaf).expect("the proof leads to the root");
    }
}

/// Recovers, checks, recovers again, goes on, and checks again.
fn recovers(storage: &ModelStorage, promised: &Promised) {
    let rig = Rig::open(storage).expect("what a crash leaves can be recovered");
    check(&rig, storage, promised);
    let (size, names) = (rig.segments().size(), storage.paths());
    drop(rig);
    let steps = storage.steps();
    let mut rig = Rig::open(storage).expect("recovers again");
    assert_eq!(
        (rig.segments().size(), storage.paths()),
        (size, names),
        "the second recovery changed something"
    );
    assert!(
        storage.steps() - steps <= 2,
        "the second recovery does nothing but sync what is there"
    );

    let mut later = promised.clone();
    rig.keep(&mut later).expect("reads");
    rig.append(3, &mut later).expect("appends go on");
    rig.flush(&mut later).expect("flushes go on");
    check(&rig, storage, &later);
}

/// What a recovery keeps is durable from then on: it counts as promised.
fn recover_and_go_on(storage: &ModelStorage, promised: &mut Promised) -> Result<(), LogError> {
    let mut rig = Rig::open(storage)?;
    rig.keep(promised)?;
    rig.flush(promised)?;
    rig.append(2, promised)?;
    rig.flush(promised)
}

fn crash_everywhere(schedule: u64) -> u64 {
    let whole = ModelStorage::new();
    run(&whole, schedule, &mut Promised::default()).expect("nothing fails without a crash");
    let kinds = [
        Crash::Process,
        Crash::LoseAll,
        Crash::KeepAll,
        Crash::Scramble,
        Crash::Scramble,
    ];
    for step in 0..whole.steps() {
        let storage = ModelStorage::new();
        storage.crash_after(step);
        let mut promised = Promised::default();
        let result = run(&storage, schedule, &mut promised);
        assert!(result.is_err(), "schedule {schedule} did not reach step {step}");
        let kind = kinds[usize::try_from((schedule + step) % 5).expect("small")];
        let after = storage.crash(kind, schedule << 32 | step);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // A second crash, in the recovery or soon after it, must do no harm either.
            let mut rng = SmallRng::seed_from_u64(schedule ^ (step << 20));
            after.crash_after(rng.random_range(0..40));
            let kind = if rng.random() {
                Crash::LoseAll
            } else {
                Crash::Scramble
            };
            // How far it gets does not matter.
            let _ = recover_and_go_on(&after, &mut promised);
            recovers(&after.crash(kind, step), &promised);
        }));
        assert!(
            outcome.is_ok(),
            "schedule {schedule}, {kind:?} at step {step}: see above"
        );
    }
    whole.steps()
}

/// How many crashes these schedules have been through.
fn crashes(schedules: impl Iterator<Item = u64>) -> u64 {
    schedules.map(crash_everywhere).sum()
}

/// 1 to 8 entries at once, crashes at each step. In parts, which run in parallel.
#[test]
fn no_crash_loses_or_contradicts_anything() {
    assert!(crashes((1..60).filter(|it| it % 8 != 0)) > 1_500);
}

#[test]
fn no_crash_loses_or_contradicts_anything_in_other_schedules() {
    assert!(crashes((60..120).filter(|it| it % 8 != 0)) > 1_500);
}

/// Up to 150 entries at once: full tiles, a second level, many segments.
#[test]
fn no_crash_of_a_larger_log_loses_or_contradicts_anything() {
    assert!(crashes((0..40).step_by(8)) > 200);
}
