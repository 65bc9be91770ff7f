//! Metrics of what happens between regions.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use crate::attribute::{
    RegionBreakerState, RegionPeer, RegionQuorumOutcome, RegionReceivedOutcome, RegionReplicationOutcome,
    RegionSendOutcome,
};
use crate::metric::service as metric;
use crate::registrar::{CountGauge, RatioGauge, Registrar, Samples};
use crate::typed::Attribute;

/// A region's metrics about the others. Methods take `&self` and may be called from every thread.
#[derive(Debug)]
pub struct RegionMetrics {
    committed: CountGauge,
    acknowledged: Samples<(RegionPeer,), CountGauge>,
    lag_entries: Samples<(RegionPeer,), CountGauge>,
    lag_duration: Samples<(RegionPeer,), RatioGauge>,
    breaker: Samples<(RegionPeer, RegionBreakerState), CountGauge>,
    split_view: Samples<(RegionPeer,), CountGauge>,
    sends: Samples<(RegionPeer, RegionSendOutcome), Counter>,
    received: Samples<(RegionPeer, RegionReceivedOutcome), Counter>,
    replications: Samples<(RegionPeer, RegionReplicationOutcome), Counter>,
    quorum_waits: Samples<(RegionQuorumOutcome,), Counter>,
}

impl RegionMetrics {
    pub(crate) fn new(registrar: &mut Registrar) -> Self {
        Self {
            committed: registrar.gauge(&metric::REGION_COMMITTED).with(()),
            acknowledged: registrar.gauge(&metric::REGION_ACKNOWLEDGED),
            lag_entries: registrar.gauge(&metric::REGION_LAG_ENTRIES),
            lag_duration: registrar.ratio(&metric::REGION_LAG_DURATION),
            breaker: registrar.gauge(&metric::REGION_BREAKER),
            split_view: registrar.gauge(&metric::REGION_SPLIT_VIEW),
            sends: registrar.counter(&metric::REGION_SENDS),
            received: registrar.counter(&metric::REGION_RECEIVED),
            replications: registrar.counter(&metric::REGION_REPLICATIONS),
            quorum_waits: registrar.counter(&metric::REGION_QUORUM_WAITS),
        }
    }

    /// A quorum holds so many entries.
    pub fn committed(&self, entries: u64) {
        self.committed.set(entries);
    }

    /// A peer has acknowledged so many entries, and so many that are signed it has not, the oldest of them for so long.
    pub fn peer(&self, peer: &str, acknowledged: u64, lag_entries: u64, lag: Duration) {
        let peer = || (RegionPeer(peer.to_owned()),);
        self.acknowledged.with(peer()).set(acknowledged);
        self.lag_entries.with(peer()).set(lag_entries);
        self.lag_duration.with(peer()).set(lag.as_secs_f64());
    }

    /// The breaker in front of a peer is in this state.
    pub fn breaker(&self, peer: &str, state: RegionBreakerState) {
        for each in RegionBreakerState::known().unwrap_or_default() {
            let sample = self.breaker.with((RegionPeer(peer.to_owned()), each));
            sample.set(u64::from(each == state));
        }
    }

    /// Whether a region has shown two histories of its log.
    pub fn split_view(&self, peer: &str, is_open: bool) {
        let sample = self.split_view.with((RegionPeer(peer.to_owned()),));
        sample.set(u64::from(is_open));
    }

    /// A batch was sent; `RegionSendOutcome::from_label` reads the label of an error.
    pub fn sent(&self, peer: &str, outcome: RegionSendOutcome) {
        self.sends.with((RegionPeer(peer.to_owned()), outcome)).inc();
    }

    /// A batch arrived; `RegionReceivedOutcome::from_label` reads the label of its refusal.
    pub fn received(&self, peer: &str, outcome: RegionReceivedOutcome) {
        self.received.with((RegionPeer(peer.to_owned()), outcome)).inc();
    }

    /// A message about rollouts was sent.
    pub fn replicated(&self, peer: &str, outcome: RegionReplicationOutcome) {
        self.replications
            .with((RegionPeer(peer.to_owned()), outcome))
            .inc();
    }

    /// A decision waited for a quorum.
    pub fn quorum_waited(&self, outcome: RegionQuorumOutcome) {
        self.quorum_waits.with((outcome,)).inc();
    }
}
