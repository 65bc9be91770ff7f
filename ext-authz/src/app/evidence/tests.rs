use super::identity::HISTOGRAM_BUCKETS;
use super::*;
use knhk_promotion::sequential::{Block, Group, Outcome, Outcomes, Tallies};
use knhk_promotion::{Counts, Now, RolloutSpec, create};
use knhk_proto::v1::Variant;
use proptest::prelude::*;

const SPEC: &str = "
apiVersion: knhk.dev/v1
kind: Rollout
metadata: { name: r }
spec:
  version: v2
  stable: v1
  match: {}
  key: [ { requestId: {} } ]
  stages: [ { name: canary, steps: [ { setWeight: 5 }, { setWeight: 50 } ] } ]
  analysis: { slos: [ { metric: request-duration, quantile: 0.99, max: 250ms } ] }
";

/// After everybody had the time to report.
const LATER: Duration = Duration::from_secs(3_600);

/// A rollout, and evidence with its window open since the service started.
struct Case {
    rollout: Rollout,
    evidence: Evidence,
}

impl Case {
    fn new() -> Self {
        let now = Now {
            wall_ms: 1_700_000_000_000,
            mono_ms: 0,
        };
        let spec = RolloutSpec::from_yaml(SPEC).expect("valid");
        let (rollout, _) = create(spec, "someone", now);
        let evidence = Evidence::default();
        evidence.open(&rollout.rule(), Duration::ZERO);
        Self { rollout, evidence }
    }

    fn observed(&self, variant: Variant, requests: u64, errors: u64, over: u64) -> Observed {
        Observed {
            rollout: "r".into(),
            window: self.rollout.window(),
            variant: variant.into(),
            requests,
            errors,
            over: vec![over],
            histogram: vec![requests],
            ..Observed::default()
        }
    }

    fn requests(&self, from: &Origin, requests: u64) -> Result<(), Ignored> {
        self.evidence
            .observe(from, &[self.observed(Variant::Canary, requests, 0, 0)])
    }

    fn totals(&self, now: Duration) -> Weighed {
        self.evidence.totals(&self.rollout, now)
    }

    fn canary(&self) -> Counts {
        self.totals(LATER).counts().canary.clone()
    }

    fn identities(&self, now: Duration) -> usize {
        self.totals(now).provenance().map_or(0, |who| who.identities)
    }
}

fn unproven(worker: u8) -> Origin {
    Origin {
        identity: None,
        nonce: [worker; 16],
    }
}

fn of(identity: &str, worker: u8) -> Origin {
    Origin {
        identity: Some(identity.into()),
        nonce: [worker; 16],
    }
}

#[test]
fn counts_of_another_window_or_shape_are_not_taken() {
    let case = Case::new();
    let good = case.observed(Variant::Canary, 1, 0, 0);
    let late = Observed {
        window: good.window - 1,
        ..good.clone()
    };
    let unknown = Observed {
        rollout: "q".into(),
        ..good.clone()
    };
    for other in [late, unknown] {
        let ignored = case.evidence.observe(&unproven(0), &[other]);
        assert_eq!(ignored, Err(Ignored::OtherWindow));
    }
    for bad in [
        case.observed(Variant::Unspecified, 1, 0, 0),
        case.observed(Variant::Canary, 1, 2, 0),
        case.observed(Variant::Canary, 1, 0, 2),
        Observed {
            over: vec![],
            ..good.clone()
        },
        Observed {
            histogram: vec![0; HISTOGRAM_BUCKETS + 1],
            ..good
        },
    ] {
        let ignored = case.evidence.observe(&unproven(0), std::slice::from_ref(&bad));
        assert_eq!(ignored, Err(Ignored::Malformed), "{bad:?}");
    }
    assert_eq!(case.canary().requests, 0);
}

