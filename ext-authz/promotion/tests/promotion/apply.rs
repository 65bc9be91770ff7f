//! What each kind of change does when it is applied.
#![allow(clippy::float_cmp)] // Weights in whole percents are exact.

use crate::run::{Run, SPEC, fast, recorded, spec, spec_with};
use knhk_promotion::{Command, Effect, Phase, Refusal, What};

#[test]
fn the_same_specification_again_does_nothing() {
    let mut run = Run::of(spec(SPEC));
    run.good_step(9);
    run.pass(100);
    let before = run.rollout.clone();
    assert_eq!(run.command(Command::Apply(spec(SPEC))), Ok(Vec::new()));
    assert_eq!(run.rollout, before);
}

#[test]
fn a_new_version_needs_the_stable_that_last_succeeded() {
    let mut run = Run::of(spec(SPEC));
    let v43 = |stable: &str| spec(&SPEC.replace("v42", "v43").replace("v41", stable));
    assert_eq!(
        run.command(Command::Apply(v43("v42")))
            .expect_err("v42 has not succeeded"),
        Refusal::NotTheStable {
            given: "v42".to_owned(),
            succeeded: "v41".to_owned()
        }
    );
    // Another version instead of one under way.
    run.good_step(9);
    run.command(Command::Apply(v43("v41")))
        .expect("v41 last succeeded");
    assert_eq!(
        (run.percent(), run.rollout.generation(), run.rollout.phase()),
        (1.0, 2, Phase::Progressing)
    );
    assert_eq!(run.last().why, "v43 beside v41, instead of v42 at 50 %");
    // Another version after success.
    run.promote_to_the_end();
    let refusal = run
        .command(Command::Apply(spec(SPEC)))
        .expect_err("v41 is not the stable now");
    assert!(refusal.to_string().ends_with("write stable: v43"), "{refusal}");
    run.command(Command::Apply(spec(&SPEC.replace("v41", "v43"))))
        .expect("v43 last succeeded");
    assert_eq!(
        (run.percent(), run.rollout.rule().stable),
        (1.0, "v43".to_owned())
    );
    // The version that serves already.
    let back = spec(&SPEC.replace("v42", "v43"));
    assert_eq!(
        run.command(Command::Apply(back)).expect_err("v43 is stable"),
        Refusal::AlreadyStable {
            version: "v43".to_owned()
        }
    );
    let other = spec(&SPEC.replace("name: checkout", "name: search"));
    assert_eq!(
        run.command(Command::Apply(other))
            .expect_err("another rollout")
            .label(),
        "other_name"
    );
}

#[test]
fn a_changed_analysis_goes_on_with_new_counts() {
    let mut run = Run::of(spec(SPEC));
    run.good_step(9);
    run.look(fast(10, 0), fast(10, 0));
    let (window, lived) = (run.rollout.window(), run.rollout.lived_ms());
    let effects = run
        .command(Command::Apply(spec_with("max: 250ms", "max: 300ms")))
        .expect("it is allowed");
    assert_eq!(recorded(&effects), [What::Changed]);
    assert_eq!(
        (run.percent(), run.rollout.generation(), run.rollout.lived_ms()),
        (50.0, 1, lived)
    );
    assert!(run.rollout.window() > window);
    assert_eq!(run.rollout.rule().thresholds, [300_000]);
    assert_eq!(run.last().why, "changed analysis: judged on new counts");
}

#[test]
fn a_changed_admission_goes_on_as_it_was_and_is_published() {
    let mut run = Run::of(spec(SPEC));
    run.good_step(9);
    run.look(fast(10, 0), fast(10, 0));
    let (window, lived) = (run.rollout.window(), run.rollout.lived_ms());
    let admitting = "admit: { peers: ['spiffe://example.org/*'] }\n  stages:";
    let effects = run
        .command(Command::Apply(spec_with("stages:", admitting)))
        .expect("it is allowed");
    assert_eq!(recorded(&effects), [What::Changed]);
    assert!(effects.contains(&Effect::PolicyChanged));
    assert_eq!(
        (
            run.rollout.window(),
            run.rollout.generation(),
            run.rollout.lived_ms()
        ),
        (window, 1, lived)
    );
    let admitted = run.rollout.rule().admit.expect("it is in the rule");
    assert_eq!(admitted.peers, ["spiffe://example.org/*"]);
    assert_eq!(run.last().why, "changed admit");
}

#[test]
fn changed_steps_begin_again() {
    for (from, to) in [
        ("setWeight: 50, pause: 3s", "setWeight: 50, pause: 5s"),
        ("hosts: [checkout.example.com]", "hosts: [pay.example.com]"),
        ("header: x-user-id", "header: x-account-id"),
    ] {
        let mut run = Run::of(spec(SPEC));
        run.good_step(9);
        run.command(Command::Apply(spec_with(from, to)))
            .expect("it is allowed");
        assert_eq!((run.percent(), run.rollout.generation()), (1.0, 2), "{to}");
        assert_eq!(run.last().what, What::Applied);
    }
}

#[test]
fn a_failed_version_stays_failed_whatever_else_is_applied() {
    let mut run = Run::of(spec(SPEC));
    run.command(Command::Abort).expect("it is under way");
    for (from, to) in [("max: 250ms", "max: 1s"), ("setWeight: 1,", "setWeight: 2,")] {
        run.command(Command::Apply(spec_with(from, to)))
            .expect("it is allowed");
        assert_eq!((run.percent(), run.rollout.generation()), (0.0, 1));
        assert!(
            run.last().why.ends_with("retry to start it"),
            "{}",
            run.last().why
        );
    }
    run.command(Command::Retry).expect("it has failed");
    assert_eq!(run.percent(), 2.0);
}

#[test]
fn a_stable_cannot_change_under_a_version() {
    let mut run = Run::of(spec(SPEC));
    let refusal = run
        .command(Command::Apply(spec_with("stable: v41", "stable: v40")))
        .expect_err("refused");
    assert_eq!(refusal.label(), "stable_changed");
}
