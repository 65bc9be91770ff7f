//! Reports of this region's filters on rollouts that are at home elsewhere: they go there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use knhk_regions::wire::{MAX_REPORT_BYTES, MAX_REPORTS, Message, Relayed};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Regions;

/// How often reports go on: as often as filters report.
const RELAY_EVERY: Duration = Duration::from_millis(250);

/// Reports that wait for one region. Of more the oldest are dropped: counts are cumulative, so a later one says the same and more.
const MAX_WAITING: usize = 4 * MAX_REPORTS;

/// What waits, by region.
#[derive(Default)]
pub(super) struct Relay(Mutex<BTreeMap<String, VecDeque<Relayed>>>);

impl Relay {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<String, VecDeque<Relayed>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next message's reports.
    fn next(&self, region: &str) -> Vec<Relayed> {
        let mut waiting = self.waiting();
        let Some(waiting) = waiting.get_mut(region) else {
            return Vec::new();
        };
        waiting.drain(..waiting.len().min(MAX_REPORTS)).collect()
    }
}

impl Regions {
    /// Passes a report on to the home of the rollouts that it is about, with the next ones. A region that is no peer, and a report
    /// that is larger than any, get nothing.
    pub(crate) fn relay(&self, home: &str, report: Relayed) {
        if !self.peers.contains_key(home) || report.report.len() > MAX_REPORT_BYTES {
            return;
        }
        let mut waiting = self.relay.waiting();
        let waiting = waiting.entry(home.to_owned()).or_default();
        if waiting.len() >= MAX_WAITING {
            waiting.pop_front();
        }
        waiting.push_back(report);
    }

    /// Passes on what waits for one peer, until told to stop.
    pub(crate) async fn relay_to(&self, peer: &str, stop: CancellationToken) {
        let mut tick = tokio::time::interval(RELAY_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let reports = self.relay.next(peer);
            let Some(known) = self.peers.get(peer).filter(|_| !reports.is_empty()) else {
                continue;
            };
            let message = Message {
                reports,
                ..Message::of(&self.region)
            };
            if let Err(error) = known.transport.replicate(&message).await {
                tracing::debug!(peer, %error, "reports on rollouts did not arrive; the next ones say the same and more");
            }
        }
    }
}
