//! Commands that cannot be carried out: each says why, and what to do instead.

use crate::phase::PauseReason;
use crate::spec::{Approval, MAX_REASON_BYTES};
use knhk_decision::spec::Weight;
use thiserror::Error;

/// Why a command was refused. The rollout is untouched.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// `apply` with another rollout's specification.
    #[error("metadata.name: {given} is applied to rollout {name}; apply it to {given}")]
    OtherName {
        /// This rollout.
        name: String,
        /// The specification's name.
        given: String,
    },
    /// `apply` of a new version beside a stable that did not succeed last.
    #[error("spec.stable: {given} is not the version that last succeeded; write stable: {succeeded}")]
    NotTheStable {
        /// What the specification says.
        given: String,
        /// The version that last succeeded.
        succeeded: String,
    },
    /// `apply` of the version that last succeeded, which serves as stable now.
    #[error(
        "spec.version: {version} last succeeded and serves already; abort what is under way, or apply another version"
    )]
    AlreadyStable {
        /// That version.
        version: String,
    },
    /// `apply` of the same version with another stable.
    #[error(
        "spec.stable: {given} would change the stable of {version}; write stable: {stable}, or apply another version"
    )]
    StableChanged {
        /// The version under way.
        version: String,
        /// Its stable.
        stable: String,
        /// What the specification says.
        given: String,
    },
    /// The version has every request already.
    #[error("{version} has succeeded, there is nothing to {command}; apply another version")]
    HasSucceeded {
        /// What was asked for.
        command: &'static str,
        /// That version.
        version: String,
    },
    /// `abort` after success.
    #[error(
        "{version} has succeeded, there is nothing to abort; to go back apply version: {stable} with stable: {version}"
    )]
    AbortAfterSuccess {
        /// The version that succeeded.
        version: String,
        /// The one before it.
        stable: String,
    },
    /// The generation failed.
    #[error(
        "{version} has failed and stands at 0 %, there is nothing to {command}; retry it or apply another version"
    )]
    HasFailed {
        /// What was asked for.
        command: &'static str,
        /// That version.
        version: String,
    },
    /// `approve` of what does not wait for it.
    #[error("it does not wait for an approval; `knhk rollout status` says what it waits for")]
    NothingToApprove,
    /// `approve` by somebody who may not.
    #[error("{by} may not approve it; ask one of: {approvers}")]
    NotAnApprover {
        /// Who asked.
        by: String,
        /// Who may.
        approvers: String,
    },
    /// `promote` or `resume` past an approval.
    #[error(
        "what comes next has to be approved, so {command} does not lead there; let it be approved by one of: {approvers}"
    )]
    NeedsApproval {
        /// What was asked for.
        command: &'static str,
        /// Who may approve.
        approvers: String,
    },
    /// `promote` with a reason that cannot be shown.
    #[error("reason: it is not one line of 1 to {MAX_REASON_BYTES} bytes; write one, or leave it out")]
    Reason,
    /// `promote --full` in production.
    #[error("{version} is in production already; promote without --full ends its watch")]
    InProduction {
        /// That version.
        version: String,
    },
    /// `pause` of what an operator paused.
    #[error("it is paused already, at {weight}; resume, promote or abort it")]
    AlreadyPaused {
        /// Where it stands.
        weight: Weight,
    },
    /// `resume` of what is not paused.
    #[error("it is not paused, it goes on by itself; pause it first, or promote it to go on at once")]
    NotPaused,
    /// `retry` of what has not failed.
    #[error("it has not failed, so there is nothing to retry; abort it first, or {instead}")]
    NotFailed {
        /// What may be meant instead.
        instead: &'static str,
    },
}

impl Refusal {
    /// A stable, low-cardinality name.
    pub fn label(&self) -> &'static str {
        match self {
            Self::OtherName { .. } => "other_name",
            Self::NotTheStable { .. } => "not_the_stable",
            Self::AlreadyStable { .. } => "already_stable",
            Self::StableChanged { .. } => "stable_changed",
            Self::HasSucceeded { .. } => "has_succeeded",
            Self::AbortAfterSuccess { .. } => "abort_after_success",
            Self::HasFailed { .. } => "has_failed",
            Self::NothingToApprove => "nothing_to_approve",
            Self::NotAnApprover { .. } => "not_an_approver",
            Self::NeedsApproval { .. } => "needs_approval",
            Self::Reason => "reason",
            Self::InProduction { .. } => "in_production",
            Self::AlreadyPaused { .. } => "already_paused",
            Self::NotPaused => "not_paused",
            Self::NotFailed { .. } => "not_failed",
        }
    }

    pub(crate) fn needs_approval(command: &'static str, gate: &Approval) -> Self {
        Self::NeedsApproval {
            command,
            approvers: gate.by.join(", "),
        }
    }

    pub(crate) fn not_failed(paused: Option<PauseReason>) -> Self {
        Self::NotFailed {
            instead: if paused.is_some() {
                "resume it"
            } else {
                "wait for it"
            },
        }
    }
}
