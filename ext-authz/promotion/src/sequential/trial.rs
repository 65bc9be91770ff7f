//! The trial of a canary: from outcomes to evidence.

use super::comparison::Comparison;
use super::objective::Objective;
use super::outcomes::{Outcomes, Tallies};
use super::pending::Pending;
use super::plan::Plan;
use serde::{Deserialize, Serialize};

/// The version of the state's form, in its field `format`.
pub const TRIAL_FORMAT: u32 = 1;

/// Where the SLO alone decides, a block has at least this many of the canary's requests, and lasts for at least a second:
/// a user who fails some times in a row, or an outage of a second, is one block, and one block convicts nobody. Beside
/// stable a block is a report: there the comparison keeps the promise, and the SLO only has to agree.
pub const WATCH_BLOCK: u64 = 25;

/// Everything that is known against the canary of one generation, over all its steps.
///
/// Its size does not depend on how much was seen: some 4 kB for each SLO as JSON. Serialised with serde it is its whole state:
/// what comes back goes on with the same bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedTrial", rename_all = "camelCase")]
pub struct Trial {
    format: u32,
    pub(super) plan: Plan,
    pub(crate) decides: Decides,
    pub(crate) metrics: Vec<Metric>,
    pub(super) canary: Tallies,
    pub(super) stable: Tallies,
    pending: Pending,
    unsettled: Unsettled,
}

/// Requests that no SLO has been tested by yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Unsettled {
    canary: Tallies,
    stable: Tallies,
}

/// What a rollback rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decides {
    /// Stable runs beside the canary: a violated SLO, and that the canary is worse than stable.
    SloAndStable,
    /// Nothing comparable runs beside it, as in staging and in the production watch: a violated SLO.
    SloAlone,
}

/// What happens to a trial.
#[derive(Debug, Clone, PartialEq)]
pub enum TrialEvent {
    /// Requests finished. They were decided in the present step, those of another are no evidence.
    Finished(Box<Outcomes>),
    /// A second or more has passed since the last of these: where the SLO alone decides, a block may close.
    SecondPassed,
    /// A step begins, which has to gather its own requests to be passed. What is known stays known.
    StepBegins(Decides),
    /// A step begins, and what is known is forgotten: an operator resumed, or stable no longer runs beside the canary.
    StartsOver(Decides),
}

/// The evidence about one SLO.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Metric {
    pub(crate) worse: Comparison,
    pub(crate) canary: Objective,
    pub(crate) stable: Objective,
}

impl Trial {
    /// A generation's first step begins.
    pub fn new(plan: Plan, decides: Decides) -> Self {
        let metrics = plan.goals().iter().map(|_| Metric::new()).collect();
        Self {
            format: TRIAL_FORMAT,
            plan,
            decides,
            metrics,
            canary: Tallies::default(),
            stable: Tallies::default(),
            pending: Pending::default(),
            unsettled: Unsettled::default(),
        }
    }

    /// What it is about.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The canary's requests of this step.
    pub fn canary(&self) -> &Tallies {
        &self.canary
    }

    /// Stable's requests of this step.
    pub fn stable(&self) -> &Tallies {
        &self.stable
    }

    /// The trial after `event`.
    #[must_use]
    pub fn after(mut self, event: &TrialEvent) -> Self {
        self.take(event);
        self
    }

    /// The same in place.
    pub(crate) fn take(&mut self, event: &TrialEvent) {
        match event {
            TrialEvent::Finished(outcomes) => self.finished(outcomes),
            TrialEvent::SecondPassed => {
                if self.unsettled.canary.requests() >= WATCH_BLOCK {
                    self.settle();
                }
            }
            TrialEvent::StepBegins(decides) => {
                self.metrics.iter_mut().for_each(Metric::step_begins);
                self.begin(*decides);
            }
            TrialEvent::StartsOver(decides) => {
                self.metrics.iter_mut().for_each(Metric::starts_over);
                self.begin(*decides);
            }
        }
    }

    fn begin(&mut self, decides: Decides) {
        self.decides = decides;
        self.canary = Tallies::default();
        self.stable = Tallies::default();
        self.pending = Pending::default();
        self.unsettled = Unsettled::default();
    }

    fn finished(&mut self, outcomes: &Outcomes) {
        let mut stable = *outcomes.uncompared_stable();
        let mut canary = *outcomes.uncompared_canary();
        for block in outcomes.ordered() {
            self.pending.stable(&block.stable);
            self.pending.canary(block.canary);
            self.close();
            stable.add(&block.stable);
            canary.count(block.canary);
        }
        self.pending.stable(outcomes.after());
        stable.add(outcomes.after());
        self.canary.add(&canary);
        self.stable.add(&stable);
        self.unsettled.canary.add(&canary);
        self.unsettled.stable.add(&stable);
        if self.decides == Decides::SloAndStable {
            self.settle();
        }
    }

    /// Settles the bets on the SLOs, where order means nothing.
    fn settle(&mut self) {
        let Unsettled { canary, stable } = std::mem::take(&mut self.unsettled);
        for (index, (metric, goal)) in self.metrics.iter_mut().zip(self.plan.goals()).enumerate() {
            metric.canary.closed(goal.allowed, canary.tally(index));
            metric.stable.closed(goal.allowed, stable.tally(index));
        }
    }

    /// Settles the bets on the difference of a block, if it is whole.
    fn close(&mut self) {
        if !self.pending.is_whole() {
            return;
        }
        for (index, metric) in self.metrics.iter_mut().enumerate() {
            let differences = self.pending.differences(index);
            metric.worse.closed(self.plan.tolerance(), &differences);
        }
        self.pending = Pending::default();
    }
}

impl Metric {
    fn new() -> Self {
        Self {
            worse: Comparison::new(),
            canary: Objective::new(),
            stable: Objective::new(),
        }
    }

    fn step_begins(&mut self) {
        self.worse.step_begins();
        self.canary.step_begins();
        self.stable.step_begins();
    }

    fn starts_over(&mut self) {
        self.worse.starts_over();
        self.canary.starts_over();
        self.stable.starts_over();
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UncheckedTrial {
    format: u32,
    plan: Plan,
    decides: Decides,
    metrics: Vec<Metric>,
    canary: Tallies,
    stable: Tallies,
    pending: Pending,
    unsettled: Unsettled,
}

impl TryFrom<UncheckedTrial> for Trial {
    type Error = String;

    fn try_from(unchecked: UncheckedTrial) -> Result<Self, String> {
        if unchecked.format != TRIAL_FORMAT {
            return Err(format!(
                "a trial's state of format {} cannot be read, this version reads {TRIAL_FORMAT}",
                unchecked.format
            ));
        }
        if unchecked.metrics.len() != unchecked.plan.goals().len() {
            return Err(format!(
                "a trial with evidence about {} of {} SLOs; its state was damaged, start the rollout over",
                unchecked.metrics.len(),
                unchecked.plan.goals().len()
            ));
        }
        Ok(Self {
            format: unchecked.format,
            plan: unchecked.plan,
            decides: unchecked.decides,
            metrics: unchecked.metrics,
            canary: unchecked.canary,
            stable: unchecked.stable,
            pending: unchecked.pending,
            unsettled: unchecked.unsettled,
        })
    }
}
