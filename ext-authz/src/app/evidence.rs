//! What the filters counted, by who reported it, one observation window per rollout.
//!
//! Counts are cumulative per worker VM and window, so what an identity reported is the sum of the latest counts of each
//! of its workers: a lost, resent or reordered report changes nothing, and after a restart of the service the next
//! reports bring a window's whole evidence back. How much of it counts is [`knhk_promotion::weigh`]'s to say.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use knhk_promotion::{Audience, Counts, GATHERING_MS, Reporter, Rollout, Weighed, weigh};
use knhk_proto::v1::{Observed, Variant};
use knhk_telemetry::attribute::ObservationReason;

use super::workers::{MAX_WORKERS, Nonce};

/// Counts that one window holds, two of each worker; those of further workers are refused and counted.
const MAX_COUNTS: usize = 2 * MAX_WORKERS;
/// The part of them that one proven identity may take: a worker's name is its own choice, so without this one identity
/// could leave no room for any other.
const MAX_COUNTS_OF_ONE: usize = MAX_COUNTS / 2;
/// Identities that one window holds; weighing compares each with all others at each look.
const MAX_IDENTITIES: usize = 256;
/// See [`GATHERING_MS`].
const GATHERING: Duration = Duration::from_millis(GATHERING_MS);

/// Where a report comes from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// The proxy's proven SPIFFE ID; none without SPIFFE, where all proxies are one reporter.
    pub(crate) identity: Option<Arc<str>>,
    /// The worker's own name, unique within its identity only.
    pub(crate) nonce: Nonce,
}

/// The evidence of every rollout's present window.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    windows: Mutex<HashMap<String, Window>>,
}

#[derive(Debug)]
struct Window {
    number: u64,
    /// Length of `over` that a count must have.
    thresholds: usize,
    /// When it was opened, and when the rollout's first window in this process was, since the service started.
    opened: Duration,
    first_opened: Duration,
    identities: HashMap<Option<Arc<str>>, Identity>,
    /// How many counts `identities` hold in all.
    held: usize,
}

/// What one identity reported.
#[derive(Debug, Default)]
struct Identity {
    stable: Counts,
    canary: Counts,
    workers: HashMap<(Nonce, Side), Counts>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Side {
    Stable,
    Canary,
}

/// Why an observation was not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ignored {
    /// Another window than the present one: a late report, or one that is ahead of nothing.
    OtherWindow,
    /// Fewer requests than this worker had reported before.
    Older,
    /// Counts that contradict themselves.
    Malformed,
    /// The bound on reporting workers, of all or of one identity.
    TooManyReporters,
    /// A rollout that the proxy was not told of.
    NotItsRollout,
    /// The bound on reporting identities.
    TooManyIdentities,
}

impl From<Ignored> for ObservationReason {
    fn from(ignored: Ignored) -> Self {
        match ignored {
            Ignored::OtherWindow => Self::OtherWindow,
            Ignored::Older => Self::Older,
            Ignored::Malformed => Self::Malformed,
            Ignored::TooManyReporters => Self::TooManyReporters,
            Ignored::NotItsRollout => Self::NotItsRollout,
            Ignored::TooManyIdentities => Self::TooManyIdentities,
        }
    }
}

impl Evidence {
    /// Starts a rollout's window with nothing in it; those who reported on the one before are awaited. The same window
    /// again keeps what it has.
    pub(crate) fn open(&self, rollout: &str, window: u64, thresholds: usize, now: Duration) {
        let mut windows = self.lock();
        let before = windows.get(rollout);
        if before.is_some_and(|present| present.number == window) {
            return;
        }
        let next = Window {
            number: window,
            thresholds,
            opened: now,
            first_opened: before.map_or(now, |before| before.first_opened),
            identities: before.map(|before| before.heard(now)).unwrap_or_default(),
            held: 0,
        };
        windows.insert(rollout.to_owned(), next);
    }

    /// Forgets a rollout.
    pub(crate) fn close(&self, rollout: &str) {
        self.lock().remove(rollout);
    }

    /// Takes one worker's latest counts.
    pub(crate) fn observe(&self, from: &Origin, observed: &Observed) -> Result<(), Ignored> {
        let mut windows = self.lock();
        let window = windows
            .get_mut(&observed.rollout)
            .filter(|window| window.number == observed.window)
            .ok_or(Ignored::OtherWindow)?;
        window.take(from, observed)
    }

