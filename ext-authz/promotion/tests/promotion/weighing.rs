//! What weighing does to counts, whoever reports what.

use crate::run::{SPEC, spec};
use knhk_promotion::{
    Audience, Counts, MAX_NAMED, Provenance, Reporter, RolloutSpec, Weighed, WindowCounts, weigh,
};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;

const WINDOW: u64 = 7;

fn counts(requests: u64, bad: u64) -> Counts {
    Counts {
        requests,
        errors: bad,
        over: vec![0],
        histogram: vec![requests],
        ..Counts::default()
    }
}

fn reporter(name: usize, stable: Counts, canary: Counts) -> Reporter {
    Reporter {
        identity: Some(Arc::from(format!("spiffe://example.org/{name}"))),
        stable,
        canary,
        staging: counts(0, 0),
    }
}

/// Identities that all report the same of both variants.
fn equals(count: usize, requests: u64, bad: u64) -> Vec<Reporter> {
    (0..count)
        .map(|name| reporter(name, counts(requests, bad), counts(requests, bad)))
        .collect()
}

fn weighed(reporters: Vec<Reporter>) -> Weighed {
    weigh(&spec(SPEC), WINDOW, Audience::Known, reporters)
}

fn provenance(weighed: &Weighed) -> &Provenance {
    weighed.provenance().expect("identities are proven")
}

fn summed(reporters: &[Reporter]) -> WindowCounts {
    let sum = |of: fn(&Reporter) -> &Counts| {
        reporters.iter().map(of).fold(
            Counts {
                over: vec![0],
                ..Counts::default()
            },
            |sum, it| Counts {
                requests: sum.requests + it.requests,
                errors: sum.errors + it.errors,
                over: vec![sum.over[0] + it.over[0]],
                histogram: vec![sum.histogram.first().copied().unwrap_or(0) + it.histogram[0]],
                ..Counts::default()
            },
        )
    };
    WindowCounts {
        window: WINDOW,
        stable: sum(|it| &it.stable),
        canary: sum(|it| &it.canary),
        staging: sum(|it| &it.staging),
    }
}

fn any_counts() -> impl Strategy<Value = Counts> {
    (
        prop_oneof![Just(0u64), 1u64..50, 1u64..100_000],
        0.0f64..=1.0,
        any::<bool>(),
    )
        .prop_map(|(requests, share, good)| {
            #[allow(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss
            )]
            let bad = if good { 0 } else { (requests as f64 * share) as u64 };
            counts(requests, bad)
        })
}

