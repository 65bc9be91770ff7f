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
//! - It is bad by an outcome that the rollout reads from a header when its answer does not have that header, or another
//!   value first than a good one, byte for byte. Without an answer it is not: see above.
//! - Where such an outcome is read, a request whose answer's headers Envoy no longer shows does not count at all: neither
//!   good nor bad is known of it. That is one that Envoy redirects internally, and each one over HTTP/3.
//!
//! Beside the counts stands in which order the canary's requests finished, and how many of stable's between them
//! ([`knhk_proto::ordered`]): the first ones since the last report, up to a bound.
//!
//! Counts only grow for as long as the VM lives. A window is dropped when neither the present snapshot nor the one
//! before it names it and its counts have been reported; requests that end after that are not counted.

use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;

use knhk_decision::spec::OutcomeSpec;
use knhk_decision::{RolloutRule, Variant};
use knhk_proto::ordered::{Measures, Outcome, Run};
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
    "rollout {rollout:?}: window: {window} was counted with other thresholds or outcomes; where these change there is a new window"
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
    outcomes: Vec<OutcomeSpec>,
    stable: Counts,
    canary: Counts,
    /// Their order says nothing: nothing of stable's is compared with them.
    staging: Counts,
    order: Order,
}

#[derive(Debug)]
struct Counts {
    requests: u64,
    /// Of those the errors, the ones over each threshold, the ones bad by each outcome.
    bad: Vec<u64>,
    histogram: [u64; HISTOGRAM_BUCKETS],
    /// Counted since it was last reported.
    changed: bool,
}

/// In which order requests finished since the last report.
#[derive(Debug)]
struct Order {
    run: Run,
    /// The canary's and stable's requests when it began.
    after_canary: u64,
    after_stable: u64,
    /// Stable's counts at the canary's last outcome in it, or when it began.
    stable_requests: u64,
    stable_bad: Vec<u64>,
}

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// Which version was to serve it.
    pub variant: Variant,
    /// Its key's group.
    pub group: u8,
    /// The answer's status; absent if there was no answer.
    pub status: Option<u16>,
    /// How long it took, in microseconds.
    pub duration_us: u64,
}

