//! What became of the requests: counts per rollout, observation window and variant.
//!
//! Definitions, which `docs/` repeats for operators:
//! - A request counts when it is over, answered or not, by the decision that it was routed by.
//! - An error is a request answered with a status of 500 and above, whoever answered: the upstream, Envoy, a later
//!   filter. gRPC's own status is not looked at.
//! - A request that the service answered through Envoy's `ext_authz` or `ext_proc`, or that these could not ask it about,
//!   does not count: the answer is no version's.
//! - A request that ends without an answer is no error: its client went away, and that says nothing about the version.
//!   It counts by its duration, so a version that lets clients wait until they leave fails its latency thresholds.
//! - An answer that breaks off after its headers counts by its status. What would tell is Envoy's response flags, and
//!   to read them for each request costs a fifth of what the whole filter does (decision 2).
//! - Its duration is from the moment the filter has its headers until it is over, the last byte of the answer included.
//! - It is over a threshold when it took longer, not when it took as long.
//!
//! Counts only grow for as long as the VM lives. A window is dropped when neither the present snapshot nor the one
//! before it names it and its counts have been reported; requests that end after that are not counted.

use std::collections::{BTreeSet, HashMap};

use knhk_decision::{RolloutRule, Variant};
use knhk_proto::v1;

/// Buckets of the histogram: bucket `i` counts durations below `FIRST_BUCKET_US << i`, the last one everything above.
pub const HISTOGRAM_BUCKETS: usize = 20;
/// The first bucket's bound in microseconds; the last but one ends at 65.5 s.
pub const FIRST_BUCKET_US: u64 = 250;
/// Statuses from here on are errors.
const FIRST_ERROR_STATUS: u16 = 500;

/// A window that requests are counted in. Never given out twice in a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WindowRef(u64);

/// Why rules cannot be observed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "rollout {rollout:?}: window: {window} was counted with other thresholds; changed thresholds need a new window"
)]
pub struct WindowReused {
    rollout: String,
    window: u64,
}

/// The counts of all windows.
#[derive(Debug, Default)]
pub struct Observations {
    /// Ordered by `id`, as they were made.
    windows: Vec<Window>,
    /// The windows that the present snapshot names.
    present: BTreeSet<WindowRef>,
    /// The windows that the snapshot before it names.
    before: BTreeSet<WindowRef>,
    /// The next window's reference.
    next: u64,
}

#[derive(Debug)]
struct Window {
    id: WindowRef,
    rollout: String,
    number: u64,
    thresholds: Vec<u64>,
    stable: Counts,
    canary: Counts,
}

#[derive(Debug)]
struct Counts {
    requests: u64,
    errors: u64,
    over: Vec<u64>,
    histogram: [u64; HISTOGRAM_BUCKETS],
    /// Counted since it was last reported.
    changed: bool,
}

impl Observations {
    /// No counts.
    pub const fn new() -> Self {
        Self {
            windows: Vec::new(),
            present: BTreeSet::new(),
            before: BTreeSet::new(),
            next: 0,
        }
    }

    /// Whether [`Self::adopt`] may be called with these rules: counts with other thresholds cannot be added up.
    pub fn check(&self, rules: &[RolloutRule]) -> Result<(), WindowReused> {
        let known = self.by_name();
        let differs = |rule: &&RolloutRule| {
            known
                .get(&(rule.window, rule.name.as_str()))
                .is_some_and(|window| window.thresholds != rule.thresholds)
        };
        match rules.iter().find(differs) {
            None => Ok(()),
            Some(rule) => Err(WindowReused {
                rollout: rule.name.clone(),
                window: rule.window,
            }),
        }
    }

    /// Counts by a new snapshot from now on: where each of its rules is counted, in their order.
    pub fn adopt(&mut self, rules: &[RolloutRule]) -> Vec<WindowRef> {
        let mut adopted = Vec::with_capacity(rules.len());
        let mut made = Vec::new();
        let known = self.by_name();
        for rule in rules {
            adopted.push(known.get(&(rule.window, rule.name.as_str())).map_or_else(
                || {
                    let id = WindowRef(self.next + made.len() as u64);
                    made.push(Window::new(id, rule));
                    id
                },
                |window| window.id,
            ));
        }
        self.next += made.len() as u64;
        self.windows.append(&mut made);
        self.before = std::mem::replace(&mut self.present, adopted.iter().copied().collect());
        self.drop_windows();
        adopted
    }

