//! Traffic drawn at random for a whole rollout, request by request, and what the shipped state machine makes of it.

use crate::stream::{METRICS, Report, Request, Stream, World};
use knhk_promotion::{
    Counts, Event, LOOK_EVERY_MS, Now, Phase, Reported, Rollout, RolloutSpec, WindowCounts, create, step,
};

/// Looks in a second.
const LOOKS_PER_SECOND: u32 = 4;
const _: () = assert!(LOOK_EVERY_MS * LOOKS_PER_SECOND as u64 == 1_000);

/// Requests and what is true of them; their weight is the rollout's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traffic {
    /// Requests a second, of both variants together; a multiple of four.
    pub(crate) rate: u32,
    /// And those that staging picks, while it is under way: a multiple of four as well.
    pub(crate) picked: u32,
    pub(crate) world: World,
}

/// How one rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Rolled back beside stable.
    Canary,
    /// Rolled back in staging.
    Staging,
    /// Rolled back in the production watch.
    Watch,
    /// Paused because stable failed too, or waiting for better numbers, when time was up.
    Holding,
    /// Succeeded.
    Succeeded,
}

/// How a rollout ended, and after how many requests of the canary in its last window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    pub(crate) requests: u64,
}

/// Runs one rollout on random traffic, a look and a report each [`LOOK_EVERY_MS`], for at most `limit_ms`.
pub(crate) fn run(spec: &RolloutSpec, traffic: Traffic, limit_ms: u64, seed: u64) -> Outcome {
    let mut now = Now {
        wall_ms: 1_700_000_000_000,
        mono_ms: 0,
    };
    let mut stream = Stream::new(traffic.world, seed);
    let testers = World {
        weight: 1.0,
        ..traffic.world
    };
    let mut testers = Stream::new(testers, !seed);
    let (mut rollout, _) = create(spec.clone(), "simulation", now);
    let mut counts = nothing(&rollout);
    let mut end = End::Holding;
    while now.mono_ms < limit_ms && end == End::Holding {
        now.wall_ms += LOOK_EVERY_MS;
        now.mono_ms += LOOK_EVERY_MS;
        if counts.window != rollout.window() {
            counts = nothing(&rollout);
        }
        stream.weigh(rollout.weight().percent() / 100.0);
        let mut report = Report::default();
        for _ in 0..traffic.rate / LOOKS_PER_SECOND {
            let request = stream.next();
            count(&mut counts, request);
            report.add(request);
        }
        if rollout.rule().staging.is_some_and(|staging| staging.active) {
            for _ in 0..traffic.picked / LOOKS_PER_SECOND {
                let request = testers.next();
                add(&mut counts.staging, request);
                report.add_picked(request);
            }
        }
        let reports = [Reported {
            identity: None,
            outcomes: report.send(),
        }];
        let event = Event::Looked {
            evidence: &counts.clone().into(),
            reports: &reports,
        };
        rollout = step(&rollout, event, now).expect("a look is never refused").0;
        end = ended(&rollout);
    }
    Outcome {
        end,
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
        canary: none.clone(),
        staging: none,
    }
}

fn count(counts: &mut WindowCounts, request: Request) {
    match request {
        Request::Stable { .. } => add(&mut counts.stable, request),
        Request::Canary { .. } => add(&mut counts.canary, request),
    }
}

/// The first metric is errors, the second one slowness.
fn add(counts: &mut Counts, request: Request) {
    let (Request::Stable { bad } | Request::Canary { bad, .. }) = request;
    let bad: [u64; METRICS] = std::array::from_fn(|metric| u64::from(bad >> metric & 1));
    counts.requests += 1;
    counts.errors += bad[0];
    for over in &mut counts.over {
        *over += bad[1];
    }
}

fn ended(rollout: &Rollout) -> End {
    let last = rollout.history().last().expect("it was applied");
    match (rollout.phase(), last.stage.as_str()) {
        (Phase::Progressing | Phase::Paused(_), _) => End::Holding,
        (Phase::Succeeded, _) => End::Succeeded,
        (Phase::Failed(_), "canary") => End::Canary,
        (Phase::Failed(_), "staging") => End::Staging,
        (Phase::Failed(_), _) => End::Watch,
    }
}
