//! One region: its disks, and while it is up its log, its mirrors, and what it sends. The same shell as a service has, over a model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use knhk_receipts::cose::RootSignature;
use knhk_receipts::storage::{Crash, ModelStorage, Storage};
use knhk_receipts::testing::TestSigner;
use knhk_receipts::{Env, Log, LogOptions, MAX_FLUSH, Payload, PublicKey, SignedCheckpoint};
use knhk_regions::announce::ack_key_action;
use knhk_regions::sender::{LinkError, Own, Sent};
use knhk_regions::source::{Order, pack};
use knhk_regions::start::{Holding, OwnAtRest};
use knhk_regions::wire::{Answer, Batch, Hash, KeyId, Message, RolloutState};
use knhk_regions::{
    AckSigner, Decision, Event, Mirror, Mirrored, OwnLog, Refusal, Restore, Rollouts, SavedAcks, Sender,
    SenderOptions, Start, TransportError,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Runtime;

use super::lying::Lying;
use super::network::Body;
use crate::rig::{action, origin};

/// How long a start waits, and how long a peer has to answer.
const START_WAIT_MS: u64 = 5_000;
const SILENCE_MS: u64 = 2_000;

/// The process ended: something that it cannot go on without failed.
#[derive(Debug)]
pub(crate) struct Ended(pub(crate) String);

pub(crate) fn ended<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Ended {
    move |error| Ended(format!("{what}: {error}"))
}

/// What all regions have in common.
pub(crate) struct Setup {
    pub(crate) names: Vec<String>,
    pub(crate) quorum: usize,
    /// What the regions believe the quorum to be: another number is a fault that the checker has to find.
    pub(crate) believed_quorum: usize,
    /// The disks of this region say that they have synced, and have not.
    pub(crate) lying: Option<usize>,
}

/// A region's own data, and the mirrors of the others.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) data: ModelStorage,
    pub(crate) mirrors: BTreeMap<String, ModelStorage>,
}

impl Disk {
    pub(crate) fn new(peers: impl Iterator<Item = String>) -> Self {
        Self {
            data: ModelStorage::new(),
            mirrors: peers.map(|peer| (peer, ModelStorage::new())).collect(),
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &ModelStorage> {
        std::iter::once(&self.data).chain(self.mirrors.values())
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.all().any(|it| it.list("").is_err())
    }

    pub(crate) fn each(&self, mut make: impl FnMut(&ModelStorage) -> ModelStorage) -> Self {
        Self {
            data: make(&self.data),
            mirrors: self
                .mirrors
                .iter()
                .map(|(peer, it)| (peer.clone(), make(it)))
                .collect(),
        }
    }

    pub(crate) fn crash(&self, kind: Crash, rng: &mut SmallRng) -> Self {
        self.each(|it| it.crash(kind, rng.random()))
    }

    /// Where it has the log of a region.
    pub(crate) fn copy_of(&self, region: &str) -> &ModelStorage {
        self.mirrors.get(region).unwrap_or(&self.data)
    }
}

pub(crate) struct Node {
    pub(crate) at: usize,
    pub(crate) name: String,
    pub(crate) disk: Disk,
    pub(crate) up: Option<Up>,
    /// Whom it trusts, by an operator's word.
    pub(crate) pins: BTreeMap<String, KeyId>,
    /// How many keys its log has had.
    pub(crate) keys: u8,
    /// How far its clock is off.
    pub(crate) skew_ms: i64,
    pub(crate) rollouts: Rollouts,
    random: Arc<AtomicU64>,
}

pub(crate) struct Up {
    acks: AckSigner,
    pub(crate) mirrors: BTreeMap<String, Mirror>,
    pub(crate) stage: Stage,
    ask_at_ms: u64,
}

// There are a few of them.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Stage {
    Starting {
        start: Start,
        own: OwnAtRest,
    },
    Restoring {
        restore: Restore,
        from: Vec<Holding>,
        asked: usize,
    },
    Running {
        log: Log,
        sender: Sender,
    },
    Stopped,
}

/// What came of something.
#[derive(Default)]
pub(crate) struct Out {
    pub(crate) packets: Vec<(String, Body)>,
    pub(crate) timers: Vec<(u64, Sent, String)>,
    pub(crate) committed: Option<(u64, Hash)>,
}

/// The first key of a region's log, and those that follow.
pub(crate) fn seed(at: usize, number: u8) -> u8 {
    u8::try_from(at).expect("few") * 40 + 1 + number
}

struct View<'a> {
    origin: String,
    log: &'a Log,
    mirrors: &'a BTreeMap<String, Mirror>,
}

