//! Why evidence leads to no verdict.

use knhk_flags::message::quoted;

/// Why evidence leads to no verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A condition has to be known, and was not recorded.
    #[error("condition {index} of rollout {rollout} is missing: it has to be known to decide")]
    MissingCondition {
        /// The rollout.
        rollout: String,
        /// Which of its conditions.
        index: u32,
    },
    /// What a flag gave has to be known, and was not recorded.
    #[error("flag {flag:?} for rollout {rollout} is missing: what it gave has to be known to decide")]
    MissingFlag {
        /// The rollout that asks for it.
        rollout: String,
        /// Its key.
        flag: String,
    },
    /// The rollout that routes the request is not the one whose bucket was recorded.
    #[error("the bucket for rollout {rollout} is missing: it routes the request, the record has {}", recorded.as_deref().map_or_else(|| "none".to_owned(), quoted))]
    MissingBucket {
        /// The rollout that routes.
        rollout: String,
        /// The one that the record names.
        recorded: Option<String>,
    },
    /// The policy does not have what the evidence is about: it is evidence for another policy.
    #[error("the policy has no {what}: replay against the policy that the receipt names")]
    NotInPolicy {
        /// What the evidence names.
        what: String,
    },
    /// Two parts of the evidence cannot both be true.
    #[error("the evidence contradicts itself: {what}")]
    Contradiction {
        /// Which parts.
        what: String,
    },
}

impl ReplayError {
    /// A stable name of the kind of error.
    pub fn label(&self) -> &'static str {
        match self {
            Self::MissingCondition { .. } => "missing_condition",
            Self::MissingFlag { .. } => "missing_flag",
            Self::MissingBucket { .. } => "missing_bucket",
            Self::NotInPolicy { .. } => "not_in_policy",
            Self::Contradiction { .. } => "contradiction",
        }
    }
}

/// Two parts that cannot both be true.
pub(super) fn contradiction(what: &str) -> ReplayError {
    ReplayError::Contradiction {
        what: what.to_owned(),
    }
}
