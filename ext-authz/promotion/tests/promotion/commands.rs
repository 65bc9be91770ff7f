//! What operators' commands do, and how impossible ones are refused.
#![allow(clippy::float_cmp)] // Weights in whole percents are exact.

use crate::run::{Run, SPEC, fast, spec};
use knhk_promotion::{Command, Effect, Phase, Refusal, What};

#[test]
fn resume_after_stable_failed_leaves_the_old_counts_behind() {
    let mut run = Run::of(spec(SPEC));
    run.look(fast(10_000, 3_000), fast(1_000, 300));
    let window = run.rollout.window();
    let effects = run.command(Command::Resume).expect("it is paused");
    assert!(run.rollout.window() > window && effects.contains(&Effect::PolicyChanged));
    assert_eq!(run.rollout.phase(), Phase::Progressing);
}

#[test]
fn promote_goes_on_at_once() {
    let mut run = Run::of(spec(SPEC));
    run.command(Command::Promote {
        full: false,
        reason: None,
    })
    .expect("to the next step");
    assert_eq!(run.percent(), 50.0);
    run.command(Command::Pause).expect("it is under way");
    run.command(Command::Promote {
        full: false,
        reason: None,
    })
    .expect("to production, which ends the pause");
    assert_eq!((run.percent(), run.rollout.phase()), (100.0, Phase::Progressing));
    let refusal = run
        .command(Command::Promote {
            full: true,
            reason: None,
        })
        .expect_err("it is in production");
    assert_eq!(
        refusal,
        Refusal::InProduction {
            version: "v42".to_owned()
        }
    );
    run.command(Command::Promote {
        full: false,
        reason: None,
    })
    .expect("ends the watch");
    assert_eq!(run.rollout.phase(), Phase::Succeeded);

    let mut run = Run::of(spec(SPEC));
    run.command(Command::Promote {
        full: true,
        reason: None,
    })
    .expect("straight to production");
    assert_eq!(
        (run.percent(), run.rollout.phase(), run.rollout.place().stage),
        (100.0, Phase::Progressing, 1)
    );
    assert_eq!(
        (run.last().what, run.last().who.as_str()),
        (What::Promoted, "ada")
    );
}

#[test]
fn abort_then_retry() {
    let mut run = Run::of(spec(SPEC));
    run.good_step(9);
    let effects = run.command(Command::Abort).expect("it is under way");
    assert!(effects.contains(&Effect::PolicyChanged));
    assert_eq!(
        (run.percent(), run.rollout.rule().canary),
        (0.0, "v42".to_owned())
    );
    assert_eq!(run.rollout.phase().reason(), Some("aborted"));
    let window = run.rollout.window();
    run.command(Command::Retry).expect("it has failed");
    assert_eq!(
        (run.percent(), run.rollout.generation(), run.rollout.lived_ms()),
        (1.0, 2, 0)
    );
    assert!(run.rollout.window() > window);
}

#[test]
fn impossible_commands_say_what_to_do() {
    let label = |run: &mut Run, command| run.command(command).expect_err("impossible").label();
    let mut run = Run::of(spec(SPEC));
    assert_eq!(label(&mut run, Command::Resume), "not_paused");
    assert_eq!(label(&mut run, Command::Retry), "not_failed");
    run.command(Command::Pause).expect("it is under way");
    assert_eq!(label(&mut run, Command::Pause), "already_paused");
    assert_eq!(label(&mut run, Command::Retry), "not_failed");
    run.command(Command::Abort).expect("it is under way");
    for command in [
        Command::Promote {
            full: false,
            reason: None,
        },
        Command::Pause,
        Command::Resume,
        Command::Abort,
    ] {
        assert_eq!(label(&mut run, command), "has_failed");
    }
    run.command(Command::Retry).expect("it has failed");
    run.promote_to_the_end();
    for command in [
        Command::Promote {
            full: true,
            reason: None,
        },
        Command::Pause,
        Command::Resume,
        Command::Retry,
    ] {
        assert_eq!(label(&mut run, command), "has_succeeded");
    }
    let refusal = run
        .command(Command::Abort)
        .expect_err("it has succeeded")
        .to_string();
    assert!(
        refusal.contains("apply version: v41 with stable: v42"),
        "{refusal}"
    );
}