impl Own for View<'_> {
    fn origin(&self) -> &str {
        &self.origin
    }

    fn signed(&self) -> u64 {
        self.log.checkpoint().map_or(0, |it| it.size())
    }

    fn root_of(&self, size: u64) -> Option<Hash> {
        self.log.root_of(size).ok()
    }

    fn is_signed_by_us(&self, checkpoint: &SignedCheckpoint) -> bool {
        let keys: Vec<_> = self.log.keys().into_iter().map(|it| it.key).collect();
        checkpoint.verify(&keys).is_ok()
    }

    fn ack_key(&self, peer: &str, kid: &KeyId) -> Option<PublicKey> {
        let keys = self.mirrors.get(peer)?.ack_keys();
        keys.iter().find(|key| key.key_id() == *kid).cloned()
    }
}

impl Node {
    pub(crate) fn new(at: usize, setup: &Setup, salt: u64) -> Self {
        let others = setup.names.iter().enumerate().filter(|(peer, _)| *peer != at);
        let pin = |peer: usize| TestSigner::key_of(seed(peer, 0)).public.key_id();
        Self {
            at,
            name: setup.names[at].clone(),
            disk: Disk::new(others.clone().map(|(_, name)| name.clone())),
            up: None,
            pins: others.map(|(peer, name)| (name.clone(), pin(peer))).collect(),
            keys: 1,
            skew_ms: 0,
            rollouts: Rollouts::default(),
            random: Arc::new(AtomicU64::new(salt << 32 | (at as u64) << 28)),
        }
    }

    /// Starts the process. It signs nothing before it has asked the others.
    pub(crate) fn start(&mut self, setup: &Setup, now: u64) -> Result<(), Ended> {
        let random = self.randomness();
        let acks = AckSigner::open(&self.disk.data, &self.name, random.as_ref()).map_err(ended("key"))?;
        let mut mirrors = BTreeMap::new();
        for (peer, storage) in &self.disk.mirrors {
            let of = Mirrored {
                region: peer.clone(),
                origin: origin(peer),
                pin: self.pins[peer],
            };
            let storage: Arc<dyn Storage> = if setup.lying == Some(self.at) {
                Arc::new(Lying(storage.clone()))
            } else {
                Arc::new(storage.clone())
            };
            mirrors.insert(peer.clone(), Mirror::open(storage, &of).map_err(ended("mirror"))?);
        }
        let ours = (0..self.keys).map(|number| TestSigner::key_of(seed(self.at, number)).public);
        let own = OwnAtRest::find(Arc::new(self.disk.data.clone()), ours.collect()).map_err(ended("log"))?;
        let peers = setup.names.len() - 1;
        let start = Start::new(
            own.found(),
            &origin(&self.name),
            peers,
            setup.quorum,
            START_WAIT_MS,
            now,
        );
        self.up = Some(Up {
            acks,
            mirrors,
            stage: Stage::Starting { start, own },
            ask_at_ms: now,
        });
        Ok(())
    }

