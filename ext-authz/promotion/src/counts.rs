//! What the filters counted, and the time at which it is looked at.

use serde::{Deserialize, Serialize};

/// How often the service looks at a rollout, in milliseconds: filters report as often.
pub const LOOK_EVERY_MS: u64 = 250;

/// Two clocks, read by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Unix time in milliseconds. It labels history and makes window numbers unique; nothing waits for it.
    pub wall_ms: u64,
    /// Milliseconds of a monotonic clock, since the process started. Pauses are counted with it.
    pub mono_ms: u64,
}

/// Finished requests of one variant in one observation window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Counts {
    /// All of them.
    pub requests: u64,
    /// Those answered with a status of 500 and above.
    pub errors: u64,
    /// Those slower than each threshold of the rule, in the rule's order.
    pub over: Vec<u64>,
    /// Those that were bad by each of the rule's outcomes, in the rule's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outcomes: Vec<u64>,
    /// By duration, for display only.
    pub histogram: Vec<u64>,
}

impl Counts {
    fn is_nothing(&self) -> bool {
        self.requests == 0
    }

    /// Adds what another worker or identity counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        add_each(&mut self.over, &other.over);
        add_each(&mut self.outcomes, &other.outcomes);
        add_each(&mut self.histogram, &other.histogram);
    }
}

fn add_each(sums: &mut Vec<u64>, counts: &[u64]) {
    if sums.len() < counts.len() {
        sums.resize(counts.len(), 0);
    }
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum = sum.saturating_add(*count);
    }
}

/// Totals of one observation window over all workers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WindowCounts {
    /// Which window. Counts of any other window than the rollout's present one are no evidence.
    pub window: u64,
    /// Requests that stable served.
    pub stable: Counts,
    /// Requests that the canary served.
    pub canary: Counts,
    /// Requests that a staging stage led to the canary's version.
    #[serde(default, skip_serializing_if = "Counts::is_nothing")]
    pub staging: Counts,
}

impl WindowCounts {
    /// Requests that the version served, whichever way they came.
    pub(crate) fn version(&self) -> Counts {
        let mut version = self.canary.clone();
        version.add(&self.staging);
        version
    }
}
