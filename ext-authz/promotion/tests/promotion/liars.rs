//! One identity of several lies, as well as it can: it sees what all the others report before it speaks. It neither
//! causes a rollback nor hides one, on the shipped state machine, a look each [`LOOK_EVERY_MS`].

use crate::reports::Told;
use knhk_promotion::{
    Audience, Counts, Event, GATHERING_MS, LOOK_EVERY_MS, Now, PauseReason, Phase, Reported, Reporter,
    Rollout, RolloutSpec, Weighed, WindowCounts, create, step, weigh,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fmt;
use std::sync::Arc;

const SPEC: &str = "
apiVersion: knhk.dev/v1
kind: Rollout
metadata: { name: checkout }
spec:
  version: v42
  stable: v41
  match: {}
  key: [ { requestId: {} } ]
  stages:
    - { name: canary, steps: [ { setWeight: 5, pause: 10s }, { setWeight: 50, pause: 10s } ] }
    - { name: production, watch: 20s }
  analysis: { alpha: 0.01, tolerance: 0.5, slos: [ { metric: request-success-rate, min: 99.5 } ] }
";

const SEEDS: u64 = 12;
/// More than the pauses last.
const LIMIT_MS: u64 = 60_000;

/// What is true.
#[derive(Debug, Clone, Copy)]
struct World {
    /// Requests a second of each honest identity.
    rates: &'static [f64],
    stable: f64,
    canary: f64,
}

/// What the liar claims, given the honest ones' totals of the window.
#[derive(Clone, Copy)]
struct Lie {
    name: &'static str,
    stable: fn(&Counts) -> Counts,
    canary: fn(&Counts) -> Counts,
}

impl fmt::Debug for Lie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn claim(requests: u64, errors: u64) -> Counts {
    Counts {
        requests,
        errors,
        ..Counts::default()
    }
}

fn nothing(_: &Counts) -> Counts {
    claim(0, 0)
}

/// As the others, with their share of errors.
fn honest(others: &Counts) -> Counts {
    claim(others.requests / 3, others.errors / 3)
}

fn few_bad(others: &Counts) -> Counts {
    let n = others.requests.min(3);
    claim(n, n)
}

fn half_as_much_bad(others: &Counts) -> Counts {
    claim(others.requests / 2, others.requests / 2)
}

fn all_bad(_: &Counts) -> Counts {
    claim(1_000_000, 1_000_000)
}

fn a_twentieth_bad(others: &Counts) -> Counts {
    claim(others.requests, others.requests.div_ceil(20))
}

fn all_good(_: &Counts) -> Counts {
    claim(1_000_000_000, 0)
}

fn as_many_good(others: &Counts) -> Counts {
    claim(others.requests, 0)
}

/// Lies that should make a canary look worse than it is.
const BLAMING: [Lie; 7] = [
    Lie {
        name: "a few bad of the canary",
        stable: honest,
        canary: few_bad,
    },
    Lie {
        name: "half as much, all bad",
        stable: honest,
        canary: half_as_much_bad,
    },
    Lie {
        name: "a million, all bad",
        stable: honest,
        canary: all_bad,
    },
    Lie {
        name: "a million, all bad, of the canary alone",
        stable: nothing,
        canary: all_bad,
    },
    Lie {
        name: "a twentieth bad",
        stable: honest,
        canary: a_twentieth_bad,
    },
    Lie {
        name: "stable perfect",
        stable: all_good,
        canary: honest,
    },
    Lie {
        name: "stable perfect, canary bad",
        stable: all_good,
        canary: half_as_much_bad,
    },
];

/// Lies that should make it look better.
const PRAISING: [Lie; 6] = [
    Lie {
        name: "a milliard good of the canary",
        stable: honest,
        canary: all_good,
    },
    Lie {
        name: "as many good as the others have",
        stable: honest,
        canary: as_many_good,
    },
    Lie {
        name: "stable bad",
        stable: all_bad,
        canary: honest,
    },
    Lie {
        name: "half of stable bad",
        stable: half_as_much_bad,
        canary: honest,
    },
    Lie {
        name: "both",
        stable: all_bad,
        canary: all_good,
    },
    Lie {
        name: "both, in measure",
        stable: half_as_much_bad,
        canary: as_many_good,
    },
];

#[derive(Debug, Clone, Copy)]
struct End {
    phase: Phase,
    /// Whether it was ever stopped because stable failed too.
    stopped: bool,
    /// Steps that it had passed.
    step: usize,
    /// Requests of the canary at the honest ones, in the last window.
    requests: u64,
}

/// How reports become evidence.
type Weighing = fn(&RolloutSpec, u64, Audience, Vec<Reporter>) -> Weighed;

/// The plain sum, which believes everybody.
#[allow(clippy::needless_pass_by_value, reason = "it stands in the place of `weigh`")]
fn summed(_: &RolloutSpec, window: u64, _: Audience, reporters: Vec<Reporter>) -> Weighed {
    let sum = |of: fn(&Reporter) -> &Counts| total(reporters.iter().map(of));
    let (stable, canary) = (sum(|it| &it.stable), sum(|it| &it.canary));
    WindowCounts {
        window,
        stable,
        canary,
        ..WindowCounts::default()
    }
    .into()
}

fn play(world: World, lie: Option<Lie>, seed: u64) -> End {
    play_by(world, lie, seed, weigh)
}

/// Plays a rollout in which the liar always reports before anybody else does.
fn play_by(world: World, lie: Option<Lie>, seed: u64, weighing: Weighing) -> End {
    let spec = RolloutSpec::from_yaml(SPEC).expect("it is a rollout");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut now = Now {
        wall_ms: 1_700_000_000_000,
        mono_ms: 0,
    };
    let (mut rollout, _) = create(spec.clone(), "simulation", now);
    let mut window = rollout.window();
    let mut reporters = fresh(world);
    let mut told = vec![Told::default(); reporters.len() + 1];
    let mut stopped = false;
    while now.mono_ms < LIMIT_MS && matches!(rollout.phase(), Phase::Progressing | Phase::Paused(_)) {
        now.wall_ms += LOOK_EVERY_MS;
        now.mono_ms += LOOK_EVERY_MS;
        if rollout.window() != window {
            (window, reporters) = (rollout.window(), fresh(world));
        }
        // The first look of a window comes before any honest report.
        let all = claims(&reporters, lie);
        let reports: Vec<Reported> = all
            .iter()
            .zip(&mut told)
            .flat_map(|(it, told)| told.up_to(&spec, window, it.identity.as_ref(), &it.stable, &it.canary))
            .collect();
        let evidence = weighing(&spec, window, audience(now), all);
        rollout = look(&rollout, &evidence, &reports, now);
        stopped |= rollout.phase() == Phase::Paused(PauseReason::StableAlsoFailing);
        let share = rollout.weight().percent() / 100.0;
        for (reporter, rate) in reporters.iter_mut().zip(world.rates) {
            serve(&mut reporter.stable, rate * (1.0 - share), world.stable, &mut rng);
            serve(&mut reporter.canary, rate * share, world.canary, &mut rng);
        }
    }
    End {
        phase: rollout.phase(),
        stopped,
        step: rollout.place().stage + rollout.place().step,
        requests: reporters.iter().map(|reporter| reporter.canary.requests).sum(),
    }
}

fn look(rollout: &Rollout, evidence: &Weighed, reports: &[Reported], now: Now) -> Rollout {
    step(rollout, Event::Looked { evidence, reports }, now)
        .expect("a look is never refused")
        .0
}

/// The requests of one look: a Poisson number of good ones, and one of bad ones.
fn serve(counts: &mut Counts, rate: f64, bad: f64, rng: &mut StdRng) {
    #[allow(clippy::cast_precision_loss)]
    let seconds = LOOK_EVERY_MS as f64 / 1_000.0;
    let good = poisson(rate * seconds * (1.0 - bad), rng);
    let errors = poisson(rate * seconds * bad, rng);
    counts.requests += good + errors;
    counts.errors += errors;
}

/// A Poisson number: by products of uniform numbers, in parts small enough for them.
fn poisson(mean: f64, rng: &mut StdRng) -> u64 {
    const PART: f64 = 20.0;
    let mut left = mean;
    let mut total = 0;
    while left > 0.0 {
        let floor = (-left.min(PART)).exp();
        left -= PART;
        let mut product: f64 = rng.random();
        while product > floor {
            total += 1;
            product *= rng.random::<f64>();
        }
    }
    total
}

fn audience(now: Now) -> Audience {
    if now.mono_ms < GATHERING_MS {
        Audience::Gathering
    } else {
        Audience::Known
    }
}

/// Everybody is known from the window before, and has counted nothing yet.
fn fresh(world: World) -> Vec<Reporter> {
    let named = |index| Some(Arc::from(format!("spiffe://example.org/honest/{index}")));
    (0..world.rates.len())
        .map(|index| Reporter {
            identity: named(index),
            ..Reporter::default()
        })
        .collect()
}

fn claims(honest: &[Reporter], lie: Option<Lie>) -> Vec<Reporter> {
    let liar = lie.map(|lie| Reporter {
        identity: Some(Arc::from("spiffe://example.org/liar")),
        stable: (lie.stable)(&total(honest.iter().map(|it| &it.stable))),
        canary: (lie.canary)(&total(honest.iter().map(|it| &it.canary))),
        ..Reporter::default()
    });
    honest.iter().cloned().chain(liar).collect()
}

fn total<'a>(counts: impl Iterator<Item = &'a Counts>) -> Counts {
    counts.fold(claim(0, 0), |sum, counts| {
        claim(sum.requests + counts.requests, sum.errors + counts.errors)
    })
}

