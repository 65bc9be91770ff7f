//! Telemetry: the names of every metric, span, event and attribute, generated from `registry/`, the service's metrics, and logs.
//!
//! What is shown at `/metrics` is the registry and nothing else: a metric is made from its constant in
//! [`metric`], and its labels have the types of [`attribute`].

pub mod logging;
mod regions;
mod registrar;
mod service;
mod typed;

/// The registry, as `build.rs` read it.
#[allow(
    clippy::doc_markdown,
    reason = "the briefs are shown at /metrics, where a backtick is a backtick"
)]
mod registry {
    include!(concat!(env!("OUT_DIR"), "/registry.rs"));
}

pub use regions::RegionMetrics;
pub use registry::{attribute, event, metric, span};
pub use service::{CONTENT_TYPE, Open, ServiceMetrics};
pub use typed::{Attribute, Definition, Instrument, LabelSet, Metric, kind};
