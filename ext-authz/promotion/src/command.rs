//! What operators tell a rollout to do.

use crate::apply;
use crate::counts::Now;
use crate::history::What;
use crate::phase::{FailReason, PauseReason, Phase};
use crate::place::Place;
use crate::refusal::Refusal;
use crate::rollout::{Act, Rollout};
use crate::spec::{MAX_REASON_BYTES, RolloutSpec};
use crate::step::{Effect, transition};

/// An operator's command.
// Commands are rare and carried out at once, so the size of `Apply` costs nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Another specification; the table in `apply.rs` says what each change does. The same one again does nothing.
    Apply(RolloutSpec),
    /// To the next step at once, whatever the evidence; after the last one, to success. Ends a pause.
    Promote {
        /// To the production stage, or to success where there is none.
        full: bool,
        /// Why without its evidence, where the operator says so.
        reason: Option<String>,
    },
    /// Into the stage that asks for it.
    Approve,
    /// Stay at this weight. The canary is still watched.
    Pause,
    /// Go on. After a pause that an SLO caused, on new counts.
    Resume,
    /// Weight 0, Failed.
    Abort,
    /// A new generation from the first step, after Failed.
    Retry,
}

impl Command {
    /// A stable, low-cardinality name.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Apply(_) => "apply",
            Self::Promote { .. } => "promote",
            Self::Approve => "approve",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::Retry => "retry",
        }
    }
}

/// Carries the command out on `next`, which is `before` with its time lived, or refuses it.
pub(crate) fn obey(
    before: &Rollout,
    next: &mut Rollout,
    by: &str,
    command: Command,
    now: Now,
) -> Result<Vec<Effect>, Refusal> {
    let label = command.label();
    let (what, why) = match command {
        Command::Apply(spec) if spec == *before.spec => {
            next.clone_from(before);
            return Ok(Vec::new());
        }
        Command::Apply(spec) => apply::apply(next, spec, now)?,
        Command::Promote { full, reason } => promote(next, full, reason.as_deref(), now)?,
        Command::Approve => approve(next, by, now)?,
        Command::Pause => pause(next)?,
        Command::Resume => resume(next, now)?,
        Command::Abort => abort(next, now)?,
        Command::Retry => retry(next, now)?,
    };
    let why = if why.is_empty() { label.to_owned() } else { why };
    Ok(transition(
        before,
        next,
        Act {
            who: by,
            what,
            why,
            readings: Vec::new(),
            reporters: None,
        },
        now,
    ))
}

fn promote(
    rollout: &mut Rollout,
    full: bool,
    reason: Option<&str>,
    now: Now,
) -> Result<(What, String), Refusal> {
    under_way(rollout, "promote")?;
    if reason.is_some_and(|reason| !is_reason(reason)) {
        return Err(Refusal::Reason);
    }
    let production = Place::production(&rollout.spec);
    let gate = if full {
        rollout.place.gate_ahead(&rollout.spec)
    } else {
        rollout.place.gate(&rollout.spec)
    };
    if let Some(gate) = gate {
        return Err(Refusal::needs_approval("promote", gate));
    }
    let (what, why) = match (full, production) {
        (true, Some(place)) if place == rollout.place => {
            return Err(Refusal::InProduction {
                version: rollout.spec.version.clone(),
            });
        }
        (true, Some(place)) => {
            rollout.phase = Phase::Progressing;
            rollout.enter(place, now);
            (What::Promoted, "straight to production")
        }
        (true, None) => {
            rollout.succeed(now);
            (What::Succeeded, "promoted straight to 100 %")
        }
        (false, _) => match rollout.go_on(now) {
            What::Succeeded => (What::Succeeded, "promoted past the last step"),
            _ => (What::Promoted, "to the next step"),
        },
    };
    Ok((
        what,
        reason.map_or_else(|| why.to_owned(), |reason| format!("{why}: {reason}")),
    ))
}

fn is_reason(reason: &str) -> bool {
    (1..=MAX_REASON_BYTES).contains(&reason.trim().len()) && !reason.chars().any(char::is_control)
}

