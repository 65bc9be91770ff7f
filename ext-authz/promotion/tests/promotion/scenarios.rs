//! Traffic under which no rollback is right, and how often the shipped trial makes one.

use crate::stream::{Report, Shocks, Stream, Users, World};
use knhk_promotion::RolloutSpec;
use knhk_promotion::sequential::{Decides, Decision, Patience, Plan, Trial, TrialEvent};

/// A rollout and its traffic.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) decides: Decides,
    /// Percentage points.
    tolerance: f64,
    /// The SLOs: the success rate, and that many more requests under a second.
    min: f64,
    metrics: usize,
    pub(crate) world: World,
}

/// The `alpha` of all scenarios: large enough to be measured in a few hundred rollouts.
pub(crate) const ALPHA: f64 = 0.05;

/// Independent requests, no worse than tolerated, and both versions far over their SLO: the comparison alone decides.
const TOLERATED: World = World {
    weight: 0.05,
    stable: 0.02,
    canary: 0.025,
    shocks: None,
    users: Users::Many,
};

const BESIDE: Scenario = Scenario {
    name: "just tolerated",
    decides: Decides::SloAndStable,
    tolerance: 0.5,
    min: 99.5,
    metrics: 1,
    world: TOLERATED,
};

/// An outage of some seconds at 1,000 requests/s, every ten seconds or so.
const LONG: Shocks = Shocks {
    begins: 0.0001,
    ends: 0.0005,
    bad: 0.5,
};

/// An outage that often begins and ends between two requests of the canary.
const SHORT: Shocks = Shocks {
    begins: 0.005,
    ends: 0.05,
    bad: 1.0,
};

/// An outage of a second, more or less, at 1,000 requests/s and every five minutes.
const RARE: Shocks = Shocks {
    begins: 1.0 / 300_000.0,
    ends: 0.001,
    bad: 1.0,
};

/// Everything is served by the new version.
const WATCH: World = World {
    weight: 1.0,
    ..TOLERATED
};

fn watch(name: &'static str, world: World) -> Scenario {
    Scenario {
        name,
        decides: Decides::SloAlone,
        metrics: 2,
        world,
        ..BESIDE
    }
}

/// Where the promise holds.
pub(crate) fn promised() -> Vec<Scenario> {
    let beside = |name, world| Scenario {
        name,
        world,
        ..BESIDE
    };
    let no_tolerance = |name, world| Scenario {
        name,
        world,
        tolerance: 0.0,
        ..BESIDE
    };
    let equal = World {
        stable: 0.01,
        canary: 0.01,
        ..TOLERATED
    };
    vec![
        BESIDE,
        beside(
            "just tolerated, stable fails 30 %",
            World {
                stable: 0.3,
                canary: 0.305,
                ..TOLERATED
            },
        ),
        beside(
            "just tolerated, canary 1 %",
            World {
                weight: 0.01,
                ..TOLERATED
            },
        ),
        beside(
            "just tolerated, canary 50 %",
            World {
                weight: 0.5,
                ..TOLERATED
            },
        ),
        beside(
            "just tolerated, canary 99 %",
            World {
                weight: 0.99,
                ..TOLERATED
            },
        ),
        Scenario {
            name: "just tolerated in two SLOs",
            metrics: 2,
            ..BESIDE
        },
        no_tolerance("no tolerance, the same", equal),
        no_tolerance(
            "no tolerance, the same, long outages of both",
            World {
                shocks: Some(LONG),
                ..equal
            },
        ),
        no_tolerance(
            "no tolerance, the same, short outages of both",
            World {
                shocks: Some(SHORT),
                ..equal
            },
        ),
        no_tolerance(
            "no tolerance, the same, short outages of both, canary 50 %",
            World {
                weight: 0.5,
                shocks: Some(SHORT),
                ..equal
            },
        ),
        beside(
            "just tolerated, but for one user with 20 % of the canary who always fails",
            World {
                users: Users::OneHeavy(0.2),
                ..TOLERATED
            },
        ),
        watch(
            "watch, just within two SLOs",
            World {
                canary: 0.005,
                ..WATCH
            },
        ),
        watch(
            "watch, within two SLOs, users fail 10 times in a row",
            World {
                canary: 0.004,
                users: Users::Retrying(10),
                ..WATCH
            },
        ),
    ]
}

