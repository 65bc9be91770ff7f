//! The trial of a generation's canary, by who reported.
//!
//! Each identity's proxies see requests that no other's see, so each has a trial of its own, and what they say together is
//! put together when it is asked for:
//!
//! - *worse than stable*: the product of what each made of its capital ([`Worse`]), as if there had been one trial;
//! - *an SLO is violated*: the mean of what each has. A dependency that fails in one second fails for all of them in that
//!   second, so the product would count one outage as many. The mean is as valid as each of them, whatever they share.
//!
//! From three identities on nothing is done on the word of one (`docs/analysis.md`): whatever would be done has to follow
//! without each of them as well, and who is set aside is left out altogether. So whoever blames the canary, at any volume,
//! moves nothing that the others do not say; and whoever praises it takes away a bounded part of the product, because a
//! part of each capital always waits for its beginning.

use crate::counts::{Now, WindowCounts};
use crate::finding::{Finding, Reading};
use crate::reporters::{Agreement, Weighed};
use crate::sequential::{Decides, Goal, MAX_ORDERED, Metric, Outcomes, Plan, Trial, TrialEvent, Worse};
use crate::spec::RolloutSpec;
use crate::tally::Tally;
use knhk_decision::bucket;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Trials of one canary. Of more identities than these, those that come later share them, by a hash of their name.
pub const MAX_TRIALS: usize = 8;

/// The most of the canary's outcomes that one look takes in order, an equal part from each identity. What is over it is
/// counted without its order. At the rate of looks this is 16,000 requests of the canary a second.
pub const MAX_ORDERED_PER_LOOK: usize = 64 * MAX_ORDERED;

/// Where the SLO alone decides, blocks are closed so often, in milliseconds.
const SECOND_MS: u64 = 1_000;

/// One report of one worker: what finished since its report before, decided in the rollout's present window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// The proven SPIFFE ID of its proxy. All that comes without one is one reporter.
    pub identity: Option<Arc<str>>,
    /// What finished.
    pub outcomes: Outcomes,
}

/// Everything that is known against the canary of one generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Trials {
    plan: Plan,
    decides: Decides,
    /// At most [`MAX_TRIALS`].
    benches: Vec<Bench>,
    /// Monotonic time at which the present second began.
    second_began: u64,
}

/// The trial by what one identity reported, or several that share it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Bench {
    /// The first of them.
    identity: Option<Arc<str>>,
    is_shared: bool,
    trial: Trial,
}

/// What is known in one metric.
#[derive(Debug, Clone, Copy)]
struct Known {
    violated: f64,
    stable_violates: f64,
    worse: Worse,
}

/// Whose requests a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    /// The canary's, by its weight.
    Canary,
    /// Staging's, beside the canary's that the stage before has left.
    Staging,
}

impl About {
    /// The version's requests seen through an SLO; and those of staging, where it is about them.
    fn seen(self, spec: &RolloutSpec, index: usize, counts: &WindowCounts) -> (Tally, Option<Tally>) {
        match self {
            Self::Canary => (spec.tally(index, &counts.canary), None),
            Self::Staging => (
                spec.tally(index, &counts.version()),
                Some(spec.tally(index, &counts.staging)),
            ),
        }
    }
}

impl Trials {
    /// Nothing is known yet.
    pub(crate) fn new(spec: &RolloutSpec, decides: Decides, now: Now) -> Self {
        Self {
            plan: Plan::of(spec),
            decides,
            benches: Vec::new(),
            second_began: now.mono_ms,
        }
    }

    /// A look's reports, without those of who is set aside.
    pub(crate) fn hear(&mut self, reports: &[Reported], evidence: &Weighed) {
        let kept = || {
            reports
                .iter()
                .filter(|report| !evidence.is_aside(report.identity.as_ref()))
        };
        let mut told: BTreeMap<&Option<Arc<str>>, usize> = BTreeMap::new();
        for report in kept() {
            told.insert(&report.identity, 0);
        }
        let each = MAX_ORDERED_PER_LOOK / told.len().max(1);
        for report in kept() {
            let told = told.entry(&report.identity).or_default();
            *told = told.saturating_add(report.outcomes.ordered().len());
            let outcomes = if *told <= each {
                report.outcomes.clone()
            } else {
                report.outcomes.without_order()
            };
            let event = TrialEvent::Finished(Box::new(outcomes));
            if let Some(bench) = self.bench_of(&report.identity) {
                bench.trial.take(&event);
            }
        }
    }

