//! Real key services, started for a test: Vault's own Transit engine, moto for AWS, a stand-in with real keys for Azure.
//!
//! Each peer is a type with `start`, which installs what is missing through `tests/peers/`, and ends on drop.

mod any;
pub mod aws;
pub mod azure;
pub mod fault;
pub mod flagd;
pub mod keyvault;
pub mod spire;
pub mod vault;

use std::fmt;

pub use any::{AnyPeer, Provider};

/// Why a peer is not there. A test that needs it fails with this line: it did not run, so it did not pass.
#[derive(Debug, thiserror::Error)]
#[error("not run: {peer}: {why}")]
pub struct NotRun {
    peer: &'static str,
    why: String,
}

impl NotRun {
    /// `why` is one line that says what is missing and how to get it.
    pub fn new(peer: &'static str, why: impl fmt::Display) -> Self {
        Self {
            peer,
            why: why.to_string(),
        }
    }

    /// Wraps what went wrong while `peer` was started.
    pub fn because<E: fmt::Display>(peer: &'static str) -> impl Fn(E) -> Self {
        move |error| Self::new(peer, error)
    }
}
