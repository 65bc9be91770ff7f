//! The stage `staging`: what it picks, what it keeps, who decides in it, and what it needs to be passed.
#![allow(clippy::float_cmp)] // Weights in whole percents are exact.

use crate::run::{Run, SPEC, fast, recorded, spec};
use knhk_promotion::{
    Command, Counts, FailReason, Finding, PauseReason, Phase, Refusal, Rollout, RolloutSpec, Weighed, What,
    WindowCounts,
};

const PICKED: &str = "match: { headers: [ { name: x-tester, present: true } ], flags: { beta: on } }";

/// Canary to 50 %, staging, production.
fn between(more: &str) -> RolloutSpec {
    let stage = format!("    - {{ name: staging, {PICKED}, pause: 2s{more} }}\n    - {{ name: production");
    spec(&SPEC.replace("    - { name: production", &stage))
}

/// Staging, then the canary.
fn first() -> RolloutSpec {
    let stage = format!("    - {{ name: staging, {PICKED}, pause: 2s }}\n    - {{ name: canary");
    spec(&SPEC.replace("    - { name: canary", &stage))
}

/// In staging after the canary's steps.
fn in_staging(more: &str) -> Run {
    let mut run = Run::of(between(more));
    run.good_step(9);
    run.good_step(13);
    assert_eq!(run.last().stage, "staging");
    run
}

fn picks(rollout: &Rollout) -> bool {
    rollout.rule().staging.expect("it has the stage").active
}

#[test]
fn it_comes_in_its_turn_and_keeps_the_weight_of_the_stage_before() {
    let mut run = Run::of(between(""));
    assert!(!picks(&run.rollout), "filters check it before it begins");
    run.good_step(9);
    run.good_step(13);
    assert_eq!((run.last().stage.as_str(), run.percent()), ("staging", 50.0));
    assert!(picks(&run.rollout));
    for look in 1..=8 {
        run.look_at(fast(look * 100, 0), fast(look * 100, 0), fast(look * 50, 0));
    }
    assert_eq!((run.last().stage.as_str(), run.percent()), ("production", 100.0));
    assert!(!picks(&run.rollout));
    run.command(Command::Promote {
        full: false,
        reason: None,
    })
    .expect("it is under way");
    assert_eq!(run.rollout.phase(), Phase::Succeeded);
}

#[test]
fn as_the_first_stage_it_keeps_nothing() {
    let mut run = Run::of(first());
    assert_eq!((run.last().stage.as_str(), run.percent()), ("staging", 0.0));
    assert!(picks(&run.rollout));
    for look in 1..=8 {
        run.look_at(fast(look * 1_000, 0), Counts::default(), fast(look * 50, 0));
    }
    assert_eq!((run.last().stage.as_str(), run.percent()), ("canary", 1.0));
    assert!(!picks(&run.rollout));
}

#[test]
fn the_last_stage_may_be_staging() {
    let yaml = SPEC.replace(
        "{ name: production, watch: 4s }",
        &format!("{{ name: staging, {PICKED} }}"),
    );
    let mut run = Run::of(spec(&yaml));
    run.good_step(9);
    run.good_step(13);
    let window = run.rollout.window();
    run.look_at(fast(100, 0), fast(100, 0), fast(500, 0));
    assert_eq!((run.rollout.phase(), run.percent()), (Phase::Succeeded, 100.0));
    assert!(!picks(&run.rollout) && run.rollout.window() > window);
}

#[test]
fn it_is_passed_by_its_own_requests() {
    let mut run = in_staging("");
    // The canary has plenty, staging has none: no data is never good data.
    for look in 1..=40 {
        run.look_at(fast(look * 1_000, 0), fast(look * 1_000, 0), fast(look, 0));
        assert_eq!(run.last().stage, "staging", "look {look}");
    }
    let seen = Weighed::from(WindowCounts {
        window: run.rollout.window(),
        stable: fast(40_000, 0),
        canary: fast(40_000, 0),
        staging: fast(40, 0),
    });
    let explained = run.rollout.explain(&seen, run.now);
    assert_eq!(explained.stage, "staging");
    assert_eq!(
        explained.picked.as_deref(),
        Some("all with header x-tester, flag beta=on")
    );
    assert_eq!(
        explained.waits_for[0],
        "160 more requests of staging for request-success-rate min 99.5 % (40 so far)"
    );
    assert_eq!(explained.metrics[0].finding, Finding::TooFew);
    run.look_at(fast(41_000, 0), fast(41_000, 0), fast(200, 0));
    assert_eq!(run.last().stage, "production");
    assert!(
        run.last()
            .why
            .contains("canary 0 of 41200 bad (0 %), 0.5 % allowed, staging's own 0 of 200 bad"),
        "{}",
        run.last().why
    );
}

#[test]
fn a_share_over_the_slo_holds_it_whether_of_all_or_of_its_own() {
    for (canary, staging) in [
        (fast(300_000, 100), fast(1_000, 6)),
        (fast(1_000, 8), fast(200, 0)),
    ] {
        let mut run = in_staging("");
        for _ in 0..12 {
            run.look_at(fast(1_000, 0), canary.clone(), staging.clone());
            assert_eq!(
                (run.last().stage.as_str(), run.rollout.phase()),
                ("staging", Phase::Progressing)
            );
        }
    }
}

