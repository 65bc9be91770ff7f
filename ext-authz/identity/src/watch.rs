//! Keeping the newest SVID: a state machine with no clock, no socket and no randomness of its own.
//!
//! It says when to open a stream of updates, checks what the stream gives, and keeps the last good snapshot. A failure is
//! followed by a wait that doubles up to [`RETRY_CAP`], and half of each wait is drawn by lot.

use std::sync::Arc;
use std::time::Duration;

use spiffe::{TrustDomain, X509Context};

use crate::clock::Now;
use crate::config::Refresh;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::source::SourceError;
use crate::view::View;

/// The longest first wait after a failure.
pub const RETRY_BASE: Duration = Duration::from_millis(400);
/// The longest wait after many failures. An agent that is back is noticed within this time.
pub const RETRY_CAP: Duration = Duration::from_secs(10);
/// A stream that lived so long was a good one: the waits start from the beginning when it ends.
const GOOD_AFTER: Duration = Duration::from_secs(30);
/// Between two streams that are opened only to look for news.
const REFRESH_LEAST: Duration = Duration::from_secs(5);
/// So often, and for [`DENIED_FOR`], the Workload API has to say that we have no identity before the one that is held is
/// given up. An agent that starts, or whose attestor stumbles, says it a few times without meaning it.
pub const DENIALS_THAT_COUNT: u32 = 3;
/// See [`DENIALS_THAT_COUNT`].
pub const DENIED_FOR: Duration = Duration::from_secs(15);
/// The wall clock may jump, so it is looked at this often at least.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(30);

/// One stream, so that what a closed one still says is not mistaken for another's.
pub(crate) type StreamId = u64;

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// Time passed.
    Tick,
    /// A stream gave an update, or something that is none.
    Update(StreamId, Result<X509Context, Refusal>),
    /// A stream could not be opened, or ended.
    Failed(StreamId, SourceError),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Open a stream.
    Open(StreamId),
    /// Close a stream.
    Close(StreamId),
    /// [`Watch::view`] changed.
    Publish,
    /// Tell people and metrics.
    Tell(News),
}

/// What people and metrics are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The first SVID, or the next one.
    Rotated,
    /// An update was not used.
    Refused(Refusal),
    /// A stream failed; the next one is opened after this time.
    SourceFailed(SourceError, Duration),
    /// What is held has ended.
    Expired,
    /// The Workload API says that we have no identity any longer, and what was held is held no more.
    Withdrawn,
}

/// The state.
#[derive(Debug)]
pub(crate) struct Watch {
    refresh: Refresh,
    trust_domain: Option<TrustDomain>,
    view: View,
    live: Option<Live>,
    opening: Option<StreamId>,
    /// When to open a stream, by the steady clock: the next attempt, or the next look for news.
    open_at: Option<Duration>,
    denied: Option<Denied>,
    expiry_told: bool,
    streams: StreamId,
    snapshots: u64,
}

/// The Workload API says that we have no identity, since the last good update.
#[derive(Clone, Copy, Debug)]
struct Denied {
    times: u32,
    since: Duration,
}

/// A stream that gave something.
#[derive(Debug)]
struct Live {
    id: StreamId,
    since: Duration,
}

impl Watch {
    /// Nothing is held, and the first tick opens a stream.
    pub(crate) fn new(refresh: Refresh, trust_domain: Option<TrustDomain>) -> Self {
        Self {
            refresh,
            trust_domain,
            view: View::default(),
            live: None,
            opening: None,
            open_at: Some(Duration::ZERO),
            denied: None,
            expiry_told: false,
            streams: 0,
            snapshots: 0,
        }
    }

    /// What others may see.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// How long nothing has to be done unless something happens.
    pub(crate) fn rest(&self, now: Now) -> Duration {
        let open = match (self.open_at, self.opening) {
            (Some(at), None) => at.saturating_sub(now.steady),
            _ => LOOK_AT_CLOCK,
        };
        let ends = match &self.view.snapshot {
            // A certificate is valid throughout its last second.
            Some(held) if !self.expiry_told => held.validity().left(now.unix) + Duration::from_secs(1),
            _ => LOOK_AT_CLOCK,
        };
        open.min(ends).min(LOOK_AT_CLOCK)
    }

    /// One step. `random` spreads retries.
    pub(crate) fn step(mut self, event: Event, now: Now, random: u64) -> (Self, Vec<Effect>) {
        let mut effects = Vec::new();
        match event {
            Event::Tick => {}
            Event::Update(id, update) => self.update(id, update, now, random, &mut effects),
            Event::Failed(id, error) => self.failed(id, error, now, random, &mut effects),
        }
        self.look_at_clock(now, &mut effects);
        (self, effects)
    }