    /// What a rollout's present window is judged by. Of another window it says nothing.
    pub(crate) fn totals(&self, rollout: &Rollout, now: Duration) -> Weighed {
        let present = self
            .lock()
            .get(rollout.name())
            .filter(|window| window.number == rollout.window())
            .map(|window| (window.audience(now), window.reporters(now)));
        let (audience, reporters) = present.unwrap_or((Audience::Known, Vec::new()));
        weigh(rollout.spec(), rollout.window(), audience, reporters)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn take(&mut self, from: &Origin, observed: &Observed) -> Result<(), Ignored> {
        let (side, latest) = self.parse(observed)?;
        if !self.identities.contains_key(&from.identity) && self.identities.len() >= MAX_IDENTITIES {
            return Err(Ignored::TooManyIdentities);
        }
        let identity = self.identities.entry(from.identity.clone()).or_default();
        let room_of_one = if from.identity.is_some() {
            MAX_COUNTS_OF_ONE
        } else {
            MAX_COUNTS
        };
        let worker = (from.nonce, side);
        if !identity.workers.contains_key(&worker) {
            if self.held >= MAX_COUNTS || identity.workers.len() >= room_of_one {
                return Err(Ignored::TooManyReporters);
            }
            self.held += 1;
        }
        identity.take(worker, latest)
    }

    /// Counts that can be: of a variant, with the window's thresholds, and no more bad requests than requests.
    fn parse(&self, observed: &Observed) -> Result<(Side, Counts), Ignored> {
        let side = match observed.variant() {
            Variant::Canary => Side::Canary,
            Variant::Stable => Side::Stable,
            Variant::Unspecified => return Err(Ignored::Malformed),
        };
        let fits = observed.over.len() == self.thresholds
            && observed.histogram.len() <= HISTOGRAM_BUCKETS
            && observed.errors <= observed.requests
            && observed.over.iter().all(|over| *over <= observed.requests);
        if !fits {
            return Err(Ignored::Malformed);
        }
        let counts = Counts {
            requests: observed.requests,
            errors: observed.errors,
            over: observed.over.clone(),
            outcomes: Vec::new(),
            histogram: observed.histogram.clone(),
        };
        Ok((side, counts))
    }

    /// Those who reported, with nothing counted yet.
    fn heard(&self, now: Duration) -> HashMap<Option<Arc<str>>, Identity> {
        self.known(now)
            .map(|(name, _)| (name.clone(), Identity::default()))
            .collect()
    }

    fn reporters(&self, now: Duration) -> Vec<Reporter> {
        self.known(now)
            .map(|(name, identity)| Reporter {
                identity: name.clone(),
                stable: identity.stable.clone(),
                canary: identity.canary.clone(),
            })
            .collect()
    }

    /// Those who have reported requests, and those who are still awaited.
    fn known(&self, now: Duration) -> impl Iterator<Item = (&Option<Arc<str>>, &Identity)> {
        let awaiting = now < self.opened + GATHERING;
        self.identities.iter().filter(move |(_, identity)| {
            awaiting || identity.stable.requests > 0 || identity.canary.requests > 0
        })
    }

    fn audience(&self, now: Duration) -> Audience {
        if now < self.first_opened + GATHERING {
            Audience::Gathering
        } else {
            Audience::Known
        }
    }
}

impl Identity {
    /// Takes the place of what the worker reported before.
    fn take(&mut self, worker: (Nonce, Side), latest: Counts) -> Result<(), Ignored> {
        let before = self.workers.entry(worker).or_default();
        if latest.requests < before.requests {
            return Err(Ignored::Older);
        }
        let total = match worker.1 {
            Side::Stable => &mut self.stable,
            Side::Canary => &mut self.canary,
        };
        replace(&mut total.requests, before.requests, latest.requests);
        replace(&mut total.errors, before.errors, latest.errors);
        replace_each(&mut total.over, &before.over, &latest.over);
        replace_each(&mut total.histogram, &before.histogram, &latest.histogram);
        *before = latest;
        Ok(())
    }
}

/// Buckets of a duration histogram, see `gate.proto`.
pub(crate) const HISTOGRAM_BUCKETS: usize = 24;

fn replace(total: &mut u64, before: u64, latest: u64) {
    *total = total.saturating_sub(before).saturating_add(latest);
}

fn replace_each(totals: &mut Vec<u64>, before: &[u64], latest: &[u64]) {
    if totals.len() < latest.len() {
        totals.resize(latest.len(), 0);
    }
    for (index, total) in totals.iter_mut().enumerate() {
        let at = |counts: &[u64]| counts.get(index).copied().unwrap_or(0);
        replace(total, at(before), at(latest));
    }
}

#[cfg(test)]
mod tests;
