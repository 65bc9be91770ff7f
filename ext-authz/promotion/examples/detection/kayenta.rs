//! The Mann-Whitney test, as Kayenta's judge documents it: for each metric the samples of the canary and of a baseline of
//! the same size since the beginning; a metric has failed when the lower end of the 98 % confidence interval of the shift
//! is above a quarter of its Hodges-Lehmann estimate; with half of the metrics failed the score is below `marginal` and
//! the canary fails.
//!
//! Its documentation asks for 50 samples a run and starts with three runs in three hours. Here are 60 samples of 10 s a
//! run and three runs in half an hour. Outliers are not removed.

use crate::contender::Contender;
use crate::traffic::{Request, TICKS_PER_SECOND};

const SAMPLE_TICKS: u32 = 10 * TICKS_PER_SECOND;
const RUN_TICKS: u32 = 60 * SAMPLE_TICKS;
/// The standard normal distribution's quantile at 0.99: a two-sided confidence of 0.98.
const Z: f64 = 2.326_347_874;
/// How large a shift is ignored, as a share of the estimated shift.
const TOLERANCE: f64 = 0.25;
/// The baseline gets as many requests as the canary: each 19th of the other 95 %.
const BASELINE_OF_STABLE: u64 = 19;

#[derive(Default)]
pub(crate) struct Kayenta {
    canary: Samples,
    baseline: Samples,
    stable_seen: u64,
}

impl Kayenta {
    pub(crate) fn new() -> Self {
        Self::default()
    }
}

impl Contender for Kayenta {
    fn name(&self) -> String {
        "Mann-Whitney, 98 %".to_owned()
    }

    fn rolls_back(&mut self, requests: &[Request], tick: u32) -> bool {
        for request in requests {
            if request.is_canary {
                self.canary.see(request);
            } else {
                self.stable_seen += 1;
                if self.stable_seen.is_multiple_of(BASELINE_OF_STABLE) {
                    self.baseline.see(request);
                }
            }
        }
        if tick.is_multiple_of(SAMPLE_TICKS) {
            self.canary.sample();
            self.baseline.sample();
        }
        tick.is_multiple_of(RUN_TICKS)
            && (is_high(&self.canary.errors, &self.baseline.errors)
                || is_high(&self.canary.latency, &self.baseline.latency))
    }
}

/// One version's time series.
#[derive(Default)]
struct Samples {
    failed: u32,
    durations: Vec<f64>,
    /// The share of errors of each sample.
    errors: Vec<f64>,
    /// The 0.9 quantile of the durations of each sample.
    latency: Vec<f64>,
}

impl Samples {
    fn see(&mut self, request: &Request) {
        self.failed += u32::from(request.failed);
        self.durations.push(request.ms);
    }

    #[allow(clippy::cast_precision_loss)]
    fn sample(&mut self) {
        let requests = self.durations.len();
        if requests == 0 {
            return;
        }
        self.errors.push(f64::from(self.failed) / requests as f64);
        let rank = requests * 9 / 10;
        let (_, quantile, _) = self.durations.select_nth_unstable_by(rank, f64::total_cmp);
        self.latency.push(*quantile);
        self.failed = 0;
        self.durations.clear();
    }
}

/// Whether the canary is above the baseline. That the lower end of the shift's confidence interval is above a limit is
/// that the test still finds a shift when the canary is moved down by the limit.
fn is_high(canary: &[f64], baseline: &[f64]) -> bool {
    let limit = TOLERANCE * hodges_lehmann(canary, baseline).abs();
    let moved: Vec<f64> = canary.iter().map(|value| value - limit).collect();
    z(&moved, baseline) > Z
}

/// The median of all differences.
fn hodges_lehmann(canary: &[f64], baseline: &[f64]) -> f64 {
    let mut differences: Vec<f64> = canary
        .iter()
        .flat_map(|one| baseline.iter().map(move |other| one - other))
        .collect();
    let middle = differences.len() / 2;
    let (_, median, _) = differences.select_nth_unstable_by(middle, f64::total_cmp);
    *median
}

/// The statistic of Mann and Whitney, normal, with corrections for ties and for continuity.
#[allow(clippy::cast_precision_loss, clippy::float_cmp)]
fn z(canary: &[f64], baseline: &[f64]) -> f64 {
    let (n, m) = (canary.len() as f64, baseline.len() as f64);
    let wins: f64 = canary
        .iter()
        .flat_map(|one| {
            baseline.iter().map(move |other| {
                if one > other {
                    1.0
                } else if one == other {
                    0.5
                } else {
                    0.0
                }
            })
        })
        .sum();
    let mut all: Vec<f64> = canary.iter().chain(baseline).copied().collect();
    all.sort_unstable_by(f64::total_cmp);
    let ties: f64 = all
        .chunk_by(|one, other| one == other)
        .map(|tied| tied.len() as f64)
        .map(|tied| tied.powi(3) - tied)
        .sum();
    let total = n + m;
    let variance = n * m / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    if variance <= 0.0 {
        return 0.0;
    }
    (wins - n * m / 2.0 - 0.5) / variance.sqrt()
}
