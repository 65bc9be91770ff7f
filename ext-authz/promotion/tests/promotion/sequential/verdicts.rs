//! What follows from evidence, by example.

use super::{beside, block, in_order, plan, tallies};
use knhk_promotion::Finding;
use knhk_promotion::sequential::{
    Block, Decides, Decision, Outcomes, Patience, Trial, TrialEvent, WATCH_BLOCK,
};

/// `count` outcomes of the canary by keys of all groups, every `each`th of them bad, with ten of stable's before each.
fn outcomes(count: u8, each: u8, stable_bad: u64) -> Vec<Block> {
    (0..count)
        .map(|one| block(one % 16, u8::from(one % each == 0), 10, [stable_bad, 0]))
        .collect()
}

fn after(trial: Trial, blocks: &[Block]) -> Trial {
    blocks
        .chunks(16)
        .fold(trial, |trial, chunk| trial.after(&in_order(chunk.to_vec())))
}

fn decision(trial: &Trial) -> Decision {
    trial.verdict(Patience::Left).decision
}

#[test]
fn a_canary_that_fails_beside_a_good_stable_is_rolled_back_before_min_requests() {
    let trial = after(beside(&plan(0.01, 0.5, 99.0)), &outcomes(100, 2, 0));
    assert!(trial.canary().requests() < trial.plan().min_requests());
    let verdict = trial.verdict(Patience::Left);
    assert_eq!(verdict.decision, Decision::RollBack);
    assert_eq!(verdict.readings[0].finding, Finding::Worse);
    let line = verdict.readings[0].to_string();
    assert!(
        line.starts_with(
            "request-success-rate min 99 %: canary 50 of 100 bad (50 %), 1 % allowed (evidence "
        ),
        "{line}"
    );
    assert!(line.contains("; stable 0 of 1000 bad (0 %) (evidence "), "{line}");
    assert!(line.contains("worse by more than 0.5 % (evidence "), "{line}");
}

#[test]
fn both_failing_is_said_and_blames_nobody() {
    let trial = after(beside(&plan(0.01, 0.5, 99.0)), &outcomes(250, 2, 5));
    let verdict = trial.verdict(Patience::Left);
    assert_eq!(verdict.decision, Decision::StableAlsoFailing);
    assert_eq!(verdict.readings[0].finding, Finding::StableAlso);
}

#[test]
fn both_failing_ends_when_they_have_recovered() {
    let mut trial = after(beside(&plan(0.01, 0.5, 99.0)), &outcomes(250, 2, 5));
    let mut good = 0;
    while decision(&trial) == Decision::StableAlsoFailing {
        trial = after(trial, &outcomes(250, u8::MAX, 0)[1..]);
        good += 249;
        assert!(good < 20_000, "what is remembered is bounded");
    }
}

#[test]
fn resuming_forgets_and_the_step_needs_its_own_requests() {
    let trial = after(beside(&plan(0.01, 0.5, 99.0)), &outcomes(250, 2, 5));
    let trial = trial.after(&TrialEvent::StartsOver(Decides::SloAndStable));
    assert_eq!(decision(&trial), Decision::Wait);
    assert_eq!(trial.canary().requests(), 0);
    let trial = after(trial, &outcomes(250, u8::MAX, 0)[1..]);
    assert_eq!(decision(&trial), Decision::Pass);
}

fn uncompared(canary: u64, bad: u64) -> TrialEvent {
    let (canary, stable) = (tallies(canary, [bad, 0]), tallies(0, [0, 0]));
    TrialEvent::Finished(Box::new(Outcomes::default().with_uncompared(canary, stable)))
}

/// A version that serves everything: for each second, how many of 1,000 requests failed.
fn watch(seconds: impl IntoIterator<Item = u64>) -> Trial {
    let trial = Trial::new(plan(0.01, 0.5, 99.0), Decides::SloAlone);
    seconds.into_iter().fold(trial, |trial, bad| {
        trial
            .after(&uncompared(1_000, bad))
            .after(&TrialEvent::SecondPassed)
    })
}

