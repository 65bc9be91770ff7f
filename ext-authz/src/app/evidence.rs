//! What the filters counted, summed over all workers, one observation window per rollout.
//!
//! Counts are cumulative per worker VM and window, so a total is the sum of the latest counts of each worker:
//! a lost, resent or reordered report changes nothing, and after a restart of the service the next reports
//! bring a window's whole evidence back.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use knhk_promotion::{Counts, WindowCounts};
use knhk_proto::v1::{Observed, Variant};
use knhk_telemetry::attribute::ObservationReason;

use super::workers::{MAX_WORKERS, Nonce};

/// Counts that one window holds, two of each worker; those of further workers are refused and counted.
const MAX_REPORTERS: usize = 2 * MAX_WORKERS;

/// The evidence of every rollout's present window.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    windows: Mutex<HashMap<String, Window>>,
}

#[derive(Debug)]
struct Window {
    totals: WindowCounts,
    reporters: HashMap<(Nonce, bool), Counts>,
    /// Length of `over` and `histogram` that a count must have.
    thresholds: usize,
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
    /// The bound on reporters.
    TooManyReporters,
    /// A rollout that the proxy was not told of.
    NotItsRollout,
}

impl From<Ignored> for ObservationReason {
    fn from(ignored: Ignored) -> Self {
        match ignored {
            Ignored::OtherWindow => Self::OtherWindow,
            Ignored::Older => Self::Older,
            Ignored::Malformed => Self::Malformed,
            Ignored::TooManyReporters => Self::TooManyReporters,
            Ignored::NotItsRollout => Self::NotItsRollout,
        }
    }
}

impl Evidence {
    /// Starts a rollout's window with nothing in it. The same window again keeps what it has.
    pub(crate) fn open(&self, rollout: &str, window: u64, thresholds: usize) {
        let mut windows = self.lock();
        if windows
            .get(rollout)
            .is_some_and(|present| present.totals.window == window)
        {
            return;
        }
        let empty = || Counts {
            over: vec![0; thresholds],
            ..Counts::default()
        };
        let totals = WindowCounts {
            window,
            stable: empty(),
            canary: empty(),
        };
        windows.insert(
            rollout.to_owned(),
            Window {
                totals,
                reporters: HashMap::new(),
                thresholds,
            },
        );
    }

    /// Forgets a rollout.
    pub(crate) fn close(&self, rollout: &str) {
        self.lock().remove(rollout);
    }

    /// Takes one worker's latest counts.
    pub(crate) fn observe(&self, nonce: &Nonce, observed: &Observed) -> Result<(), Ignored> {
        let mut windows = self.lock();
        let window = windows
            .get_mut(&observed.rollout)
            .filter(|window| window.totals.window == observed.window)
            .ok_or(Ignored::OtherWindow)?;
        window.take(nonce, observed)
    }

    /// The totals of a rollout's present window.
    pub(crate) fn totals(&self, rollout: &str) -> Option<WindowCounts> {
        self.lock().get(rollout).map(|window| window.totals.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn take(&mut self, nonce: &Nonce, observed: &Observed) -> Result<(), Ignored> {
        let canary = match observed.variant() {
            Variant::Canary => true,
            Variant::Stable => false,
            Variant::Unspecified => return Err(Ignored::Malformed),
        };
        let fits = observed.over.len() == self.thresholds
            && observed.histogram.len() <= HISTOGRAM_BUCKETS
            && observed.errors <= observed.requests
            && observed.over.iter().all(|over| *over <= observed.requests);
        if !fits {
            return Err(Ignored::Malformed);
        }
        let key = (*nonce, canary);
        if !self.reporters.contains_key(&key) && self.reporters.len() >= MAX_REPORTERS {
            return Err(Ignored::TooManyReporters);
        }
        let before = self.reporters.entry(key).or_default();
        if observed.requests < before.requests {
            return Err(Ignored::Older);
        }
        let latest = Counts {
            requests: observed.requests,
            errors: observed.errors,
            over: observed.over.clone(),
            histogram: observed.histogram.clone(),
        };
        let total = if canary {
            &mut self.totals.canary
        } else {
            &mut self.totals.stable
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: u64 = 5;

    fn observed(variant: Variant, requests: u64, errors: u64, over: u64) -> Observed {
        Observed {
            rollout: "r".into(),
            window: WINDOW,
            variant: variant.into(),
            requests,
            errors,
            over: vec![over],
            histogram: vec![requests],
        }
    }

    fn open() -> Evidence {
        let evidence = Evidence::default();
        evidence.open("r", WINDOW, 1);
        evidence
    }

    #[test]
    fn counts_of_another_window_or_shape_are_not_taken() {
        let evidence = open();
        let late = Observed {
            window: WINDOW - 1,
            ..observed(Variant::Canary, 1, 0, 0)
        };
        assert_eq!(evidence.observe(&[0; 16], &late), Err(Ignored::OtherWindow));
        let unknown = Observed {
            rollout: "q".into(),
            ..observed(Variant::Canary, 1, 0, 0)
        };
        assert_eq!(evidence.observe(&[0; 16], &unknown), Err(Ignored::OtherWindow));
        for bad in [
            observed(Variant::Unspecified, 1, 0, 0),
            observed(Variant::Canary, 1, 2, 0),
            observed(Variant::Canary, 1, 0, 2),
            Observed {
                over: vec![],
                ..observed(Variant::Canary, 1, 0, 0)
            },
            Observed {
                histogram: vec![0; HISTOGRAM_BUCKETS + 1],
                ..observed(Variant::Canary, 1, 0, 0)
            },
        ] {
            assert_eq!(
                evidence.observe(&[0; 16], &bad),
                Err(Ignored::Malformed),
                "{bad:?}"
            );
        }
        assert_eq!(evidence.totals("r").expect("open").canary.requests, 0);
    }

    #[test]
    fn opening_the_same_window_again_keeps_its_evidence() {
        let evidence = open();
        evidence
            .observe(&[0; 16], &observed(Variant::Canary, 9, 3, 1))
            .expect("taken");
        evidence.open("r", WINDOW, 1);
        assert_eq!(evidence.totals("r").expect("open").canary.requests, 9);
        evidence.open("r", WINDOW + 1, 1);
        assert_eq!(evidence.totals("r").expect("open").canary.requests, 0);
    }

    proptest! {
        /// However reports are lost, repeated and interleaved, the total is the sum of each worker's highest.
        #[test]
        fn totals_are_the_sum_of_each_workers_latest(reports in prop::collection::vec((0u8..4, any::<bool>(), 0u64..1000), 0..60)) {
            let evidence = open();
            let mut model: HashMap<(u8, bool), u64> = HashMap::new();
            for (worker, canary, requests) in reports {
                let variant = if canary { Variant::Canary } else { Variant::Stable };
                let taken = evidence.observe(&[worker; 16], &observed(variant, requests, requests / 3, requests / 2));
                let highest = model.entry((worker, canary)).or_insert(0);
                prop_assert_eq!(taken.is_ok(), requests >= *highest);
                *highest = requests.max(*highest);
            }
            let totals = evidence.totals("r").expect("open");
            for (canary, counts) in [(true, &totals.canary), (false, &totals.stable)] {
                let of = |measure: fn(u64) -> u64| -> u64 {
                    model.iter().filter(|((_, side), _)| *side == canary).map(|(_, requests)| measure(*requests)).sum()
                };
                prop_assert_eq!(counts.requests, of(|n| n));
                prop_assert_eq!(counts.errors, of(|n| n / 3));
                prop_assert_eq!(counts.over[0], of(|n| n / 2));
            }
        }
    }
}
