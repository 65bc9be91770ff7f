//! Why a flag file or a context is refused.

use crate::limits::{MAX_CONTEXT_BYTES, MAX_FLAGS_BYTES};

/// Why a flag file is refused, in one line: where, what, and what would be right. Nothing of a refused file is used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlagsError {
    /// The file is longer than [`MAX_FLAGS_BYTES`].
    #[error(
        "{bytes} bytes are above the bound of {MAX_FLAGS_BYTES}: define fewer flags, or share rules with $evaluators"
    )]
    TooLarge {
        /// How long it is.
        bytes: usize,
    },
    /// A place of the file is wrong.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl FlagsError {
    /// A stable name of the kind of error, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Refused(refusal) => refusal.fault.label(),
        }
    }
}

/// Why a context is refused, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// It is longer than [`MAX_CONTEXT_BYTES`].
    #[error(
        "context: {bytes} bytes are above the bound of {MAX_CONTEXT_BYTES}: pass only what the rules read"
    )]
    TooLarge {
        /// How long it is.
        bytes: usize,
    },
    /// A place of it is wrong.
    #[error("context: {0}")]
    Refused(#[from] Refusal),
}

impl ContextError {
    /// A stable name of the kind of error, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Refused(refusal) => refusal.fault.label(),
        }
    }
}

/// One place of a document, and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Refusal {
    /// Where, as in `flags.banner.targeting.if[0].==[1]`; `$` is the document itself.
    pub path: String,
    /// Which kind of fault.
    pub fault: Fault,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// Which kind of fault a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// It is no JSON.
    Malformed,
    /// A bound was met.
    AboveBound,
    /// A value does not have the form that its place needs.
    BadForm,
    /// The same name was given twice.
    Duplicate,
    /// A name that means nothing in its place.
    UnknownField,
    /// An operation that is not supported.
    UnknownOperation,
    /// A name of something that is not there: a variant, an evaluator.
    Dangling,
    /// Something is missing that has to be there.
    Missing,
}

impl Fault {
    /// A stable name of the kind of fault.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::AboveBound => "above_bound",
            Self::BadForm => "bad_form",
            Self::Duplicate => "duplicate",
            Self::UnknownField => "unknown_field",
            Self::UnknownOperation => "unknown_operation",
            Self::Dangling => "dangling",
            Self::Missing => "missing",
        }
    }
}
