//! Feature flags as flagd defines and evaluates them: a pure function of flag file and context.
//!
//! A flag file is read once, whole, by [`FlagSet::parse`], or by [`FlagSet::compile`] where it is a part of another document:
//! what is not supported is refused there, by its place. After that
//! [`FlagSet::evaluate`] gives a variant and the reason, as flagd's own evaluator for Python does. Nothing here does I/O,
//! reads a clock or draws a random number, no input makes it panic, and what an evaluation may cost is bounded.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod context;
mod document;
mod error;
mod evaluate;
mod flag;
mod json;
pub mod limits;
mod logic;
pub mod message;
mod path;
mod set;

pub use crate::context::{Context, Texts};
pub use crate::document::Document;
pub use crate::error::{ContextError, Fault, FlagsError, Refusal};
pub use crate::evaluate::{Asked, Chosen, EvaluationError, Reason, Resolution};
pub use crate::flag::Kind;
pub use crate::json::{Json, List, Object};
pub use crate::logic::{Budget, Reads, Stop};
pub use crate::set::FlagSet;
