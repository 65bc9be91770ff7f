use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use tlog_tiles::EMPTY_HASH;

use super::bundles::{Checked, Own, check};
use super::chain::Chain;
use super::pins::Pin;
use super::points::{Point, Points};
use super::report::{Finding, Findings, Report, checks};
use super::source::{Extent, ReadError, Source};
use super::tiles::Tiles;
use super::tree::Growing;
use crate::checkpoint::{MAX_CHECKPOINT_BYTES, SignedCheckpoint};
use crate::key::PublicKey;
use crate::log::{KEYS_FILE_BYTES, Keyring};
use crate::payload::to_hex;
use crate::root::{MAX_ROOT_BYTES, SignedRoot};
use crate::tree::{Hash, TILE_WIDTH};

/// Bundles that a thread looks at before it hands them over.
const CHUNK: u64 = 16;

/// Chunks of a thread that wait to be joined: it looks at no more before.
const WAITING: usize = 2;

/// What is asked of an audit.
pub struct Audit<'a> {
    /// Threads that read and compute; at least one.
    pub threads: usize,
    /// Keys that are trusted: one of them has to have signed in the log, and what a set of them says of the log's keys has to
    /// be so. Where none is given nothing is asked.
    pub pinned: &'a [Pin],
    /// Checkpoints that were got before, with what to call each: the log must lead through them.
    pub since: &'a [(String, SignedCheckpoint)],
    /// Told now and then how far it has come.
    pub progress: &'a dyn Fn(Progress),
}

/// How far an audit has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Entries that were looked at.
    pub done: u64,
    /// All of them.
    pub entries: u64,
}

/// Why there is nothing to report on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// There is no checkpoint.
    #[error("there is no checkpoint to audit: nothing is signed yet, or this is no log")]
    NothingSigned,
    /// Not even the newest checkpoint can be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl AuditError {
    /// A stable name for programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NothingSigned => "nothing_signed",
            Self::Read(_) => "unreadable",
        }
    }
}

/// Looks at all of a log. What is wrong with it is in the report; an error means that there was nothing to look at.
///
/// Reads each entry once. Needs memory for some thousand entries a thread, whatever the log's size, and some bytes for each
/// of its keys.
pub fn audit(source: &dyn Source, asked: &Audit<'_>) -> Result<Report, AuditError> {
    let mut found = Vec::new();
    let Some(start) = Start::read(source, asked.since, &mut found)? else {
        return Ok(nothing_usable(found));
    };
    let extent = source.extent(start.signed)?;
    let tiles = Tiles::new(source, start.signed, extent);
    let entries = match extent {
        Extent::Growing => start.signed,
        Extent::Still(entries) => entries.max(start.signed),
    };
    let points = Points::new(source, start.signed, extent, start.points.clone(), &mut found);
    let mut joiner = Joiner {
        tiles: &tiles,
        signed: start.signed,
        entries,
        tree: Growing::default(),
        chain: Chain::new(&start.origin),
        own: VecDeque::new(),
        points,
        findings: Findings::default(),
        found,
        done: 0,
        checkpoints: u64::from(start.published_twice),
        root: None,
    };
    joiner.run(&start, asked);
    let pinned = joiner.finish(source, &start, asked.pinned);

    let inspected = source.inspect();
    inspected
        .findings
        .into_iter()
        .for_each(|finding| joiner.findings.add(finding));
    let mut report = Report {
        origin: start.origin,
        size: start.signed,
        root: joiner.root.as_ref().map(|root| to_hex(root)).unwrap_or_default(),
        entries: joiner.done,
        unsigned: joiner.done.saturating_sub(start.signed),
        tiles: tiles.compared(),
        checkpoints: joiner.checkpoints,
        keys: joiner.chain.keys(),
        pinned,
        checks: Vec::new(),
        findings: joiner.findings.into_vec(),
        notes: inspected.notes,
    };
    if report.unsigned > 0 {
        report.notes.push(format!(
            "entries from {} on, {} of them, are under no signature yet: they agree with themselves, and whoever can write to \
             the disk can change them",
            report.size, report.unsigned
        ));
    }
    report.checks = checks(&report, start.root.is_some(), inspected.files);
    Ok(report)
}