/// What an answer says in one header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown<B> {
    /// Envoy does not show the answer's headers any more.
    Nothing,
    /// The answer does not have it.
    Missing,
    /// The first value.
    Value(B),
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

    /// Whether [`Self::adopt`] may be called with these rules: counts of other things cannot be added up.
    pub fn check(&self, rules: &[RolloutRule]) -> Result<(), WindowReused> {
        let known = self.by_name();
        let differs = |rule: &&RolloutRule| {
            known
                .get(&(rule.window, rule.name.as_str()))
                .is_some_and(|window| {
                    window.thresholds != rule.thresholds || window.outcomes != rule.outcomes
                })
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

    /// Counts a finished request. `header` reads the answer, and is asked only for what the rule reads.
    pub fn count<B: Deref<Target = [u8]>>(
        &mut self,
        window: WindowRef,
        finished: Finished,
        header: impl FnMut(&str) -> Shown<B>,
    ) {
        let found = self
            .windows
            .binary_search_by_key(&window, |w| w.id)
            .ok()
            .and_then(|i| self.windows.get_mut(i));
        if let Some(window) = found {
            window.count(finished, header);
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
            window.take_changed(&mut observed);
        }
        self.drop_windows();
        observed
    }

    /// Makes the next [`Self::take_changed`] give everything that was ever counted: a new listener knows nothing.
    pub fn repeat_all(&mut self) {
        for counts in self
            .windows
            .iter_mut()
            .flat_map(|window| [&mut window.stable, &mut window.canary, &mut window.staging])
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
        let measures = Measures {
            thresholds: rule.thresholds.len(),
            outcomes: rule.outcomes.len(),
        };
        Self {
            id,
            rollout: rule.name.clone(),
            number: rule.window,
            thresholds: rule.thresholds.clone(),
            outcomes: rule.outcomes.clone(),
            stable: Counts::new(measures),
            canary: Counts::new(measures),
            staging: Counts::new(measures),
            order: Order::new(measures),
        }
    }

    fn changed(&self) -> bool {
        self.stable.changed || self.canary.changed || self.staging.changed
    }

    fn count<B: Deref<Target = [u8]>>(&mut self, finished: Finished, header: impl FnMut(&str) -> Shown<B>) {
        let outcomes = match finished.status {
            Some(_) => bad_outcomes(&self.outcomes, header),
            None => Some(0),
        };
        let Some(outcomes) = outcomes else {
            return;
        };
        let over = self
            .thresholds
            .partition_point(|threshold| finished.duration_us > *threshold);
        let outcome = Outcome {
            group: finished.group,
            failed: finished.status.is_some_and(|status| status >= FIRST_ERROR_STATUS),
            over: u8::try_from(over).unwrap_or(u8::MAX),
            outcomes,
        };
        let measures = Measures {
            thresholds: self.thresholds.len(),
            outcomes: self.outcomes.len(),
        };
        match finished.variant {
            Variant::Stable => self.stable.count(outcome, measures, finished.duration_us),
            Variant::Staging => self.staging.count(outcome, measures, finished.duration_us),
            Variant::Canary => {
                self.canary.count(outcome, measures, finished.duration_us);
                self.order.push(outcome, &self.stable);
            }
        }
    }

    fn take_changed(&mut self, observed: &mut Vec<v1::Observed>) {
        let row = |counts: &Counts, variant: v1::Variant, ordered| {
            let (errors, rest) = counts.bad.split_first().unwrap_or((&0, &[]));
            let (over, outcomes) = rest.split_at_checked(self.thresholds.len()).unwrap_or_default();
            v1::Observed {
                rollout: self.rollout.clone(),
                window: self.number,
                variant: variant.into(),
                requests: counts.requests,
                errors: *errors,
                over: over.to_vec(),
                histogram: counts.histogram.to_vec(),
                outcomes: outcomes.to_vec(),
                ordered,
            }
        };
        if std::mem::take(&mut self.stable.changed) {
            observed.push(row(&self.stable, v1::Variant::Stable, None));
        }
        if std::mem::take(&mut self.canary.changed) {
            let ordered = self.order.take();
            observed.push(row(&self.canary, v1::Variant::Canary, ordered));
        }
        if std::mem::take(&mut self.staging.changed) {
            observed.push(row(&self.staging, v1::Variant::Staging, None));
        }
        self.order.begin(&self.canary, &self.stable);
    }
}

impl Counts {
    fn new(measures: Measures) -> Self {
        Self {
            requests: 0,
            bad: measures.nothing().bad,
            histogram: [0; HISTOGRAM_BUCKETS],
            changed: false,
        }
    }

    fn count(&mut self, outcome: Outcome, measures: Measures, duration_us: u64) {
        self.changed = true;
        self.requests += 1;
        for (bad, is_bad) in self.bad.iter_mut().zip(measures.bad(outcome)) {
            *bad += u64::from(is_bad);
        }
        if let Some(bucket) = self.histogram.get_mut(bucket_of(duration_us)) {
            *bucket += 1;
        }
    }
}

impl Order {
    fn new(measures: Measures) -> Self {
        Self {
            run: Run::new(),
            after_canary: 0,
            after_stable: 0,
            stable_requests: 0,
            stable_bad: measures.nothing().bad,
        }
    }

    /// The canary finished a request.
    fn push(&mut self, outcome: Outcome, stable: &Counts) {
        if self.run.is_full() {
            return;
        }
        let requests = stable.requests - self.stable_requests;
        let bad = stable
            .bad
            .iter()
            .zip(&self.stable_bad)
            .map(|(now, then)| now - then);
        self.run.push(outcome, requests, bad);
        self.mark(stable);
    }

    fn mark(&mut self, stable: &Counts) {
        self.stable_requests = stable.requests;
        self.stable_bad.copy_from_slice(&stable.bad);
    }

    /// What there is to report.
    fn take(&mut self) -> Option<v1::Ordered> {
        (!self.run.is_empty()).then(|| v1::Ordered {
            after_canary: self.after_canary,
            after_stable: self.after_stable,
            run: self.run.take(),
        })
    }

    /// Goes on from these counts, which are reported.
    fn begin(&mut self, canary: &Counts, stable: &Counts) {
        self.after_canary = canary.requests;
        self.after_stable = stable.requests;
        self.mark(stable);
    }
}

/// A bit for each outcome that the answer is bad by; `None` where that cannot be seen.
fn bad_outcomes<B: Deref<Target = [u8]>>(
    outcomes: &[OutcomeSpec],
    mut header: impl FnMut(&str) -> Shown<B>,
) -> Option<u8> {
    let mut bits = 0;
    for (index, outcome) in outcomes.iter().enumerate() {
        let is_good = match header(&outcome.header) {
            Shown::Nothing => return None,
            Shown::Missing => outcome.is_good(None),
            Shown::Value(value) => outcome.is_good(Some(&value)),
        };
        bits |= u8::from(!is_good) << index;
    }
    Some(bits)
}

/// The bucket of a duration: the first whose bound is above it.
fn bucket_of(duration_us: u64) -> usize {
    let firsts = duration_us / FIRST_BUCKET_US;
    let bucket = firsts.checked_ilog2().map_or(0, |log| log as usize + 1);
    bucket.min(HISTOGRAM_BUCKETS - 1)
}
