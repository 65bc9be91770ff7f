//! The evidence of whole histories against its definition, written out: every bet from each time at which one begins.
//!
//! What is shipped keeps one number for each stake. Here nothing is kept: for each beginning and each stake the whole
//! history is multiplied anew, in logarithms.

use super::{beside, plan_of_two, tallies};
use knhk_promotion::sequential::{
    Block, Decides, GROUPS, Group, MAX_ORDERED, Outcome, Outcomes, Patience, Plan, Trial, TrialEvent,
};
use proptest::prelude::*;

/// What one test went through.
#[derive(Debug, Clone, Copy)]
enum Entry {
    /// A bet on this excess over the null's bound, as a share of the largest loss. None passes the round over.
    Round(Option<f64>),
    Step,
    StartOver,
}

/// No round multiplies by more.
const MOST_GAIN: f64 = 32.0;

const STAKES_OF_DIFFERENCES: usize = 9;
const STAKES_OF_REQUESTS: usize = 16;

fn evidence(history: &[Entry], stakes: usize) -> f64 {
    let harmonic: f64 = (1..=stakes).map(|rank| 1.0 / real(rank)).sum();
    let (mut rounds, mut steps) = (0_u32, 0_u32);
    let mut begun = vec![(0, 0.5)];
    for (at, entry) in history.iter().enumerate() {
        match entry {
            Entry::Round(_) => {
                rounds += 1;
                let octave = f64::from(rounds.ilog2());
                begun.push((at, 0.25 / ((octave + 1.0) * (octave + 2.0)) / 2_f64.powf(octave)));
            }
            Entry::Step | Entry::StartOver => {
                steps += 1;
                begun.push((at + 1, 0.25 / (f64::from(steps) * (f64::from(steps) + 1.0))));
            }
        }
    }
    let given: f64 = begun.iter().map(|(_, amount)| amount).sum();
    let mut total = 1.0 - given;
    for (start, amount) in begun {
        for rank in 1..=stakes {
            let logarithm: f64 = history[start..]
                .iter()
                .map(|entry| factor(entry, stake(rank)))
                .sum();
            total += amount / (real(rank) * harmonic) * logarithm.exp();
        }
    }
    total
}

fn stake(rank: usize) -> f64 {
    if rank == 1 {
        15.0 / 16.0
    } else {
        0.5_f64.powf(real(rank - 1))
    }
}

fn factor(entry: &Entry, stake: f64) -> f64 {
    match *entry {
        Entry::Round(Some(excess)) => (1.0 + stake * excess).min(MOST_GAIN).ln(),
        Entry::Round(None) | Entry::Step => 0.0,
        Entry::StartOver => f64::NEG_INFINITY,
    }
}

#[allow(clippy::cast_precision_loss)]
fn real(number: usize) -> f64 {
    number as f64
}

#[allow(clippy::cast_precision_loss)]
fn whole(number: u64) -> f64 {
    number as f64
}

/// What every test of one metric went through.
struct Histories {
    metric: usize,
    tolerance: f64,
    allowed: f64,
    worse: [Vec<Entry>; GROUPS],
    canary: Vec<Entry>,
    stable: Vec<Entry>,
    block: Vec<(usize, bool)>,
    stable_in_block: (u64, u64),
}

impl Histories {
    fn of(plan: &Plan, metric: usize, events: &[Step]) -> Self {
        let allowed = plan.goals()[metric].allowed;
        let mut histories = Self {
            metric,
            tolerance: plan.tolerance(),
            allowed,
            worse: std::array::from_fn(|_| Vec::new()),
            canary: Vec::new(),
            stable: Vec::new(),
            block: Vec::new(),
            stable_in_block: (0, 0),
        };
        for event in events {
            histories.take(event);
        }
        histories
    }

    fn take(&mut self, event: &Step) {
        match event {
            Step::Report(ones, after) => {
                let (mut canary, mut stable) = ((0, 0), (0, 0));
                let metric = self.metric;
                for one in ones {
                    let is_bad = one.bad >> metric & 1 == 1;
                    self.stable_in_block.0 += one.stable;
                    self.stable_in_block.1 += one.stable_bad[metric];
                    self.canary(one.group.into(), is_bad);
                    canary = (canary.0 + 1, canary.1 + u64::from(is_bad));
                    stable = (stable.0 + one.stable, stable.1 + one.stable_bad[metric]);
                }
                self.stable_in_block.0 += after.0;
                self.stable_in_block.1 += after.1[metric];
                stable = (stable.0 + after.0, stable.1 + after.1[metric]);
                self.canary.extend(self.requests(canary));
                self.stable.extend(self.requests(stable));
            }
            Step::Begins => self.step(Entry::Step),
            Step::StartsOver => self.step(Entry::StartOver),
        }
    }