    /// Does what is due.
    pub(crate) fn pump(&mut self, setup: &Setup, rt: &Runtime, now: u64) -> Result<Out, Ended> {
        let mut out = Out::default();
        let Some(up) = &mut self.up else { return Ok(out) };
        let peers: Vec<_> = up.mirrors.keys().cloned().collect();
        let mut gives_up = false;
        match &mut up.stage {
            Stage::Starting { start, own } => {
                if now >= up.ask_at_ms {
                    up.ask_at_ms = now + 1_000;
                    out.packets
                        .extend(peers.into_iter().map(|peer| (peer, Body::AskHeld)));
                }
                let decision = start.decide(now);
                let found = own.found();
                self.decided(decision, found, setup, rt, now, &mut out)?;
            }
            Stage::Restoring { restore, from, asked } => {
                if now >= up.ask_at_ms {
                    up.ask_at_ms = now + 1_500;
                    // One that does not answer is left after some times.
                    let peer = from[*asked / 4 % from.len()].peer.clone();
                    *asked += 1;
                    gives_up = *asked > 8 * from.len();
                    out.packets
                        .push((peer, Body::AskEntries { from: restore.next() }));
                }
            }
            Stage::Running { log, sender } => {
                for due in sender.due(now) {
                    let order = Order {
                        most_bytes: 1500,
                        ..due.order
                    };
                    let packed = match pack(log, order) {
                        Ok(packed) => packed.expect("something is signed"),
                        Err(error) => {
                            let sent = Sent {
                                token: due.token,
                                from: 0,
                                end: 0,
                                bytes: 0,
                            };
                            let failed = LinkError::OwnLog {
                                what: error.to_string(),
                                label: error.label(),
                            };
                            let view = View {
                                origin: origin(&self.name),
                                log,
                                mirrors: &up.mirrors,
                            };
                            sender.answered(&due.peer, sent, Err(failed), &view, now, 7);
                            continue;
                        }
                    };
                    let sent = Sent {
                        token: due.token,
                        from: packed.from,
                        end: packed.end,
                        bytes: packed.bytes.len(),
                    };
                    out.timers.push((now + SILENCE_MS, sent, due.peer.clone()));
                    out.packets.push((
                        due.peer,
                        Body::Receipts {
                            sent,
                            bytes: packed.bytes,
                        },
                    ));
                }
            }
            Stage::Stopped => {}
        }
        // Nobody gives it: all are asked again what they hold.
        if gives_up {
            self.start(setup, now)?;
        }
        Ok(out)
    }

    fn decided(
        &mut self,
        decision: Decision,
        found: OwnLog,
        setup: &Setup,
        rt: &Runtime,
        now: u64,
        out: &mut Out,
    ) -> Result<(), Ended> {
        let Some(up) = &mut self.up else { return Ok(()) };
        match decision {
            Decision::Wait { .. } => Ok(()),
            Decision::Begin => {
                assert_eq!(found, OwnLog::Empty);
                self.open_log(setup, rt, now, out)
            }
            Decision::GoOn { .. } => self.open_log(setup, rt, now, out),
            Decision::Restore { from } if from.is_empty() => {
                let data: Arc<dyn Storage> = Arc::new(self.disk.data.clone());
                let restore = Restore::resume(data).map_err(ended("restore"))?;
                let restore = restore.expect("it was interrupted");
                up.stage = Stage::Restoring {
                    restore,
                    from,
                    asked: 0,
                };
                self.finish(setup, rt, now, out)
            }
            Decision::Restore { from } => {
                let of = Mirrored {
                    region: self.name.clone(),
                    origin: origin(&self.name),
                    pin: from[0].trusted,
                };
                let data: Arc<dyn Storage> = Arc::new(self.disk.data.clone());
                let wanted = from.iter().map(|it| it.covered).max().unwrap_or(0);
                let restore = Restore::open(data, &of, wanted).map_err(ended("restore"))?;
                up.ask_at_ms = now;
                up.stage = Stage::Restoring {
                    restore,
                    from,
                    asked: 0,
                };
                Ok(())
            }
            Decision::Stop(_) => {
                up.stage = Stage::Stopped;
                Ok(())
            }
        }
    }

