//! What holds for every rollout under every sequence of events.

use crate::reports::Told;
use crate::run::{SPEC, spec};
use knhk_decision::spec::Weight;
use knhk_promotion::spec::Stage;
use knhk_promotion::{
    Command, Counts, Effect, Event, Finding, MAX_GAP_MS, Now, Phase, Place, Rollout, RolloutSpec, What,
    WindowCounts, create, step,
};
use proptest::prelude::*;
use proptest::sample::select;

/// An event, with the counts of a look already bound to a window.
// There are a few hundred at a time: a box would only be in the way of the patterns below.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
enum Input {
    Look {
        stale: bool,
        stable: Counts,
        canary: Counts,
        staging: Counts,
    },
    Command(Command),
    Restarted,
}

/// How the clocks move before an event.
#[derive(Debug, Clone, Copy)]
enum Clock {
    Pass(u64),
    WallTo(u64),
    MonoTo(u64),
}

const STAGING: &str =
    "    - { name: staging, match: { headers: [ { name: x-tester, present: true } ] }, pause: 2s }\n";

fn specs() -> Vec<RolloutSpec> {
    [
        SPEC.to_owned(),
        SPEC.replace("version: v42", "version: v43"),
        SPEC.replace("version: v42", "version: v43")
            .replace("stable: v41", "stable: v42"),
        SPEC.replace("setWeight: 1, pause: 2s", "setWeight: 0, pause: 1s"),
        SPEC.replace("setWeight: 50", "setWeight: 100"),
        SPEC.replace("max: 250ms", "max: 10ms"),
        SPEC.replace("    - { name: production, watch: 4s }\n", ""),
        SPEC.replace(
            "    - { name: production",
            &format!("{STAGING}    - {{ name: production"),
        ),
        SPEC.replace("    - { name: canary", &format!("{STAGING}    - {{ name: canary")),
        format!("{SPEC}  autoRollback: false\n"),
    ]
    .iter()
    .map(|yaml| spec(yaml))
    .collect()
}

fn counts() -> impl Strategy<Value = Counts> {
    let sane = (0u64..5_000, 0u64..1_000, 0u64..1_000).prop_map(|(requests, errors, slow)| {
        let bad = |of: u64| requests * of * of / 1_000_000;
        Counts {
            requests,
            errors: bad(errors),
            over: vec![bad(slow)],
            ..Counts::default()
        }
    });
    let good = (200u64..5_000).prop_map(|requests| Counts {
        requests,
        over: vec![0],
        ..Counts::default()
    });
    let wild = (
        any::<u64>(),
        any::<u64>(),
        prop::collection::vec(any::<u64>(), 0..3),
    )
        .prop_map(|(requests, errors, over)| Counts {
            requests,
            errors,
            over,
            ..Counts::default()
        });
    prop_oneof![3 => sane, 4 => good, 1 => wild, 1 => Just(Counts::default())]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        3 => select(specs()).prop_map(Command::Apply),
        2 => any::<bool>().prop_map(|full| Command::Promote { full, reason: None }),
        1 => Just(Command::Pause),
        3 => Just(Command::Resume),
        1 => Just(Command::Abort),
        4 => Just(Command::Retry),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        30 => (prop::bool::weighted(0.1), counts(), counts(), counts())
            .prop_map(|(stale, stable, canary, staging)| Input::Look { stale, stable, canary, staging }),
        3 => command().prop_map(Input::Command),
        1 => Just(Input::Restarted),
    ]
}

fn clock() -> impl Strategy<Value = Clock> {
    prop_oneof![
        20 => (0u64..2_000).prop_map(Clock::Pass),
        2 => (0u64..1 << 50).prop_map(Clock::WallTo),
        2 => (0u64..1 << 50).prop_map(Clock::MonoTo),
    ]
}

fn story() -> impl Strategy<Value = (RolloutSpec, Vec<(Clock, Input)>)> {
    (select(specs()), prop::collection::vec((clock(), input()), 1..120))
}

/// One step of a story: the state before, the event, and what came of it.
struct Scene<'a> {
    before: &'a Rollout,
    after: &'a Rollout,
    effects: &'a [Effect],
    input: &'a Input,
    /// How far the monotonic clock went on since the event before, 0 if it went back.
    gap: u64,
    refused: bool,
}

