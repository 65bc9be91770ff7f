//! What the filters counted, by who reported it, one observation window per rollout.
//!
//! Counts are cumulative per worker VM and window, so what an identity reported is the sum of the latest counts of each
//! of its workers: a lost, resent or reordered report changes nothing, and after a restart of the service the next
//! reports bring a window's whole evidence back. How much of it counts is [`knhk_promotion::weigh`]'s to say.
//!
//! Beside these sums stands what each report had that was new, in the order in which reports came: what the tests bet on,
//! each report once. After a restart of the service a worker's first report of a window that was under way is no news:
//! its counts may have been bet on before. It counts in the sums, and the next one tells what came after it.

mod identity;
mod news;
mod sequence;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use knhk_decision::RolloutRule;
use knhk_promotion::{Audience, GATHERING_MS, Reported, Reporter, Rollout, Weighed, weigh};
use knhk_proto::ordered::Measures;
use knhk_proto::v1::Observed;
use knhk_telemetry::attribute::ObservationReason;

use self::identity::{Identity, Latest};
use self::news::Queue;
use super::workers::{MAX_WORKERS, Nonce};

/// Workers whose counts one window holds; those of further workers are refused and counted.
const MAX_REPORTING: usize = MAX_WORKERS;
/// The part of them that one proven identity may have: a worker's name is its own choice, so without this one identity
/// could leave no room for any other.
const MAX_REPORTING_OF_ONE: usize = MAX_REPORTING / 2;
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
    measures: Measures,
    /// When it was opened, and when the rollout's first window in this process was, since the service started.
    opened: Duration,
    first_opened: Duration,
    began: Began,
    identities: HashMap<Option<Arc<str>>, Identity>,
    /// How many workers `identities` hold in all.
    held: usize,
    news: Queue,
}

/// Where a window began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Began {
    /// In this process: all that is said of it is news.
    Here,
    /// Before the service was restarted: what was said of it then is not known.
    Before,
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
    pub(crate) fn open(&self, rule: &RolloutRule, now: Duration) {
        self.begin(rule, Began::Here, now);
    }

    /// The same of a window that was under way when the service stopped.
    pub(crate) fn resume(&self, rule: &RolloutRule, now: Duration) {
        self.begin(rule, Began::Before, now);
    }

    fn begin(&self, rule: &RolloutRule, began: Began, now: Duration) {
        let mut windows = self.lock();
        let before = windows.get(&rule.name);
        if before.is_some_and(|present| present.number == rule.window) {
            return;
        }
        let measures = Measures {
            thresholds: rule.thresholds.len(),
            outcomes: rule.outcomes.len(),
        };
        let next = Window {
            number: rule.window,
            measures,
            opened: now,
            first_opened: before.map_or(now, |before| before.first_opened),
            began,
            identities: before
                .map(|before| before.heard(now, measures))
                .unwrap_or_default(),
            held: 0,
            news: Queue::default(),
        };
        windows.insert(rule.name.clone(), next);
    }

    /// Forgets a rollout.
    pub(crate) fn close(&self, rollout: &str) {
        self.lock().remove(rollout);
    }

    /// Takes one worker's latest counts of one window: one row of each variant that changed, from one report.
    pub(crate) fn observe(&self, from: &Origin, rows: &[Observed]) -> Result<(), Ignored> {
        let Some(first) = rows.first() else {
            return Ok(());
        };
        let mut windows = self.lock();
        let window = windows
            .get_mut(&first.rollout)
            .filter(|window| window.number == first.window)
            .ok_or(Ignored::OtherWindow)?;
        window.take(from, rows)
    }

    /// What came since it was last asked, in the order in which it came. Nobody gets it again.
    pub(crate) fn news(&self, rollout: &Rollout) -> Vec<Reported> {
        let mut windows = self.lock();
        let present = windows
            .get_mut(rollout.name())
            .filter(|window| window.number == rollout.window());
        let taken = present.map(|window| (window.measures, std::mem::take(&mut window.news)));
        drop(windows);
        taken.map_or_else(Vec::new, |(measures, news)| {
            news.reported(rollout.spec(), measures)
        })
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
    fn take(&mut self, from: &Origin, rows: &[Observed]) -> Result<(), Ignored> {
        let latest = Latest::parse(rows, self.measures)?;
        if !self.identities.contains_key(&from.identity) && self.identities.len() >= MAX_IDENTITIES {
            return Err(Ignored::TooManyIdentities);
        }
        let measures = self.measures;
        let identity = self
            .identities
            .entry(from.identity.clone())
            .or_insert_with(|| Identity::new(measures));
        let room_of_one = if from.identity.is_some() {
            MAX_REPORTING_OF_ONE
        } else {
            MAX_REPORTING
        };
        let is_new = !identity.has(from.nonce);
        if is_new && (self.held >= MAX_REPORTING || identity.workers() >= room_of_one) {
            return Err(Ignored::TooManyReporters);
        }
        let news = identity.take(from.nonce, latest, measures)?;
        self.held += usize::from(is_new);
        if !is_new || self.began == Began::Here {
            self.news.add(from.identity.as_ref(), news, measures);
        }
        Ok(())
    }

    /// Those who reported, with nothing counted yet of what the next window counts.
    fn heard(&self, now: Duration, next: Measures) -> HashMap<Option<Arc<str>>, Identity> {
        self.known(now)
            .map(|(name, _)| (name.clone(), Identity::new(next)))
            .collect()
    }

    fn reporters(&self, now: Duration) -> Vec<Reporter> {
        self.known(now)
            .map(|(name, identity)| Reporter {
                identity: name.clone(),
                stable: identity.stable(self.measures),
                canary: identity.canary(self.measures),
                staging: identity.staging(self.measures),
            })
            .collect()
    }

    /// Those who have reported requests, and those who are still awaited.
    fn known(&self, now: Duration) -> impl Iterator<Item = (&Option<Arc<str>>, &Identity)> {
        let awaiting = now < self.opened + GATHERING;
        self.identities
            .iter()
            .filter(move |(_, identity)| awaiting || !identity.is_silent())
    }

    fn audience(&self, now: Duration) -> Audience {
        if now < self.first_opened + GATHERING {
            Audience::Gathering
        } else {
            Audience::Known
        }
    }
}

#[cfg(test)]
mod tests;