fn any_reporters(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Reporter>> {
    prop::collection::vec((any_counts(), any_counts()), count).prop_map(|all| {
        let all = all.into_iter().enumerate();
        all.map(|(name, (stable, canary))| reporter(name, stable, canary))
            .collect()
    })
}

proptest! {
    #[test]
    fn the_order_does_not_matter(reporters in any_reporters(0..8), seed in any::<u64>()) {
        let mut shuffled = reporters.clone();
        let mut rng = StdRng::seed_from_u64(seed);
        for last in (1..shuffled.len()).rev() {
            shuffled.swap(last, rng.random_range(0..=last));
        }
        prop_assert_eq!(weighed(reporters), weighed(shuffled));
    }

    #[test]
    fn fewer_than_three_are_summed_up_as_they_are(reporters in any_reporters(0..3)) {
        let sum = summed(&reporters);
        let weighed = weighed(reporters);
        prop_assert_eq!(&weighed.counts().stable.over, &sum.stable.over);
        prop_assert_eq!(weighed.counts().stable.errors, sum.stable.errors);
        prop_assert_eq!(weighed.counts().canary.requests, sum.canary.requests);
        prop_assert!(weighed.provenance().is_none_or(|it| it.set_aside.is_empty()));
    }

    #[test]
    fn what_comes_without_identity_is_judged_as_it_is(stable in any_counts(), canary in any_counts(), staging in any_counts()) {
        for audience in [Audience::Known, Audience::Gathering] {
            let alone = Reporter { identity: None, stable: stable.clone(), canary: canary.clone(), staging: staging.clone() };
            let weighed = weigh(&spec(SPEC), WINDOW, audience, vec![alone]);
            let (stable, canary, staging) = (stable.clone(), canary.clone(), staging.clone());
            prop_assert_eq!(weighed, Weighed::from(WindowCounts { window: WINDOW, stable, canary, staging }));
        }
    }

    #[test]
    fn nobody_counts_for_more_than_a_third_nor_for_more_than_it_reported(reporters in any_reporters(3..8)) {
        let weighed = weighed(reporters);
        let who = provenance(&weighed);
        for (reporting, part, of) in [
            (who.canary_reporting, (|it| it.canary) as fn(&knhk_promotion::Contribution) -> knhk_promotion::Part, &weighed.counts().canary),
            (who.stable_reporting, |it| it.stable, &weighed.counts().stable),
            (who.staging_reporting, |it| it.staging, &weighed.counts().staging),
        ] {
            prop_assert_eq!(who.counted.iter().map(|it| part(it).counted).sum::<u64>(), of.requests);
            for it in &who.counted {
                prop_assert!(part(it).counted <= part(it).reported);
                prop_assert!(reporting < 3 || part(it).counted * 3 <= of.requests, "{:?}", who);
                prop_assert!(reporting >= 3 || part(it).counted == part(it).reported);
            }
            prop_assert!(of.errors <= of.requests);
        }
    }

    #[test]
    fn fewer_than_half_are_set_aside(reporters in any_reporters(3..12)) {
        let all = reporters.len();
        let weighed = weighed(reporters);
        prop_assert!(provenance(&weighed).aside() * 2 < all);
    }

    /// Whatever one identity says of a version that the others find good, it is not what is judged.
    #[test]
    fn one_of_four_does_not_move_the_share_far(lie in any_counts(), requests in 100u64..10_000) {
        let mut reporters = equals(3, requests, 0);
        reporters.push(reporter(9, counts(requests, 0), lie));
        let weighed = weighed(reporters);
        let canary = &weighed.counts().canary;
        prop_assert!(canary.errors * 3 <= canary.requests);
        prop_assert!(canary.requests >= 3 * requests);
    }
}

#[test]
fn a_lie_is_set_aside_and_shown_with_its_numbers_in_both_directions_and_of_each_variant() {
    let truth = |bad: u64| counts(1_000, bad);
    for (others, lie) in [
        (truth(1), truth(1_000)),
        (truth(300), truth(0)),
        (truth(1), counts(1_000_000, 50_000)),
    ] {
        for variant in ["canary", "stable", "staging"] {
            let of = |name: usize, counts: &Counts| {
                let mut said = reporter(name, truth(1), truth(1));
                match variant {
                    "canary" => said.canary.clone_from(counts),
                    "stable" => said.stable.clone_from(counts),
                    _ => said.staging.clone_from(counts),
                }
                said
            };
            let mut reporters: Vec<_> = (0..3).map(|name| of(name, &others)).collect();
            reporters.push(of(9, &lie));
            let weighed = weighed(reporters.clone());
            let [aside] = &provenance(&weighed).set_aside[..] else {
                panic!("{variant}, {lie:?}: {:?}", weighed.provenance());
            };
            assert_eq!(aside.identity.as_deref(), Some("spiffe://example.org/9"));
            assert_eq!(aside.variant.as_str(), variant);
            assert_eq!((aside.own.requests, aside.own.bad), (lie.requests, lie.errors));
            assert_eq!(
                (aside.others.requests, aside.others.bad),
                (3_000, 3 * others.errors)
            );
            let text = aside.to_string();
            assert!(
                text.contains("spiffe://example.org/9") && text.contains(variant),
                "{text}"
            );
            // What it says of the other variant does not count either.
            reporters.pop();
            assert_eq!(*weighed.counts(), summed(&reporters));
        }
    }
}

#[test]
fn slowness_is_compared_as_errors_are() {
    let slow = Counts {
        over: vec![900],
        ..counts(1_000, 0)
    };
    let mut reporters = equals(3, 1_000, 0);
    reporters.push(reporter(9, counts(1_000, 0), slow));
    let weighed = weighed(reporters);
    let aside = &provenance(&weighed).set_aside[0];
    assert!(aside.slo.starts_with("request-duration"), "{aside:?}");
}

#[test]
fn of_three_one_is_set_aside_and_of_two_none() {
    let lying = |honest: usize| {
        let mut reporters = equals(honest, 1_000, 1);
        reporters.push(reporter(9, counts(1_000, 1), counts(1_000_000, 1_000_000)));
        provenance(&weighed(reporters)).aside()
    };
    assert_eq!((lying(1), lying(2), lying(3)), (0, 1, 1));
}

#[test]
fn two_liars_of_five_are_set_aside_and_two_of_four_are_not() {
    let lying = |honest: usize| {
        let mut reporters = equals(honest, 1_000, 1);
        reporters.push(reporter(8, counts(1_000, 1), counts(1_000, 800)));
        reporters.push(reporter(9, counts(1_000, 1), counts(1_000, 900)));
        provenance(&weighed(reporters)).aside()
    };
    assert_eq!(lying(3), 2);
    assert!(lying(2) <= 1);
}

#[test]
fn callers_that_differ_within_the_tolerance_all_count() {
    // Shares from 0.1 to 0.5 %, a tolerance of 0.5 points, and looks at growing counts.
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..20 {
        let mut reporters = equals(4, 0, 0);
        for _ in 0..100 {
            for (reporter, share) in reporters.iter_mut().zip([0.001, 0.002, 0.004, 0.005]) {
                for counts in [&mut reporter.stable, &mut reporter.canary] {
                    let bad = (0..200).filter(|_| rng.random_bool(share)).count() as u64;
                    counts.requests += 200;
                    counts.errors += bad;
                }
            }
            let weighed = weighed(reporters.clone());
            assert_eq!(provenance(&weighed).aside(), 0, "{:?}", weighed.provenance());
        }
    }
}

#[test]
fn many_are_counted_and_few_are_named() {
    let weighed = weighed(equals(MAX_NAMED + 5, 100, 0));
    let who = provenance(&weighed);
    assert_eq!(
        (who.identities, who.counted.len(), who.more),
        (MAX_NAMED + 5, MAX_NAMED, 5)
    );
    assert_eq!(weighed.counts().canary.requests, 100 * (MAX_NAMED as u64 + 5));
    let json = serde_json::to_string(who).expect("JSON");
    assert!(
        json.contains("\"canaryReporting\":13") && json.contains("\"setAside\":[]"),
        "{json}"
    );
    assert_eq!(&serde_json::from_str::<Provenance>(&json).expect("the same"), who);
}

#[test]
fn a_specification_without_durations_is_weighed_too() {
    let spec: RolloutSpec =
        spec(&SPEC.replace(", { metric: request-duration, quantile: 0.99, max: 250ms }", ""));
    let bare = |requests, errors| Counts {
        requests,
        errors,
        ..Counts::default()
    };
    let all = (0..3)
        .map(|name| reporter(name, bare(100, 0), bare(10, 1)))
        .collect();
    let weighed = weigh(&spec, WINDOW, Audience::Known, all);
    assert_eq!(weighed.counts().canary, bare(30, 3));
}
