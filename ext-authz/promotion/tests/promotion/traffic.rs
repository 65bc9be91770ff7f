//! Traffic drawn at random for a rollout, and what the shipped state machine makes of it.

use knhk_promotion::{
    Counts, Event, LOOK_EVERY_MS, Now, Phase, Rollout, RolloutSpec, WindowCounts, create, step,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Requests and their true shares of errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traffic {
    /// Requests a second, of both variants together.
    pub(crate) rate: f64,
    /// Stable's true share of errors.
    pub(crate) stable: f64,
    /// The canary's.
    pub(crate) canary: f64,
    /// How many errors come at once: 1 is independent requests, more is a user who fails and tries again.
    pub(crate) burst: u32,
}

/// How one rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Rolled back beside stable.
    Canary,
    /// Rolled back in the production watch.
    Watch,
    /// Paused because stable failed too, or waiting for better numbers, when time was up.
    Holding,
    /// Succeeded.
    Succeeded,
}

/// How a rollout ended, when, and after how many requests of the canary in its last window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    pub(crate) ms: u64,
    pub(crate) requests: u64,
}

/// Runs one rollout on random traffic, a look each [`LOOK_EVERY_MS`], for at most `limit_ms`.
pub(crate) fn run(spec: &RolloutSpec, traffic: Traffic, limit_ms: u64, seed: u64) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut now = Now {
        wall_ms: 1_700_000_000_000,
        mono_ms: 0,
    };
    let (mut rollout, _) = create(spec.clone(), "simulation", now);
    let mut counts = nothing(&rollout);
    while now.mono_ms < limit_ms {
        now.wall_ms += LOOK_EVERY_MS;
        now.mono_ms += LOOK_EVERY_MS;
        if counts.window != rollout.window() {
            counts = nothing(&rollout);
        }
        let share = rollout.weight().percent() / 100.0;
        serve(
            &mut counts.stable,
            traffic.rate * (1.0 - share),
            traffic.stable,
            traffic.burst,
            &mut rng,
        );
        serve(
            &mut counts.canary,
            traffic.rate * share,
            traffic.canary,
            traffic.burst,
            &mut rng,
        );
        let stage = rollout.place().stage;
        rollout = step(&rollout, Event::Tick(&counts.clone().into()), now)
            .expect("a look is never refused")
            .0;
        if let Some(end) = ended(&rollout, stage) {
            return Outcome {
                end,
                ms: now.mono_ms,
                requests: counts.canary.requests,
            };
        }
    }
    Outcome {
        end: End::Holding,
        ms: now.mono_ms,
        requests: counts.canary.requests,
    }
}

/// No requests yet, none of them slow.
fn nothing(rollout: &Rollout) -> WindowCounts {
    let rule = rollout.rule();
    let none = Counts {
        over: vec![0; rule.thresholds.len()],
        ..Counts::default()
    };
    WindowCounts {
        window: rule.window,
        stable: none.clone(),
        canary: none,
    }
}

fn ended(rollout: &Rollout, stage: usize) -> Option<End> {
    match rollout.phase() {
        Phase::Progressing | Phase::Paused(_) => None,
        Phase::Succeeded => Some(End::Succeeded),
        Phase::Failed(_) => Some(if stage == 0 { End::Canary } else { End::Watch }),
    }
}

/// The requests of one look: a Poisson number of good ones, and one of bursts of bad ones.
pub(crate) fn serve(counts: &mut Counts, rate: f64, bad: f64, burst: u32, rng: &mut StdRng) {
    #[allow(clippy::cast_precision_loss)]
    let seconds = LOOK_EVERY_MS as f64 / 1_000.0;
    let good = poisson(rate * seconds * (1.0 - bad), rng);
    let errors = poisson(rate * seconds * bad / f64::from(burst), rng) * u64::from(burst);
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

/// The 95 % confidence interval of a share of which `hits` of `runs` were seen, by Wilson.
pub(crate) fn interval(hits: u32, runs: u32) -> (f64, f64) {
    const Z: f64 = 1.959_964;
    let n = f64::from(runs);
    let share = f64::from(hits) / n;
    let middle = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    (middle - half, middle + half)
}
