//! The tests by their definition, in exact fractions, and their promise by enumeration.
//!
//! Every history of a few blocks is walked, weighted by its exact chance under a null that an adversary chooses anew after
//! each block. The definition's capital is 1 on average, not about 1; what is shipped follows it to the last digits.

use super::comparison::Comparison;
use super::objective::Objective;
use super::outcomes::GROUPS;
use super::pending::Differences;
use super::stakes::STAKES;
use crate::binomial::count;
use crate::tally::Tally;
use num_rational::BigRational;

/// Rounding of doubles, relative, after a few blocks.
const ROUNDING: f64 = 1e-13;

fn exact(number: f64) -> BigRational {
    BigRational::from_float(number).expect("it is finite")
}

fn whole(number: u64) -> BigRational {
    exact(count(number))
}

fn one() -> BigRational {
    exact(1.0)
}

/// The capital of a bet, with nothing but the definitions of this module's documentation.
#[derive(Clone)]
struct Bets {
    capital: Vec<BigRational>,
    kept_for_steps: BigRational,
    kept_for_rounds: BigRational,
    rounds: u64,
    steps: u64,
}

impl Bets {
    fn new(stakes: usize) -> Self {
        let mut bets = Self {
            capital: vec![exact(0.0); stakes],
            kept_for_steps: exact(0.25),
            kept_for_rounds: exact(0.25),
            rounds: 0,
            steps: 0,
        };
        bets.begin(&exact(0.5));
        bets
    }

    fn begin(&mut self, amount: &BigRational) {
        let harmonic: BigRational = (1..=self.capital.len() as u64)
            .map(|rank| one() / whole(rank))
            .fold(exact(0.0), |sum, term| sum + term);
        for (capital, rank) in self.capital.iter_mut().zip(1..) {
            *capital += amount / whole(rank) / &harmonic;
        }
    }

    fn round(&mut self, factor: impl Fn(BigRational) -> BigRational) {
        self.rounds += 1;
        let octave = u64::from(self.rounds.ilog2());
        let begins = exact(0.25) / whole((octave + 1) * (octave + 2)) / whole(1 << octave);
        self.kept_for_rounds -= &begins;
        self.begin(&begins);
        for (capital, stake) in self.capital.iter_mut().zip(STAKES) {
            *capital *= factor(exact(stake));
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        let begins = exact(0.25) / whole(self.steps * (self.steps + 1));
        self.kept_for_steps -= &begins;
        self.begin(&begins);
    }

    fn start_over(&mut self) {
        self.capital.fill(exact(0.0));
        self.step();
    }

    fn evidence(&self) -> BigRational {
        let begun = self.capital.iter().fold(exact(0.0), |sum, one| sum + one);
        begun + &self.kept_for_steps + &self.kept_for_rounds
    }

    fn agrees_with(&self, shipped: f64) -> bool {
        let expected = self.evidence();
        let room = &expected * exact(ROUNDING);
        let distance = exact(shipped) - &expected;
        distance <= room && -distance <= room
    }
}

/// The chance of `bad` of `requests` where each is bad with chance `p`.
fn binomial(requests: u64, bad: u64, p: &BigRational) -> BigRational {
    let mut chance = one();
    for i in 0..bad {
        chance *= whole(requests - i) / whole(i + 1) * p;
    }
    for _ in bad..requests {
        chance *= one() - p;
    }
    chance
}

fn fraction(of: u64, parts: u64) -> BigRational {
    whole(of) / whole(parts)
}

/// Stable's chances after a history, one for each face of a coin that both versions share: nothing but the past and the
/// coin decides.
fn adversary(history: u64) -> [BigRational; 2] {
    match history % 5 {
        0 => [fraction(0, 1), fraction(0, 1)],
        1 => [fraction(1, 8), fraction(1, 3)],
        2 => [fraction(0, 1), fraction(7, 8)],
        3 => [fraction(1, 2), fraction(1, 7)],
        _ => [fraction(3, 4), fraction(7, 8)],
    }
}

/// An eighth: exact as a double.
const TOLERANCE: f64 = 0.125;
/// Stable's requests of each block.
const SIZES: [u64; 6] = [1, 2, 1, 2, 1, 1];

/// A step's beginning between two blocks.
#[derive(Clone, Copy)]
enum Between {
    Nothing,
    Step,
    StartOver,
}

struct Walk {
    between: Between,
    /// The canary's chance of a bad request, by stable's.
    canary: fn(&BigRational) -> BigRational,
    expected: BigRational,
    /// The chance that the evidence ever reached each of [`BOUNDS`].
    reached: [BigRational; BOUNDS.len()],
    histories: u32,
}

/// Small enough to be reached within a few blocks.
const BOUNDS: [f64; 4] = [1.25, 2.0, 4.0, 8.0];

impl Walk {
    fn new(between: Between, canary: fn(&BigRational) -> BigRational) -> Self {
        let mut walk = Self {
            between,
            canary,
            expected: exact(0.0),
            reached: BOUNDS.map(|_| exact(0.0)),
            histories: 0,
        };
        walk.compare(0, 0, &one(), &History::new());
        walk
    }

