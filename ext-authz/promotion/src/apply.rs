//! `apply` on a rollout that exists: what each kind of change does.
//!
//! | change | Progressing, Paused | Succeeded, Failed |
//! |---|---|---|
//! | none | nothing | nothing |
//! | another `version` | a new generation from the first step | the same |
//! | `stages`, `match`, `key`, `salt` | a new generation from the first step: they say who sees the canary, and when | taken over |
//! | `analysis` | goes on at its step, judged by the new rule on new counts; the time lived still counts | taken over |
//! | `admit`, `flags`, `record`, `autoRollback` | goes on as it was: who is denied is no version's request | taken over |
//! | `stable` alone | refused | refused |
//!
//! Another version may replace one that is under way, which then never succeeded: `stable` is the version that last did.
//! A failed version stays failed whatever else is changed: only `retry` and another version put weight on a canary.

use crate::counts::Now;
use crate::history::What;
use crate::phase::Phase;
use crate::refusal::Refusal;
use crate::rollout::Rollout;
use crate::spec::RolloutSpec;
use std::sync::Arc;

/// Applies `spec`, which is not the one that was applied last.
pub(crate) fn apply(rollout: &mut Rollout, spec: RolloutSpec, now: Now) -> Result<(What, String), Refusal> {
    if spec.name != rollout.spec.name {
        return Err(Refusal::OtherName {
            name: rollout.spec.name.clone(),
            given: spec.name,
        });
    }
    if spec.version == rollout.spec.version {
        change(rollout, spec, now)
    } else {
        replace(rollout, spec, now)
    }
}

/// Another version: a new generation.
fn replace(rollout: &mut Rollout, spec: RolloutSpec, now: Now) -> Result<(What, String), Refusal> {
    if spec.version == rollout.succeeded {
        return Err(Refusal::AlreadyStable {
            version: spec.version,
        });
    }
    if spec.stable != rollout.succeeded {
        return Err(Refusal::NotTheStable {
            given: spec.stable,
            succeeded: rollout.succeeded.clone(),
        });
    }
    let mut why = format!("{} beside {}", spec.version, spec.stable);
    if rollout.phase.is_under_way() {
        why = format!(
            "{why}, instead of {} at {}",
            rollout.spec.version,
            rollout.weight()
        );
    }
    rollout.spec = Arc::new(spec);
    rollout.begin_generation(now);
    Ok((What::Applied, why))
}

/// The same version, otherwise changed.
fn change(rollout: &mut Rollout, spec: RolloutSpec, now: Now) -> Result<(What, String), Refusal> {
    let before = Arc::clone(&rollout.spec);
    if spec.stable != before.stable {
        return Err(Refusal::StableChanged {
            version: spec.version,
            stable: before.stable.clone(),
            given: spec.stable,
        });
    }
    let changed = changes(&before, &spec);
    let restarts = spec.stages != before.stages
        || spec.r#match != before.r#match
        || spec.key != before.key
        || spec.salt != before.salt;
    let judged_anew = spec.analysis != before.analysis;
    rollout.spec = Arc::new(spec);
    match rollout.phase {
        Phase::Progressing | Phase::Paused(_) if restarts => {
            rollout.begin_generation(now);
            Ok((
                What::Applied,
                format!("changed {changed}: from the first step again"),
            ))
        }
        Phase::Progressing | Phase::Paused(_) if judged_anew => {
            rollout.open_window(now);
            Ok((What::Changed, format!("changed {changed}: judged on new counts")))
        }
        phase => {
            if restarts || judged_anew {
                // Nobody judges, but counts of two kinds must not meet under one number.
                rollout.open_window(now);
            }
            let retry = if matches!(phase, Phase::Failed(_)) {
                ": retry to start it"
            } else {
                ""
            };
            Ok((What::Changed, format!("changed {changed}{retry}")))
        }
    }
}

fn changes(before: &RolloutSpec, after: &RolloutSpec) -> String {
    let fields = [
        ("stages", before.stages != after.stages),
        ("match", before.r#match != after.r#match),
        ("key", before.key != after.key),
        ("salt", before.salt != after.salt),
        ("admit", before.admit != after.admit),
        ("flags", before.flags != after.flags),
        ("analysis", before.analysis != after.analysis),
        ("record", before.record != after.record),
        ("autoRollback", before.auto_rollback != after.auto_rollback),
    ];
    let changed: Vec<&str> = fields
        .into_iter()
        .filter(|(_, changed)| *changed)
        .map(|(name, _)| name)
        .collect();
    changed.join(", ")
}
