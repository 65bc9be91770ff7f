//! What the crate promises, without flagd's own evaluator, which `tests/tests/flags` compares with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod document;
mod evaluation;
mod hostile;
mod refusals;
mod support;