    fn open_log(&mut self, setup: &Setup, rt: &Runtime, now: u64, out: &mut Out) -> Result<(), Ended> {
        let clock = now.saturating_add_signed(self.skew_ms) + 1_700_000_000_000;
        let env = Env {
            clock: Arc::new(move || clock),
            fill_random: self.randomness(),
        };
        let options = LogOptions {
            flush: MAX_FLUSH,
            ..LogOptions::new(&self.name)
        };
        let signer = Arc::new(TestSigner::new(seed(self.at, self.keys - 1)));
        let storage = Arc::new(self.disk.data.clone());
        let log = rt
            .block_on(Log::open(storage, options, signer, env))
            .map_err(ended("log"))?;
        let saved = SavedAcks::load(&self.disk.data).map_err(ended("acks"))?;
        let Some(up) = &mut self.up else { return Ok(()) };
        let announcement = Payload::Action(ack_key_action(&self.name, up.acks.public_key(), clock));
        rt.block_on(log.append(vec![announcement]))
            .map_err(ended("announce"))?;
        rt.block_on(log.flush_now()).map_err(ended("sign"))?;
        let options = SenderOptions {
            region: self.name.clone(),
            peers: up.mirrors.keys().cloned().collect(),
            quorum: setup.believed_quorum,
            bytes_per_second: 10_000_000,
        };
        let mut sender = Sender::new(options, &saved);
        let view = View {
            origin: origin(&self.name),
            log: &log,
            mirrors: &up.mirrors,
        };
        let events = sender.signed(&view, now);
        note(events, &sender, &log, &self.disk.data, out);
        up.stage = Stage::Running { log, sender };
        Ok(())
    }

    /// Something arrived. What is done about it is in the answer; an unreadable one gets none.
    pub(crate) fn receive(
        &mut self,
        from: &str,
        body: Body,
        setup: &Setup,
        rt: &Runtime,
        now: u64,
    ) -> Result<Out, Ended> {
        let wall = now.saturating_add_signed(self.skew_ms) + 1_700_000_000_000;
        let mut out = Out::default();
        let Some(up) = &mut self.up else { return Ok(out) };
        match body {
            Body::Receipts { sent, bytes } => {
                let Ok(batch) = Batch::from_bytes(&bytes) else {
                    return Ok(out);
                };
                let Some(mirror) = up.mirrors.get_mut(batch.region) else {
                    return Ok(out);
                };
                let refusal = mirror.receive(&batch, wall).err();
                let bytes = mirror.answer(refusal.as_ref(), &up.acks).to_bytes();
                out.packets.push((from.to_owned(), Body::Answer { sent, bytes }));
            }
            Body::Answer { sent, bytes } => {
                let answer = Answer::from_bytes(&bytes);
                let answer = answer.map_err(|e| TransportError::Unreadable {
                    reason: e.to_string(),
                });
                self.answered(from, sent, answer.map_err(LinkError::from), now, &mut out);
            }
            Body::Silence { sent } => {
                let silence = TransportError::Timeout {
                    seconds: SILENCE_MS / 1000,
                };
                self.answered(from, sent, Err(silence.into()), now, &mut out);
            }
            Body::AskHeld => {
                if let Some(mirror) = up.mirrors.get(from) {
                    let bytes = mirror.answer(None, &up.acks).to_bytes();
                    out.packets.push((from.to_owned(), Body::Held(bytes)));
                }
            }
            Body::Held(bytes) => {
                if let (Stage::Starting { start, own }, Ok(answer)) =
                    (&mut up.stage, Answer::from_bytes(&bytes))
                {
                    start.heard(from, answer, own, now).map_err(ended("log"))?;
                }
            }
            Body::AskEntries { from: first } => {
                if let Some(mirror) = up.mirrors.get(from) {
                    let order = Order {
                        from: first,
                        covered: first,
                        trusted: None,
                        most_bytes: 2_000,
                    };
                    if let Ok(Some(packed)) = pack(mirror, order) {
                        out.packets.push((from.to_owned(), Body::Entries(packed.bytes)));
                    }
                }
            }
            Body::Entries(bytes) => self.restored(&bytes, setup, rt, now, &mut out)?,
            Body::Replicate(bytes) => {
                let Ok(message) = Message::from_bytes(&bytes) else {
                    return Ok(out);
                };
                let states = self.rollouts.newer_than(&message.states);
                for seen in &message.seen {
                    for mirror in up.mirrors.values_mut() {
                        // An alarm shows in the mirror.
                        let _ = mirror.witness(seen, wall);
                    }
                }
                message.states.into_iter().for_each(|state| {
                    self.rollouts.merge(state);
                });
                let answer = Message {
                    region: self.name.clone(),
                    states,
                    seen: Vec::new(),
                };
                out.packets
                    .push((from.to_owned(), Body::Replicated(answer.to_bytes())));
            }
            Body::Replicated(bytes) => {
                let Ok(message) = Message::from_bytes(&bytes) else {
                    return Ok(out);
                };
                message.states.into_iter().for_each(|state| {
                    self.rollouts.merge(state);
                });
            }
        }
        Ok(out)
    }

