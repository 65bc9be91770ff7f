use std::time::Duration;

/// Durations of a run, in seconds.
pub(crate) struct Times {
    sorted: Vec<f64>,
    over: Duration,
}

impl Times {
    pub(crate) fn new(times: impl IntoIterator<Item = Duration>, over: Duration) -> Self {
        let mut sorted: Vec<_> = times.into_iter().map(|time| time.as_secs_f64()).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        Self { sorted, over }
    }

    pub(crate) fn count(&self) -> f64 {
        self.sorted.len() as f64
    }

    pub(crate) fn rate(&self) -> f64 {
        self.count() / self.over.as_secs_f64()
    }

    /// How many of something that was counted over the same run.
    pub(crate) fn per_second(&self, counted: u64) -> f64 {
        counted as f64 / self.over.as_secs_f64()
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list"
    )]
    pub(crate) fn percentile(&self, p: f64) -> f64 {
        let at = (self.sorted.len() as f64 * p) as usize;
        self.sorted[at.min(self.sorted.len() - 1)]
    }

    pub(crate) fn line(&self) -> String {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|p| self.percentile(p) * 1e3);
        format!(
            "{:>9.0}/s  p50 {p50:.3} ms  p99 {p99:.3} ms  max {max:.3} ms",
            self.rate()
        )
    }
}