fn nothing_usable(findings: Vec<Finding>) -> Report {
    Report {
        origin: String::new(),
        size: 0,
        root: String::new(),
        entries: 0,
        unsigned: 0,
        tiles: 0,
        checkpoints: 0,
        keys: Vec::new(),
        pinned: false,
        checks: Vec::new(),
        findings,
        notes: vec!["no checkpoint can be used, so nothing else was checked".to_owned()],
    }
}

/// Where an audit begins: the newest checkpoint, which says what there has to be. It is not believed before the end.
struct Start {
    origin: String,
    signed: u64,
    points: Vec<Point>,
    root: Option<SignedRoot>,
    /// The published checkpoint is byte for byte the one in the signed root.
    published_twice: bool,
}

impl Start {
    fn read(
        source: &dyn Source,
        since: &[(String, SignedCheckpoint)],
        found: &mut Vec<Finding>,
    ) -> Result<Option<Self>, AuditError> {
        // In this order: a log that grows replaces the root first.
        let published = source.read("checkpoint", MAX_CHECKPOINT_BYTES)?;
        let root = source.read("root", MAX_ROOT_BYTES)?;
        if published.is_none() && root.is_none() {
            return Err(AuditError::NothingSigned);
        }
        if published.is_none() {
            found.push(Finding::new("checkpoints", "checkpoint", "the file is missing"));
        }
        let published = published.and_then(|bytes| {
            let parsed = SignedCheckpoint::from_bytes(&bytes);
            parsed
                .map_err(|error| found.push(Finding::new("checkpoints", "checkpoint", error.to_string())))
                .ok()
        });
        let root = root.and_then(|bytes| {
            let parsed = SignedRoot::from_bytes(&bytes);
            parsed
                .map_err(|error| found.push(Finding::new("checkpoints", "root", error.to_string())))
                .ok()
        });
        let root = root.filter(|root| {
            // Where one of the two was changed, the size of the other one is better.
            let hints = hints(source);
            let worse = published.as_ref().is_some_and(|it| it.verify(&hints).is_ok())
                && root.checkpoint.verify(&hints).is_err();
            if worse {
                found.push(Finding::new(
                    "checkpoints",
                    "root",
                    "its checkpoint is not valid: text or signature were changed",
                ));
            }
            !worse
        });
        let Some(newest) = root
            .as_ref()
            .map(|root| &root.checkpoint)
            .or(published.as_ref())
            .cloned()
        else {
            return Ok(None);
        };
        let (origin, signed) = (newest.origin().to_owned(), newest.size());
        let published_twice = published.as_ref().is_some_and(|it| *it == newest) && root.is_some();
        let file = if root.is_some() { "root" } else { "checkpoint" };
        let mut points = vec![Point {
            file: file.to_owned(),
            checkpoint: newest.clone(),
        }];
        if let Some(published) = published.filter(|it| *it != newest) {
            points.push(Point {
                file: "checkpoint".to_owned(),
                checkpoint: published,
            });
        }
        points.extend(since.iter().map(|(file, checkpoint)| Point {
            file: file.clone(),
            checkpoint: checkpoint.clone(),
        }));
        points.retain(|point| {
            let size = point.checkpoint.size();
            if size > signed {
                let what = format!(
                    "the log had {size} entries by this checkpoint, and by its newest one it has {signed}"
                );
                found.push(Finding::new("checkpoints", &point.file, what));
            }
            size <= signed
        });
        Ok(Some(Self {
            origin,
            signed,
            points,
            root,
            published_twice,
        }))
    }
}

