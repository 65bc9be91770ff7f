//! Targeting rules: `JsonLogic` with flagd's own operations, compiled once and run for each evaluation.

mod budget;
mod check;
mod coerce;
mod compile;
mod fractional;
mod hash;
mod loops;
mod machine;
mod murmur3;
mod number;
mod operation;
mod path;
mod reads;
mod rule;
mod stop;
mod substr;
mod value;
mod version;

pub use budget::Budget;
pub use reads::Reads;
pub use stop::Stop;

pub(crate) use coerce::name;
pub(crate) use compile::{Compiler, Evaluator, Evaluators};
pub(crate) use machine::Machine;
pub(crate) use rule::Rule;
pub(crate) use value::{Object, Value};
