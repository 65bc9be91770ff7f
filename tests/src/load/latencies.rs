//! A histogram of latencies.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest latency that is told apart from longer ones.
const LONGEST: Duration = Duration::from_secs(60);

/// Latencies to a thousandth of their size, from a microsecond to [`LONGEST`].
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// None.
    ///
    /// # Panics
    /// Never: the bounds are constants that the histogram takes.
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, micros(LONGEST), 3).expect("constant bounds"))
    }

    /// One more.
    pub fn add(&mut self, latency: Duration) {
        self.0.saturating_record(micros(latency));
    }

    /// All of the other's as well.
    pub fn merge(&mut self, other: &Self) {
        self.0 += &other.0;
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// A quantile, such as 0.99.
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(quantile))
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_ones_are_told_apart() {
        let mut latencies = Latencies::new();
        for ms in 1..=1_000 {
            latencies.add(Duration::from_millis(ms));
        }
        let mut more = Latencies::new();
        more.add(Duration::from_secs(59));
        latencies.merge(&more);
        let close =
            |seen: Duration, wanted_ms: f64| (seen.as_secs_f64() * 1e3 / wanted_ms - 1.0).abs() < 0.002;
        assert_eq!(latencies.count(), 1_001);
        assert!(
            close(latencies.quantile(0.5), 501.0),
            "{:?}",
            latencies.quantile(0.5)
        );
        assert!(
            close(latencies.quantile(0.99), 991.0),
            "{:?}",
            latencies.quantile(0.99)
        );
        assert!(close(latencies.max(), 59_000.0), "{:?}", latencies.max());
    }
}
