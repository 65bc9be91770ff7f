//! The log, measured: the one way by which the service appends.

use std::sync::Arc;

use knhk_receipts::{Log, LogError, Payload};
use knhk_telemetry::ServiceMetrics;
use knhk_telemetry::attribute::AppendReason;

use super::clock::Clock;

/// Appends to the log and says how long it took. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Journal {
    log: Log,
    clock: Clock,
    metrics: Arc<ServiceMetrics>,
}

impl Journal {
    pub(crate) fn new(log: Log, clock: Clock, metrics: Arc<ServiceMetrics>) -> Self {
        Self { log, clock, metrics }
    }

    /// Resolves once the payloads are durable, with their indexes.
    pub(crate) async fn append(&self, payloads: Vec<Payload>) -> Result<Vec<u64>, LogError> {
        let started = self.clock.mono();
        let appended = self.log.append(payloads).await;
        match &appended {
            Ok(_) => self.metrics.appended(self.clock.mono().saturating_sub(started)),
            Err(error) => self
                .metrics
                .append_failed(AppendReason::from_label(error.label())),
        }
        appended
    }
}
