//! A rollout under test: its state, its clocks, and the counts of its present window.

use crate::reports::Told;
use knhk_promotion::{
    Command, Counts, Effect, Event, HistoryEntry, LOOK_EVERY_MS, Now, Refusal, Rollout, RolloutSpec, What,
    WindowCounts, create, step,
};

/// The design's rollout with shorter pauses, one SLO on errors and one on durations.
pub(crate) const SPEC: &str = "
apiVersion: knhk.dev/v1
kind: Rollout
metadata: { name: checkout }
spec:
  version: v42
  stable: v41
  match: { hosts: [checkout.example.com] }
  key: [ { header: x-user-id } ]
  stages:
    - { name: canary, steps: [ { setWeight: 1, pause: 2s }, { setWeight: 50, pause: 3s } ] }
    - { name: production, watch: 4s }
  analysis:
    slos: [ { metric: request-success-rate, min: 99.5 }, { metric: request-duration, quantile: 0.99, max: 250ms } ]
";

pub(crate) fn spec(yaml: &str) -> RolloutSpec {
    RolloutSpec::from_yaml(yaml).expect("it is a rollout")
}

pub(crate) fn spec_with(from: &str, to: &str) -> RolloutSpec {
    assert!(SPEC.contains(from), "{from:?} is not in the specification");
    spec(&SPEC.replace(from, to))
}

/// Counts of requests that were all fast.
pub(crate) fn fast(requests: u64, errors: u64) -> Counts {
    Counts {
        requests,
        errors,
        over: vec![0],
        ..Counts::default()
    }
}

pub(crate) struct Run {
    pub(crate) rollout: Rollout,
    pub(crate) now: Now,
    told: Told,
    staged: Told,
}

impl Run {
    pub(crate) fn of(spec: RolloutSpec) -> Self {
        let now = Now {
            wall_ms: 1_700_000_000_000,
            mono_ms: 5_000,
        };
        let (rollout, effects) = create(spec, "ada", now);
        assert!(matches!(
            effects[..],
            [Effect::PolicyChanged, Effect::Recorded(_), Effect::Changed]
        ));
        Self {
            rollout,
            now,
            told: Told::default(),
            staged: Told::default(),
        }
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.now.wall_ms += ms;
        self.now.mono_ms += ms;
    }

    /// One look, [`LOOK_EVERY_MS`] later, at these totals of the present window.
    pub(crate) fn look(&mut self, stable: Counts, canary: Counts) -> Vec<Effect> {
        self.look_at(stable, canary, Counts::default())
    }

    /// The same, of staging too.
    pub(crate) fn look_at(&mut self, stable: Counts, canary: Counts, staging: Counts) -> Vec<Effect> {
        self.pass(LOOK_EVERY_MS);
        let (window, spec) = (self.rollout.window(), self.rollout.spec());
        let mut reports = self.told.up_to(spec, window, None, &stable, &canary);
        reports.push(self.staged.without_order(spec, window, &staging));
        let evidence = WindowCounts {
            window,
            stable,
            canary,
            staging,
        }
        .into();
        let event = Event::Looked {
            evidence: &evidence,
            reports: &reports,
        };
        let (rollout, effects) = step(&self.rollout, event, self.now).expect("a look is never refused");
        self.rollout = rollout;
        effects
    }

    pub(crate) fn command(&mut self, command: Command) -> Result<Vec<Effect>, Refusal> {
        let before = self.rollout.clone();
        match step(&self.rollout, Event::Command { by: "ada", command }, self.now) {
            Ok((rollout, effects)) => {
                self.rollout = rollout;
                Ok(effects)
            }
            Err(refusal) => {
                assert_eq!(self.rollout, before);
                assert!(!refusal.to_string().contains('\n'));
                Err(refusal)
            }
        }
    }

    /// Looks at good counts until the rollout has moved on, at most `looks` times.
    pub(crate) fn good_step(&mut self, looks: u64) {
        let (place, phase) = (self.rollout.place(), self.rollout.phase());
        for _ in 0..looks {
            self.look(fast(10_000, 1), fast(500, 0));
            if (self.rollout.place(), self.rollout.phase()) != (place, phase) {
                return;
            }
        }
        panic!(
            "it did not move on: {:?}",
            self.rollout.explain(&WindowCounts::default().into(), self.now)
        );
    }

    /// To production, and through it.
    pub(crate) fn promote_to_the_end(&mut self) {
        for full in [true, false] {
            let promote = Command::Promote { full, reason: None };
            self.command(promote).expect("it is under way");
        }
    }

    pub(crate) fn last(&self) -> &HistoryEntry {
        self.rollout.history().last().expect("there is always an entry")
    }

    pub(crate) fn percent(&self) -> f64 {
        self.rollout.weight().percent()
    }
}

pub(crate) fn recorded(effects: &[Effect]) -> Vec<What> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Recorded(entry) => Some(entry.what),
            Effect::PolicyChanged | Effect::Changed => None,
        })
        .collect()
}
