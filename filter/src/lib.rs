//! The proxy-wasm filter: decides in the proxy, with no call on the request path.
//!
//! A thin shell over `knhk-decision`. Everything but the module `abi` speaks to the proxy through the port in
//! [`host`] and runs natively in tests; `abi` is the port's other side in Envoy, and for wasm32 alone.
//!
//! Nothing that a client sends may end the VM, for it serves every request of its worker: no code here can panic
//! (lints deny what could), and bytes are never taken for text unchecked.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable
    )
)]

// Natively there is no host to link with; clippy, which does not link, reads it all the same.
#[cfg(any(target_arch = "wasm32", clippy))]
mod abi;
pub mod config;
mod gate;
pub mod host;
pub mod in_flight;
pub mod observe;
pub mod pairs;
pub mod record;
pub mod request;
pub mod snapshots;
mod stats;
pub mod stream;
pub mod vm;
