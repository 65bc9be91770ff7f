//! What holds for every history of a trial.

use super::{beside, block, in_order, plan, plan_of_two, tallies};
use knhk_promotion::Finding;
use knhk_promotion::sequential::{
    Block, Decides, Decision, GROUPS, Outcomes, OutcomesError, Patience, Tallies, Trial, TrialEvent,
};
use proptest::prelude::*;

fn blocks(most: usize) -> impl Strategy<Value = Vec<Block>> {
    let one = (0..16_u8, 0..4_u8, 0_u64..5).prop_flat_map(|(group, bad, stable)| {
        [0..=stable, 0..=stable].prop_map(move |stable_bad| block(group, bad, stable, stable_bad))
    });
    proptest::collection::vec(one, 0..most)
}

fn reports(blocks: &[Block], size: usize) -> impl Iterator<Item = TrialEvent> + '_ {
    blocks.chunks(size).map(|chunk| in_order(chunk.to_vec()))
}

fn after_all(trial: Trial, events: impl IntoIterator<Item = TrialEvent>) -> Trial {
    events.into_iter().fold(trial, |trial, event| trial.after(&event))
}

proptest! {
    #[test]
    fn a_state_that_was_written_down_goes_on_with_the_same_bits(
        before in blocks(200), then in blocks(100), over in any::<bool>()
    ) {
        let plan = plan_of_two(0.01);
        let begins = if over { TrialEvent::StartsOver } else { TrialEvent::StepBegins };
        let trial = after_all(beside(&plan), reports(&before, 64)).after(&begins(Decides::SloAndStable));
        let trial = after_all(trial, reports(&then, 7));
        let text = serde_json::to_string(&trial).expect("it can be written");
        let read: Trial = serde_json::from_str(&text).expect("it can be read");
        prop_assert_eq!(&read, &trial);
        let further = |trial: Trial| after_all(trial, reports(&before, 13));
        prop_assert_eq!(
            serde_json::to_string(&further(read)).expect("it can be written"),
            serde_json::to_string(&further(trial)).expect("it can be written")
        );
    }

    #[test]
    fn where_a_report_ends_means_nothing_to_the_comparison(all in blocks(300), size in 1_usize..=64) {
        let worse = |size| {
            let verdict = after_all(beside(&plan_of_two(0.01)), reports(&all, size)).verdict(Patience::Left);
            verdict.readings.into_iter().map(|one| one.worse).collect::<Vec<_>>()
        };
        prop_assert_eq!(worse(64), worse(size));
    }

    #[test]
    fn keys_of_one_group_alone_never_convict(all in blocks(300), guilty in 0..GROUPS) {
        let innocent = |one: &Block| one.canary.group().index() != guilty;
        let all: Vec<Block> = all.into_iter().map(|one| {
            let group = u8::try_from(one.canary.group().index()).expect("it is a group");
            let good = block(group, 0, one.stable.requests(), [one.stable.bad(0), one.stable.bad(1)]);
            if innocent(&one) { good } else { one }
        }).collect();
        for trial in prefixes(beside(&plan_of_two(0.5)), &all) {
            for evidence in trial.verdict(Patience::Left).readings {
                prop_assert!(evidence.worse.expect("it is compared") <= 1.0 + 1e-9);
                prop_assert!(evidence.finding != Finding::Worse);
            }
        }
    }

    #[test]
    fn a_failure_of_stable_never_speaks_against_the_canary(all in blocks(120), at in any::<prop::sample::Index>()) {
        prop_assume!(!all.is_empty());
        let mut worse = all.clone();
        let one = &mut worse[at.index(all.len())];
        prop_assume!(one.stable.bad(0) < one.stable.requests());
        one.stable = tallies(one.stable.requests(), [one.stable.bad(0) + 1, one.stable.bad(1)]);
        let plan = plan_of_two(0.01);
        let evidence = |blocks: &[Block]| {
            let verdict = after_all(beside(&plan), reports(blocks, 64)).verdict(Patience::Left);
            (verdict.readings[0].worse.expect("it is compared"), verdict.readings[0].violated)
        };
        let ((before, violated), (after, still)) = (evidence(&all), evidence(&worse));
        prop_assert!(after <= before * (1.0 + 1e-12), "{before} {after}");
        prop_assert!((violated - still).abs() <= 0.0);
    }

    #[test]
    fn too_few_requests_are_never_passed(all in blocks(150)) {
        let trial = after_all(beside(&plan_of_two(0.01)), reports(&all, 64));
        prop_assert!(trial.canary().requests() < trial.plan().min_requests());
        for patience in [Patience::Left, Patience::Over] {
            prop_assert!(trial.verdict(patience).decision != Decision::Pass);
        }
    }

    #[test]
    fn a_rollback_has_both_proofs_in_one_metric(all in blocks(200), alone in any::<bool>()) {
        let decides = if alone { Decides::SloAlone } else { Decides::SloAndStable };
        for trial in prefixes(Trial::new(plan_of_two(0.3), decides), &all) {
            let verdict = trial.verdict(Patience::Left);
            let proven = verdict.readings.iter().any(|one| {
                prop_assert_eq_bound(one.worse.is_none(), alone);
                one.violated >= one.bound && one.worse.is_none_or(|worse| worse >= one.bound)
            });
            prop_assert_eq!(verdict.decision == Decision::RollBack, proven);
        }
    }

    #[test]
    fn counts_without_order_are_no_comparison(all in blocks(150), canary in 0_u64..1_000, bad in 0.0_f64..=1.0) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let bad = (canary as f64 * bad) as u64;
        let plan = plan_of_two(0.01);
        let trial = after_all(beside(&plan), reports(&all, 64));
        let lost = Outcomes::default().with_uncompared(tallies(canary, [bad, 0]), tallies(canary, [0, bad]));
        let with = trial.clone().after(&TrialEvent::Finished(Box::new(lost)));
        let worse = |trial: &Trial| trial.verdict(Patience::Left).readings.into_iter().map(|one| one.worse).collect::<Vec<_>>();
        prop_assert_eq!(worse(&with), worse(&trial));
        prop_assert_eq!(with.canary().requests(), trial.canary().requests() + canary);
        prop_assert_eq!(with.canary().bad(0), trial.canary().bad(0) + bad);
        prop_assert_eq!(with.stable().bad(1), trial.stable().bad(1) + bad);
    }

    #[test]
    fn counts_that_contradict_themselves_are_refused(requests in 0_u64..100, more in 1_u64..100) {
        let refused = Tallies::new(requests, &[0, requests + more]);
        prop_assert_eq!(refused, Err(OutcomesError::Counts { bad: requests + more, requests }));
    }
}

