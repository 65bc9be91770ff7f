//! Why a rollout is where it is: what `knhk rollout status` shows.

use crate::counts::{LOOK_EVERY_MS, Now};
use crate::finding::{Finding, Reading};
use crate::phase::{PauseReason, Phase};
use crate::reporters::{Provenance, Weighed};
use crate::rollout::Rollout;
use crate::text::{Picked, Share, Time};
use knhk_decision::spec::Weight;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A rollout's present decision and everything that it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The rollout.
    pub name: String,
    /// Its generation.
    pub generation: u64,
    /// The version that is rolled out.
    pub version: String,
    /// The version that it replaces.
    pub stable: String,
    /// `Progressing`, `Paused`, `Succeeded` or `Failed`.
    pub phase: Cow<'static, str>,
    /// The phase's reason, where it has one: `operator`, `stable-also-failing`, `slo-violated`, `aborted`.
    pub reason: Option<Cow<'static, str>>,
    /// Why the last transition happened, with its numbers.
    pub because: Option<String>,
    /// `canary`, `staging` or `production`.
    pub stage: Cow<'static, str>,
    /// In staging: which requests go to the version whatever their key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picked: Option<String>,
    /// The step within the stage, counted from 1.
    pub step: usize,
    /// How many steps the stage has.
    pub steps: usize,
    /// The canary's share, in percent; in staging that of the requests that are not picked.
    pub weight: Weight,
    /// The observation window.
    pub window: u64,
    /// What the step has lived through, in milliseconds.
    pub elapsed_ms: u64,
    /// The least time of the step, in milliseconds.
    pub pause_ms: u64,
    /// The canary's requests that a step needs.
    pub min_requests: u64,
    /// One for each SLO, while there is a canary to judge.
    pub metrics: Vec<Reading>,
    /// Who reported these numbers, and how much of it counts; none where no identity was proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reporters: Option<Provenance>,
    /// What has to happen before it goes on; empty when it has ended.
    pub waits_for: Vec<String>,
    /// What comes next, in one line.
    pub next: String,
    /// Unix time in milliseconds of the next look; none when nothing is judged any more.
    pub next_look_wall_ms: Option<u64>,
}

impl Rollout {
    /// Explains the present decision by the evidence that it is made from.
    pub fn explain(&self, evidence: &Weighed, now: Now) -> Explanation {
        let metrics = self.verdict(evidence, now).readings;
        let under_way = self.phase.is_under_way();
        Explanation {
            name: self.spec.name.clone(),
            generation: self.generation,
            version: self.spec.version.clone(),
            stable: self.spec.stable.clone(),
            phase: self.phase.label().into(),
            reason: self.phase.reason().map(Cow::from),
            because: self.history().last().map(|entry| entry.why.clone()),
            stage: self.place.stage_name(&self.spec).into(),
            picked: self.picked().map(|picked| Picked(picked).to_string()),
            step: self.place.step.saturating_add(1),
            steps: self.place.steps(&self.spec),
            weight: self.weight(),
            window: self.window,
            elapsed_ms: self.lived_ms(),
            pause_ms: self.place.pause_ms(&self.spec),
            min_requests: self.spec.analysis.min_requests,
            waits_for: self.waits_for(&metrics),
            metrics,
            reporters: self.provenance(evidence).cloned(),
            next: self.next(),
            next_look_wall_ms: under_way.then(|| now.wall_ms.saturating_add(LOOK_EVERY_MS)),
        }
    }

    fn waits_for(&self, metrics: &[Reading]) -> Vec<String> {
        let command = match self.phase {
            Phase::Succeeded | Phase::Failed(_) => return Vec::new(),
            Phase::Progressing => None,
            Phase::Paused(PauseReason::Operator) => Some("an operator's resume, promote or abort"),
            Phase::Paused(PauseReason::SloViolated) => {
                Some("an operator's abort, resume or promote: autoRollback is false")
            }
            Phase::Paused(PauseReason::AwaitingApproval) => {
                let gate = self.place.gate(&self.spec);
                let by = gate.map_or_else(String::new, |gate| gate.by.join(", "));
                return vec![format!("an approval by {by}, or an operator's abort")];
            }
            Phase::Paused(PauseReason::Inconclusive) => Some(
                "an operator's resume, which gives it as long again, promote or abort: its deadline is over",
            ),
            Phase::Paused(PauseReason::StableAlsoFailing) => {
                Some("the canary to meet every SLO again, or an operator's resume, which starts new counts")
            }
        };
        let mut waits: Vec<String> = command.map(str::to_owned).into_iter().collect();
        let pause = self.place.pause_ms(&self.spec);
        if !self.has_lived() {
            let left = pause.saturating_sub(self.lived_ms());
            waits.push(format!("{} more of the pause of {}", Time(left), Time(pause)));
        }
        if let Some(reason) = self.place.skipped(&self.spec) {
            waits.push(format!("no evidence, its analysis is skipped: {reason}"));
            return waits;
        }
        waits.extend(metrics.iter().filter_map(|metric| self.lacks(metric)));
        if let (Some(deadline), Phase::Progressing) = (self.place.deadline_ms(&self.spec), self.phase) {
            let left = deadline.saturating_sub(self.lived_ms());
            waits.push(format!(
                "at most {} more: then it is inconclusive, and holds",
                Time(left)
            ));
        }
        waits
    }

    /// What an SLO lacks to be passed.
    fn lacks(&self, metric: &Reading) -> Option<String> {
        let (slo, own) = (&metric.slo, metric.own());
        let whose = if metric.staging.is_some() {
            "staging"
        } else {
            "the canary"
        };
        if let Some(identity) = &metric.rests_on {
            return Some(format!(
                "what others than {identity} report, who is not enough alone: {metric}"
            ));
        }
        match metric.finding {
            Finding::Met => None,
            Finding::TooFew => {
                let missing = self.spec.analysis.min_requests - own.requests;
                Some(format!(
                    "{missing} more requests of {whose} for {slo} ({} so far)",
                    own.requests
                ))
            }
            Finding::Missed => Some(format!(
                "{slo}: {} of {whose}'s requests are bad and {} allowed, which may still be chance (evidence {:.1e} of {:.1e})",
                Share(own.share().max(metric.canary.share())),
                Share(metric.allowed),
                metric.violated,
                metric.bound
            )),
            Finding::Violated => Some(format!(
                "evidence about stable, because the SLO is violated: {metric}"
            )),
            Finding::StableAlso => Some(format!("stable to recover: {metric}")),
            Finding::Worse => Some(format!("the next look, which acts on it: {metric}")),
        }
    }

    fn next(&self) -> String {
        let (version, stable) = (&self.spec.version, &self.spec.stable);
        match self.phase {
            Phase::Succeeded => format!("{version} has every request; apply another version to go on"),
            Phase::Failed(_) => format!("{stable} has every request; retry, or apply another version"),
            Phase::Progressing | Phase::Paused(_) => match self.place.next(&self.spec) {
                Some(place) => {
                    let (stage, weight) = (place.stage_name(&self.spec), place.weight(&self.spec));
                    match place.picked(&self.spec) {
                        Some(picked) => format!("{stage}: {}; the others at {weight}", Picked(picked)),
                        None => format!("{stage} at {weight}"),
                    }
                }
                None => format!("{version} succeeds and keeps every request"),
            },
        }
    }
}
