//! Rollouts: the spec, the stages, the analysis and the rollback.
//!
//! Everything here is pure: no I/O, no clock, no randomness. The service feeds [`step`] with looks and commands, and
//! carries out the [`Effect`]s. `docs/analysis.md` says in plain words how a canary is judged.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)
)]

mod apply;
mod binomial;
mod command;
mod counts;
mod explain;
mod finding;
mod history;
mod lived;
mod phase;
mod place;
mod refusal;
mod region;
mod reporters;
mod rollout;
pub mod sequential;
pub mod spec;
mod step;
mod tally;
mod text;
mod tick;
mod trials;

pub use self::command::Command;
pub use self::counts::{Counts, LOOK_EVERY_MS, Now, WindowCounts};
pub use self::explain::Explanation;
pub use self::finding::{Finding, Reading};
pub use self::history::{HistoryEntry, ITSELF, MAX_HISTORY, What};
pub use self::lived::MAX_GAP_MS;
pub use self::phase::{FailReason, PauseReason, Phase};
pub use self::place::Place;
pub use self::refusal::Refusal;
pub use self::reporters::{
    Audience, Contribution, ENOUGH_IDENTITIES, GATHERING_MS, MAX_NAMED, OUTLIER_LEVEL, Part, Provenance,
    REPORTING_SHARE, Reporter, SetAside, Weighed, weigh,
};
pub use self::rollout::{Rollout, STATE_FORMAT, create};
pub use self::spec::{Answer, RolloutSpec, SpecError};
pub use self::step::{Effect, Event, MAX_REPORTS_PER_LOOK, step};
pub use self::tally::Tally;
pub use self::tick::PERSIST_EVERY_MS;
pub use self::trials::{MAX_ORDERED_PER_LOOK, MAX_TRIALS, Reported};
