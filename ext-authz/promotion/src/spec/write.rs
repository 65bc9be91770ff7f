//! Specification to document, every default written out.

use super::document::{AnalysisDoc, Document, Metadata, SkipAnalysisDoc, SloDoc, Spec, StageDoc, StepDoc};
use super::{API_VERSION, KIND, RolloutSpec, Slo, Stage};

impl From<RolloutSpec> for Document {
    fn from(rollout: RolloutSpec) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            metadata: Metadata { name: rollout.name },
            spec: Spec {
                version: rollout.version,
                stable: rollout.stable,
                salt: rollout.salt,
                r#match: rollout.r#match,
                admit: rollout.admit,
                key: rollout.key,
                flags: rollout.flags,
                record: rollout.record,
                stages: rollout.stages.into_iter().map(StageDoc::from).collect(),
                analysis: AnalysisDoc {
                    min_requests: rollout.analysis.min_requests,
                    alpha: rollout.analysis.alpha,
                    tolerance: rollout.analysis.tolerance,
                    deadline: rollout.analysis.deadline,
                    slos: rollout.analysis.slos.into_iter().map(SloDoc::from).collect(),
                },
                auto_rollback: rollout.auto_rollback,
            },
        }
    }
}

impl From<Stage> for StageDoc {
    fn from(stage: Stage) -> Self {
        let bare = Self {
            name: stage.name().to_owned(),
            steps: None,
            r#match: None,
            pause: None,
            deadline: None,
            skip_analysis: None,
            watch: None,
            approval: stage.approval().cloned(),
        };
        let skip = |reason: Option<String>| reason.map(|reason| SkipAnalysisDoc { reason });
        match stage {
            Stage::Canary { steps, .. } => {
                let steps = steps.into_iter().map(|step| StepDoc {
                    set_weight: step.weight,
                    pause: step.pause,
                    deadline: step.deadline,
                    skip_analysis: skip(step.skip_analysis),
                });
                Self {
                    steps: Some(steps.collect()),
                    ..bare
                }
            }
            Stage::Staging { picked, step, .. } => Self {
                r#match: Some(picked),
                pause: Some(step.pause),
                deadline: step.deadline,
                skip_analysis: skip(step.skip_analysis),
                ..bare
            },
            Stage::Production { watch, .. } => Self {
                watch: Some(watch),
                ..bare
            },
        }
    }
}

impl From<Slo> for SloDoc {
    fn from(slo: Slo) -> Self {
        let metric = slo.metric().to_owned();
        match slo {
            Slo::SuccessRate { min } => Self {
                metric,
                min: Some(min),
                quantile: None,
                max: None,
                outcome: None,
            },
            Slo::Duration { quantile, max } => Self {
                metric,
                min: None,
                quantile: Some(quantile),
                max: Some(max),
                outcome: None,
            },
            Slo::Outcome { outcome, min } => Self {
                metric,
                min: Some(min),
                quantile: None,
                max: None,
                outcome: Some(outcome),
            },
        }
    }
}
