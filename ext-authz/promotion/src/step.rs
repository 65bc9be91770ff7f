//! The state machine: (state, event, now) -> (state, effects).

use crate::command::{self, Command};
use crate::counts::Now;
use crate::history::HistoryEntry;
use crate::phase::Phase;
use crate::refusal::Refusal;
use crate::reporters::Weighed;
use crate::rollout::{Act, Rollout};
use crate::tick;
use crate::trials::Reported;
use std::sync::Arc;

/// The most reports that a look takes. What is over it is left out, whatever it says; so a service that may have more
/// adds them up before, without their order.
pub const MAX_REPORTS_PER_LOOK: usize = 4_096;

/// What happens to a rollout.
// Events are passed on at once and never stored, so the size of the rare command costs nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// The service looks, each [`crate::LOOK_EVERY_MS`]: time goes on.
    ///
    /// `reports` and `evidence` are of the window that the rollout is at ([`Rollout::window`]); of another one they say
    /// nothing. Each report is told once, in the order in which it came: a report that is told twice is bet on twice, and
    /// breaks the promise. One that is left out costs evidence and no more, as long as it is not chosen by what it says.
    /// Also left out is a worker's first report after [`Event::Restarted`] in a window that was under way before, because
    /// a part of it may have been told already.
    Looked {
        /// The counts of the whole window: what a step is passed by, and who is believed.
        evidence: &'a Weighed,
        /// What came since the look before, at most [`MAX_REPORTS_PER_LOOK`] are taken.
        reports: &'a [Reported],
    },
    /// An operator acts.
    Command {
        /// Who.
        by: &'a str,
        /// What.
        command: Command,
    },
    /// The service started anew: its monotonic clock has another beginning, the time before it does not count.
    Restarted,
}

/// What the service has to do about a step, in this order.
// Most steps have no effects, and a transition has three.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// [`Rollout::rule`] is another one: send filters a new snapshot.
    PolicyChanged,
    /// A transition, for the receipts.
    Recorded(HistoryEntry),
    /// The state must be persisted.
    Changed,
}

/// What the event makes of the rollout. A refused command leaves it untouched; only commands are refused.
///
/// Without effects the new state differs at most in the time that was lived, less than [`crate::PERSIST_EVERY_MS`]
/// since the state was last to be persisted: after a crash a pause may last so much longer, never shorter.
pub fn step(rollout: &Rollout, event: Event<'_>, now: Now) -> Result<(Rollout, Vec<Effect>), Refusal> {
    let mut next = rollout.clone();
    let effects = match event {
        Event::Looked { evidence, reports } => {
            live(&mut next, now);
            next.hear(
                reports.get(..MAX_REPORTS_PER_LOOK).unwrap_or(reports),
                evidence,
                now,
            );
            tick::look(rollout, &mut next, evidence, now)
        }
        Event::Command { by, command } => {
            live(&mut next, now);
            command::obey(rollout, &mut next, by, command, now)?
        }
        Event::Restarted => {
            next.lived.skip(now);
            if let Some(trials) = &mut next.trials {
                Arc::make_mut(trials).restarted(now);
            }
            vec![Effect::Changed]
        }
    };
    Ok((next, effects))
}

fn live(rollout: &mut Rollout, now: Now) {
    if rollout.phase == Phase::Progressing {
        rollout.lived.live(now);
    } else {
        rollout.lived.skip(now);
    }
}

/// Records the transition from `before` to `next`, and says what is to be done about it.
pub(crate) fn transition(before: &Rollout, next: &mut Rollout, act: Act<'_>, now: Now) -> Vec<Effect> {
    next.carry_on(before);
    let entry = next.record(Some(before), act, now);
    let mut effects = Vec::with_capacity(3);
    if before.rule() != next.rule() {
        effects.push(Effect::PolicyChanged);
    }
    effects.push(Effect::Recorded(entry));
    effects.push(Effect::Changed);
    effects
}