fn prop_assert_eq_bound(left: bool, right: bool) {
    assert_eq!(left, right, "stable is compared with where it runs beside");
}

/// The trial after each report.
fn prefixes(trial: Trial, blocks: &[Block]) -> Vec<Trial> {
    let mut trials = vec![trial];
    for event in reports(blocks, 5) {
        let next = trials.last().expect("it has begun").clone().after(&event);
        trials.push(next);
    }
    trials
}

#[test]
fn a_damaged_state_is_refused_with_what_to_do() {
    let trial = after_all(
        beside(&plan(0.01, 0.5, 99.0)),
        [in_order(vec![block(0, 1, 3, [1, 0])])],
    );
    let text = serde_json::to_string(&trial).expect("it can be written");
    let damaged = [
        ("\"format\":1", "\"format\":2", "this version reads 1"),
        ("\"alpha\":0.01", "\"alpha\":0", "alpha 0"),
        ("\"alpha\":0.01", "\"alpha\":0.01,\"beta\":1", "beta"),
        ("\"tolerance\":0.005", "\"tolerance\":-0.1", "tolerance -0.1"),
        ("\"minRequests\":200", "\"minRequests\":0", "minRequests 0"),
        ("\"requests\":3", "\"requests\":0", "1 bad of 0"),
        ("\"capital\":[", "\"capital\":[-1e-3,", "from 0 to"),
        (
            "\"capital\":[",
            "\"capital\":[0,",
            "17 stakes where this version has 16",
        ),
    ];
    for (from, to, why) in damaged {
        assert!(text.contains(from), "{from} is in the state");
        let error = serde_json::from_str::<Trial>(&text.replacen(from, to, 1))
            .expect_err(to)
            .to_string();
        assert!(error.contains(why), "{to}: {error}");
    }
}
