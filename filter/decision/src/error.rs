//! Why a policy is refused.

use knhk_flags::Refusal;
use knhk_flags::message::quoted;

use crate::limits::MAX_POLICY_BYTES;

/// Why a policy is refused, in one line: where, what, and what would be right. Nothing of a refused policy is used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The document is longer than [`MAX_POLICY_BYTES`].
    #[error("policy: {bytes} bytes are above the bound of {MAX_POLICY_BYTES}: split it or shorten it")]
    TooLarge {
        /// How long it is.
        bytes: usize,
    },
    /// The document is no JSON, or does not have the shape of a policy.
    #[error("policy: {field}: {reason}")]
    Malformed {
        /// Where, as in `rollouts[2].match.hosts`; with the rollout's name where it has one.
        field: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The document is not about what it should be, or has too much of it.
    #[error("policy: {field}: {reason}")]
    Document {
        /// Which field.
        field: &'static str,
        /// Which kind of fault.
        fault: Fault,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The flag definitions make no sense.
    #[error("policy: flags: {0}")]
    Flags(Refusal),
    /// A rollout makes no sense, alone or beside the others and the flags.
    #[error("rollout {rollout}: {field}: {reason}")]
    Rule {
        /// Its name, quoted.
        rollout: String,
        /// Which field, as in `match.hosts[1]`.
        field: String,
        /// Which kind of fault.
        fault: Fault,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// Which kind of fault a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// It does not have the shape of a policy.
    Malformed,
    /// A bound was met.
    AboveBound,
    /// A value does not have the form that its field needs.
    BadForm,
    /// The same thing was given twice.
    Duplicate,
    /// No request can ever satisfy it.
    NeverMatches,
    /// Another rollout always comes first.
    Shadowed,
    /// A name of something that is not there: a flag, or a variant of one.
    Dangling,
}

impl PolicyError {
    /// A stable name of the kind of error, for metrics and Nacks.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Malformed { .. } => "malformed",
            Self::Flags(_) => "flags",
            Self::Document { fault, .. } | Self::Rule { fault, .. } => fault.label(),
        }
    }
}

impl Fault {
    /// A stable name of the kind of fault.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::AboveBound => "above_bound",
            Self::BadForm => "bad_form",
            Self::Duplicate => "duplicate",
            Self::NeverMatches => "never_matches",
            Self::Shadowed => "shadowed",
            Self::Dangling => "dangling",
        }
    }
}

/// A fault in one field of a rollout, before it is known which rollout that is.
#[derive(Debug)]
pub(crate) struct FieldError {
    pub(crate) field: String,
    pub(crate) fault: Fault,
    pub(crate) reason: String,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, fault: Fault, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            fault,
            reason: reason.into(),
        }
    }

    pub(crate) fn of(self, rollout: &str) -> PolicyError {
        PolicyError::Rule {
            rollout: quoted(rollout),
            field: self.field,
            fault: self.fault,
            reason: self.reason,
        }
    }
}

/// Refuses more than `bound` of what `what` names.
pub(crate) fn within(
    field: impl Into<String>,
    count: usize,
    bound: usize,
    what: &str,
) -> Result<(), FieldError> {
    if count <= bound {
        return Ok(());
    }
    Err(FieldError::new(
        field,
        Fault::AboveBound,
        format!("{count} {what} are above the bound of {bound}"),
    ))
}