    #[allow(
        clippy::ref_option,
        reason = "a bench is found by what a report has, as it is"
    )]
    fn bench_of(&mut self, identity: &Option<Arc<str>>) -> Option<&mut Bench> {
        let own = self.benches.iter().position(|bench| bench.identity == *identity);
        let index = match own {
            Some(index) => index,
            None if self.benches.len() < MAX_TRIALS => {
                self.benches.push(Bench {
                    identity: identity.clone(),
                    is_shared: false,
                    trial: Trial::new(self.plan.clone(), self.decides),
                });
                self.benches.len() - 1
            }
            None => bucket("", identity.as_deref().unwrap_or_default().as_bytes()) as usize % MAX_TRIALS,
        };
        let bench = self.benches.get_mut(index)?;
        bench.is_shared |= own.is_none() && bench.identity != *identity;
        Some(bench)
    }

    /// Time went on. True when a second is over.
    pub(crate) fn pass(&mut self, now: Now) -> bool {
        let passed = now.mono_ms.checked_sub(self.second_began);
        if passed.is_some_and(|ms| ms < SECOND_MS) {
            return false;
        }
        self.second_began = now.mono_ms;
        self.all(&TrialEvent::SecondPassed);
        true
    }

    /// The monotonic clock has another beginning.
    pub(crate) fn restarted(&mut self, now: Now) {
        self.second_began = now.mono_ms;
    }

    /// A step begins; what is known stays known.
    pub(crate) fn step_begins(&mut self, decides: Decides) {
        self.decides = decides;
        self.all(&TrialEvent::StepBegins(decides));
    }

    /// What is known is forgotten.
    pub(crate) fn starts_over(&mut self, decides: Decides) {
        self.decides = decides;
        self.all(&TrialEvent::StartsOver(decides));
    }

    fn all(&mut self, event: &TrialEvent) {
        for bench in &mut self.benches {
            bench.trial.take(event);
        }
    }

    /// What is known about every SLO, with the requests of the window as `evidence` has them.
    pub(crate) fn readings(&self, spec: &RolloutSpec, about: About, evidence: &Weighed) -> Vec<Reading> {
        let heard: Vec<&Bench> = self
            .benches
            .iter()
            .filter(|bench| bench.counts(evidence))
            .collect();
        let goals = self.plan.goals().iter().enumerate();
        goals
            .map(|(index, goal)| self.reading(spec, about, index, goal, &heard, evidence))
            .collect()
    }

    fn reading(
        &self,
        spec: &RolloutSpec,
        about: About,
        index: usize,
        goal: &Goal,
        heard: &[&Bench],
        evidence: &Weighed,
    ) -> Reading {
        let known = Known::of(&heard.iter().copied(), index);
        let counts = evidence.counts();
        let (canary, staging) = about.seen(spec, index, counts);
        let bound = self.plan.bound();
        let is_compared = self.decides == Decides::SloAndStable;
        let mut reading = Reading {
            slo: goal.slo.clone(),
            canary,
            staging,
            stable: spec.tally(index, &counts.stable),
            allowed: goal.allowed,
            tolerance: self.plan.tolerance(),
            bound,
            violated: known.violated,
            stable_violates: known.stable_violates,
            worse: is_compared.then(|| known.worse.evidence()),
            group: known.worse.rests_on(bound).filter(|_| is_compared),
            finding: Finding::Met,
            rests_on: None,
        };
        reading.finding = reading.found(self.plan.min_requests());
        match (reading.finding, evidence.agreement) {
            (Finding::Worse | Finding::StableAlso, Agreement::ToAct | Agreement::ToActAndPass) => {
                self.act_on_nobodys_word(&mut reading, index, heard);
            }
            (Finding::Met, Agreement::ToActAndPass) => {
                self.pass_on_nobodys_word(&mut reading, spec, about, index, evidence);
            }
            _ => {}
        }
        reading
    }

    /// Weakens a finding that would not follow from what all but one have reported.
    fn act_on_nobodys_word(&self, reading: &mut Reading, index: usize, heard: &[&Bench]) {
        for (left_out, bench) in heard.iter().enumerate() {
            let others = heard.iter().enumerate().filter(|(other, _)| *other != left_out);
            let known = Known::of(&others.map(|(_, bench)| *bench), index);
            let without = Reading {
                violated: known.violated,
                stable_violates: known.stable_violates,
                worse: reading.worse.map(|_| known.worse.evidence()),
                ..reading.clone()
            };
            let left = weaker(reading.finding, without.found(self.plan.min_requests()));
            if left != reading.finding {
                reading.finding = left;
                reading.rests_on.clone_from(&bench.identity);
            }
        }
    }

    /// The same of a step that is passed, by the counts.
    fn pass_on_nobodys_word(
        &self,
        reading: &mut Reading,
        spec: &RolloutSpec,
        about: About,
        index: usize,
        evidence: &Weighed,
    ) {
        for (identity, counts) in evidence.without_each() {
            let (canary, staging) = about.seen(spec, index, &counts);
            let without = Reading {
                canary,
                staging,
                ..reading.clone()
            };
            let left = weaker(reading.finding, without.found(self.plan.min_requests()));
            if left != reading.finding {
                reading.finding = left;
                reading.rests_on = identity.cloned();
            }
        }
    }
}

impl Bench {
    /// Whether what it knows counts: not where all of it is from somebody who is set aside.
    fn counts(&self, evidence: &Weighed) -> bool {
        self.is_shared || !evidence.is_aside(self.identity.as_ref())
    }
}

impl Known {
    /// What `benches` say together. Of none nothing is known.
    fn of<'a>(benches: &(impl Iterator<Item = &'a Bench> + Clone), index: usize) -> Self {
        let metrics = || benches.clone().filter_map(|bench| bench.trial.metrics.get(index));
        Self {
            violated: mean(metrics().map(|metric| metric.canary.evidence())),
            stable_violates: mean(metrics().map(|metric| metric.stable.evidence())),
            worse: Worse::of(metrics().map(|metric: &Metric| &metric.worse)),
        }
    }
}

/// The mean of evidence; of none it is what a bet begins with.
fn mean(evidence: impl Iterator<Item = f64>) -> f64 {
    let (sum, of) = evidence.fold((0.0, 0.0), |(sum, of), one| (sum + one, of + 1.0));
    if of > 0.0 { sum / of } else { 1.0 }
}

/// What is left of a finding where it would be `without` but for one identity.
fn weaker(finding: Finding, without: Finding) -> Finding {
    match (finding, without) {
        (Finding::Worse, Finding::Worse | Finding::StableAlso)
        | (Finding::Met, Finding::Met | Finding::TooFew) => without,
        // To wait is the least already.
        (Finding::StableAlso, Finding::Worse | Finding::StableAlso)
        | (Finding::TooFew | Finding::Missed | Finding::Violated, _) => finding,
        (Finding::Worse | Finding::StableAlso, _) => Finding::Violated,
        (Finding::Met, _) => Finding::Missed,
    }
}