fn approve(rollout: &mut Rollout, by: &str, now: Now) -> Result<(What, String), Refusal> {
    under_way(rollout, "approve")?;
    let waits = rollout.phase == Phase::Paused(PauseReason::AwaitingApproval);
    let gate = rollout.place.gate(&rollout.spec).filter(|_| waits);
    let gate = gate.ok_or(Refusal::NothingToApprove)?;
    if !gate.by.iter().any(|approver| approver == by) {
        return Err(Refusal::NotAnApprover {
            by: by.to_owned(),
            approvers: gate.by.join(", "),
        });
    }
    rollout.go_on(now);
    let stage = rollout.place.stage_name(&rollout.spec);
    Ok((What::Approved, format!("into {stage}")))
}

fn pause(rollout: &mut Rollout) -> Result<(What, String), Refusal> {
    under_way(rollout, "pause")?;
    if rollout.phase == Phase::Paused(PauseReason::Operator) {
        return Err(Refusal::AlreadyPaused {
            weight: rollout.weight(),
        });
    }
    rollout.phase = Phase::Paused(PauseReason::Operator);
    Ok((What::Paused, String::new()))
}

fn resume(rollout: &mut Rollout, now: Now) -> Result<(What, String), Refusal> {
    under_way(rollout, "resume")?;
    let Phase::Paused(reason) = rollout.phase else {
        return Err(Refusal::NotPaused);
    };
    if let (PauseReason::AwaitingApproval, Some(gate)) = (reason, rollout.place.gate(&rollout.spec)) {
        return Err(Refusal::needs_approval("resume", gate));
    }
    rollout.phase = Phase::Progressing;
    match reason {
        PauseReason::Operator | PauseReason::AwaitingApproval => Ok((What::Resumed, String::new())),
        PauseReason::Inconclusive => {
            rollout.lived.start(now);
            Ok((What::Resumed, "its deadline begins anew".to_owned()))
        }
        PauseReason::StableAlsoFailing | PauseReason::SloViolated => {
            rollout.open_window(now);
            Ok((What::Resumed, "on new counts".to_owned()))
        }
    }
}

fn abort(rollout: &mut Rollout, now: Now) -> Result<(What, String), Refusal> {
    if rollout.phase == Phase::Succeeded {
        return Err(Refusal::AbortAfterSuccess {
            version: rollout.spec.version.clone(),
            stable: rollout.spec.stable.clone(),
        });
    }
    under_way(rollout, "abort")?;
    rollout.phase = Phase::Failed(FailReason::Aborted);
    rollout.open_window(now);
    Ok((What::Aborted, String::new()))
}

fn retry(rollout: &mut Rollout, now: Now) -> Result<(What, String), Refusal> {
    match rollout.phase {
        Phase::Failed(_) => {
            rollout.begin_generation(now);
            Ok((What::Retried, "from the first step".to_owned()))
        }
        Phase::Succeeded => Err(Refusal::HasSucceeded {
            command: "retry",
            version: rollout.spec.version.clone(),
        }),
        Phase::Progressing => Err(Refusal::not_failed(None)),
        Phase::Paused(reason) => Err(Refusal::not_failed(Some(reason))),
    }
}

fn under_way(rollout: &Rollout, command: &'static str) -> Result<(), Refusal> {
    let version = || rollout.spec.version.clone();
    match rollout.phase {
        Phase::Progressing | Phase::Paused(_) => Ok(()),
        Phase::Succeeded => Err(Refusal::HasSucceeded {
            command,
            version: version(),
        }),
        Phase::Failed(_) => Err(Refusal::HasFailed {
            command,
            version: version(),
        }),
    }
}

impl Rollout {
    /// The next generation, at the first step.
    pub(crate) fn begin_generation(&mut self, now: Now) {
        self.generation = self.generation.saturating_add(1);
        self.phase = Phase::Progressing;
        self.enter(Place::default(), now);
    }
}
