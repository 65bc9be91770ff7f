//! What the workers of one identity counted in a window.

use std::collections::HashMap;

use knhk_promotion::Counts;
use knhk_proto::ordered::{Measures, Tally, read};
use knhk_proto::v1::{Observed, Variant};

use super::Ignored;
use super::sequence::{News, Sequence, Told};
use crate::app::workers::Nonce;

/// Buckets of a duration histogram, see `gate.proto`.
pub(super) const HISTOGRAM_BUCKETS: usize = 24;

/// One identity in one window.
#[derive(Debug)]
pub(super) struct Identity {
    stable: Sum,
    canary: Sum,
    staging: Sum,
    workers: HashMap<Nonce, Worker>,
}

/// Counts of all workers together.
#[derive(Debug)]
struct Sum {
    tally: Tally,
    histogram: Vec<u64>,
}

/// What one worker said last.
#[derive(Debug)]
struct Worker {
    told: Told,
    /// Of stable, of the canary, of staging.
    histograms: [Vec<u64>; 3],
}

/// One report's rows of a window, that can be: of different variants, with the window's measures, and no more bad requests
/// than requests.
#[derive(Debug)]
pub(super) struct Latest {
    stable: Option<Row>,
    canary: Option<Row>,
    staging: Option<Row>,
    sequence: Option<Sequence>,
}

#[derive(Debug)]
struct Row {
    tally: Tally,
    histogram: Vec<u64>,
}

impl Latest {
    pub(super) fn parse(rows: &[Observed], measures: Measures) -> Result<Self, Ignored> {
        let mut latest = Self {
            stable: None,
            canary: None,
            staging: None,
            sequence: None,
        };
        for observed in rows {
            let row = Row::parse(observed, measures)?;
            let place = match observed.variant() {
                Variant::Stable if observed.ordered.is_none() => &mut latest.stable,
                Variant::Staging if observed.ordered.is_none() => &mut latest.staging,
                Variant::Canary => &mut latest.canary,
                Variant::Stable | Variant::Staging | Variant::Unspecified => return Err(Ignored::Malformed),
            };
            if place.replace(row).is_some() {
                return Err(Ignored::Malformed);
            }
            if let Some(ordered) = &observed.ordered {
                latest.sequence = Some(Sequence {
                    after_canary: ordered.after_canary,
                    after_stable: ordered.after_stable,
                    blocks: read(&ordered.run, measures).map_err(|_| Ignored::Malformed)?,
                });
            }
        }
        Ok(latest)
    }
}

impl Row {
    fn parse(observed: &Observed, measures: Measures) -> Result<Self, Ignored> {
        let fits = observed.over.len() == measures.thresholds
            && observed.outcomes.len() == measures.outcomes
            && observed.histogram.len() <= HISTOGRAM_BUCKETS;
        let errors = std::iter::once(observed.errors);
        let rest = observed.over.iter().chain(&observed.outcomes);
        let tally = Tally {
            requests: observed.requests,
            bad: errors.chain(rest.copied()).collect(),
        };
        if !fits || !tally.is_possible() {
            return Err(Ignored::Malformed);
        }
        Ok(Self {
            tally,
            histogram: observed.histogram.clone(),
        })
    }
}

impl Identity {
    pub(super) fn new(measures: Measures) -> Self {
        let nothing = || Sum {
            tally: measures.nothing(),
            histogram: Vec::new(),
        };
        Self {
            stable: nothing(),
            canary: nothing(),
            staging: nothing(),
            workers: HashMap::new(),
        }
    }

    /// Whether it has reported no request.
    pub(super) fn is_silent(&self) -> bool {
        let all = [&self.stable, &self.canary, &self.staging];
        all.iter().all(|sum| sum.tally.requests == 0)
    }

    pub(super) fn stable(&self, measures: Measures) -> Counts {
        self.stable.counts(measures)
    }

    pub(super) fn canary(&self, measures: Measures) -> Counts {
        self.canary.counts(measures)
    }

    pub(super) fn staging(&self, measures: Measures) -> Counts {
        self.staging.counts(measures)
    }

    pub(super) fn workers(&self) -> usize {
        self.workers.len()
    }

    pub(super) fn has(&self, worker: Nonce) -> bool {
        self.workers.contains_key(&worker)
    }

    /// Puts a report in place of what the worker said before. What is refused leaves no trace.
    pub(super) fn take(
        &mut self,
        worker: Nonce,
        latest: Latest,
        measures: Measures,
    ) -> Result<News, Ignored> {
        let Latest {
            stable,
            canary,
            staging,
            sequence,
        } = latest;
        let known = self.workers.get(&worker);
        let before = known.map_or_else(|| Told::nothing(measures), |known| known.told.clone());
        let of = |row: &Option<Row>, before: &Tally| {
            row.as_ref()
                .map_or_else(|| before.clone(), |row| row.tally.clone())
        };
        let latest = Told {
            stable: of(&stable, &before.stable),
            canary: of(&canary, &before.canary),
            staging: of(&staging, &before.staging),
        };
        let mut told = before.clone();
        let news = told.hear(latest, sequence, measures)?;
        self.stable.replace(&before.stable, &told.stable);
        self.canary.replace(&before.canary, &told.canary);
        self.staging.replace(&before.staging, &told.staging);
        let known = self.workers.entry(worker).or_insert_with(|| Worker {
            told: Told::nothing(measures),
            histograms: [Vec::new(), Vec::new(), Vec::new()],
        });
        let [stable_histogram, canary_histogram, staging_histogram] = &mut known.histograms;
        self.stable.redraw(stable_histogram, stable);
        self.canary.redraw(canary_histogram, canary);
        self.staging.redraw(staging_histogram, staging);
        known.told = told;
        Ok(news)
    }
}

impl Sum {
    fn replace(&mut self, before: &Tally, latest: &Tally) {
        if let Some(new) = latest.minus(before) {
            self.tally.add(&new);
        }
    }

    fn redraw(&mut self, before: &mut Vec<u64>, latest: Option<Row>) {
        let Some(latest) = latest else {
            return;
        };
        if self.histogram.len() < latest.histogram.len() {
            self.histogram.resize(latest.histogram.len(), 0);
        }
        for (index, total) in self.histogram.iter_mut().enumerate() {
            let at = |counts: &[u64]| counts.get(index).copied().unwrap_or(0);
            *total = total
                .saturating_sub(at(before))
                .saturating_add(at(&latest.histogram));
        }
        *before = latest.histogram;
    }

    fn counts(&self, measures: Measures) -> Counts {
        Counts {
            histogram: self.histogram.clone(),
            ..counts(&self.tally, measures)
        }
    }
}

/// The same counts by name, without a histogram.
pub(super) fn counts(tally: &Tally, measures: Measures) -> Counts {
    let (errors, rest) = tally.bad.split_first().unwrap_or((&0, &[]));
    let (over, outcomes) = rest.split_at_checked(measures.thresholds).unwrap_or_default();
    Counts {
        requests: tally.requests,
        errors: *errors,
        over: over.to_vec(),
        outcomes: outcomes.to_vec(),
        histogram: Vec::new(),
    }
}
