//! Waiting for a quorum.

use std::time::Duration;

use knhk_receipts::{Ack, Log};
use knhk_regions::{Progress, QuorumError};
use knhk_telemetry::attribute::RegionQuorumOutcome;
use tokio_util::sync::CancellationToken;

use super::Regions;

/// Flushes that somebody hurries are not closer to each other than this: each one is two signatures.
const HURRY_EVERY: Duration = Duration::from_millis(20);

impl Regions {
    /// Waits until a quorum of regions holds the entry, at most `limit`. It is signed without waiting for the next flush.
    pub(crate) async fn committed(&self, index: u64, limit: Duration) -> Result<(), QuorumError> {
        self.hurry.notify_one();
        let reached = Progress::wait(self.progress.subscribe(), index, tokio::time::sleep(limit)).await;
        self.metrics.regions.quorum_waited(match &reached {
            Ok(()) => RegionQuorumOutcome::Reached,
            Err(_) => RegionQuorumOutcome::Missed,
        });
        reached
    }

    /// Signs what is durable when somebody waits for a quorum, until told to stop.
    pub(crate) async fn hurry(&self, log: Log, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.hurry.notified() => {}
            }
            if let Err(error) = log.flush_now().await {
                tracing::debug!(%error, "somebody waits for a quorum, and the log is not signed");
            }
            tokio::time::sleep(HURRY_EVERY).await;
        }
    }

    /// What peers have acknowledged of this region's log, each its newest.
    pub(crate) fn acknowledgements(&self) -> Vec<Ack> {
        self.sent().acks.clone()
    }
}
