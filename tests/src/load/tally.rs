//! Counting answers.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::Sample;

/// What came of the requests of some time.
#[derive(Debug)]
pub struct Tally {
    versions: BTreeMap<String, Served>,
    latency: Histogram<u64>,
    began: Instant,
    /// Requests without an answer.
    pub transport_errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
}

/// What one version answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    /// Answers.
    pub requests: u64,
    /// Of those, with a status of 500 and above.
    pub failed: u64,
    /// When the first failure was received.
    pub first_failure: Option<Instant>,
    /// When the last request was sent that it answered.
    pub last_sent: Option<Instant>,
}

/// The longest latency told apart from longer ones, in microseconds.
const LONGEST_US: u64 = 60_000_000;

impl Tally {
    pub(super) fn new() -> Self {
        // The bounds are constants that the histogram takes.
        #[allow(clippy::expect_used)]
        let latency = Histogram::new_with_bounds(1, LONGEST_US, 3).expect("constant bounds");
        Self {
            versions: BTreeMap::new(),
            latency,
            began: Instant::now(),
            transport_errors: 0,
            first_error: None,
        }
    }

    pub(super) fn add(&mut self, sample: Sample) {
        let answer = match sample.result {
            Ok(answer) => answer,
            Err(error) => {
                self.transport_errors += 1;
                self.first_error.get_or_insert(error);
                return;
            }
        };
        self.latency
            .saturating_record(u64::try_from(sample.latency.as_micros()).unwrap_or(LONGEST_US));
        let served = match self.versions.get_mut(answer.version()) {
            Some(served) => served,
            None => self.versions.entry(answer.version().to_owned()).or_default(),
        };
        served.requests += 1;
        served.last_sent = served.last_sent.max(Some(sample.sent));
        if answer.status >= 500 {
            served.failed += 1;
            served.first_failure.get_or_insert(sample.answered);
        }
    }

    /// All answers.
    pub fn answered(&self) -> u64 {
        self.versions.values().map(|served| served.requests).sum()
    }

    /// Answers with a status of 500 and above, of any version or of the proxy itself.
    pub fn failed(&self) -> u64 {
        self.versions.values().map(|served| served.failed).sum()
    }

    /// What this version answered.
    pub fn version(&self, version: &str) -> Served {
        self.versions.get(version).copied().unwrap_or_default()
    }

    /// Each version that answered; the proxy's own answers are under the empty name.
    pub fn versions(&self) -> impl Iterator<Item = (&str, Served)> {
        self.versions
            .iter()
            .map(|(version, served)| (version.as_str(), *served))
    }

    /// The share of answers that this version gave, 0 to 1; 0 if there were none.
    pub fn share(&self, version: &str) -> f64 {
        ratio(self.version(version).requests, self.answered())
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let answered = self.answered() as f64;
        answered / self.began.elapsed().as_secs_f64().max(f64::EPSILON)
    }

    /// A quantile of the latency, such as 0.99.
    pub fn latency(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latency.value_at_quantile(quantile))
    }
}

/// How far a share may be from the expected one by chance: five standard deviations of a binomial share of `count`.
/// A run in 1.7 million is outside of that.
pub fn five_sigma(expected: f64, count: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let count = count.max(1) as f64;
    5.0 * (expected * (1.0 - expected) / count).sqrt()
}

fn ratio(part: u64, whole: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let (part, whole) = (part as f64, whole.max(1) as f64);
    part / whole
}