#[test]
fn the_slo_alone_decides_over_all_that_the_version_serves() {
    // Stable fails as much, and no comparison is made. Either part of the version's requests may fail.
    for (canary, staging) in [(0, 30), (30, 0)] {
        let mut run = in_staging("");
        for look in 1..=80 {
            let total = look * 50;
            run.look_at(
                fast(total, total * 30 / 100),
                fast(total, total * canary / 100),
                fast(total, total * staging / 100),
            );
            if run.rollout.phase() != Phase::Progressing {
                break;
            }
        }
        assert_eq!(run.rollout.phase(), Phase::Failed(FailReason::SloViolated));
        assert_eq!(run.last().what, What::RolledBack);
        assert_eq!((run.last().stage.as_str(), run.percent()), ("staging", 0.0));
        assert!(!picks(&run.rollout));
        assert!(run.last().readings.iter().all(|reading| reading.worse.is_none()));
    }
}

#[test]
fn a_version_that_fails_in_staging_alone_is_rolled_back_at_weight_zero() {
    let mut run = Run::of(first());
    for look in 1..=80 {
        run.look_at(
            fast(look * 1_000, 0),
            Counts::default(),
            fast(look * 20, look * 6),
        );
    }
    assert_eq!(run.rollout.phase(), Phase::Failed(FailReason::SloViolated));
}

#[test]
fn its_approval_deadline_and_skipped_analysis_are_those_of_other_steps() {
    let mut run = Run::of(between(", approval: { by: [ada] }"));
    run.good_step(9);
    run.good_step(13);
    assert_eq!(run.rollout.phase(), Phase::Paused(PauseReason::AwaitingApproval));
    assert!(!picks(&run.rollout));
    for full in [false, true] {
        let refusal = run
            .command(Command::Promote { full, reason: None })
            .expect_err("it has to be approved");
        assert!(matches!(refusal, Refusal::NeedsApproval { .. }), "{refusal}");
    }
    run.command(Command::Approve).expect("ada may");
    assert_eq!(
        (run.last().what, run.last().stage.as_str()),
        (What::Approved, "staging")
    );
    assert!(picks(&run.rollout));

    let mut run = in_staging(", deadline: 3s");
    for _ in 0..12 {
        run.look_at(fast(1_000, 0), fast(1_000, 0), fast(10, 0));
    }
    assert_eq!(run.rollout.phase(), Phase::Paused(PauseReason::Inconclusive));
    assert!(picks(&run.rollout), "it holds as it is");

    let mut run = in_staging(", skipAnalysis: { reason: no testers }");
    for _ in 0..8 {
        run.look_at(fast(1_000, 0), fast(1_000, 0), Counts::default());
    }
    assert_eq!(run.last().why, "analysis skipped: no testers");
    assert_eq!(run.last().stage, "production");
}

#[test]
fn promote_leads_through_it_and_past_it() {
    let mut run = Run::of(between(""));
    run.command(Command::Promote {
        full: true,
        reason: None,
    })
    .expect("nothing has to be approved");
    assert_eq!(run.last().stage, "production");
    let mut run = Run::of(first());
    let effects = run
        .command(Command::Promote {
            full: false,
            reason: None,
        })
        .expect("to the canary");
    assert_eq!(recorded(&effects), [What::Promoted]);
    assert_eq!((run.last().stage.as_str(), run.percent()), ("canary", 1.0));
}

#[test]
fn what_comes_next_says_whom_it_picks() {
    let mut run = Run::of(between(""));
    run.good_step(9);
    let seen = Weighed::from(WindowCounts::default());
    assert_eq!(
        run.rollout.explain(&seen, run.now).next,
        "staging: all with header x-tester, flag beta=on; the others at 50 %"
    );
    assert_eq!(run.rollout.explain(&seen, run.now).picked, None);
}

#[test]
fn a_rollout_is_seen_at_any_of_its_stages() {
    let run = Run::of(between(""));
    let at = |stage: &str| run.rollout.clone().at_stage(stage).map(|rollout| rollout.rule());
    let staging = at("staging").expect("it has one");
    assert_eq!(
        (
            staging.weight.percent(),
            staging.staging.is_some_and(|it| it.active)
        ),
        (50.0, true)
    );
    assert_eq!(at("production").expect("it has one").weight.percent(), 100.0);
    assert_eq!(at("nowhere"), None);
}

#[test]
fn a_state_in_staging_comes_back_as_it_was() {
    let mut run = in_staging("");
    run.look_at(fast(100, 0), fast(100, 3), fast(40, 1));
    let json = serde_json::to_vec(&run.rollout).expect("a state is JSON");
    assert_eq!(
        serde_json::from_slice::<Rollout>(&json).expect("JSON is a state"),
        run.rollout
    );
    let before = run.rollout.clone();
    run.command(Command::Pause).expect("it is under way");
    let bare: Rollout = serde_json::from_slice(&run.rollout.to_receipt_json()).expect("the state");
    assert_eq!(bare.continuing(&before), run.rollout);
}
