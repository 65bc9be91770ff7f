//! What a rollout does by itself when it is looked at.

use crate::analysis::{Finding, Reading};
use crate::counts::Now;
use crate::history::{ITSELF, What};
use crate::phase::{FailReason, PauseReason, Phase};
use crate::reporters::Weighed;
use crate::rollout::{Act, Rollout};
use crate::step::{Effect, transition};
use knhk_decision::spec::Weight;

/// How much time a step lives through before it is persisted again, in milliseconds.
pub const PERSIST_EVERY_MS: u64 = 1_000;

/// Judges the window and moves on, back, or not at all. `next` is `before` with its time lived.
pub(crate) fn look(before: &Rollout, next: &mut Rollout, evidence: &Weighed, now: Now) -> Vec<Effect> {
    let readings = next.readings(evidence);
    let (what, why) = match decide(next, &readings) {
        Move::None => return lived(before, next),
        Move::RollBack => {
            next.phase = Phase::Failed(FailReason::SloViolated);
            next.open_window(now);
            (What::RolledBack, because(&readings, Finding::Worse))
        }
        Move::Pause(reason) => {
            next.phase = Phase::Paused(reason);
            let finding = match reason {
                PauseReason::StableAlsoFailing => Finding::StableAlso,
                PauseReason::Operator | PauseReason::SloViolated => Finding::Worse,
            };
            (What::Paused, because(&readings, finding))
        }
        Move::Resume => {
            next.phase = Phase::Progressing;
            (What::Resumed, because(&readings, Finding::Met))
        }
        Move::Advance => {
            let what = next.go_on(now);
            let why = if readings.is_empty() {
                "its pause is over, at weight 0 there is nothing to judge".to_owned()
            } else {
                because(&readings, Finding::Met)
            };
            (what, why)
        }
    };
    let reporters = before.provenance(evidence).cloned();
    let why = match &reporters {
        Some(reporters) => format!("{why}; {reporters}"),
        None => why,
    };
    let act = Act {
        who: ITSELF,
        what,
        why,
        readings,
        reporters,
    };
    transition(before, next, act, now)
}

enum Move {
    None,
    RollBack,
    Pause(PauseReason),
    Resume,
    Advance,
}

fn decide(rollout: &Rollout, readings: &[Reading]) -> Move {
    let found = |finding| readings.iter().any(|reading| reading.finding == finding);
    // At weight 0 there is no canary, no reading, and nothing but time to wait for.
    let all_met = readings.iter().all(|reading| reading.finding == Finding::Met);
    match rollout.phase {
        Phase::Progressing | Phase::Paused(_) if found(Finding::Worse) => {
            if rollout.spec.auto_rollback {
                Move::RollBack
            } else if rollout.phase == Phase::Paused(PauseReason::SloViolated) {
                Move::None
            } else {
                Move::Pause(PauseReason::SloViolated)
            }
        }
        Phase::Progressing if found(Finding::StableAlso) => Move::Pause(PauseReason::StableAlsoFailing),
        Phase::Progressing if all_met && rollout.has_lived() => Move::Advance,
        Phase::Paused(PauseReason::StableAlsoFailing) if all_met => Move::Resume,
        Phase::Progressing | Phase::Paused(_) | Phase::Succeeded | Phase::Failed(_) => Move::None,
    }
}

fn lived(before: &Rollout, next: &Rollout) -> Vec<Effect> {
    if before.lived_ms() / PERSIST_EVERY_MS == next.lived_ms() / PERSIST_EVERY_MS {
        Vec::new()
    } else {
        vec![Effect::Changed]
    }
}

/// The numbers of the SLOs with this finding, in one line.
fn because(readings: &[Reading], finding: Finding) -> String {
    let lines: Vec<String> = readings
        .iter()
        .filter(|reading| reading.finding == finding)
        .map(ToString::to_string)
        .collect();
    lines.join("; ")
}

impl Rollout {
    /// Whether the step's pause is over.
    pub(crate) fn has_lived(&self) -> bool {
        self.lived_ms() >= self.place.pause_ms(&self.spec)
    }

    /// To the next step, or to success after the last.
    pub(crate) fn go_on(&mut self, now: Now) -> What {
        if let Some(place) = self.place.next(&self.spec) {
            self.phase = Phase::Progressing;
            self.enter(place, now);
            What::Advanced
        } else {
            self.succeed(now);
            What::Succeeded
        }
    }

    /// Every request to the version, from now on.
    pub(crate) fn succeed(&mut self, now: Now) {
        if self.weight() != Weight::FULL {
            self.open_window(now);
        }
        self.phase = Phase::Succeeded;
        self.succeeded.clone_from(&self.spec.version);
    }
}