fn worlds(stable: f64, canary: f64) -> impl Iterator<Item = World> {
    // One liar of three, of four, of five; equals, and one that is larger than the rest together.
    const RATES: [&[f64]; 4] = [
        &[60.0, 60.0],
        &[40.0, 40.0, 40.0],
        &[100.0, 30.0, 20.0],
        &[30.0, 30.0, 30.0, 30.0],
    ];
    RATES.into_iter().map(move |rates| World {
        rates,
        stable,
        canary,
    })
}

#[test]
fn no_lie_takes_a_good_canary_back() {
    for world in worlds(0.001, 0.001) {
        for lie in BLAMING {
            for seed in 0..SEEDS {
                let end = play(world, Some(lie), seed);
                assert!(
                    !matches!(end.phase, Phase::Failed(_)),
                    "{world:?}: {lie:?}, {seed}: {end:?}"
                );
                assert!(!end.stopped, "{world:?}: {lie:?}, {seed}: {end:?}");
            }
        }
    }
}

#[test]
fn no_lie_about_stable_takes_back_a_canary_that_fails_as_much() {
    // Both are far over the SLO, so all that protects the canary is what is known of stable.
    for world in worlds(0.05, 0.05) {
        for lie in BLAMING {
            for seed in 0..SEEDS {
                let end = play(world, Some(lie), seed);
                assert!(
                    !matches!(end.phase, Phase::Failed(_)),
                    "{world:?}: {lie:?}, {seed}: {end:?}"
                );
            }
        }
    }
}

