//! What a rollout waits for beside its evidence: an approval, a deadline, and what an operator has said it may go without.
#![allow(clippy::float_cmp)] // Weights in whole percents are exact.

use crate::run::{Run, fast, recorded, spec_with};
use knhk_promotion::{
    Command, Counts, FailReason, PauseReason, Phase, Refusal, Rollout, RolloutSpec, What, step,
};

fn gated() -> RolloutSpec {
    spec_with(
        "watch: 4s }",
        "watch: 4s, approval: { by: [ada, \"spiffe://example.org/ops\"] } }",
    )
}

/// At the last step before production, passed.
fn at_the_gate() -> Run {
    let mut run = Run::of(gated());
    run.good_step(9);
    run.good_step(13);
    assert_eq!(run.rollout.phase(), Phase::Paused(PauseReason::AwaitingApproval));
    run
}

#[test]
fn a_stage_that_asks_for_approval_waits_for_one_of_those_it_names() {
    let mut run = at_the_gate();
    assert_eq!(
        (run.percent(), run.rollout.phase().reason()),
        (50.0, Some("awaiting-approval"))
    );
    assert!(
        run.last()
            .why
            .starts_with("to be approved by ada, spiffe://example.org/ops; "),
        "{}",
        run.last().why
    );
    let effects = run.look(fast(20_000, 1), fast(1_000, 0));
    assert_eq!(recorded(&effects), [], "it waits, whatever is seen");
    assert_eq!(run.percent(), 50.0);

    let other = knhk_promotion::Event::Command {
        by: "bob",
        command: Command::Approve,
    };
    let refusal = step(&run.rollout, other, run.now)
        .expect_err("bob may not")
        .to_string();
    assert_eq!(
        refusal,
        "bob may not approve it; ask one of: ada, spiffe://example.org/ops"
    );

    let effects = run.command(Command::Approve).expect("ada may");
    assert_eq!(recorded(&effects), [What::Approved]);
    assert_eq!((run.percent(), run.rollout.phase()), (100.0, Phase::Progressing));
    assert_eq!(
        (run.last().who.as_str(), run.last().stage.as_str()),
        ("ada", "production")
    );
}

#[test]
fn nothing_but_an_approval_leads_past_a_gate() {
    let mut run = at_the_gate();
    let promote = |full| Command::Promote { full, reason: None };
    for command in [promote(false), promote(true), Command::Resume] {
        let refusal = run.command(command).expect_err("it has to be approved");
        assert!(matches!(refusal, Refusal::NeedsApproval { .. }), "{refusal}");
    }
    // An operator's pause forgets no gate.
    run.command(Command::Pause).expect("it is under way");
    run.command(Command::Resume).expect("it is paused");
    run.look(fast(20_000, 1), fast(1_000, 0));
    assert_eq!(run.rollout.phase(), Phase::Paused(PauseReason::AwaitingApproval));
    // From an earlier step neither, where there is nothing to approve yet.
    let mut run = Run::of(gated());
    assert_eq!(
        run.command(Command::Approve).expect_err("it does not wait"),
        Refusal::NothingToApprove
    );
    assert_eq!(
        run.command(promote(true)).expect_err("past the gate").label(),
        "needs_approval"
    );
    run.command(promote(false)).expect("to the next step");
}

#[test]
fn a_canary_that_fails_while_it_waits_for_approval_is_rolled_back() {
    let mut run = at_the_gate();
    for looks in 1..=8 {
        run.look(
            fast(10_000 + looks * 1_000, 1),
            fast(500 + looks * 100, looks * 60),
        );
    }
    assert_eq!(run.rollout.phase(), Phase::Failed(FailReason::SloViolated));
}

#[test]
fn a_step_without_its_evidence_is_inconclusive_and_holds() {
    let mut run = Run::of(spec_with("pause: 2s }", "pause: 2s, deadline: 5s }"));
    for _ in 0..19 {
        run.look(fast(1_000, 0), fast(50, 0));
        assert_eq!(run.rollout.phase(), Phase::Progressing);
    }
    let effects = run.look(fast(1_000, 0), fast(50, 0));
    assert_eq!(recorded(&effects), [What::Paused]);
    assert_eq!(
        (run.percent(), run.rollout.phase().reason()),
        (1.0, Some("inconclusive"))
    );
    assert!(
        run.last()
            .why
            .starts_with("no evidence to go on within 5s, and none to go back: "),
        "{}",
        run.last().why
    );
    // It does not go on by itself, whatever comes; a resume gives it as long again, with what it knows.
    run.look(fast(10_000, 0), fast(500, 0));
    assert_eq!(run.rollout.phase(), Phase::Paused(PauseReason::Inconclusive));
    let window = run.rollout.window();
    run.command(Command::Resume).expect("it is paused");
    assert_eq!((run.rollout.window(), run.rollout.lived_ms()), (window, 0));
    run.good_step(8);
    assert_eq!(run.percent(), 50.0);
}

#[test]
fn a_skipped_analysis_says_why_and_rolls_back_all_the_same() {
    let skipping = || {
        spec_with(
            "pause: 2s }",
            "pause: 2s, skipAnalysis: { reason: no traffic at night } }",
        )
    };
    let mut run = Run::of(skipping());
    for _ in 0..8 {
        assert_eq!(run.percent(), 1.0);
        run.look(Counts::default(), Counts::default());
    }
    assert_eq!(run.percent(), 50.0);
    assert_eq!(run.last().why, "analysis skipped: no traffic at night");
    let mut run = Run::of(skipping());
    for looks in 1..=7 {
        run.look(fast(looks * 1_000, 0), fast(looks * 50, looks * 30));
    }
    assert_eq!(run.rollout.phase(), Phase::Failed(FailReason::SloViolated));
}

#[test]
fn who_promotes_may_say_why() {
    let mut run = Run::of(gated());
    let promote = |reason: &str| Command::Promote {
        full: false,
        reason: Some(reason.to_owned()),
    };
    assert_eq!(
        run.command(promote("two\nlines")).expect_err("refused"),
        Refusal::Reason
    );
    run.command(promote("tested by hand")).expect("it is under way");
    assert_eq!(run.last().why, "to the next step: tested by hand");
}

#[test]
fn what_is_known_outlives_a_receipt_and_ends_with_a_generation() {
    let mut run = Run::of(gated());
    run.look(fast(1_000, 0), fast(50, 10));
    let before = run.rollout.clone();
    run.command(Command::Pause).expect("it is under way");
    let bare: Rollout = serde_json::from_slice(&run.rollout.to_receipt_json()).expect("the state");
    assert!(run.rollout.to_receipt_json().len() < 4_096);
    assert_ne!(bare, run.rollout);
    assert_eq!(bare.continuing(&before), run.rollout);
    run.command(Command::Abort).expect("it is under way");
    run.command(Command::Retry).expect("it has failed");
    let json = serde_json::to_value(&run.rollout).expect("JSON");
    assert!(json.get("trials").is_none());
}