    fn look_at_clock(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let over = |held: &Arc<Snapshot>| held.validity().is_over(now.unix);
        if !self.expiry_told && self.view.snapshot.as_ref().is_some_and(over) {
            self.expiry_told = true;
            effects.extend([Effect::Publish, Effect::Tell(News::Expired)]);
        }
        if self.opening.is_none() && self.open_at.is_some_and(|at| at <= now.steady) {
            self.streams += 1;
            self.opening = Some(self.streams);
            self.open_at = None;
            self.view.attempts += 1;
            effects.extend([Effect::Open(self.streams), Effect::Publish]);
        }
    }

    fn update(
        &mut self,
        id: StreamId,
        update: Result<X509Context, Refusal>,
        now: Now,
        random: u64,
        effects: &mut Vec<Effect>,
    ) {
        if self.opening == Some(id) {
            self.opening = None;
            // The old stream goes only now, so that none of its news was missed.
            let before = self.live.replace(Live {
                id,
                since: now.steady,
            });
            effects.extend(before.map(|old| Effect::Close(old.id)));
        } else if self.live.as_ref().is_none_or(|live| live.id != id) {
            return;
        }
        self.view.connected = true;
        self.view.last_error = None;
        let checked = update.and_then(|update| {
            Snapshot::check(&update, self.trust_domain.as_ref(), now.unix, self.snapshots + 1)
        });
        match checked {
            Ok(snapshot) => self.take(snapshot, now, effects),
            Err(refusal) => {
                self.view.refused(&refusal);
                effects.push(Effect::Tell(News::Refused(refusal)));
                if self.open_at.is_none() {
                    self.open_at = Some(now.steady + self.next_look(now).max(self.wait(random)));
                }
            }
        }
        effects.push(Effect::Publish);
    }

    fn take(&mut self, snapshot: Snapshot, now: Now, effects: &mut Vec<Effect>) {
        self.denied = None;
        self.view.failures = 0;
        self.view.last_refusal = None;
        let same = |held: &Arc<Snapshot>| held.says_the_same_as(&snapshot);
        if self.view.snapshot.as_ref().is_some_and(same) {
            self.open_at = Some(now.steady + self.next_look(now));
            return;
        }
        self.snapshots += 1;
        self.trust_domain
            .get_or_insert_with(|| snapshot.id().trust_domain().clone());
        let validity = snapshot.validity();
        self.view.take(snapshot);
        self.expiry_told = false;
        let two_thirds = validity.not_before + validity.life() * 2 / 3;
        let delay = match self.refresh {
            Refresh::Auto => two_thirds.saturating_sub(now.unix).max(REFRESH_LEAST),
            Refresh::Every(interval) => interval,
        };
        self.open_at = Some(now.steady + delay);
        effects.push(Effect::Tell(News::Rotated));
    }

    /// After a look that brought nothing new: the nearer the end, the sooner the next one.
    fn next_look(&self, now: Now) -> Duration {
        match (self.refresh, &self.view.snapshot) {
            (Refresh::Every(interval), _) => interval,
            (Refresh::Auto, Some(held)) => (held.validity().left(now.unix) / 3).max(REFRESH_LEAST),
            (Refresh::Auto, None) => REFRESH_LEAST,
        }
    }

    fn failed(&mut self, id: StreamId, error: SourceError, now: Now, random: u64, effects: &mut Vec<Effect>) {
        if self.opening == Some(id) {
            self.opening = None;
        } else if let Some(live) = self.live.take_if(|live| live.id == id) {
            if now.steady.saturating_sub(live.since) >= GOOD_AFTER {
                self.view.failures = 0;
            }
        } else {
            return;
        }
        self.view.connected = self.live.is_some();
        self.view.last_error = Some(error.clone());
        if let SourceError::NoIdentity { .. } = error {
            let denied = self.denied.get_or_insert(Denied {
                times: 0,
                since: now.steady,
            });
            denied.times = denied.times.saturating_add(1);
            let meant =
                denied.times >= DENIALS_THAT_COUNT && now.steady.saturating_sub(denied.since) >= DENIED_FOR;
            if meant && self.view.withdraw() {
                effects.push(Effect::Tell(News::Withdrawn));
            }
        }
        let wait = self.wait(random);
        self.view.failures = self.view.failures.saturating_add(1);
        self.open_at = Some(now.steady + wait);
        effects.extend([Effect::Tell(News::SourceFailed(error, wait)), Effect::Publish]);
    }

    /// From half of what the failures so far ask for to all of it.
    fn wait(&self, random: u64) -> Duration {
        let doubled = RETRY_BASE.saturating_mul(1 << self.view.failures.min(16));
        let half = doubled.min(RETRY_CAP) / 2;
        let lot = u32::try_from(random % 1024).unwrap_or_default();
        half + half * lot / 1023
    }
}

#[cfg(test)]
mod tests;
