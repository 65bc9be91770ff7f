//! The harness that starts real peers, the end-to-end tests, the demo and the benchmarks.
//!
//! The harness runs what a user runs: the `knhk` binary, the filter's `.wasm` in a real Envoy, real upstreams, real
//! traffic. What it starts ends on drop, also when a test panics or is killed, and each test has its own ports and files.

pub mod artifacts;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod demo;
pub mod envoy;
pub mod error;
pub mod ext_proc;
pub mod gate;
pub mod handshake;
pub mod load;
pub mod mesh;
pub mod namespace;
pub mod peer;
pub mod ports;
pub mod process;
pub mod recorded;
pub mod regions;
pub mod rollout;
pub mod service;
pub mod small_disk;
pub mod spiffe;
pub mod upstream;
pub mod wait;

pub use error::Error;
