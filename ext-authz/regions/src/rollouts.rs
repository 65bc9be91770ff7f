//! Rollout states of all regions, joined.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::wire::{MAX_STATES, RolloutState};

/// What this region knows of every rollout. Merging is a join: the order in which states come, and how often, makes no
/// difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollouts {
    states: BTreeMap<String, RolloutState>,
}

impl Rollouts {
    /// Takes a state in. True where it is news.
    pub fn merge(&mut self, state: RolloutState) -> bool {
        match self.states.get_mut(&state.name) {
            Some(known) if known.order(&state) != Ordering::Less => false,
            Some(known) => {
                *known = state;
                true
            }
            None => {
                self.states.insert(state.name.clone(), state);
                true
            }
        }
    }

    /// The state of a rollout, if there ever was one of this name. One that was deleted has no document.
    pub fn get(&self, name: &str) -> Option<&RolloutState> {
        self.states.get(name)
    }

    /// Every state, by name.
    pub fn states(&self) -> impl Iterator<Item = &RolloutState> {
        self.states.values()
    }

    /// What to answer to who sent these states: those that are known better here, at most [`MAX_STATES`].
    pub fn newer_than(&self, sent: &[RolloutState]) -> Vec<RolloutState> {
        let newer = |it: &RolloutState| {
            let known = self.states.get(&it.name)?;
            (known.order(it) == Ordering::Greater).then(|| known.clone())
        };
        sent.iter().filter_map(newer).take(MAX_STATES).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_state() -> impl Strategy<Value = RolloutState> {
        let document = prop::option::of(prop::collection::vec(0..3_u8, 0..2));
        ("[ab]", "[xyz]", 1..4_u64, 0..4_u64, any::<bool>(), document).prop_map(
            |(name, home, generation, sequence, aborted, document)| RolloutState {
                name,
                home,
                generation,
                sequence,
                aborted,
                document,
            },
        )
    }

    fn joined<'s>(states: impl IntoIterator<Item = &'s RolloutState>) -> Rollouts {
        let mut rollouts = Rollouts::default();
        for state in states {
            rollouts.merge(state.clone());
        }
        rollouts
    }

    fn union(a: &Rollouts, b: &Rollouts) -> Rollouts {
        joined(a.states().chain(b.states()))
    }

    proptest! {
        #[test]
        fn merging_is_a_join(
            a in prop::collection::vec(any_state(), 0..6),
            b in prop::collection::vec(any_state(), 0..6),
            c in prop::collection::vec(any_state(), 0..6),
        ) {
            let (a, b, c) = (joined(&a), joined(&b), joined(&c));
            prop_assert_eq!(union(&a, &b), union(&b, &a));
            prop_assert_eq!(union(&union(&a, &b), &c), union(&a, &union(&b, &c)));
            prop_assert_eq!(union(&a, &a), a);
        }

        #[test]
        fn any_order_comes_to_the_same(states in prop::collection::vec(any_state(), 0..12).prop_shuffle()) {
            let mut sorted = states.clone();
            sorted.sort_by(RolloutState::order);
            prop_assert_eq!(joined(&states), joined(&sorted));
        }

        /// The rule in its own words, against the order that is implemented.
        #[test]
        fn the_higher_generation_wins_then_an_abort_then_the_homes_sequence(a in any_state(), b in any_state()) {
            let b = RolloutState { name: a.name.clone(), ..b };
            let both = joined([&a, &b]);
            let winner = both.get(&a.name).expect("one of them");
            prop_assert_eq!(winner.generation, a.generation.max(b.generation));
            let of_it: Vec<_> = [&a, &b].into_iter().filter(|it| it.generation == winner.generation).collect();
            prop_assert_eq!(winner.aborted, of_it.iter().any(|it| it.aborted));
            let same_home = of_it.iter().filter(|it| it.aborted == winner.aborted && it.home == winner.home);
            prop_assert_eq!(Some(winner.sequence), same_home.map(|it| it.sequence).max());
        }

        #[test]
        fn an_answer_has_what_is_better_known_here_and_nothing_else(
            mine in prop::collection::vec(any_state(), 0..6),
            theirs in prop::collection::vec(any_state(), 0..6),
        ) {
            let (mine, theirs) = (joined(&mine), joined(&theirs));
            let sent: Vec<_> = theirs.states().cloned().collect();
            let answer = mine.newer_than(&sent);
            prop_assert!(answer.iter().all(|it| theirs.get(&it.name).is_some_and(|sent| it.order(sent) == Ordering::Greater)));
            let told = union(&theirs, &joined(&answer));
            let both = union(&mine, &theirs);
            for state in theirs.states() {
                prop_assert_eq!(told.get(&state.name), both.get(&state.name));
            }
        }
    }
}