    /// Counts a finished request; `status` is absent if there was no answer.
    pub fn count(&mut self, window: WindowRef, variant: Variant, status: Option<u16>, duration_us: u64) {
        let found = self
            .windows
            .binary_search_by_key(&window, |w| w.id)
            .ok()
            .and_then(|i| self.windows.get_mut(i));
        let Some(window) = found else {
            return;
        };
        let counts = match variant {
            Variant::Stable => &mut window.stable,
            Variant::Canary => &mut window.canary,
        };
        counts.changed = true;
        counts.requests += 1;
        counts.errors += u64::from(status.is_some_and(|status| status >= FIRST_ERROR_STATUS));
        for (over, threshold) in counts.over.iter_mut().zip(&window.thresholds) {
            *over += u64::from(duration_us > *threshold);
        }
        if let Some(bucket) = counts.histogram.get_mut(bucket_of(duration_us)) {
            *bucket += 1;
        }
    }

    /// Whether anything was counted since the last [`Self::take_changed`].
    pub fn changed(&self) -> bool {
        self.windows.iter().any(Window::changed)
    }

    /// The counts that changed since they were last taken.
    pub fn take_changed(&mut self) -> Vec<v1::Observed> {
        let mut observed = Vec::new();
        for window in &mut self.windows {
            let sides = [
                (v1::Variant::Stable, &mut window.stable),
                (v1::Variant::Canary, &mut window.canary),
            ];
            for (variant, counts) in sides.into_iter().filter(|(_, counts)| counts.changed) {
                counts.changed = false;
                observed.push(counts.observed(&window.rollout, window.number, variant));
            }
        }
        self.drop_windows();
        observed
    }

    /// Makes the next [`Self::take_changed`] give everything that was ever counted: a new listener knows nothing.
    pub fn repeat_all(&mut self) {
        for counts in self
            .windows
            .iter_mut()
            .flat_map(|window| [&mut window.stable, &mut window.canary])
        {
            counts.changed = counts.requests > 0;
        }
    }

    /// Lets go of windows that no snapshot names, once what they counted has been reported.
    fn drop_windows(&mut self) {
        let (present, before) = (&self.present, &self.before);
        self.windows
            .retain(|window| present.contains(&window.id) || before.contains(&window.id) || window.changed());
    }

    fn by_name(&self) -> HashMap<(u64, &str), &Window> {
        self.windows
            .iter()
            .map(|window| ((window.number, window.rollout.as_str()), window))
            .collect()
    }
}

impl Window {
    fn new(id: WindowRef, rule: &RolloutRule) -> Self {
        Self {
            id,
            rollout: rule.name.clone(),
            number: rule.window,
            thresholds: rule.thresholds.clone(),
            stable: Counts::new(rule.thresholds.len()),
            canary: Counts::new(rule.thresholds.len()),
        }
    }
}

impl Window {
    fn changed(&self) -> bool {
        self.stable.changed || self.canary.changed
    }
}

impl Counts {
    fn new(thresholds: usize) -> Self {
        Self {
            requests: 0,
            errors: 0,
            over: vec![0; thresholds],
            histogram: [0; HISTOGRAM_BUCKETS],
            changed: false,
        }
    }

    fn observed(&self, rollout: &str, window: u64, variant: v1::Variant) -> v1::Observed {
        v1::Observed {
            rollout: rollout.to_owned(),
            window,
            variant: variant.into(),
            requests: self.requests,
            errors: self.errors,
            over: self.over.clone(),
            histogram: self.histogram.to_vec(),
        }
    }
}

/// The bucket of a duration: the first whose bound is above it.
fn bucket_of(duration_us: u64) -> usize {
    let firsts = duration_us / FIRST_BUCKET_US;
    let bucket = firsts.checked_ilog2().map_or(0, |log| log as usize + 1);
    bucket.min(HISTOGRAM_BUCKETS - 1)
}
