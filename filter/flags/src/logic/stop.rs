//! What ends an evaluation before it has a result.

/// Why a rule gives no result. To flagd's callers each is a `GENERAL` error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Stop {
    /// `/` or `%` by zero.
    #[error("it divides by zero")]
    DivisionByZero,
    /// A position that is infinite, in `substr` or `var`.
    #[error("a position in it is infinite")]
    InfinitePosition,
    /// `fractional` without a value to bucket by, inside a loop over what is no object.
    #[error(
        "fractional takes its targetingKey from the item of the loop here, which is no object: name what to bucket by"
    )]
    NoContext,
    /// `var` of everything, inside `reduce`.
    #[error("inside reduce a var is `current` or `accumulator`, not both at once")]
    WholeFold,
    /// It costs more than [`crate::limits::MAX_COST`].
    #[error("it costs more than the bound of {} units", crate::limits::MAX_COST)]
    TooCostly,
    /// It makes lists that lie deeper in one another than [`crate::limits::MAX_MADE_DEPTH`].
    #[error("it makes lists deeper than the bound of {}", crate::limits::MAX_MADE_DEPTH)]
    TooDeep,
}

impl Stop {
    /// A stable name of the kind of stop, for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::DivisionByZero => "division_by_zero",
            Self::InfinitePosition => "infinite_position",
            Self::NoContext => "no_context",
            Self::WholeFold => "whole_fold",
            Self::TooCostly => "too_costly",
            Self::TooDeep => "too_deep",
        }
    }
}