/// Where it does not.
pub(crate) fn not_promised() -> Vec<Scenario> {
    let retrying = |name, share, times| Scenario {
        name,
        world: World {
            stable: share,
            canary: share,
            users: Users::Retrying(times),
            ..TOLERATED
        },
        ..BESIDE
    };
    vec![
        Scenario {
            name: "just tolerated, but for that user, and the key is the request",
            world: World {
                users: Users::OneHeavyInAllGroups(0.2),
                ..TOLERATED
            },
            ..BESIDE
        },
        retrying("the same, users of the canary fail 3 times in a row", 0.01, 3),
        retrying("the same, users of the canary fail 10 times in a row", 0.01, 10),
        retrying("the same, users of the canary fail 30 times in a row", 0.01, 30),
        watch(
            "watch, within two SLOs, an outage of some second every five minutes",
            World {
                canary: 0.001,
                shocks: Some(RARE),
                ..WATCH
            },
        ),
    ]
}

impl Scenario {
    pub(crate) fn plan(&self) -> Plan {
        let success = format!("{{ metric: request-success-rate, min: {} }}", self.min);
        let duration = format!(
            "{{ metric: request-duration, quantile: {}, max: 1s }}",
            self.min / 100.0
        );
        let slos = [success, duration][..self.metrics].join(", ");
        plan(ALPHA, self.tolerance, &slos)
    }

    /// How many of `runs` rollouts are rolled back within `requests` of both versions, looked at after each `each` of them.
    pub(crate) fn rollbacks(&self, runs: u32, requests: u32, each: u32) -> u32 {
        let plan = self.plan();
        let ended = (0..runs).filter(|seed| {
            let trial = Trial::new(plan.clone(), self.decides);
            until_rollback(trial, self.world, requests, each, u64::from(*seed)).is_some()
        });
        u32::try_from(ended.count()).expect("at most all")
    }
}

/// Requests of both versions in a second.
const PER_SECOND: u32 = 1_000;

/// How many requests of the canary it takes to roll back, if it comes to that within `most` requests of both versions.
pub(crate) fn until_rollback(mut trial: Trial, world: World, most: u32, each: u32, seed: u64) -> Option<u64> {
    let mut stream = Stream::new(world, seed);
    for served in (each..=most).step_by(each as usize) {
        let mut report = Report::default();
        for _ in 0..each {
            report.add(stream.next());
        }
        trial = trial.after(&TrialEvent::Finished(Box::new(report.send())));
        if served.is_multiple_of(PER_SECOND) {
            trial = trial.after(&TrialEvent::SecondPassed);
        }
        if trial.verdict(Patience::Left).decision == Decision::RollBack {
            return Some(trial.canary().requests());
        }
    }
    None
}

pub(crate) fn plan(alpha: f64, tolerance: f64, slos: &str) -> Plan {
    let yaml = format!(
        "
apiVersion: knhk.dev/v1
kind: Rollout
metadata: {{ name: checkout }}
spec:
  version: v42
  stable: v41
  match: {{}}
  key: [ {{ requestId: {{}} }} ]
  stages:
    - {{ name: canary, steps: [ {{ setWeight: 5, pause: 10s }} ] }}
    - {{ name: production, watch: 30s }}
  analysis: {{ alpha: {alpha}, tolerance: {tolerance}, slos: [ {slos} ] }}
"
    );
    Plan::of(&RolloutSpec::from_yaml(&yaml).expect("it is a rollout"))
}
