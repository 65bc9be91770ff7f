//! A rollout's life by itself: it climbs, waits, stops, or goes back.
#![allow(clippy::float_cmp)] // Weights in whole percents are exact.

use crate::run::{Run, SPEC, fast, recorded, spec, spec_with};
use knhk_promotion::{
    Command, Counts, Effect, Event, FailReason, Finding, PauseReason, Phase, What, WindowCounts, step,
};

#[test]
fn a_good_version_climbs_and_succeeds() {
    let mut run = Run::of(spec(SPEC));
    let mut weights = vec![run.percent()];
    let mut windows = vec![run.rollout.window()];
    while run.rollout.phase() == Phase::Progressing {
        run.good_step(17);
        weights.push(run.percent());
        windows.push(run.rollout.window());
    }
    assert_eq!(weights, [1.0, 50.0, 100.0, 100.0]);
    assert!(
        windows.windows(2).take(2).all(|pair| pair[0] < pair[1]),
        "{windows:?}"
    );
    assert_eq!(run.rollout.phase(), Phase::Succeeded);
    assert_eq!(run.rollout.last_succeeded(), "v42");
    let what: Vec<What> = run.rollout.history().iter().map(|entry| entry.what).collect();
    assert_eq!(
        what,
        [What::Applied, What::Advanced, What::Advanced, What::Succeeded]
    );
    assert!(
        run.rollout.history()[1]
            .readings
            .iter()
            .all(|reading| reading.finding == Finding::Met)
    );
    assert!(
        run.look(fast(1, 1), fast(100_000, 100_000)).is_empty(),
        "nothing is judged after success"
    );
}

#[test]
fn a_step_lasts_its_pause_and_not_a_look_longer() {
    let mut run = Run::of(spec(SPEC));
    for _ in 0..7 {
        run.look(fast(10_000, 0), fast(500, 0));
        assert_eq!(run.percent(), 1.0);
    }
    let effects = run.look(fast(10_000, 0), fast(500, 0));
    assert_eq!(run.percent(), 50.0);
    assert!(matches!(
        effects[..],
        [Effect::PolicyChanged, Effect::Recorded(_), Effect::Changed]
    ));
}

#[test]
fn a_canary_that_fails_is_back_at_zero_after_a_handful_of_requests() {
    // 30 % errors at 10 requests of the canary a second, the first three of them all failing at the worst moment.
    let mut run = Run::of(spec(SPEC));
    let mut requests = 0;
    while run.rollout.phase() == Phase::Progressing {
        requests += 1;
        assert!(
            requests <= 80,
            "{:?}",
            run.rollout.explain(&WindowCounts::default().into(), run.now)
        );
        // Of each ten requests the third, the sixth and the ninth fail.
        let errors = requests / 10 * 3 + requests % 10 / 3;
        run.look(fast(1_000 + requests * 100, 1), fast(requests, errors));
    }
    assert_eq!(run.rollout.phase(), Phase::Failed(FailReason::SloViolated));
    assert_eq!(run.percent(), 0.0);
    let entry = run.last();
    assert_eq!((entry.what, entry.who.as_str()), (What::RolledBack, "knhk"));
    assert_eq!(entry.weight_before.percent(), 1.0);
    assert!(
        entry.why.contains("request-success-rate min 99.5 %: canary"),
        "{}",
        entry.why
    );
    assert_eq!(run.rollout.rule().weight.percent(), 0.0);
    assert_eq!(run.rollout.last_succeeded(), "v41");
    assert!(run.look(fast(1, 0), fast(1, 0)).is_empty());
}

#[test]
fn a_slow_canary_is_rolled_back_too() {
    let mut run = Run::of(spec(SPEC));
    let slow = Counts {
        requests: 100,
        over: vec![30],
        ..Counts::default()
    };
    run.look(fast(10_000, 0), slow);
    assert_eq!(
        run.rollout.phase(),
        Phase::Progressing,
        "one report convicts nobody"
    );
    let slower = Counts {
        requests: 200,
        over: vec![60],
        ..Counts::default()
    };
    run.look(fast(20_000, 0), slower);
    assert_eq!(run.rollout.phase(), Phase::Failed(FailReason::SloViolated));
    assert!(
        run.last()
            .why
            .starts_with("request-duration quantile 0.99 max 250ms"),
        "{}",
        run.last().why
    );
}

#[test]
fn one_failed_request_is_chance() {
    let mut run = Run::of(spec(SPEC));
    for requests in 1..500 {
        run.look(fast(10_000, 5), fast(requests, 1));
        assert_ne!(run.percent(), 0.0, "rolled back at {requests}");
    }
}

#[test]
fn no_data_is_never_good_data() {
    let mut run = Run::of(spec(SPEC));
    for _ in 0..1_000 {
        run.look(fast(10_000, 0), Counts::default());
    }
    assert_eq!(run.percent(), 1.0);
    let counts = WindowCounts {
        window: run.rollout.window(),
        stable: fast(10_000, 0),
        canary: fast(150, 0),
        ..WindowCounts::default()
    };
    let explained = run.rollout.explain(&counts.into(), run.now);
    assert_eq!(
        explained.waits_for[0],
        "50 more requests of the canary for request-success-rate min 99.5 % (150 so far)"
    );
    // Counts without the threshold say nothing about durations.
    let unknown = Counts {
        requests: 500,
        over: Vec::new(),
        ..Counts::default()
    };
    run.look(fast(10_000, 0), unknown);
    assert_eq!(run.percent(), 1.0);
}

