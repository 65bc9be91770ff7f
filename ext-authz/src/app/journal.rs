//! The log, measured: the one way by which the service appends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use knhk_receipts::{ActionReceipt, Log, LogError, Payload};
use knhk_telemetry::ServiceMetrics;
use knhk_telemetry::attribute::AppendReason;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;

/// How often the log is looked after.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A log that makes nothing durable for so long, while something waits, hangs.
const HANGS_AFTER: Duration = Duration::from_secs(3);

/// Appends to the log and says how long it took. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Journal {
    log: Log,
    clock: Clock,
    metrics: Arc<ServiceMetrics>,
    hangs: Arc<AtomicBool>,
    ended: CancellationToken,
}

impl Journal {
    pub(crate) fn new(log: Log, clock: Clock, metrics: Arc<ServiceMetrics>) -> Self {
        Self {
            log,
            clock,
            metrics,
            hangs: Arc::default(),
            ended: CancellationToken::new(),
        }
    }

    /// Whether appends wait and none was answered for [`HANGS_AFTER`], as far as [`look_after`] has seen.
    pub(crate) fn hangs(&self) -> bool {
        self.hangs.load(Ordering::Relaxed)
    }

    /// The region whose log it is.
    pub(crate) fn region(&self) -> &str {
        self.log.region()
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
        if let Err(LogError::Closed) = appended {
            self.ended.cancel();
        }
        appended
    }

    /// Resolves when the log's writer or its flusher has ended: it takes or signs nothing any more. Nothing but a start
    /// brings that back.
    async fn ended(&self) {
        tokio::select! {
            () = self.ended.cancelled() => {}
            // No checkpoint ever covers this entry; what ends the wait is the flusher's end.
            _ = self.log.covered(u64::MAX) => {}
        }
    }
}

/// Notices a log that hangs: something waits, and the size stays.
#[derive(Debug, Default)]
struct Progress {
    size: u64,
    since: Duration,
}

impl Progress {
    fn hangs(&mut self, size: u64, waiting_bytes: usize, now: Duration) -> bool {
        if size != self.size || waiting_bytes == 0 {
            *self = Self { size, since: now };
        }
        now.saturating_sub(self.since) >= HANGS_AFTER
    }
}

/// Looks after the log: counts checkpoints that are not signed, notices when it hangs, and after a failed append tries
/// whether the log works again, so that a service without traffic becomes ready by itself. The outage is then a receipt
/// of its own. Returns when told to stop, or with an error when the log has ended by itself.
pub(crate) async fn look_after(journal: Journal, stop: CancellationToken) -> Result<(), LogError> {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed_since: Option<u64> = None;
    let mut progress = Progress::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = journal.ended() => return Err(LogError::Closed),
            _ = tick.tick() => {}
        }
        let status = journal.log.status();
        let hangs = progress.hangs(status.size, status.waiting_bytes, journal.clock.mono());
        if hangs && !journal.hangs.swap(hangs, Ordering::Relaxed) {
            tracing::error!("the log hangs: nothing became durable for {HANGS_AFTER:?}; check the disk");
        }
        journal.hangs.store(hangs, Ordering::Relaxed);
        if status.last_flush_error.is_some() {
            journal.metrics.signing_failed();
        }
        let Some(error) = status.last_write_error else {
            failed_since = None;
            continue;
        };
        let now = journal.clock.now().wall_ms;
        let since = *failed_since.get_or_insert(now);
        if status.waiting_bytes > 0 {
            // Something tries already.
            continue;
        }
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
        let append = journal.append(vec![Payload::Action(receipt)]);
        if let Ok(Ok(_)) = tokio::time::timeout(LOOK_EVERY, append).await {
            tracing::info!("the log can be written again");
            failed_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_log_hangs_when_something_waits_and_nothing_becomes_durable() {
        let mut progress = Progress::default();
        assert!(!progress.hangs(5, 10, seconds(1)));
        assert!(!progress.hangs(5, 10, seconds(3)));
        assert!(progress.hangs(5, 10, seconds(4)));
        assert!(!progress.hangs(6, 10, seconds(5)), "it goes on");
        assert!(!progress.hangs(6, 0, seconds(60)), "nothing waits");
        assert!(!progress.hangs(6, 1, seconds(61)));
    }
}
