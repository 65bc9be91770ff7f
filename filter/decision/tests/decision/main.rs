//! Tests of the crate as its users see it.

mod document;
mod flags;
mod flags_reference;
mod hostile;
mod matching;
mod reference;
mod refusals;
mod replay;
mod replay_flags;
mod staging;
mod statistics;
mod support;
mod vectors;
