//! What is new in a worker's report, and how much of it is in order: (what it told before, report) -> news.
//!
//! Counts are cumulative, so what is new is a difference, whatever was lost or sent twice on the way. The canary's outcomes in
//! order say from which counts they go on. Where those are the ones that are known, or later ones, they are news; what lies
//! between, and what did not fit into the report, is in the difference and has no order. Where they are earlier ones, the
//! outcomes were counted before, and nothing of them is taken.
//!
//! Whatever happens to reports, the outcomes in order and the counts without it are together the difference, and none is
//! in both.

use knhk_proto::ordered::{Block, Measures, Tally};

use super::Ignored;

/// The counts that a worker told last of one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) stable: Tally,
    pub(super) canary: Tally,
    pub(super) staging: Tally,
}

/// Outcomes of the canary in order, and the requests of both that finished before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sequence {
    pub(super) after_canary: u64,
    pub(super) after_stable: u64,
    pub(super) blocks: Vec<Block>,
}

/// What a report has that was not told before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct News {
    /// In order.
    pub(super) blocks: Vec<Block>,
    /// Stable's after the last block, still in order.
    pub(super) after: Tally,
    /// The rest, of which the order is not known.
    pub(super) canary: Tally,
    pub(super) stable: Tally,
    /// Staging's, which have no order.
    pub(super) staging: Tally,
}

impl Told {
    /// Of a worker that has said nothing.
    pub(super) fn nothing(measures: Measures) -> Self {
        Self {
            stable: measures.nothing(),
            canary: measures.nothing(),
            staging: measures.nothing(),
        }
    }

    /// Takes a report: the latest counts, those that it leaves out unchanged. A report that is older than what is known, or
    /// that contradicts itself or the ones before it, changes nothing.
    pub(super) fn hear(
        &mut self,
        latest: Self,
        sequence: Option<Sequence>,
        measures: Measures,
    ) -> Result<News, Ignored> {
        let canary = difference(&latest.canary, &self.canary)?;
        let stable = difference(&latest.stable, &self.stable)?;
        let staging = difference(&latest.staging, &self.staging)?;
        let mut news = match sequence {
            Some(sequence) if self.leads_to(&sequence) => {
                self.in_order(sequence, &canary, &stable, measures)?
            }
            None if canary.requests == 0 => News {
                blocks: Vec::new(),
                after: stable,
                canary,
                stable: measures.nothing(),
                staging: measures.nothing(),
            },
            // Told again, or the outcomes are not told one by one.
            Some(_) | None => News {
                blocks: Vec::new(),
                after: measures.nothing(),
                canary,
                stable,
                staging: measures.nothing(),
            },
        };
        news.staging = staging;
        *self = latest;
        Ok(news)
    }

    /// Whether nothing of it was counted before.
    fn leads_to(&self, sequence: &Sequence) -> bool {
        sequence.after_canary >= self.canary.requests && sequence.after_stable >= self.stable.requests
    }

    fn in_order(
        &self,
        sequence: Sequence,
        canary: &Tally,
        stable: &Tally,
        measures: Measures,
    ) -> Result<News, Ignored> {
        let missed_canary = sequence.after_canary - self.canary.requests;
        let missed_stable = sequence.after_stable - self.stable.requests;
        let (mut told_canary, mut told_stable) = (measures.nothing(), measures.nothing());
        for block in &sequence.blocks {
            told_canary.count(block.canary, measures);
            told_stable.add(&block.stable);
        }
        let rest = |all: &Tally, told: &Tally, missed: u64| {
            all.minus(told)
                .filter(|rest| rest.is_possible() && rest.requests >= missed)
                .ok_or(Ignored::Malformed)
        };
        let canary = rest(canary, &told_canary, missed_canary)?;
        let stable = rest(stable, &told_stable, missed_stable)?;
        // Nothing of the canary lies between, nor after: so all of stable's rest came after the last block.
        let all_told = canary.requests == 0 && missed_stable == 0;
        let (after, stable) = if all_told {
            (stable, measures.nothing())
        } else {
            (measures.nothing(), stable)
        };
        Ok(News {
            blocks: sequence.blocks,
            after,
            canary,
            stable,
            staging: measures.nothing(),
        })
    }
}

impl News {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        let all = [&self.after, &self.canary, &self.stable, &self.staging];
        self.blocks.is_empty() && all.iter().all(|tally| tally.requests == 0)
    }

    /// What the version finished that has no order: staging's requests are as good as the canary's for an SLO.
    pub(super) fn unordered(&self) -> Tally {
        let mut version = self.canary.clone();
        version.add(&self.staging);
        version
    }

    /// The same counts, without their order.
    pub(super) fn without_order(self, measures: Measures) -> (Tally, Tally) {
        let (mut canary, mut stable) = (self.unordered(), self.stable);
        for block in &self.blocks {
            canary.count(block.canary, measures);
            stable.add(&block.stable);
        }
        stable.add(&self.after);
        (canary, stable)
    }
}

/// How much more was counted. Counts only grow, and no more of them are bad than there are new ones.
fn difference(latest: &Tally, before: &Tally) -> Result<Tally, Ignored> {
    if latest.requests < before.requests {
        return Err(Ignored::Older);
    }
    latest
        .minus(before)
        .filter(Tally::is_possible)
        .ok_or(Ignored::Malformed)
}

#[cfg(test)]
mod tests;
