//! Where a rollout stands, and why.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", content = "reason")]
pub enum Phase {
    /// It goes on by itself.
    Progressing,
    /// It stays at its weight. It is still watched: a canary that fails is rolled back from here too.
    Paused(PauseReason),
    /// The version has every request, until another one is applied.
    Succeeded,
    /// Stable has every request, until `retry` or another version.
    Failed(FailReason),
}

/// Why a rollout is paused, and what ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PauseReason {
    /// An operator said so; `resume` ends it.
    Operator,
    /// Stable violates an SLO too. It ends by itself once the canary's requests in the window meet every SLO again, or
    /// with `resume`, which leaves the window's counts behind.
    StableAlsoFailing,
    /// Every step before a stage is passed, and the stage asks for an operator's approval; `approve` ends it.
    AwaitingApproval,
    /// The step had not gathered its evidence by its deadline. `resume` gives it as long again; `promote` or `abort` decide.
    Inconclusive,
    /// The canary is to be rolled back but `autoRollback` is false; `abort`, or `resume` to try again on new counts.
    SloViolated,
}

/// Why a rollout failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailReason {
    /// An operator said so.
    Aborted,
    /// It was rolled back.
    SloViolated,
}

impl Phase {
    /// `Progressing`, `Paused`, `Succeeded` or `Failed`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Progressing => "Progressing",
            Self::Paused(_) => "Paused",
            Self::Succeeded => "Succeeded",
            Self::Failed(_) => "Failed",
        }
    }

    /// The reason's stable name, in phases that have one.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Progressing | Self::Succeeded => None,
            Self::Paused(PauseReason::Operator) => Some("operator"),
            Self::Paused(PauseReason::StableAlsoFailing) => Some("stable-also-failing"),
            Self::Paused(PauseReason::AwaitingApproval) => Some("awaiting-approval"),
            Self::Paused(PauseReason::Inconclusive) => Some("inconclusive"),
            Self::Paused(PauseReason::SloViolated) | Self::Failed(FailReason::SloViolated) => {
                Some("slo-violated")
            }
            Self::Failed(FailReason::Aborted) => Some("aborted"),
        }
    }

    /// Whether a canary is under way: Progressing or Paused.
    pub fn is_under_way(self) -> bool {
        matches!(self, Self::Progressing | Self::Paused(_))
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())?;
        self.reason().map_or(Ok(()), |reason| write!(f, " ({reason})"))
    }
}
