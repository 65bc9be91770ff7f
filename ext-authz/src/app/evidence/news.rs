//! What came since the last look, and what of it can be kept.

use std::collections::HashMap;
use std::sync::Arc;

use knhk_promotion::sequential::{Block, Group, Outcome, Outcomes, OutcomesError, Tallies};
use knhk_promotion::{Answer, MAX_REPORTS_PER_LOOK, Reported, RolloutSpec};
use knhk_proto::ordered::{self, Measures, Tally};

use super::MAX_IDENTITIES;
use super::identity::counts;
use super::sequence::News;

/// Reports that are kept one by one, so that with one more of each identity a look takes them all.
const MAX_REPORTS: usize = MAX_REPORTS_PER_LOOK - MAX_IDENTITIES;

/// Reports of one window, each with who sent it: [`MAX_REPORTS`] in order. Those beyond it, the latest ones whatever they
/// say, are counted without their order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    reports: Vec<(Option<Arc<str>>, News)>,
    /// Of canary and staging, of stable. As many as identities at most.
    beyond: HashMap<Option<Arc<str>>, (Tally, Tally)>,
}

impl Queue {
    pub(super) fn add(&mut self, identity: Option<&Arc<str>>, news: News, measures: Measures) {
        if news.is_empty() {
            return;
        }
        if self.reports.len() < MAX_REPORTS {
            self.reports.push((identity.cloned(), news));
            return;
        }
        let (canary, stable) = news.without_order(measures);
        let beyond = self
            .beyond
            .entry(identity.cloned())
            .or_insert_with(|| (measures.nothing(), measures.nothing()));
        beyond.0.add(&canary);
        beyond.1.add(&stable);
    }

    /// All of it, seen through the rollout's SLOs.
    pub(super) fn reported(self, spec: &RolloutSpec, measures: Measures) -> Vec<Reported> {
        let in_order = self
            .reports
            .into_iter()
            .map(|(identity, news)| (identity, outcomes(spec, &news, measures)));
        let beyond = self.beyond.into_iter().map(|(identity, (canary, stable))| {
            let news = News {
                blocks: Vec::new(),
                after: measures.nothing(),
                canary,
                stable,
                staging: measures.nothing(),
            };
            (identity, outcomes(spec, &news, measures))
        });
        in_order
            .chain(beyond)
            .filter_map(|(identity, outcomes)| match outcomes {
                Ok(outcomes) => Some(Reported { identity, outcomes }),
                // Only a rollout whose SLOs changed and whose window did not could come here.
                Err(error) => {
                    tracing::error!(%error, "a report that was taken does not fit the rollout's SLOs");
                    None
                }
            })
            .collect()
    }
}

fn outcomes(spec: &RolloutSpec, news: &News, measures: Measures) -> Result<Outcomes, OutcomesError> {
    let tallies =
        |tally: &Tally| -> Result<Tallies, OutcomesError> { spec.tallies(&counts(tally, measures)) };
    let block = |block: &ordered::Block| {
        let outcome = block.canary;
        let answer = Answer {
            failed: outcome.failed,
            over: outcome.over.into(),
            outcomes: outcome.outcomes,
        };
        Ok(Block {
            stable: tallies(&block.stable)?,
            canary: Outcome::new(Group::new(outcome.group)?, spec.bad(answer)),
        })
    };
    let blocks: Result<Vec<_>, OutcomesError> = news.blocks.iter().map(block).collect();
    let ordered = Outcomes::in_order(blocks?, tallies(&news.after)?)?;
    Ok(ordered.with_uncompared(tallies(&news.unordered())?, tallies(&news.stable)?))
}
