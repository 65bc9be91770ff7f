//! The filter as the proxy sees it: callbacks in, calls out, behind a proxy that is a model.
#![allow(clippy::unwrap_used)]

mod counts;
mod decisions;
mod fake;
mod flags;
mod order;
mod outcomes;
mod requests;
mod said;
mod service;
mod staging;
