//! What happened to a rollout: who did what, why, and by which numbers.

use crate::finding::Reading;
use crate::phase::Phase;
use crate::reporters::Provenance;
use knhk_decision::spec::Weight;
use serde::{Deserialize, Serialize};

/// The entries that a rollout remembers; older ones are dropped first. The whole history lives in the receipts.
pub const MAX_HISTORY: usize = 512;

/// Who acts when the rollout acts by itself.
pub const ITSELF: &str = "knhk";

/// One transition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HistoryEntry {
    /// Counted from 1 over the rollout's whole life, without gaps.
    pub seq: u64,
    /// Unix time in milliseconds: a label, by a clock that may have jumped.
    pub wall_ms: u64,
    /// Which generation, after the transition.
    pub generation: u64,
    /// The version that is rolled out, after the transition.
    pub version: String,
    /// The operator, or [`ITSELF`].
    pub who: String,
    /// What was done.
    pub what: What,
    /// Why, in one line.
    pub why: String,
    /// Before the transition; absent in a rollout's first entry.
    pub phase_before: Option<Phase>,
    /// After the transition.
    pub phase: Phase,
    /// The stage's name, after the transition.
    pub stage: String,
    /// The step within the stage, counted from 1, after the transition.
    pub step: usize,
    /// The canary's share before the transition.
    pub weight_before: Weight,
    /// The canary's share after the transition.
    pub weight: Weight,
    /// The observation window that `readings` are of.
    pub judged_window: u64,
    /// The observation window after the transition.
    pub window: u64,
    /// The numbers that led to it; empty for an operator's command.
    pub readings: Vec<Reading>,
    /// Who reported these numbers; absent for an operator's command, and where no identity was proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reporters: Option<Provenance>,
}

/// What a transition was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A new generation began with `apply`.
    Applied,
    /// `apply` changed the specification within the generation.
    Changed,
    /// A step was passed.
    Advanced,
    /// An operator let it into a stage that asks for approval.
    Approved,
    /// An operator went on to the next step, or to production.
    Promoted,
    /// The last step was passed.
    Succeeded,
    /// It stopped at its weight.
    Paused,
    /// It went on.
    Resumed,
    /// An operator gave up: weight 0.
    Aborted,
    /// The canary was worse: weight 0.
    RolledBack,
    /// A new generation began with `retry`.
    Retried,
    /// Another region became its home, in a new generation.
    Adopted,
}

impl What {
    /// A stable, low-cardinality name; receipts call the action `rollout.LABEL`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Changed => "changed",
            Self::Advanced => "advanced",
            Self::Approved => "approved",
            Self::Promoted => "promoted",
            Self::Succeeded => "succeeded",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Aborted => "aborted",
            Self::RolledBack => "rolled_back",
            Self::Retried => "retried",
            Self::Adopted => "adopted",
        }
    }
}
