//! Tests of a canary that hold at every look: the pure core of `docs/analysis-sequential.md`.
//!
//! A [`Trial`] takes what finished, in order ([`Outcomes`]), and says at any time what follows ([`Verdict`]). However
//! often it is asked, its promise stays the same, because each test is a bet against its null: it starts with a capital
//! of 1 that cannot be expected to grow while the null is true, so by Ville's inequality it ever reaches 1 / level with
//! a chance of at most the level.
//!
//! - `comparison`: is the canary worse than stable by more than the tolerance? Betting on bounded differences
//!   (Waudby-Smith and Ramdas, 2024, "Estimating means of bounded random variables by betting", section 4).
//! - `objective`: does a version violate an SLO? The same for one share.
//! - `stakes` and `starts`: how the capital is spread over sizes of bets and over the times at which they begin.
//!
//! The arithmetic is additions, multiplications and divisions of doubles, without logarithms or powers from a system's
//! library: the same outcomes give the same bits on every machine, and a state that was written down goes on exactly.

mod capital;
mod comparison;
mod objective;
mod outcomes;
mod pending;
mod plan;
#[cfg(test)]
mod reference;
mod stakes;
mod starts;
mod trial;
mod verdict;

pub use self::outcomes::{Block, GROUPS, Group, MAX_ORDERED, Outcome, Outcomes, OutcomesError, Tallies};
pub use self::plan::{Goal, Plan, PlanError};
pub use self::trial::{Decides, TRIAL_FORMAT, Trial, TrialEvent, WATCH_BLOCK};
pub use self::verdict::{Decision, Patience, Verdict};

pub(crate) use self::comparison::Worse;
pub(crate) use self::trial::Metric;
