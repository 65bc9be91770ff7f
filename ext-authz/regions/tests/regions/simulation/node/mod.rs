//! One region: its disks, and while it is up its log, its mirrors, and what it sends. The same shell as a service has, over a model.

mod clients;
mod disk;
mod receiving;
mod sending;
mod starting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use knhk_receipts::Log;
use knhk_receipts::testing::TestSigner;
use knhk_regions::sender::Sent;
use knhk_regions::start::{Holding, OwnAtRest};
use knhk_regions::wire::{Hash, KeyId};
use knhk_regions::{AckSigner, Mirror, Restore, Rollouts, Sender, Start};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Runtime;

pub(crate) use disk::Disk;

use sending::{send_due, view};

use super::network::Body;

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

    /// Does what is due.
    pub(crate) fn pump(&mut self, setup: &Setup, rt: &Runtime, now: u64) -> Result<Out, Ended> {
        let mut out = Out::default();
        let Some(up) = &mut self.up else { return Ok(out) };
        let peers: Vec<_> = up.mirrors.keys().cloned().collect();
        let mut gives_up = false;
        match &mut up.stage {
            Stage::Starting { start, .. } => {
                if now >= up.ask_at_ms {
                    up.ask_at_ms = now + 1_000;
                    out.packets
                        .extend(peers.into_iter().map(|peer| (peer, Body::AskHeld)));
                }
                let decision = start.decide(now);
                self.decided(decision, setup, rt, now, &mut out)?;
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
                let view = view(&self.name, log, &up.mirrors);
                send_due(sender, &view, now, &mut out);
            }
            Stage::Stopped => {}
        }
        // Nobody gives it: all are asked again what they hold.
        if gives_up {
            self.start(setup, now)?;
        }
        Ok(out)
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
