//! What filters tell about answers, seen through the SLOs: they know thresholds and outcomes, and nothing of SLOs.

use super::{RolloutSpec, Slo};
use crate::counts::Counts;
use crate::sequential::{OutcomesError, Tallies};
use crate::tally::Tally;

/// How a request was answered, as a filter tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// With a status of 500 and above.
    pub failed: bool,
    /// How many of the rule's thresholds it was slower than; they ascend.
    pub over: usize,
    /// Bit i: it was bad by the rule's outcome i.
    pub outcomes: u8,
}

/// Where filters count what is bad for an SLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    Errors,
    /// Over the threshold of this index, of so many.
    Over(usize, usize),
    /// By the outcome of this index.
    Outcome(usize),
}

impl RolloutSpec {
    /// In which SLOs an answer is bad: bit i is SLO i, as [`crate::sequential::Outcome::new`] takes it.
    pub fn bad(&self, answer: Answer) -> u8 {
        let slos = self.counted().enumerate();
        slos.fold(0, |bits, (index, counted)| {
            let bad = match counted {
                Counted::Errors => answer.failed,
                Counted::Over(threshold, _) => answer.over > threshold,
                Counted::Outcome(outcome) => answer.outcomes >> outcome & 1 == 1,
            };
            bits | u8::from(bad) << index
        })
    }

    /// Counts, seen through every SLO. Refused where they lack what an SLO is about, or contradict themselves.
    pub fn tallies(&self, counts: &Counts) -> Result<Tallies, OutcomesError> {
        let bad: Option<Vec<u64>> = self.counted().map(|counted| counts.bad(counted)).collect();
        let bad = bad.ok_or(OutcomesError::Missing)?;
        Tallies::new(counts.requests, &bad)
    }

    /// Counts, seen through SLO `index`. Counts that lack what it is about say nothing about it, and counts that contradict
    /// themselves are read as bad requests, never as more than all.
    pub(crate) fn tally(&self, index: usize, counts: &Counts) -> Tally {
        let bad = self.counted().nth(index).and_then(|counted| counts.bad(counted));
        let requests = if bad.is_some() { counts.requests } else { 0 };
        Tally {
            requests,
            bad: bad.unwrap_or(0).min(requests),
        }
    }

    fn counted(&self) -> impl Iterator<Item = Counted> {
        let thresholds = self.thresholds();
        let mut outcomes = 0..;
        self.analysis.slos.iter().map(move |slo| match slo {
            Slo::SuccessRate { .. } => Counted::Errors,
            Slo::Duration { max, .. } => {
                let own = thresholds.iter().position(|threshold| *threshold == max.micros());
                Counted::Over(own.unwrap_or(usize::MAX), thresholds.len())
            }
            Slo::Outcome { .. } => Counted::Outcome(outcomes.next().unwrap_or_default()),
        })
    }
}

impl Counts {
    fn bad(&self, counted: Counted) -> Option<u64> {
        match counted {
            Counted::Errors => Some(self.errors),
            Counted::Over(index, of) if self.over.len() == of => self.over.get(index).copied(),
            Counted::Over(..) => None,
            Counted::Outcome(index) => self.outcomes.get(index).copied(),
        }
    }
}