    fn compare(&mut self, block: usize, past: u64, chance: &BigRational, history: &History) {
        let Some(&size) = SIZES.get(block) else {
            self.histories += 1;
            self.expected += chance * history.bets.evidence();
            for (reached, bound) in self.reached.iter_mut().zip(BOUNDS) {
                if history.most >= bound {
                    *reached += chance;
                }
            }
            return;
        };
        let faces = adversary(past);
        for canary_bad in 0..=1 {
            for stable_bad in 0..=size {
                let happens = faces.iter().fold(exact(0.0), |sum, stable| {
                    let canary = binomial(1, canary_bad, &(self.canary)(stable));
                    sum + exact(0.5) * canary * binomial(size, stable_bad, stable)
                });
                if happens == exact(0.0) {
                    continue;
                }
                let mut next = history.clone();
                if block == 2 {
                    next.between(self.between);
                }
                next.close(canary_bad, size, stable_bad);
                let past = past * 31 + canary_bad * 7 + stable_bad + 1;
                self.compare(block + 1, past, &(chance * happens), &next);
            }
        }
    }
}

/// What is shipped and its definition, side by side.
#[derive(Clone)]
struct History {
    shipped: Comparison,
    bets: Bets,
    most: f64,
}

impl History {
    fn new() -> Self {
        Self {
            shipped: Comparison::new(),
            bets: Bets::new(9),
            most: 0.0,
        }
    }

    fn between(&mut self, between: Between) {
        match between {
            Between::Nothing => {}
            Between::Step => {
                self.shipped.step_begins();
                self.bets.step();
            }
            Between::StartOver => {
                self.shipped.starts_over();
                self.bets.start_over();
            }
        }
    }

    fn close(&mut self, canary_bad: u64, size: u64, stable_bad: u64) {
        let seen = count(canary_bad) - count(stable_bad) / count(size);
        self.shipped.closed(
            TOLERANCE,
            &Differences {
                without: [Some(seen); GROUPS],
            },
        );
        let difference = whole(canary_bad) - fraction(stable_bad, size);
        let excess = (difference - exact(TOLERANCE)) / (one() + exact(TOLERANCE));
        self.bets.round(|stake| one() + stake * &excess);
        let evidence = self.shipped.evidence();
        assert!(self.bets.agrees_with(evidence), "{evidence}");
        self.most = self.most.max(evidence);
    }
}

#[test]
fn a_canary_just_tolerated_leaves_the_capital_at_one_on_average() {
    // Shares that an eighth more than stable's are chances too: at most 7/8.
    let walk = Walk::new(Between::Nothing, |stable| stable + exact(TOLERANCE));
    assert!(walk.histories > 1_000, "{}", walk.histories);
    assert_eq!(walk.expected, one());
    let walk = Walk::new(Between::Step, |stable| stable + exact(TOLERANCE));
    assert_eq!(walk.expected, one());
}

#[test]
fn a_bound_is_ever_reached_with_a_chance_of_at_most_one_over_it() {
    let walk = Walk::new(Between::Step, |stable| stable + exact(TOLERANCE));
    for (reached, bound) in walk.reached.into_iter().zip(BOUNDS) {
        assert!(reached > exact(0.0), "{bound} is out of reach and proves nothing");
        assert!(reached <= one() / exact(bound), "{bound}");
    }
}

#[test]
fn what_is_forgotten_is_lost() {
    let walk = Walk::new(Between::StartOver, |stable| stable + exact(TOLERANCE));
    assert!(walk.expected < one());
}

#[test]
fn a_better_canary_loses() {
    let walk = Walk::new(Between::Nothing, Clone::clone);
    assert!(walk.expected < one());
}

#[test]
fn a_worse_canary_wins() {
    // Otherwise nothing above could fail. An eighth and a millionth.
    let walk = Walk::new(Between::Nothing, |stable| {
        (stable + exact(TOLERANCE + 1e-6)).min(one())
    });
    assert!(walk.expected > one());
}

/// An eighth is allowed; blocks have these many requests.
const ALLOWED: f64 = 0.125;
const REQUESTS: [u64; 6] = [1, 3, 1, 2, 4, 1];

/// Walks the blocks: all requests of one go the same way with a chance of a half, so that nothing but their share counts.
fn objective(block: usize, chance: &BigRational, shipped: &Objective, bets: &Bets, sum: &mut BigRational) {
    assert!(bets.agrees_with(shipped.evidence()), "{}", shipped.evidence());
    let Some(&requests) = REQUESTS.get(block) else {
        *sum += chance * bets.evidence();
        return;
    };
    for bad in 0..=requests {
        let together = match bad {
            0 => one() - exact(ALLOWED),
            all if all == requests => exact(ALLOWED),
            _ => exact(0.0),
        };
        let happens = exact(0.5) * (together + binomial(requests, bad, &exact(ALLOWED)));
        let (mut shipped, mut bets) = (*shipped, bets.clone());
        shipped.closed(ALLOWED, Tally { requests, bad });
        let excess = (fraction(bad, requests) - exact(ALLOWED)) / exact(ALLOWED);
        bets.round(|stake| one() + stake * &excess);
        if block == 3 {
            shipped.step_begins();
            bets.step();
        }
        objective(block + 1, &(chance * happens), &shipped, &bets, sum);
    }
}

#[test]
fn a_version_just_within_its_slo_leaves_the_capital_at_one_on_average() {
    let mut sum = exact(0.0);
    objective(0, &one(), &Objective::new(), &Bets::new(16), &mut sum);
    assert_eq!(sum, one());
}
