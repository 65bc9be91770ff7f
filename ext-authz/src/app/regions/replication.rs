//! Rollouts and flags between regions: what is known of each, and who has not heard of it yet. They go ahead of receipts. What is
//! heard is taken over in [`super::following`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use knhk_promotion::Rollout;
use knhk_receipts::Log;
use knhk_regions::Rollouts as Joined;
use knhk_regions::wire::{FlagsState, MAX_MESSAGE_BYTES, MAX_STATES, Message, RolloutState};
use knhk_telemetry::attribute::RegionReplicationOutcome;
use knhk_telemetry::span;
use rand::RngExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::Regions;
use crate::app::App;
use crate::app::rollouts::Rollouts;

/// How often regions tell each other which checkpoints they hold while nothing else is to be told.
const MEET_EVERY: Duration = Duration::from_secs(5);

/// After so many meetings a peer is told everything again: it may have come back with an old disk.
const MEETINGS_TO_TELL_ALL: u32 = 12;

/// The pause after a message that did not arrive; each further one is twice as long, up to [`PAUSE_CAP`].
const PAUSE_BASE: Duration = Duration::from_millis(100);

/// The longest such pause: an abort reaches a region that comes back within about this time.
const PAUSE_CAP: Duration = Duration::from_secs(2);

/// Bytes of rollouts' documents in one message, so that it stays below what is read with all the rest of it.
const MAX_DOCUMENTS_BYTES: usize = MAX_MESSAGE_BYTES / 2;

/// What the regions know of rollouts and flags.
pub(crate) struct Replication {
    region: String,
    known: Mutex<Known>,
    wake: BTreeMap<String, Notify>,
}

struct Known {
    rollouts: Joined,
    /// Names of rollouts whose newest state a peer has not taken yet.
    behind: BTreeMap<String, BTreeSet<String>>,
    flags: Option<FlagsState>,
    /// Peers that have not taken these flags yet.
    without_flags: BTreeSet<String>,
}

impl Replication {
    pub(super) fn new(region: &str, peers: impl Iterator<Item = String>) -> Self {
        let peers: Vec<_> = peers.collect();
        Self {
            region: region.to_owned(),
            wake: peers.iter().map(|peer| (peer.clone(), Notify::new())).collect(),
            known: Mutex::new(Known {
                rollouts: Joined::default(),
                behind: peers.into_iter().map(|peer| (peer, BTreeSet::new())).collect(),
                flags: None,
                without_flags: BTreeSet::new(),
            }),
        }
    }

    /// A rollout as it is here now, for the others.
    pub(crate) fn state_of(&self, rollout: &Rollout) -> RolloutState {
        RolloutState {
            name: rollout.name().to_owned(),
            home: rollout.home().unwrap_or(&self.region).to_owned(),
            generation: rollout.generation(),
            sequence: rollout.sequence(),
            aborted: rollout.is_aborted(),
            document: Some(rollout.to_receipt_json()),
        }
    }

    /// A state is in force here: every peer is told.
    pub(crate) fn publish(&self, state: RolloutState) {
        let mut known = self.known();
        let name = state.name.clone();
        known.rollouts.merge(state);
        for behind in known.behind.values_mut() {
            behind.insert(name.clone());
        }
        drop(known);
        self.wake.values().for_each(Notify::notify_one);
    }

    /// These flags are in force here: every peer is told.
    pub(crate) fn publish_flags(&self, state: FlagsState) {
        let mut known = self.known();
        known.flags = Some(state);
        known.without_flags = self.wake.keys().cloned().collect();
        drop(known);
        self.wake.values().for_each(Notify::notify_one);
    }

    /// Whether a state is later than what is known here.
    ///
    /// Two states of one rank differ in their documents only where two regions aborted at once, or began at once in one region's
    /// name; the time that a step has lived through, which a document has as well, is no news.
    pub(crate) fn is_news(&self, state: &RolloutState) -> bool {
        self.known().rollouts.get(&state.name).is_none_or(|known| {
            let same_rank = (known.generation, known.aborted, &known.home, known.sequence)
                == (state.generation, state.aborted, &state.home, state.sequence);
            known.order(state).is_lt() && (state.aborted || !same_rank)
        })
    }

    /// The same of flags.
    pub(crate) fn are_news(&self, state: &FlagsState) -> bool {
        self.known().flags.as_ref().is_none_or(|known| known < state)
    }

    /// How many rollouts' newest states a peer has not taken yet.
    pub(crate) fn behind(&self, peer: &str) -> usize {
        self.known().behind.get(peer).map_or(0, BTreeSet::len)
    }

    /// Whether a peer has not taken the newest flags yet.
    pub(crate) fn is_without_flags(&self, peer: &str) -> bool {
        self.known().without_flags.contains(peer)
    }

    fn has_news_for(&self, peer: &str) -> bool {
        self.behind(peer) > 0 || self.is_without_flags(peer)
    }