#[test]
fn what_staging_served_is_of_the_version_and_stands_apart() {
    let case = Case::new();
    let rows = [
        case.observed(Variant::Stable, 10, 0, 0),
        case.observed(Variant::Canary, 4, 0, 1),
        case.observed(Variant::Staging, 6, 0, 2),
    ];
    case.evidence.observe(&unproven(0), &rows).expect("taken");
    let totals = case.totals(LATER);
    let counts = totals.counts();
    assert_eq!(
        (
            counts.stable.requests,
            counts.canary.requests,
            counts.staging.requests
        ),
        (10, 4, 6)
    );
    assert_eq!(counts.staging.over, [2]);
    // What is bet on is all that the version finished.
    let news = case.evidence.news(&case.rollout);
    let told = Outcomes::default().with_uncompared(
        Tallies::new(10, &[3]).expect("it can be"),
        Tallies::new(10, &[0]).expect("it can be"),
    );
    assert_eq!(news.into_iter().map(|it| it.outcomes).collect::<Vec<_>>(), [told]);
    // Twice the same variant, or an order of what has none, is no report.
    let twice = [rows[2].clone(), rows[2].clone()];
    assert_eq!(
        case.evidence.observe(&unproven(1), &twice),
        Err(Ignored::Malformed)
    );
    let ordered = Observed {
        ordered: Some(knhk_proto::v1::Ordered::default()),
        ..rows[2].clone()
    };
    assert_eq!(
        case.evidence.observe(&unproven(1), &[ordered]),
        Err(Ignored::Malformed)
    );
}

#[test]
fn opening_the_same_window_again_keeps_its_evidence() {
    let case = Case::new();
    case.requests(&unproven(0), 9).expect("taken");
    case.evidence.open(&case.rollout.rule(), LATER);
    assert_eq!(case.canary().requests, 9);
    let next = RolloutRule {
        window: case.rollout.window() + 1,
        ..case.rollout.rule()
    };
    case.evidence.open(&next, LATER);
    assert_eq!(case.canary().requests, 0);
}

#[test]
fn one_worker_of_two_identities_is_two() {
    let case = Case::new();
    case.requests(&of("spiffe://a/x", 1), 9).expect("taken");
    case.requests(&of("spiffe://a/y", 1), 4)
        .expect("its own, not an older one");
    assert_eq!(case.canary().requests, 13);
    assert_eq!(case.identities(LATER), 2);
}

#[test]
fn workers_of_one_identity_count_as_one() {
    let case = Case::new();
    for worker in 0..5 {
        case.requests(&of("spiffe://a/x", worker), 10).expect("taken");
    }
    let totals = case.totals(LATER);
    let who = totals.provenance().expect("proven");
    assert_eq!((who.identities, who.counted[0].canary.reported), (1, 50));
}

#[test]
fn an_identity_beyond_the_bound_is_ignored_and_those_before_it_go_on() {
    let case = Case::new();
    for name in 0..MAX_IDENTITIES {
        case.requests(&of(&format!("spiffe://a/{name}"), 1), 1)
            .expect("room");
    }
    let beyond = case.requests(&of("spiffe://a/one-more", 1), 1);
    assert_eq!(beyond, Err(Ignored::TooManyIdentities));
    case.requests(&of("spiffe://a/0", 1), 2).expect("known");
    assert_eq!(case.identities(LATER), MAX_IDENTITIES);
}

#[test]
fn one_identity_leaves_room_for_others() {
    let case = Case::new();
    let named = |identity: &str, worker: usize| Origin {
        identity: Some(identity.into()),
        nonce: (worker as u128).to_be_bytes(),
    };
    for worker in 0..MAX_REPORTING_OF_ONE {
        case.requests(&named("spiffe://a/x", worker), 1).expect("room");
    }
    let beyond = case.requests(&named("spiffe://a/x", MAX_REPORTING_OF_ONE), 1);
    assert_eq!(beyond, Err(Ignored::TooManyReporters));
    case.requests(&named("spiffe://a/x", 0), 2).expect("known");
    case.requests(&named("spiffe://a/y", 0), 1)
        .expect("room for others");
}

