//! Which stage and step of its specification a rollout is at.

use crate::sequential::Patience;
use crate::spec::{Approval, RolloutSpec, Span, Stage, Step};
use knhk_decision::spec::{StagingSpec, Weight};
use serde::{Deserialize, Serialize};

/// A step of a stage; the first of the first unless moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Place {
    /// Counted from 0.
    pub stage: usize,
    /// Counted from 0 within the stage; staging and production have one.
    pub step: usize,
}

impl Place {
    /// The next step, or the first of the next stage; none after the last.
    pub(crate) fn next(self, spec: &RolloutSpec) -> Option<Self> {
        let within = Self {
            step: self.step.saturating_add(1),
            ..self
        };
        let after = Self {
            stage: self.stage.saturating_add(1),
            step: 0,
        };
        [within, after]
            .into_iter()
            .find(|place| place.step_of(spec).is_some())
    }

    /// The production stage, if there is one.
    pub(crate) fn production(spec: &RolloutSpec) -> Option<Self> {
        let stage = spec
            .stages
            .iter()
            .position(|stage| matches!(stage, Stage::Production { .. }))?;
        Some(Self { stage, step: 0 })
    }

    /// The canary's share here; in staging that of the requests that are not picked. Nothing outside the specification has
    /// one.
    pub(crate) fn weight(self, spec: &RolloutSpec) -> Weight {
        self.step_of(spec).map_or(Weight::ZERO, |(weight, _)| weight)
    }

    /// Which requests go to the version whatever their key, where this is staging.
    pub(crate) fn picked(self, spec: &RolloutSpec) -> Option<&StagingSpec> {
        spec.staging()
            .filter(|(stage, _)| *stage == self.stage)
            .map(|(_, picked)| picked)
    }

    /// The least time that is spent here. A place outside the specification is never left by time.
    pub(crate) fn pause_ms(self, spec: &RolloutSpec) -> u64 {
        self.step_of(spec).map_or(u64::MAX, |(_, pause)| pause.millis())
    }

    /// Whether a step that has lived so long may go on waiting for its evidence.
    pub(crate) fn patience(self, spec: &RolloutSpec, lived_ms: u64) -> Patience {
        match self.deadline_ms(spec) {
            Some(deadline) if lived_ms >= deadline => Patience::Over,
            Some(_) | None => Patience::Left,
        }
    }

    /// `canary`, `staging` or `production`.
    pub(crate) fn stage_name(self, spec: &RolloutSpec) -> &'static str {
        spec.stages.get(self.stage).map_or("none", Stage::name)
    }

    /// How many steps this stage has.
    pub(crate) fn steps(self, spec: &RolloutSpec) -> usize {
        match spec.stages.get(self.stage) {
            Some(Stage::Canary { steps, .. }) => steps.len(),
            Some(Stage::Staging { .. } | Stage::Production { .. }) => 1,
            None => 0,
        }
    }

    /// How long a step may wait for its evidence, from its beginning; none where it may wait for ever.
    pub(crate) fn deadline_ms(self, spec: &RolloutSpec) -> Option<u64> {
        let own = self.step(spec).and_then(|step| step.deadline);
        own.or(spec.analysis.deadline).map(Span::millis)
    }

    /// Who has to approve before the rollout goes on from here; none where nobody has to.
    pub(crate) fn gate(self, spec: &RolloutSpec) -> Option<&Approval> {
        let next = self.next(spec).filter(|next| next.stage != self.stage)?;
        spec.stages.get(next.stage)?.approval()
    }

    /// Who has to approve first on the way from here to the end.
    pub(crate) fn gate_ahead(self, spec: &RolloutSpec) -> Option<&Approval> {
        let mut ahead = spec.stages.iter().skip(self.stage.saturating_add(1));
        ahead.find_map(Stage::approval)
    }

    /// Why this step needs no evidence, where its operator has said so.
    pub(crate) fn skipped(self, spec: &RolloutSpec) -> Option<&str> {
        self.step(spec)?.skip_analysis.as_deref()
    }

    fn step(self, spec: &RolloutSpec) -> Option<&Step> {
        match spec.stages.get(self.stage)? {
            Stage::Canary { steps, .. } => steps.get(self.step),
            Stage::Staging { step, .. } => (self.step == 0).then_some(step),
            Stage::Production { .. } => None,
        }
    }

    fn step_of(self, spec: &RolloutSpec) -> Option<(Weight, Span)> {
        match spec.stages.get(self.stage)? {
            Stage::Canary { .. } | Stage::Staging { .. } => {
                self.step(spec).map(|step| (step.weight, step.pause))
            }
            Stage::Production { watch, .. } => (self.step == 0).then_some((Weight::FULL, *watch)),
        }
    }
}
