//! Counting answers.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Latencies, Sample};

/// What came of the requests of some time.
#[derive(Debug)]
pub struct Tally {
    /// By the snapshot that decided, then by version.
    served: HashMap<String, HashMap<String, Served>>,
    latency: Latencies,
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

impl Served {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            failed: self.failed + other.failed,
            first_failure: self.first_failure.into_iter().chain(other.first_failure).min(),
            last_sent: self.last_sent.max(other.last_sent),
        }
    }

    /// The share that failed, 0 to 1.
    pub fn failed_share(&self) -> f64 {
        share(self.failed, self.requests)
    }
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            served: HashMap::new(),
            latency: Latencies::new(),
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
        self.latency.add(sample.latency);
        let served = entry(
            entry(&mut self.served, answer.seen("policy").unwrap_or_default()),
            answer.version(),
        );
        served.requests += 1;
        served.last_sent = served.last_sent.max(Some(sample.sent));
        if answer.status >= 500 {
            served.failed += 1;
            served.first_failure.get_or_insert(sample.answered);
        }
    }

    /// All answers.
    pub fn answered(&self) -> u64 {
        self.all().map(|(_, served)| served.requests).sum()
    }

    /// Answers with a status of 500 and above, of any version or of the proxy itself.
    pub fn failed(&self) -> u64 {
        self.all().map(|(_, served)| served.failed).sum()
    }

    /// What this version answered. The proxy's own answers are under the empty name.
    pub fn version(&self, version: &str) -> Served {
        self.all()
            .filter(|(name, _)| *name == version)
            .map(|(_, served)| served)
            .fold(Served::default(), Served::and)
    }

    /// What this version answered to requests that this snapshot (`EPOCH.N`) decided.
    pub fn version_under(&self, policy: &str, version: &str) -> Served {
        self.served
            .get(policy)
            .and_then(|versions| versions.get(version))
            .copied()
            .unwrap_or_default()
    }

    /// All answers to requests that this snapshot (`EPOCH.N`) decided.
    pub fn under(&self, policy: &str) -> Served {
        self.served
            .get(policy)
            .into_iter()
            .flat_map(HashMap::values)
            .copied()
            .fold(Served::default(), Served::and)
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        #[allow(clippy::cast_precision_loss)]
        let answered = self.answered() as f64;
        answered / self.began.elapsed().as_secs_f64().max(f64::EPSILON)
    }

    fn all(&self) -> impl Iterator<Item = (&str, Served)> {
        self.served
            .values()
            .flatten()
            .map(|(version, served)| (version.as_str(), *served))
    }

    /// A quantile of the latency, such as 0.99.
    pub fn latency(&self, quantile: f64) -> Duration {
        self.latency.quantile(quantile)
    }
}

/// How far a share may be from the expected one by chance: five standard deviations of a binomial share of `count`.
/// A run in 1.7 million is outside of that.
pub fn five_sigma(expected: f64, count: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let count = count.max(1) as f64;
    5.0 * (expected * (1.0 - expected) / count).sqrt()
}

/// `part` of `whole`, 0 to 1; 0 of nothing.
pub fn share(part: u64, whole: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let (part, whole) = (part as f64, whole.max(1) as f64);
    part / whole
}

fn entry<'map, V: Default>(map: &'map mut HashMap<String, V>, key: &str) -> &'map mut V {
    map.entry(key.to_owned()).or_default()
}