/// Plays a story and shows each scene. `between` may replace the state before each event.
fn play(
    spec: &RolloutSpec,
    story: &[(Clock, Input)],
    between: impl Fn(Rollout) -> Rollout,
    mut see: impl FnMut(&Scene<'_>) -> Result<(), TestCaseError>,
) -> Result<Rollout, TestCaseError> {
    let mut now = Now {
        wall_ms: 1_700_000_000_000,
        mono_ms: 1_000,
    };
    let (mut rollout, _) = create(spec.clone(), "ada", now);
    let (mut told, mut staged) = (Told::default(), Told::default());
    for (clock, input) in story {
        let was = now.mono_ms;
        match *clock {
            Clock::Pass(ms) => {
                now = Now {
                    wall_ms: now.wall_ms + ms,
                    mono_ms: now.mono_ms + ms,
                }
            }
            Clock::WallTo(ms) => now.wall_ms = ms,
            Clock::MonoTo(ms) => now.mono_ms = ms,
        }
        let before = between(rollout);
        let window = before.window();
        let outcome = match input {
            Input::Look {
                stale,
                stable,
                canary,
                staging,
            } => {
                // No filter counts for staging what is not in staging.
                let in_staging = before.rule().staging.is_some_and(|staging| staging.active);
                let staging = if in_staging {
                    staging.clone()
                } else {
                    Counts::default()
                };
                let window = if *stale { window - 1 } else { window };
                let counts = WindowCounts {
                    window,
                    stable: stable.clone(),
                    canary: canary.clone(),
                    staging: staging.clone(),
                };
                // Who reports from another window has nothing to say about this one.
                let reports = if *stale {
                    Vec::new()
                } else {
                    let mut reports = told.up_to(before.spec(), window, None, stable, canary);
                    reports.push(staged.without_order(before.spec(), window, &staging));
                    reports
                };
                let event = Event::Looked {
                    evidence: &counts.into(),
                    reports: &reports,
                };
                step(&before, event, now)
            }
            Input::Command(command) => step(
                &before,
                Event::Command {
                    by: "ada",
                    command: command.clone(),
                },
                now,
            ),
            Input::Restarted => step(&before, Event::Restarted, now),
        };
        let refused = outcome.is_err();
        let (after, effects) = match outcome {
            Ok(done) => done,
            Err(refusal) => {
                prop_assert!(matches!(input, Input::Command(_)), "only commands are refused");
                prop_assert!(!refusal.to_string().contains('\n'));
                (before.clone(), Vec::new())
            }
        };
        let gap = if matches!(input, Input::Restarted) {
            0
        } else {
            now.mono_ms.saturating_sub(was)
        };
        let _ = after.explain(
            &WindowCounts {
                window: after.window(),
                ..WindowCounts::default()
            }
            .into(),
            now,
        );
        see(&Scene {
            before: &before,
            after: &after,
            effects: &effects,
            input,
            gap,
            refused,
        })?;
        rollout = after;
    }
    Ok(rollout)
}

fn entry(effects: &[Effect]) -> Option<What> {
    effects.iter().find_map(|effect| match effect {
        Effect::Recorded(entry) => Some(entry.what),
        Effect::PolicyChanged | Effect::Changed => None,
    })
}

/// The share of bad requests that makes a step pass, by the words of the documentation.
fn passes(spec: &RolloutSpec, counts: &Counts) -> bool {
    let thresholds = spec.thresholds();
    counts.requests >= spec.analysis().min_requests
        && spec.analysis().slos.iter().all(|slo| {
            let bad = match slo.threshold() {
                None => Some(counts.errors),
                Some(threshold) if counts.over.len() == thresholds.len() => thresholds
                    .iter()
                    .position(|t| *t == threshold)
                    .map(|i| counts.over[i]),
                Some(_) => None,
            };
            #[allow(clippy::cast_precision_loss)]
            bad.is_some_and(|bad| {
                bad.min(counts.requests) as f64 <= slo.allowed() * counts.requests as f64 * (1.0 + 1e-12)
            })
        })
}

fn is_staging(rollout: &Rollout) -> bool {
    let stage = rollout.spec().stages().get(rollout.place().stage);
    matches!(stage, Some(Stage::Staging { .. }))
}

fn weights(spec: &RolloutSpec) -> Vec<Weight> {
    let stages = spec.stages().iter();
    let mut weights: Vec<Weight> = stages
        .flat_map(|stage| match stage {
            Stage::Canary { steps, .. } => steps.iter().map(|step| step.weight).collect(),
            Stage::Staging { step, .. } => vec![step.weight],
            Stage::Production { .. } => vec![Weight::FULL],
        })
        .collect();
    weights.extend([Weight::ZERO, Weight::FULL]);
    weights
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn weight_rises_by_itself_only_with_evidence((spec, story) in story()) {
        play(&spec, &story, |rollout| rollout, |scene| {
            let Input::Look { stale, canary, staging, .. } = scene.input else { return Ok(()) };
            if scene.after.weight() <= scene.before.weight() && scene.after.place() == scene.before.place() {
                return Ok(());
            }
            prop_assert_eq!(scene.before.phase(), Phase::Progressing);
            if is_staging(scene.before) {
                prop_assert!(!stale && passes(scene.before.spec(), staging), "{:?}", staging);
            } else if scene.before.weight() > Weight::ZERO {
                prop_assert!(!stale && passes(scene.before.spec(), canary), "{:?}", canary);
            }
            Ok(())
        })?;
    }

    #[test]
    fn staging_leaves_the_weight_of_the_stage_before_and_ends_with_its_stage((spec, story) in story()) {
        play(&spec, &story, |rollout| rollout, |scene| {
            let after = scene.after;
            let rule = after.rule();
            let is_picking = rule.staging.as_ref().is_some_and(|staging| staging.active);
            prop_assert_eq!(is_picking, after.phase().is_under_way() && is_staging(after));
            if is_picking {
                let before = after.spec().stages().iter().take(after.place().stage);
                let mut left = before.filter_map(|stage| match stage {
                    Stage::Canary { steps, .. } => steps.last().map(|step| step.weight),
                    Stage::Staging { .. } | Stage::Production { .. } => None,
                });
                prop_assert_eq!(rule.weight, left.next_back().unwrap_or(Weight::ZERO));
            }
            // What is counted under one number was decided by one rule.
            if after.window() == scene.before.window() {
                prop_assert_eq!(rule.weight, scene.before.rule().weight);
                prop_assert_eq!(is_picking, scene.before.rule().staging.is_some_and(|staging| staging.active));
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_pause_is_never_skipped((spec, story) in story()) {
        // The reference: time that passed by the monotonic clock while Progressing, counted outside the machine.
        let mut lived = 0u64;
        play(&spec, &story, |rollout| rollout, |scene| {
            // A refused command counts nothing; the event after it counts up to itself, at most as much as both gaps.
            if scene.before.phase() == Phase::Progressing {
                lived += scene.gap.min(MAX_GAP_MS);
            }
            let entered = scene.after.place() != scene.before.place()
                || scene.after.generation() != scene.before.generation();
            if matches!(entry(scene.effects), Some(What::Advanced | What::Succeeded)) && matches!(scene.input, Input::Look { .. }) {
                prop_assert!(lived >= pause_ms(scene.before.spec(), scene.before.place()));
            }
            if entered {
                lived = 0;
            }
            prop_assert!(scene.after.lived_ms() <= lived, "{} lived, {} passed", scene.after.lived_ms(), lived);
            Ok(())
        })?;
    }

    #[test]
    fn a_failed_rollout_stays_at_zero_until_retry_or_another_version((spec, story) in story()) {
        play(&spec, &story, |rollout| rollout, |scene| {
            if matches!(scene.after.phase(), Phase::Failed(_)) {
                prop_assert_eq!(scene.after.weight(), Weight::ZERO);
                prop_assert_eq!(scene.after.rule().weight, Weight::ZERO);
            }
            if matches!(scene.before.phase(), Phase::Failed(_)) && !matches!(scene.after.phase(), Phase::Failed(_)) {
                let retried = matches!(scene.input, Input::Command(Command::Retry));
                let replaced = scene.after.spec().version() != scene.before.spec().version();
                prop_assert!(retried || replaced);
                prop_assert_eq!(scene.after.generation(), scene.before.generation() + 1);
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_weight_is_always_one_of_the_specification((spec, story) in story()) {
        play(&spec, &story, |rollout| rollout, |scene| {
            prop_assert!(weights(scene.after.spec()).contains(&scene.after.weight()));
            prop_assert!(scene.after.rule().check().is_ok());
            Ok(())
        })?;
    }

    #[test]
    fn windows_grow_with_each_change_of_weight_generation_or_step((spec, story) in story()) {
        play(&spec, &story, |rollout| rollout, |scene| {
            let (before, after) = (scene.before, scene.after);
            prop_assert!(after.window() >= before.window());
            let moved = after.weight() != before.weight()
                || after.generation() != before.generation()
                || after.place() != before.place()
                || after.rule().thresholds != before.rule().thresholds;
            if moved {
                prop_assert!(after.window() > before.window());
            }
            prop_assert!(after.generation() >= before.generation());
            Ok(())
        })?;
    }

    #[test]
    fn effects_tell_everything((spec, story) in story()) {
        play(&spec, &story, |rollout| rollout, |scene| {
            let (before, after) = (scene.before, scene.after);
            let policy = scene.effects.contains(&Effect::PolicyChanged);
            prop_assert_eq!(policy, before.rule() != after.rule());
            let moved = after.phase() != before.phase() || after.rule() != before.rule() || after.spec() != before.spec();
            let recorded = entry(scene.effects).is_some();
            if moved {
                prop_assert!(recorded && scene.effects.last() == Some(&Effect::Changed));
            }
            prop_assert_eq!(after.history() != before.history(), recorded);
            if scene.refused {
                prop_assert_eq!(before, after);
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_rollback_has_its_numbers((spec, story) in story()) {
        // What was heard counts until its generation ends: in the watch a block closes when its second is over, whoever is
        // looked at then.
        let mut heard = None;
        play(&spec, &story, |rollout| rollout, |scene| {
            if matches!(scene.input, Input::Look { stale: false, .. }) {
                heard = Some(scene.before.generation());
            }
            if entry(scene.effects) == Some(What::RolledBack) {
                let last = scene.after.history().last().expect("it was recorded");
                prop_assert!(last.readings.iter().any(|reading| reading.finding == Finding::Worse));
                prop_assert_eq!(last.judged_window, scene.before.window());
                let is_a_look = matches!(scene.input, Input::Look { .. });
                prop_assert!(is_a_look);
                prop_assert_eq!(heard, Some(scene.before.generation()));
                prop_assert_eq!(scene.before.spec().version(), last.version.as_str());
            }
            Ok(())
        })?;
    }

    #[test]
    fn the_same_events_give_the_same_state((spec, story) in story()) {
        let quiet = |_: &Scene<'_>| Ok(());
        let once = play(&spec, &story, |rollout| rollout, quiet)?;
        let again = play(&spec, &story, |rollout| rollout, quiet)?;
        prop_assert_eq!(once, again);
    }

    #[test]
    fn going_through_json_between_any_two_events_changes_nothing((spec, story) in story()) {
        let quiet = |_: &Scene<'_>| Ok(());
        let in_memory = play(&spec, &story, |rollout| rollout, quiet)?;
        let through_json = |rollout: Rollout| {
            let json = serde_json::to_vec(&rollout).expect("a state is JSON");
            serde_json::from_slice(&json).expect("JSON is a state")
        };
        prop_assert_eq!(in_memory, play(&spec, &story, through_json, quiet)?);
    }

    #[test]
    fn a_canary_without_data_never_advances((spec, story) in story()) {
        let silent: Vec<(Clock, Input)> = story
            .into_iter()
            .filter(|(_, input)| !matches!(input, Input::Command(_)))
            .map(|(clock, input)| match input {
                Input::Look { stale, stable, .. } => {
                    (clock, Input::Look { stale, stable, canary: Counts::default(), staging: Counts::default() })
                }
                other => (clock, other),
            })
            .collect();
        play(&spec, &silent, |rollout| rollout, |scene| {
            if scene.before.weight() > Weight::ZERO || is_staging(scene.before) {
                prop_assert_eq!(scene.after.place(), scene.before.place());
                prop_assert_eq!(scene.after.weight(), scene.before.weight());
            }
            Ok(())
        })?;
    }
}

fn pause_ms(spec: &RolloutSpec, place: Place) -> u64 {
    match &spec.stages()[place.stage] {
        Stage::Canary { steps, .. } => steps[place.step].pause.millis(),
        Stage::Staging { step, .. } => step.pause.millis(),
        Stage::Production { watch, .. } => watch.millis(),
    }
}