#[test]
fn without_weighing_the_same_lies_take_it_back() {
    // So the schedules of this module can fail.
    let good = World {
        rates: &[40.0, 40.0, 40.0],
        stable: 0.001,
        canary: 0.001,
    };
    for lie in [BLAMING[1], BLAMING[4]] {
        let end = play_by(good, Some(lie), 0, summed);
        assert!(matches!(end.phase, Phase::Failed(_)), "{lie:?}: {end:?}");
    }
}

#[test]
fn no_lie_hides_a_bad_canary() {
    for world in worlds(0.001, 0.3) {
        let needed = |lie: Option<Lie>| {
            let mut requests: Vec<u64> = (0..SEEDS)
                .map(|seed| {
                    let end = play(world, lie, seed);
                    let back = matches!(end.phase, Phase::Failed(_)) && end.step == 0;
                    assert!(back, "{world:?}: {lie:?}, {seed}: {end:?}");
                    end.requests
                })
                .collect();
            requests.sort_unstable();
            (requests[requests.len() / 2], requests[requests.len() - 1])
        };
        let (median, most) = needed(None);
        for lie in PRAISING {
            let (with_lie, at_most) = needed(Some(lie));
            assert!(
                with_lie <= 3 * median && at_most <= 3 * most,
                "{world:?}: {lie:?}: {with_lie} requests, at most {at_most}; without the lie {median}, at most {most}"
            );
        }
    }
}
