//! What comes of deciding again.

use crate::decide::{Admission, Variant};
use crate::evidence::Evidence;

/// What evidence and policy lead to, whatever verdict was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayedVerdict {
    /// No rollout matches.
    NoRollout,
    /// One rollout routes the request.
    Routed(ReplayedRoute),
    /// One rollout would route it, and does not admit its caller.
    Denied(ReplayedRoute),
}

/// How a rollout routes the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayedRoute {
    /// The rollout's name.
    pub name: String,
    /// Its generation in the policy.
    pub generation: u64,
    /// The key's bucket; absent when the request had none of the rollout's keys.
    pub bucket: Option<u32>,
    /// Which version serves, by that bucket and the policy's weight.
    pub variant: Variant,
    /// What the upstream is told of flags, in the rollout's order: nothing where the caller is not admitted.
    pub flags: Vec<ReplayedFlag>,
}

/// A flag that the upstream is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayedFlag {
    /// Its key.
    pub flag: String,
    /// The variant that was recorded.
    pub variant: String,
}

impl ReplayedVerdict {
    /// Whether this is the verdict that was recorded.
    pub fn agrees_with(&self, evidence: &Evidence) -> bool {
        let same_route = match (self.route(), &evidence.rollout) {
            (None, None) => true,
            (Some(replayed), Some(recorded)) => {
                (
                    &replayed.name,
                    replayed.generation,
                    replayed.bucket,
                    replayed.variant,
                ) == (
                    &recorded.name,
                    recorded.generation,
                    recorded.bucket,
                    recorded.variant,
                )
            }
            _ => false,
        };
        same_route && self.admission() == evidence.admission
    }

    /// How the request is routed, or would be if it were admitted.
    pub fn route(&self) -> Option<&ReplayedRoute> {
        match self {
            Self::NoRollout => None,
            Self::Routed(route) | Self::Denied(route) => Some(route),
        }
    }

    /// Whether the request goes on.
    pub fn admission(&self) -> Admission {
        match self {
            Self::NoRollout | Self::Routed(_) => Admission::Admitted,
            Self::Denied(_) => Admission::Denied,
        }
    }
}