    fn answered(
        &mut self,
        from: &str,
        sent: Sent,
        answer: Result<Answer, LinkError>,
        now: u64,
        out: &mut Out,
    ) {
        let random = self.random.fetch_add(1, Ordering::SeqCst);
        let Some(up) = &mut self.up else { return };
        let Stage::Running { log, sender } = &mut up.stage else {
            return;
        };
        let view = View {
            origin: origin(&self.name),
            log,
            mirrors: &up.mirrors,
        };
        let events = sender.answered(
            from,
            sent,
            answer,
            &view,
            now,
            random.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        );
        if note(events, sender, log, &self.disk.data, out) {
            up.stage = Stage::Stopped;
        }
    }

    fn restored(
        &mut self,
        bytes: &[u8],
        setup: &Setup,
        rt: &Runtime,
        now: u64,
        out: &mut Out,
    ) -> Result<(), Ended> {
        let Some(up) = &mut self.up else { return Ok(()) };
        let Stage::Restoring { restore, asked, .. } = &mut up.stage else {
            return Ok(());
        };
        let taken = restore.receive(bytes, now);
        if std::env::var_os("KNHK_TRACE").is_some() {
            eprintln!("{:>7} {} restores: {taken:?}", now, self.name);
        }
        match taken {
            Ok(true) => {
                *asked -= *asked % 4;
                up.ask_at_ms = now;
                return Ok(());
            }
            Ok(false) if !restore.is_whole() => return Ok(()),
            Ok(false) => {}
            Err(Refusal::Fork(_) | Refusal::SplitView { .. }) => {
                up.stage = Stage::Stopped;
                return Ok(());
            }
            Err(Refusal::Storage(error)) => return Err(Ended(error.to_string())),
            // A peer without a checkpoint named a key that was changed on the way: all are asked again.
            Err(Refusal::UnknownKey { .. }) => return self.start(setup, now),
            // Damaged on the way: it is asked for again.
            Err(_) => return Ok(()),
        }
        self.finish(setup, rt, now, out)
    }

    /// Puts the restored log in place and opens it.
    fn finish(&mut self, setup: &Setup, rt: &Runtime, now: u64, out: &mut Out) -> Result<(), Ended> {
        let (at, keys) = (self.at, self.keys);
        let Some(up) = &mut self.up else { return Ok(()) };
        let Stage::Restoring { restore, .. } = std::mem::replace(&mut up.stage, Stage::Stopped) else {
            return Ok(());
        };
        let cose = restore.without_cose().map(|checkpoint| {
            let seeds = (0..keys).map(|number| seed(at, number));
            let signers = seeds.map(TestSigner::new);
            let mut signers = signers.filter(|it| checkpoint.verify(&[it.public_key()]).is_ok());
            let signer = signers.next().expect("one of our keys");
            let key = signer.public_key();
            let digest = RootSignature::digest(&key.key_id(), &checkpoint.root());
            RootSignature::new(&key, &checkpoint.root(), &signer.sign(&digest)).expect("a signature")
        });
        restore.finish(cose).map_err(ended("restore"))?;

        self.open_log(setup, rt, now, out)
    }

    /// Clients' receipts: durable, and signed a moment later.
    pub(crate) fn append(&mut self, entries: u64, rt: &Runtime) {
        let Some(log) = self.log() else { return };
        let from = log.size();
        let payloads = (from..from + entries)
            .map(|number| action(log.region(), number))
            .collect();
        // A client whose append failed was told so.
        let _ = rt.block_on(log.append(payloads));
    }

    pub(crate) fn flush(&mut self, rt: &Runtime, now: u64) -> Out {
        let mut out = Out::default();
        let Some(up) = &mut self.up else { return out };
        let Stage::Running { log, sender } = &mut up.stage else {
            return out;
        };
        if rt.block_on(log.flush_now()).is_ok() {
            let view = View {
                origin: origin(&self.name),
                log,
                mirrors: &up.mirrors,
            };
            let events = sender.signed(&view, now);
            note(events, sender, log, &self.disk.data, &mut out);
        }
        out
    }