#[test]
fn where_nothing_runs_beside_it_the_slo_alone_decides() {
    assert_eq!(decision(&watch([5; 5])), Decision::Pass);
    assert_eq!(decision(&watch([300; 5])), Decision::RollBack);
    // The same beside stable of which nothing is known: violated, and nobody is to blame yet.
    let reports = [300; 5].map(|bad| uncompared(1_000, bad));
    let trial = reports.iter().fold(beside(&plan(0.01, 0.5, 99.0)), Trial::after);
    let verdict = trial.verdict(Patience::Left);
    assert_eq!(verdict.decision, Decision::Wait);
    assert_eq!(verdict.readings[0].finding, Finding::Violated);
}

#[test]
fn an_outage_of_a_second_does_not_end_a_watch_and_a_long_one_does() {
    let good = || std::iter::repeat_n(1, 300);
    let outage = |seconds| watch(good().chain(std::iter::repeat_n(1_000, seconds)).chain([1]));
    assert_ne!(decision(&outage(1)), Decision::RollBack);
    assert_eq!(decision(&outage(8)), Decision::RollBack);
}

#[test]
fn a_block_of_a_watch_gathers_enough_requests() {
    let trial = Trial::new(plan(0.01, 0.5, 99.0), Decides::SloAlone);
    let second = |trial: Trial| trial.after(&uncompared(1, 1)).after(&TrialEvent::SecondPassed);
    let few = (1..WATCH_BLOCK).fold(trial.clone(), |trial, _| second(trial));
    assert!(
        (few.verdict(Patience::Left).readings[0].violated - 1.0).abs() < 1e-12,
        "nothing is settled"
    );
    assert!(second(few).verdict(Patience::Left).readings[0].violated > 10.0);
}

#[test]
fn a_heavy_user_is_named_and_does_not_convict() {
    let mut blocks = outcomes(240, u8::MAX, 0);
    for one in blocks.iter_mut().filter(|one| one.canary.group().index() == 3) {
        *one = block(3, 1, 10, [0, 0]);
    }
    let mut trial = beside(&plan(0.01, 0.5, 99.0));
    for _ in 0..10 {
        trial = after(trial, &blocks[1..]);
    }
    let verdict = trial.verdict(Patience::Left);
    assert_eq!(verdict.decision, Decision::Wait);
    assert_eq!(verdict.readings[0].group, Some(3));
    let line = verdict.readings[0].to_string();
    assert!(
        line.ends_with("all but for the keys of group 3, which may be one user"),
        "{line}"
    );
}

#[test]
fn a_step_without_its_evidence_is_inconclusive_at_its_deadline() {
    let plan = plan(0.01, 0.5, 99.0);
    let trial = Trial::new(plan, Decides::SloAndStable);
    let trial = after(trial, &outcomes(100, u8::MAX, 0)[1..]);
    assert_eq!(trial.verdict(Patience::Left).decision, Decision::Wait);
    assert_eq!(trial.verdict(Patience::Over).decision, Decision::Inconclusive);
    // It neither hides a rollback nor a pass.
    assert_eq!(
        after(trial.clone(), &outcomes(100, 2, 0))
            .verdict(Patience::Over)
            .decision,
        Decision::RollBack
    );
    assert_eq!(
        after(trial, &outcomes(200, u8::MAX, 0)[1..])
            .verdict(Patience::Over)
            .decision,
        Decision::Pass
    );
}

#[test]
fn a_canary_that_turns_bad_late_is_found_as_soon_as_what_its_start_costs() {
    let mut trial = beside(&plan(0.01, 0.5, 99.0));
    let good = outcomes(250, u8::MAX, 0);
    for _ in 0..400 {
        trial = after(trial, &good[1..]);
    }
    assert_eq!(decision(&trial), Decision::Pass);
    let mut bad = 0;
    while decision(&trial) != Decision::RollBack {
        trial = after(trial, &outcomes(8, 2, 0));
        bad += 8;
        assert!(bad <= 80, "100,000 good outcomes before do not hide 50 % errors");
    }
    assert!(bad >= 16, "nothing is proven by a handful: {bad}");
}
