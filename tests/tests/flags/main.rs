//! Feature flags: flagd's own evaluator gives the same variant, value and reason, for generated flags and contexts.
#![allow(clippy::expect_used)]

mod generate;
mod known;
mod oracle;
