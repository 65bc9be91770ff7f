//! Tests of the crate as its users see it.

mod document;
mod hostile;
mod matching;
mod reference;
mod refusals;
mod replay;
mod statistics;
mod support;
mod vectors;