    /// What is known better here of what was sent, and the flags with states that may ask for them.
    pub(super) fn newer_than(&self, sent: &Message) -> Message {
        let known = self.known();
        let states = bounded(known.rollouts.newer_than(&sent.states).into_iter());
        let are_better = |ours: &FlagsState| match &sent.flags {
            Some(theirs) => ours > theirs,
            None => !states.is_empty(),
        };
        Message {
            flags: known.flags.clone().filter(are_better),
            states,
            ..Message::of(&self.region)
        }
    }

    fn tell_all(&self, peer: &str) {
        let mut known = self.known();
        let names: Vec<_> = known.rollouts.states().map(|state| state.name.clone()).collect();
        if let Some(behind) = known.behind.get_mut(peer) {
            behind.extend(names);
        }
        if known.flags.is_some() {
            known.without_flags.insert(peer.to_owned());
        }
    }

    /// What a peer has not taken yet, as much as one message carries.
    pub(in crate::app) fn to_tell(&self, peer: &str) -> Message {
        let known = self.known();
        let names = known.behind.get(peer).into_iter().flatten();
        Message {
            states: bounded(names.filter_map(|name| known.rollouts.get(name).cloned())),
            flags: known.flags.clone().filter(|_| known.without_flags.contains(peer)),
            ..Message::of(&self.region)
        }
    }

    /// The peer has these. What has changed since is still to be told.
    pub(in crate::app) fn told(&self, peer: &str, message: &Message) {
        let mut known = self.known();
        if message.flags.is_some() && message.flags == known.flags {
            known.without_flags.remove(peer);
        }
        let current: Vec<_> = message
            .states
            .iter()
            .filter(|state| known.rollouts.get(&state.name) == Some(state))
            .map(|state| state.name.clone())
            .collect();
        if let Some(behind) = known.behind.get_mut(peer) {
            for name in &current {
                behind.remove(name);
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As many as one message carries.
fn bounded(states: impl Iterator<Item = RolloutState>) -> Vec<RolloutState> {
    let mut bytes = 0;
    let fits = |state: &RolloutState| {
        bytes += state.document.as_ref().map_or(0, Vec::len);
        bytes <= MAX_DOCUMENTS_BYTES
    };
    states.take_while(fits).take(MAX_STATES).collect()
}

impl Regions {
    /// Tells one peer what is new, and hears what it knows, until told to stop.
    pub(crate) async fn meet(self: Arc<Self>, peer: String, app: Arc<App>, stop: CancellationToken) {
        let Some(wake) = self.replication.wake.get(&peer) else {
            return;
        };
        let (mut meetings, mut pause) = (0_u32, None::<Duration>);
        loop {
            if meetings.is_multiple_of(MEETINGS_TO_TELL_ALL) {
                self.replication.tell_all(&peer);
            }
            let span = tracing::info_span!(span::REGION_REPLICATE, "knhk.region.peer" = peer.as_str());
            match self
                .tell_peer(&peer, &app.rollouts, &app.log)
                .instrument(span)
                .await
            {
                Ok(()) => {
                    pause = None;
                    meetings = meetings.wrapping_add(1);
                }
                Err(error) => {
                    if pause.is_none() {
                        tracing::warn!(
                            peer,
                            error,
                            "a peer is not told about rollouts and flags; it is tried again"
                        );
                    }
                    pause = Some(pause.map_or(PAUSE_BASE, |last| (last * 2).min(PAUSE_CAP)));
                }
            }
            let outcome = match pause {
                None => RegionReplicationOutcome::Taken,
                Some(_) => RegionReplicationOutcome::Failed,
            };
            self.metrics.regions.replicated(&peer, outcome);
            let wait = match pause {
                // Spread, so that regions that were cut off together do not come back together.
                Some(pause) => pause.mul_f64(rand::rng().random_range(0.5..1.0)),
                None if self.replication.has_news_for(&peer) => Duration::ZERO,
                None => MEET_EVERY,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = wake.notified(), if pause.is_none() => {}
            }
        }
    }

    async fn tell_peer(self: &Arc<Self>, peer: &str, rollouts: &Rollouts, log: &Log) -> Result<(), String> {
        let (_, known) = self.peer(peer).map_err(|error| error.to_string())?;
        let (regions, log) = (Arc::clone(self), log.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let mut seen = regions.seen();
            seen.extend(log.checkpoint());
            seen
        });
        let message = Message {
            seen: looking.await.map_err(|error| error.to_string())?,
            ..self.replication.to_tell(peer)
        };
        let answer = known.transport.replicate(&message).await;
        let answer = answer.map_err(|error| error.to_string())?;
        self.replication.told(peer, &message);
        let followed = self.follow(peer, &answer, rollouts).await;
        followed.map_err(|error| error.to_string())?;
        let regions = Arc::clone(self);
        let witnessing = tokio::task::spawn_blocking(move || regions.witness(&answer.seen));
        witnessing.await.map_err(|error| error.to_string())
    }

    /// The peers, by name.
    pub(crate) fn peer_names(&self) -> Vec<String> {
        self.peers.keys().cloned().collect()
    }
}
