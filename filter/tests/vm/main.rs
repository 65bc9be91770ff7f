//! The filter as the proxy sees it: callbacks in, calls out, behind a proxy that is a model.
#![allow(clippy::unwrap_used)]

mod fake;
mod requests;
mod service;
