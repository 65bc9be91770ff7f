//! Time, persistence, history and the explanation of a state.
#![allow(clippy::float_cmp)] // Weights in whole percents are exact.

use crate::run::{Run, SPEC, fast, spec};
use knhk_promotion::{Command, Event, MAX_GAP_MS, MAX_HISTORY, Rollout, Weighed, WindowCounts, step};

#[test]
fn time_counts_only_while_somebody_watches() {
    let mut run = Run::of(spec(SPEC));
    run.look(fast(10, 0), fast(10, 0));
    assert_eq!(run.rollout.lived_ms(), 250);
    // The machine sleeps for a day.
    run.pass(86_400_000);
    run.look(fast(10_000, 0), fast(500, 0));
    assert_eq!(run.rollout.lived_ms(), 250 + MAX_GAP_MS);
    // The service starts anew, with a younger clock.
    run.now.mono_ms = 10;
    run.rollout = step(&run.rollout, Event::Restarted, run.now)
        .expect("never refused")
        .0;
    run.look(fast(10_000, 0), fast(500, 0));
    assert_eq!(run.rollout.lived_ms(), 500 + MAX_GAP_MS);
    // The wall clock goes back by a year: it does not matter.
    run.now.wall_ms -= 31_536_000_000;
    run.look(fast(10_000, 0), fast(500, 0));
    run.look(fast(10_000, 0), fast(500, 0));
    assert_eq!(run.percent(), 50.0);
}

#[test]
fn the_lived_time_is_persisted_each_second() {
    let mut run = Run::of(spec(SPEC));
    let changed: Vec<bool> = (0..8)
        .map(|_| !run.look(fast(10, 0), fast(10, 0)).is_empty())
        .collect();
    assert_eq!(changed, [false, false, false, true, false, false, false, true]);
}

#[test]
fn history_is_bounded_and_counted() {
    let mut run = Run::of(spec(SPEC));
    for _ in 0..MAX_HISTORY {
        run.command(Command::Pause).expect("it is under way");
        run.command(Command::Resume).expect("it is paused");
    }
    let history = run.rollout.history();
    assert_eq!(history.len(), MAX_HISTORY);
    assert!(history.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
    assert_eq!(run.last().seq, 2 * MAX_HISTORY as u64 + 1);
}

#[test]
fn a_state_of_another_format_is_refused() {
    let run = Run::of(spec(SPEC));
    let json = serde_json::to_string(&run.rollout).expect("JSON");
    assert_eq!(
        serde_json::from_str::<Rollout>(&json).expect("the state"),
        run.rollout
    );
    let newer = json.replace("\"format\":2", "\"format\":1");
    assert!(
        serde_json::from_str::<Rollout>(&newer)
            .expect_err("refused")
            .to_string()
            .contains("format 1")
    );
}

#[test]
fn a_receipt_continues_the_state_before_it() {
    let mut run = Run::of(spec(SPEC));
    for command in [Command::Pause, Command::Resume, Command::Abort, Command::Retry] {
        let before = run.rollout.clone();
        run.command(command).expect("it is possible");
        let receipt = run.rollout.to_receipt_json();
        let bare: Rollout = serde_json::from_slice(&receipt).expect("the state");
        assert_eq!(
            bare.history(),
            &run.rollout.history()[run.rollout.history().len() - 1..]
        );
        assert_eq!(bare.continuing(&before), run.rollout);
    }
}

#[test]
fn status_explains_the_present_decision() {
    let mut run = Run::of(spec(SPEC));
    run.look(fast(1_000, 1), fast(10, 0));
    let counts = Weighed::from(WindowCounts {
        window: run.rollout.window(),
        stable: fast(1_000, 1),
        canary: fast(10, 1),
        ..WindowCounts::default()
    });
    let explained = serde_json::to_value(run.rollout.explain(&counts, run.now)).expect("JSON");
    assert_eq!(explained["phase"], "Progressing");
    assert_eq!(
        (&explained["stage"], &explained["step"], &explained["steps"]),
        (&"canary".into(), &1.into(), &2.into())
    );
    assert_eq!(
        (
            &explained["weight"],
            &explained["elapsedMs"],
            &explained["pauseMs"]
        ),
        (&1.into(), &250.into(), &2_000.into())
    );
    assert_eq!(
        explained["metrics"][0]["canary"],
        serde_json::json!({ "requests": 10, "bad": 1 })
    );
    assert_eq!(explained["waitsFor"][0], "1s more of the pause of 2s");
    assert_eq!(explained["next"], "canary at 50 %");
    assert_eq!(explained["nextLookWallMs"], run.now.wall_ms + 250);
    run.command(Command::Abort).expect("it is under way");
    let explained = run.rollout.explain(&counts, run.now);
    assert_eq!(
        (&*explained.phase, explained.reason.as_deref()),
        ("Failed", Some("aborted"))
    );
    assert_eq!(explained.next_look_wall_ms, None);
    assert!(explained.waits_for.is_empty() && explained.metrics.is_empty());
}
