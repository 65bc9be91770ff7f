//! What a rollout does by itself when it is looked at.

use crate::counts::Now;
use crate::finding::{Finding, Reading};
use crate::history::{ITSELF, What};
use crate::phase::{FailReason, PauseReason, Phase};
use crate::reporters::Weighed;
use crate::rollout::{Act, Rollout};
use crate::sequential::{Decision, Verdict};
use crate::step::{Effect, transition};
use crate::text::Time;
use knhk_decision::spec::Weight;
use std::sync::Arc;

/// How much time a step lives through before it is persisted again, in milliseconds.
pub const PERSIST_EVERY_MS: u64 = 1_000;

/// Judges the window and moves on, back, or not at all. `next` is `before` with its time lived and its reports heard.
pub(crate) fn look(before: &Rollout, next: &mut Rollout, evidence: &Weighed, now: Now) -> Vec<Effect> {
    let a_second_passed = next.pass_in_trials(now);
    let Verdict { decision, readings } = next.verdict(evidence, now);
    let (what, why) = match decide(next, decision) {
        Move::None => return unmoved(before, next, a_second_passed),
        Move::RollBack => {
            next.phase = Phase::Failed(FailReason::SloViolated);
            next.open_window(now);
            (What::RolledBack, because(&readings, Finding::Worse))
        }
        Move::Pause(reason) => {
            next.phase = Phase::Paused(reason);
            let why = match reason {
                PauseReason::StableAlsoFailing => because(&readings, Finding::StableAlso),
                PauseReason::AwaitingApproval => next.passed_to_gate(&readings, decision),
                PauseReason::Inconclusive => next.inconclusive(&readings),
                PauseReason::Operator | PauseReason::SloViolated => because(&readings, Finding::Worse),
            };
            (What::Paused, why)
        }
        Move::Resume => {
            next.phase = Phase::Progressing;
            (What::Resumed, because(&readings, Finding::Met))
        }
        Move::Advance => {
            let why = next.passed(&readings, decision);
            (next.go_on(now), why)
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

fn decide(rollout: &Rollout, decision: Decision) -> Move {
    let is_skipped = rollout.place.skipped(&rollout.spec).is_some();
    match (rollout.phase, decision) {
        (Phase::Paused(PauseReason::SloViolated), Decision::RollBack) if !rollout.spec.auto_rollback => {
            Move::None
        }
        (Phase::Progressing | Phase::Paused(_), Decision::RollBack) => {
            if rollout.spec.auto_rollback {
                Move::RollBack
            } else {
                Move::Pause(PauseReason::SloViolated)
            }
        }
        (Phase::Progressing, Decision::StableAlsoFailing) => Move::Pause(PauseReason::StableAlsoFailing),
        (Phase::Progressing, Decision::Pass) if rollout.has_lived() => on(rollout),
        (Phase::Progressing, Decision::Wait | Decision::Inconclusive)
            if is_skipped && rollout.has_lived() =>
        {
            on(rollout)
        }
        (Phase::Progressing, Decision::Inconclusive) => Move::Pause(PauseReason::Inconclusive),
        (Phase::Paused(PauseReason::StableAlsoFailing), Decision::Pass) => Move::Resume,
        _ => Move::None,
    }
}

/// A step is passed.
fn on(rollout: &Rollout) -> Move {
    match rollout.place.gate(&rollout.spec) {
        Some(_) => Move::Pause(PauseReason::AwaitingApproval),
        None => Move::Advance,
    }
}

/// What was lived is persisted each second, and so is what was heard.
fn unmoved(before: &Rollout, next: &Rollout, a_second_passed: bool) -> Vec<Effect> {
    let lived = before.lived_ms() / PERSIST_EVERY_MS != next.lived_ms() / PERSIST_EVERY_MS;
    let is_heard = next.phase != Phase::Progressing && a_second_passed;
    if lived || is_heard {
        vec![Effect::Changed]
    } else {
        Vec::new()
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

    /// Time goes on for what is known, too. True when a second is over.
    fn pass_in_trials(&mut self, now: Now) -> bool {
        self.trials
            .as_mut()
            .is_some_and(|trials| Arc::make_mut(trials).pass(now))
    }

    /// Why a step is passed.
    fn passed(&self, readings: &[Reading], decision: Decision) -> String {
        match self.place.skipped(&self.spec) {
            _ if readings.is_empty() => "its pause is over, at weight 0 there is nothing to judge".to_owned(),
            Some(reason) if decision != Decision::Pass => format!("analysis skipped: {reason}"),
            Some(_) | None => because(readings, Finding::Met),
        }
    }

    /// Why it waits for an approval.
    fn passed_to_gate(&self, readings: &[Reading], decision: Decision) -> String {
        let gate = self
            .place
            .gate(&self.spec)
            .map_or_else(String::new, |gate| gate.by.join(", "));
        format!("to be approved by {gate}; {}", self.passed(readings, decision))
    }

    /// What a step lacks that has not gathered its evidence in time.
    fn inconclusive(&self, readings: &[Reading]) -> String {
        let deadline = Time(self.place.deadline_ms(&self.spec).unwrap_or_default());
        let lacking = readings.iter().filter(|reading| reading.finding != Finding::Met);
        let lacking: Vec<String> = lacking.map(ToString::to_string).collect();
        format!(
            "no evidence to go on within {deadline}, and none to go back: {}",
            lacking.join("; ")
        )
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
        if self.weight() != Weight::FULL || self.picked().is_some() {
            self.open_window(now);
        }
        self.phase = Phase::Succeeded;
        self.succeeded.clone_from(&self.spec.version);
    }
}
