//! Reports made of counts: what is new since the last look, evenly mixed.

use knhk_promotion::sequential::{Block, GROUPS, Group, MAX_ORDERED, Outcome, Outcomes, Tallies};
use knhk_promotion::{Answer, Counts, Reported, RolloutSpec};
use std::sync::Arc;

/// The most that is told one by one; the rest of a large difference is counted.
const MOST_IN_ORDER: u64 = 128;

/// What one identity reported, up to now, of one window.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    window: u64,
    stable: Counts,
    canary: Counts,
    outcomes: u64,
}

impl Told {
    /// The reports that bring the totals of `window` to `stable` and `canary`, which have nothing but errors and one
    /// threshold.
    pub(crate) fn up_to(
        &mut self,
        spec: &RolloutSpec,
        window: u64,
        identity: Option<&Arc<str>>,
        stable: &Counts,
        canary: &Counts,
    ) -> Vec<Reported> {
        self.turn_to(window);
        let (new_stable, new_canary) = (difference(stable, &self.stable), difference(canary, &self.canary));
        (self.stable, self.canary) = (stable.clone(), canary.clone());
        let in_order = new_canary.requests.min(MOST_IN_ORDER);
        let blocks: Vec<Block> = (0..in_order)
            .map(|index| {
                self.outcomes += 1;
                let one = part(&new_canary, index, new_canary.requests);
                let bad = spec.bad(Answer {
                    failed: one.errors > 0,
                    over: usize::from(one.over.first().is_some_and(|over| *over > 0)),
                    outcomes: 0,
                });
                Block {
                    stable: tallies(spec, &part(&new_stable, index, new_canary.requests)),
                    canary: Outcome::new(group(self.outcomes), bad),
                }
            })
            .collect();
        let of = new_canary.requests.max(1);
        let rest = |counts: &Counts| tallies(spec, &range(counts, in_order, of, of));
        let mut outcomes: Vec<Outcomes> = blocks
            .chunks(MAX_ORDERED)
            .map(|blocks| {
                Outcomes::in_order(blocks.to_vec(), Tallies::default()).expect("it is not too long")
            })
            .collect();
        outcomes.push(Outcomes::default().with_uncompared(rest(&new_canary), rest(&new_stable)));
        outcomes
            .into_iter()
            .map(|outcomes| Reported {
                identity: identity.cloned(),
                outcomes,
            })
            .collect()
    }

    /// The report that brings the version's total of `window` to `counts`, without order, as staging's come.
    pub(crate) fn without_order(&mut self, spec: &RolloutSpec, window: u64, counts: &Counts) -> Reported {
        self.turn_to(window);
        let new = difference(counts, &self.canary);
        self.canary.clone_from(counts);
        Reported {
            identity: None,
            outcomes: Outcomes::default().with_uncompared(tallies(spec, &new), Tallies::default()),
        }
    }

    /// Of another window nothing was told yet.
    fn turn_to(&mut self, window: u64) {
        if self.window != window {
            *self = Self {
                window,
                outcomes: self.outcomes,
                ..Self::default()
            };
        }
    }
}

fn difference(now: &Counts, before: &Counts) -> Counts {
    let over = now.over.iter().enumerate();
    let over: Vec<u64> = over
        .map(|(index, over)| over.saturating_sub(before.over.get(index).copied().unwrap_or(0)))
        .collect();
    let requests = now.requests.saturating_sub(before.requests);
    Counts {
        requests,
        errors: now.errors.saturating_sub(before.errors).min(requests),
        over: over.into_iter().map(|over| over.min(requests)).collect(),
        ..Counts::default()
    }
}

/// The `index`th of `of` equal parts.
fn part(counts: &Counts, index: u64, of: u64) -> Counts {
    range(counts, index, index + 1, of)
}

/// From the `from`th of `of` equal parts to before the `to`th.
fn range(counts: &Counts, from: u64, to: u64, of: u64) -> Counts {
    let of = u128::from(of.max(1));
    let share = |n: u64| {
        let upto = |index: u64| u128::from(n) * u128::from(index) / of;
        u64::try_from(upto(to) - upto(from)).expect("it is a part")
    };
    // A bad request is one of the part's, whatever the rounding.
    let requests = share(counts.requests);
    Counts {
        requests,
        errors: share(counts.errors).min(requests),
        over: counts
            .over
            .iter()
            .map(|over| share(*over).min(requests))
            .collect(),
        ..Counts::default()
    }
}

fn tallies(spec: &RolloutSpec, counts: &Counts) -> Tallies {
    let all = Counts {
        over: spec
            .thresholds()
            .iter()
            .enumerate()
            .map(|(index, _)| counts.over.get(index).copied().unwrap_or(0))
            .collect(),
        ..counts.clone()
    };
    spec.tallies(&all).expect("it has everything")
}

fn group(outcome: u64) -> Group {
    let groups = GROUPS as u64;
    Group::new(u8::try_from(outcome % groups).expect("there are few")).expect("it is a group")
}