#[test]
fn those_who_reported_on_the_window_before_are_awaited_for_a_while() {
    let mut case = Case::new();
    for name in ["spiffe://a/x", "spiffe://a/y", "spiffe://a/z"] {
        case.requests(&of(name, 1), 5).expect("taken");
    }
    let now = Now {
        wall_ms: 1_700_000_100_000,
        mono_ms: 100_000,
    };
    let command = knhk_promotion::Command::Promote {
        full: false,
        reason: None,
    };
    let event = knhk_promotion::Event::Command {
        by: "someone",
        command,
    };
    let opened = Duration::from_millis(now.mono_ms);
    case.rollout = knhk_promotion::step(&case.rollout, event, now)
        .expect("under way")
        .0;
    case.evidence.open(&case.rollout.rule(), opened);
    case.requests(&of("spiffe://a/x", 1), 3).expect("taken");
    assert_eq!(case.identities(opened), 3);
    assert_eq!(case.identities(opened + GATHERING), 1);
}

#[test]
fn at_first_nobody_is_believed_alone() {
    let case = Case::new();
    let alone = of("spiffe://a/x", 1);
    for (variant, over) in [(Variant::Stable, 0), (Variant::Canary, 1_000)] {
        let observed = case.observed(variant, 1_000, 0, over);
        case.evidence.observe(&alone, &[observed]).expect("taken");
    }
    // Of 64 requests of the canary every one is slow, beside a hundred of stable; told twice, since one report is no proof.
    let block = Block {
        stable: Tallies::new(2, &[0, 0]).expect("it can be"),
        canary: Outcome::new(Group::new(0).expect("there is one"), 0b11),
    };
    let blocks = (0..64).map(|index| Block {
        canary: Outcome::new(Group::new(index % 16).expect("there are 16"), 0b11),
        ..block
    });
    let outcomes = Outcomes::in_order(blocks.collect(), Tallies::default()).expect("as many as may be");
    let told = knhk_promotion::Reported {
        identity: alone.identity.clone(),
        outcomes,
    };
    let reports = [told.clone(), told];
    let looked = |now: Duration| {
        let event = knhk_promotion::Event::Looked {
            evidence: &case.totals(now),
            reports: &reports,
        };
        let at = Now {
            wall_ms: 1_700_000_000_250,
            mono_ms: 250,
        };
        knhk_promotion::step(&case.rollout, event, at).expect("a look").0
    };
    assert_eq!(looked(Duration::from_millis(250)).weight(), case.rollout.weight());
    // Nobody else came: there is only this one to believe.
    assert_eq!(looked(GATHERING).phase().label(), "Failed");
}

proptest! {
    /// However reports are lost, repeated and interleaved, the total is the sum of each worker's highest.
    #[test]
    fn totals_are_the_sum_of_each_workers_latest(
        identified in any::<bool>(),
        reports in prop::collection::vec((0u8..4, any::<bool>(), 0u64..1000), 0..60),
    ) {
        let case = Case::new();
        let mut model: HashMap<(u8, bool), u64> = HashMap::new();
        for (worker, canary, requests) in reports {
            let variant = if canary { Variant::Canary } else { Variant::Stable };
            let from = if identified { of("spiffe://a/x", worker) } else { unproven(worker) };
            let observed = case.observed(variant, requests, requests / 3, requests / 2);
            let taken = case.evidence.observe(&from, &[observed]);
            let highest = model.entry((worker, canary)).or_insert(0);
            prop_assert_eq!(taken.is_ok(), requests >= *highest);
            *highest = requests.max(*highest);
        }
        let totals = case.totals(LATER);
        for (canary, counts) in [(true, &totals.counts().canary), (false, &totals.counts().stable)] {
            let of = |measure: fn(u64) -> u64| -> u64 {
                model.iter().filter(|((_, side), _)| *side == canary).map(|(_, requests)| measure(*requests)).sum()
            };
            prop_assert_eq!(counts.requests, of(|n| n));
            prop_assert_eq!(counts.errors, of(|n| n / 3));
            prop_assert_eq!(counts.over[0], of(|n| n / 2));
            prop_assert_eq!(counts.histogram.first().copied().unwrap_or(0), of(|n| n));
        }
    }
}