/// Keys that the log itself lists: good enough to choose between two of its files, and for nothing else.
fn hints(source: &dyn Source) -> Vec<PublicKey> {
    let listed = source.read("keys", KEYS_FILE_BYTES).ok().flatten();
    let ring = listed.and_then(|bytes| Keyring::from_bytes(&bytes));
    ring.iter()
        .flat_map(Keyring::keys)
        .map(|it| it.key.clone())
        .collect()
}

/// Takes what the threads found in the order of the entries, and follows tree, checkpoints and keys.
struct Joiner<'a> {
    tiles: &'a Tiles<'a>,
    signed: u64,
    entries: u64,
    tree: Growing,
    chain: Chain,
    /// Entries of the log for itself, not yet taken in.
    own: VecDeque<(u64, Own)>,
    points: Points<'a>,
    findings: Findings,
    /// Found just now.
    found: Vec<Finding>,
    done: u64,
    checkpoints: u64,
    /// Of the signed tree, by the entries.
    root: Option<Hash>,
}

/// Whether there is more to do.
enum Then {
    GoOn,
    End,
}

impl Joiner<'_> {
    fn run(&mut self, start: &Start, asked: &Audit<'_>) {
        let bundles = self.entries.div_ceil(TILE_WIDTH);
        let chunks = bundles.div_ceil(CHUNK);
        let threads = asked.threads.max(1) as u64;
        let region = start.origin.rsplit_once('/').map_or("", |(_, region)| region);
        let (tiles, entries, ended) = (self.tiles, self.entries, AtomicBool::new(false));
        thread::scope(|scope| {
            let mut results = Vec::new();
            for first in 0..threads.min(chunks) {
                let (sender, receiver) = sync_channel(WAITING);
                results.push(receiver);
                let ended = &ended;
                let mine = (first..chunks).step_by(usize::try_from(threads).unwrap_or(1));
                scope.spawn(move || {
                    for chunk in mine {
                        let bundles = chunk * CHUNK..bundles.min((chunk + 1) * CHUNK);
                        if look(tiles, region, entries, bundles, ended, &sender).is_err() {
                            return;
                        }
                    }
                });
            }
            self.join(chunks, &results, asked);
            ended.store(true, Ordering::Relaxed);
            // Who waits to hand over waits no longer.
            drop(results);
        });
    }

    fn join(&mut self, chunks: u64, results: &[Receiver<Vec<Checked>>], asked: &Audit<'_>) {
        let mut bundle = 0;
        for chunk in 0..chunks {
            let from = usize::try_from(chunk % results.len() as u64).unwrap_or(0);
            let Ok(checked) = results[from].recv() else {
                let what = "a thread of the audit ended before its work did";
                return self.findings.add(Finding::new("unreadable", "audit", what));
            };
            for checked in checked {
                let then = self.take(bundle, checked);
                self.collect();
                if matches!(then, Then::End) || self.findings.are_enough() {
                    return;
                }
                bundle += 1;
            }
            (asked.progress)(Progress {
                done: self.done,
                entries: self.entries,
            });
        }
    }

    fn take(&mut self, bundle: u64, checked: Checked) -> Then {
        let first = bundle * TILE_WIDTH;
        let Checked {
            leaves,
            own,
            findings,
        } = checked;
        self.found.extend(findings);
        self.own.extend(own);
        self.done = first + leaves.len() as u64;
        while let Some(point) = self.points.next(self.done, &mut self.found) {
            self.check_point(&point, first, &leaves);
        }
        // The next one covers all of them. They are not held until it comes.
        self.take_in(self.done);
        if (first..=self.done).contains(&self.signed) {
            self.root = self.root_at(self.signed, first, &leaves);
        }
        if leaves.len() as u64 == TILE_WIDTH {
            self.tree.push(&leaves, self.tiles, &mut self.found);
        } else if self.done < self.entries {
            let what = format!(
                "entries from {} on are nowhere; nothing behind them was checked",
                self.done
            );
            self.found
                .push(Finding::new("entries", self.tiles.source.place(self.done), what));
            return Then::End;
        }
        Then::GoOn
    }

    fn check_point(&mut self, point: &Point, first: u64, leaves: &[Hash]) {
        let size = point.checkpoint.size();
        self.take_in(size);
        self.checkpoints += 1;
        if self.findings.has("checkpoints") || self.found.iter().any(|it| it.label == "checkpoints") {
            self.chain.rests_on_damage();
        }
        if let Err(finding) = self.chain.signed(point) {
            self.found.push(finding);
            return;
        }
        self.found.extend(self.chain.covered());
        if self.root_at(size, first, leaves) != Some(point.checkpoint.root()) {
            let what = format!("the checkpoint of {size} entries has another root than those entries");
            self.found.push(Finding::new("checkpoints", &point.file, what));
        }
    }

    /// The root of `size` entries, which end in the bundle that begins with `first`.
    fn root_at(&self, size: u64, first: u64, leaves: &[Hash]) -> Option<Hash> {
        let inside = usize::try_from(size.checked_sub(first)?).ok()?;
        Some(self.tree.root(leaves.get(..inside)?).unwrap_or(EMPTY_HASH.0))
    }

    /// Takes in what the log says of itself before entry `size`.
    fn take_in(&mut self, size: u64) {
        while self.own.front().is_some_and(|(index, _)| *index < size) {
            let Some((index, own)) = self.own.pop_front() else {
                return;
            };
            let place = self.tiles.source.place(index);
            let taken = match own {
                Own::Genesis(genesis) => self.chain.begin(&genesis, place),
                Own::Key(receipt) => self.chain.announce(index, &receipt, place),
            };
            self.found.extend(taken.err());
        }
    }

    /// What can be checked only at the end. Says whether the keys rest on a given one.
    fn finish(&mut self, source: &dyn Source, start: &Start, pinned: &[Pin]) -> bool {
        if self.done < self.entries {
            return self.chain.compare(pinned).rests;
        }
        self.take_in(u64::MAX);
        self.found.extend(self.chain.ended());
        self.tree.finish(self.tiles, &mut self.found);
        if let Some(root) = &start.root {
            let key = self.chain.key(&root.cose.kid);
            if !key.is_some_and(|key| root.cose.verifies(key, &root.checkpoint.root())) {
                let what = "its COSE signature is not one by a key of the log over its root";
                self.found.push(Finding::new("cose", "root", what));
            } else if root
                .checkpoint
                .verify(key.map_or(&[], std::slice::from_ref))
                .is_err()
            {
                self.found.push(Finding::new(
                    "cose",
                    "root",
                    "its two signatures are by different keys",
                ));
            }
        }
        match source.read("keys", KEYS_FILE_BYTES) {
            Ok(Some(bytes)) if self.tiles.extent != Extent::Growing => {
                let wrong = self.chain.agrees_with(&bytes).err();
                self.found
                    .extend(wrong.map(|what| Finding::new("keys", "keys", what)));
            }
            Ok(_) => {}
            Err(error) => self.found.push(error.into()),
        }
        let pinned = self.chain.compare(pinned);
        self.found.extend(pinned.findings);
        self.collect();
        pinned.rests
    }

    fn collect(&mut self) {
        for finding in self.found.drain(..) {
            self.findings.add(finding);
        }
    }
}

/// Nobody waits for results any more.
struct NobodyWaits;

fn look(
    tiles: &Tiles<'_>,
    region: &str,
    entries: u64,
    bundles: Range<u64>,
    ended: &AtomicBool,
    results: &SyncSender<Vec<Checked>>,
) -> Result<(), NobodyWaits> {
    let mut checked = Vec::new();
    for bundle in bundles {
        if ended.load(Ordering::Relaxed) {
            return Err(NobodyWaits);
        }
        let width = (entries - bundle * TILE_WIDTH).min(TILE_WIDTH);
        checked.push(check(tiles, region, bundle, width));
    }
    results.send(checked).map_err(|_| NobodyWaits)
}