    fn step(&mut self, entry: Entry) {
        self.worse.iter_mut().for_each(|history| history.push(entry));
        self.canary.push(entry);
        self.stable.push(entry);
        self.block.clear();
        self.stable_in_block = (0, 0);
    }

    /// A report's requests of one version, if there are any.
    fn requests(&self, (requests, bad): (u64, u64)) -> Option<Entry> {
        let excess = (whole(bad) / whole(requests) - self.allowed) / self.allowed;
        (requests > 0).then_some(Entry::Round(Some(excess)))
    }

    fn canary(&mut self, group: usize, is_bad: bool) {
        self.block.push((group, is_bad));
        if self.stable_in_block.0 == 0 {
            return;
        }
        let beside = whole(self.stable_in_block.1) / whole(self.stable_in_block.0);
        for (left_out, history) in self.worse.iter_mut().enumerate() {
            let others: Vec<bool> = self
                .block
                .iter()
                .filter(|(group, _)| *group != left_out)
                .map(|(_, is_bad)| *is_bad)
                .collect();
            let excess = (!others.is_empty()).then(|| {
                let share = real(others.iter().filter(|is_bad| **is_bad).count()) / real(others.len());
                (share - beside - self.tolerance) / (1.0 + self.tolerance)
            });
            history.push(Entry::Round(excess));
        }
        self.block.clear();
        self.stable_in_block = (0, 0);
    }
}

#[derive(Debug, Clone)]
struct One {
    group: u8,
    bad: u8,
    stable: u64,
    stable_bad: [u64; 2],
}

#[derive(Debug, Clone)]
enum Step {
    Report(Vec<One>, (u64, [u64; 2])),
    Begins,
    StartsOver,
}

fn counts() -> impl Strategy<Value = (u64, [u64; 2])> {
    (0_u64..6).prop_flat_map(|requests| (Just(requests), [0..=requests, 0..=requests]))
}

fn ones(most: usize) -> impl Strategy<Value = Vec<One>> {
    let one = (0..3_u8, 0..4_u8, counts()).prop_map(|(group, bad, (stable, stable_bad))| One {
        group,
        bad,
        stable,
        stable_bad,
    });
    proptest::collection::vec(one, 0..most)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (ones(MAX_ORDERED), counts()).prop_map(|(ones, after)| Step::Report(ones, after)),
        1 => Just(Step::Begins),
        1 => Just(Step::StartsOver),
    ];
    proptest::collection::vec(step, 0..6)
}

fn event(step: &Step) -> TrialEvent {
    match step {
        Step::Report(ones, (after, after_bad)) => {
            let blocks = ones.iter().map(|one| Block {
                stable: tallies(one.stable, one.stable_bad),
                canary: Outcome::new(Group::new(one.group).expect("it is a group"), one.bad),
            });
            let outcomes = Outcomes::in_order(blocks.collect(), tallies(*after, *after_bad));
            TrialEvent::Finished(Box::new(outcomes.expect("it is not too long")))
        }
        Step::Begins => TrialEvent::StepBegins(Decides::SloAndStable),
        Step::StartsOver => TrialEvent::StartsOver(Decides::SloAndStable),
    }
}

/// What is thrown away above this would have to be thrown away here too: such histories are passed over.
const NOTHING_THROWN_AWAY: f64 = 1e9;

fn close(shipped: f64, defined: f64) -> bool {
    defined > NOTHING_THROWN_AWAY || (shipped - defined).abs() <= 1e-9 * defined
}

proptest! {
    #[test]
    fn evidence_is_every_bet_from_every_beginning(steps in steps()) {
        let plan = plan_of_two(0.01);
        let trial = steps.iter().fold(beside(&plan), |trial: Trial, step| trial.after(&event(step)));
        for (metric, shipped) in trial.verdict(Patience::Left).readings.into_iter().enumerate() {
            let histories = Histories::of(&plan, metric, &steps);
            let violated = evidence(&histories.canary, STAKES_OF_REQUESTS);
            prop_assert!(close(shipped.violated, violated), "violated {} {violated}", shipped.violated);
            let stable = evidence(&histories.stable, STAKES_OF_REQUESTS);
            prop_assert!(close(shipped.stable_violates, stable), "stable {} {stable}", shipped.stable_violates);
            let without = histories.worse.iter().map(|history| evidence(history, STAKES_OF_DIFFERENCES));
            let defined = without.fold(f64::INFINITY, f64::min);
            let worse = shipped.worse.expect("stable is compared with");
            prop_assert!(close(worse, defined), "worse {worse} {defined}");
        }
    }
}