#[test]
fn counts_of_another_window_are_no_evidence() {
    let mut run = Run::of(spec(SPEC));
    for errors in [0, 500] {
        for _ in 0..100 {
            run.pass(250);
            let counts = WindowCounts {
                window: run.rollout.window() - 1,
                stable: fast(10_000, 0),
                canary: fast(500, errors),
                ..WindowCounts::default()
            };
            let event = Event::Looked {
                evidence: &counts.into(),
                reports: &[],
            };
            run.rollout = step(&run.rollout, event, run.now).expect("a look").0;
        }
    }
    assert_eq!((run.percent(), run.rollout.phase()), (1.0, Phase::Progressing));
}

#[test]
fn a_step_waits_while_the_share_is_over_the_slo_but_not_proven() {
    let mut run = Run::of(spec(SPEC));
    for _ in 0..100 {
        run.look(fast(10_000, 0), fast(300, 2));
    }
    assert_eq!((run.percent(), run.rollout.phase()), (1.0, Phase::Progressing));
    run.look(fast(10_000, 0), fast(400, 2));
    assert_eq!(run.percent(), 50.0);
}

#[test]
fn a_step_at_zero_needs_no_canary() {
    let mut run = Run::of(spec_with("setWeight: 1,", "setWeight: 0,"));
    for _ in 0..8 {
        assert_eq!(run.percent(), 0.0);
        run.look(fast(10, 10), Counts::default());
    }
    assert_eq!(run.percent(), 50.0);
    assert!(run.last().readings.is_empty());
}

#[test]
fn stable_failing_too_pauses_and_recovers_by_itself() {
    let mut run = Run::of(spec(SPEC));
    let effects = run.look(fast(10_000, 3_000), fast(1_000, 300));
    assert_eq!(recorded(&effects), [What::Paused]);
    assert!(!effects.contains(&Effect::PolicyChanged));
    assert_eq!(run.rollout.phase(), Phase::Paused(PauseReason::StableAlsoFailing));
    assert_eq!(
        (run.percent(), run.rollout.phase().reason()),
        (1.0, Some("stable-also-failing"))
    );
    let lived = run.rollout.lived_ms();
    for _ in 0..100 {
        run.look(fast(20_000, 3_000), fast(2_000, 300));
    }
    assert_eq!(run.rollout.lived_ms(), lived, "a pause is not lived while paused");
    let effects = run.look(fast(1_000_000, 3_000), fast(100_000, 300));
    assert_eq!(
        (recorded(&effects), run.rollout.phase()),
        (vec![What::Resumed], Phase::Progressing)
    );
}

#[test]
fn a_canary_that_becomes_worse_while_paused_is_rolled_back() {
    for pause in [false, true] {
        let mut run = Run::of(spec(SPEC));
        if pause {
            run.command(Command::Pause).expect("it is under way");
        } else {
            run.look(fast(10_000, 3_000), fast(1_000, 300));
        }
        assert!(matches!(run.rollout.phase(), Phase::Paused(_)));
        for looks in 1..=3 {
            run.look(
                fast(10_000 + looks * 1_000, 3_000),
                fast(1_000 + looks * 100, 300 + looks * 100),
            );
        }
        assert_eq!(run.rollout.phase(), Phase::Failed(FailReason::SloViolated));
    }
}

#[test]
fn without_auto_rollback_a_violation_pauses() {
    let mut run = Run::of(spec(&format!("{SPEC}  autoRollback: false\n")));
    run.look(fast(10_000, 0), fast(100, 30));
    assert_eq!(run.rollout.phase(), Phase::Paused(PauseReason::SloViolated));
    assert_eq!(run.percent(), 1.0);
    assert!(run.look(fast(10_000, 0), fast(200, 60)).is_empty());
    let window = run.rollout.window();
    run.command(Command::Resume).expect("it is paused");
    assert!(
        run.rollout.window() > window,
        "the operator has seen the old counts"
    );
    run.look(fast(10_000, 0), fast(100, 30));
    run.command(Command::Abort).expect("it is under way");
    assert_eq!(
        (run.percent(), run.rollout.phase()),
        (0.0, Phase::Failed(FailReason::Aborted))
    );
}

#[test]
fn in_the_production_watch_the_slo_alone_decides() {
    let mut run = Run::of(spec(SPEC));
    run.good_step(9);
    run.good_step(13);
    assert_eq!((run.percent(), run.rollout.place().stage), (100.0, 1));
    // Four looks are a second, and a second is a block: none of them convicts, and neither do two.
    for looks in 1..=20 {
        assert!(
            looks > 8 || run.rollout.phase() == Phase::Progressing,
            "at look {looks}"
        );
        run.look(Counts::default(), fast(looks * 1_000, looks * 100));
    }
    assert_eq!(
        (run.percent(), run.rollout.phase()),
        (0.0, Phase::Failed(FailReason::SloViolated))
    );
    assert_eq!(run.last().readings[0].worse, None);
    assert_eq!(run.rollout.last_succeeded(), "v41");
}

#[test]
fn without_a_production_stage_the_last_step_ends_in_success() {
    let mut run = Run::of(spec_with("    - { name: production, watch: 4s }\n", ""));
    run.good_step(9);
    let window = run.rollout.window();
    run.good_step(13);
    assert_eq!((run.percent(), run.rollout.phase()), (100.0, Phase::Succeeded));
    assert!(run.rollout.window() > window);
}