    pub(crate) fn rotate(&mut self, rt: &Runtime) {
        let next = seed(self.at, self.keys);
        let Some(log) = self.log() else { return };
        // The provider has the new version, whatever came of the rotation.
        let _ = rt.block_on(log.rotate(TestSigner::key_of(next), "test"));
        self.keys += 1;
    }

    /// A home's change, or an operator's abort or adoption anywhere.
    pub(crate) fn operate(&mut self, rng: &mut SmallRng) {
        let name = ["shop", "cart"][rng.random_range(0..2)].to_owned();
        let known = self.rollouts.get(&name).cloned();
        let home = self.name.clone();
        let state = match (known, rng.random_range(0..3)) {
            (Some(it), 0) => RolloutState {
                aborted: true,
                document: Some(home.into_bytes()),
                ..it
            },
            (Some(it), 1) => RolloutState {
                generation: it.generation + 1,
                home,
                sequence: 0,
                aborted: false,
                ..it
            },
            (Some(it), _) if it.home == home => RolloutState {
                sequence: it.sequence + 1,
                ..it
            },
            (Some(_), _) => return,
            (None, _) => RolloutState {
                name,
                home,
                generation: 1,
                sequence: 0,
                aborted: false,
                document: None,
            },
        };
        self.rollouts.merge(state);
    }

    /// What goes ahead of all receipts.
    pub(crate) fn message(&self) -> Vec<u8> {
        let mirrors = self.up.iter().flat_map(|up| up.mirrors.values());
        let seen = mirrors.filter_map(|it| it.checkpoint().cloned());
        let own = self.log().and_then(Log::checkpoint);
        let message = Message {
            region: self.name.clone(),
            states: self.rollouts.states().cloned().collect(),
            seen: seen.chain(own).collect(),
        };
        message.to_bytes()
    }

    pub(crate) fn log(&self) -> Option<&Log> {
        match &self.up.as_ref()?.stage {
            Stage::Running { log, .. } => Some(log),
            _ => None,
        }
    }

    pub(crate) fn sender(&self) -> Option<&Sender> {
        match &self.up.as_ref()?.stage {
            Stage::Running { sender, .. } => Some(sender),
            _ => None,
        }
    }

    /// What it is doing, in a word.
    pub(crate) fn stage(&self) -> String {
        match self.up.as_ref().map(|up| &up.stage) {
            None => "down".to_owned(),
            Some(Stage::Starting { own, .. }) => format!("starting:{:?}", own.found()),
            Some(Stage::Restoring { restore, .. }) => format!("restoring:{}", restore.next()),
            Some(Stage::Running { log, sender }) => format!("{}/{}", log.size(), sender.committed()),
            Some(Stage::Stopped) => "stopped".to_owned(),
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.up
            .as_ref()
            .is_some_and(|up| matches!(up.stage, Stage::Stopped))
    }

    /// The process ends as it ends in a crash.
    pub(crate) fn kill(&mut self) {
        self.up = None;
    }

    fn randomness(&self) -> Arc<knhk_receipts::FillRandom> {
        let drawn = Arc::clone(&self.random);
        Arc::new(move |bytes| {
            let mut rng = SmallRng::seed_from_u64(drawn.fetch_add(1, Ordering::SeqCst));
            rng.fill(bytes);
        })
    }
}

/// Persists what is to be persisted. Says whether everything has to stop.
fn note(events: Vec<Event>, sender: &Sender, log: &Log, data: &ModelStorage, out: &mut Out) -> bool {
    let mut stop = false;
    for event in events {
        match event {
            // Lost, it is asked again.
            Event::Acknowledged(_) => drop(sender.acks().save(data)),
            Event::Committed { size } => {
                out.committed = log.root_of(size).ok().map(|root| (size, root));
            }
            Event::Stop(_) => stop = true,
            Event::Lost { .. } | Event::Failed { .. } => {}
        }
    }
    stop
}
