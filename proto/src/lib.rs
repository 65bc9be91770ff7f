//! The wire format between filter and service.
//!
//! With the feature `grpc` this also holds the tonic service and re-exports Envoy's own types.

pub mod ordered;

/// `knhk/v1/gate.proto`.
#[allow(missing_docs, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/knhk.v1.rs"));
}

#[cfg(feature = "grpc")]
pub use envoy_types as envoy;
