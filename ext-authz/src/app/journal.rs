//! The log, measured: the one way by which the service appends.

use std::sync::Arc;
use std::time::Duration;

use knhk_receipts::{ActionReceipt, Log, LogError, Payload};
use knhk_telemetry::ServiceMetrics;
use knhk_telemetry::attribute::AppendReason;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;

/// How often the log is looked after.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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

/// Looks after the log: counts checkpoints that are not signed, and after a failed append tries whether the log works
/// again, so that a service without traffic becomes ready by itself. The outage is then a receipt of its own.
pub(crate) async fn look_after(journal: Journal, stop: CancellationToken) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed_since: Option<u64> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let status = journal.log.status();
        if status.last_flush_error.is_some() {
            journal.metrics.signing_failed();
        }
        let Some(error) = status.last_write_error else {
            failed_since = None;
            continue;
        };
        let now = journal.clock.now().wall_ms;
        let since = *failed_since.get_or_insert(now);
        let receipt = ActionReceipt {
            region: journal.log.region().to_owned(),
            time_unix_ms: now,
            who: "knhk".to_owned(),
            what: "log.resumed".to_owned(),
            target: "log".to_owned(),
            before: None,
            after: None,
            reason: format!(
                "appends had failed for {} s: {error}",
                now.saturating_sub(since) / 1000
            ),
        };
        if journal.append(vec![Payload::Action(receipt)]).await.is_ok() {
            tracing::info!("the log can be written again");
            failed_since = None;
        }
    }
}
