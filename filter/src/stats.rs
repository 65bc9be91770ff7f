//! The filter's statistics in Envoy, as `registry/filter.yaml` names them.
//!
//! Counted here and handed to Envoy at each tick: a call a request would cost more than the count is worth.

use crate::host::{Host, MetricId, MetricKind};

/// Counts since they were last handed over.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    ids: Option<Ids>,
    /// Requests that the filter saw.
    pub(crate) requests: u64,
    /// Requests that a rollout matched and that had none of its keys.
    pub(crate) keyless: u64,
    /// Requests answered with 503 because there was nothing to decide by.
    pub(crate) denied: u64,
    /// Requests answered with 403 because their rollout does not admit their caller.
    pub(crate) peer_not_allowed: u64,
    /// Flags that gave nothing because they failed.
    pub(crate) flags_failed: u64,
    /// Streams opened after the first.
    pub(crate) reconnects: u64,
    /// Snapshots refused.
    pub(crate) refused: u64,
    /// Recorded decisions dropped.
    pub(crate) dropped: u64,
    /// The number of the snapshot that runs, where it is not what Envoy was told last.
    pub(crate) version: Option<u64>,
}

#[derive(Debug)]
struct Ids {
    requests: MetricId,
    keyless: MetricId,
    denied: MetricId,
    peer_not_allowed: MetricId,
    flags_failed: MetricId,
    reconnects: MetricId,
    refused: MetricId,
    dropped: MetricId,
    version: MetricId,
}

impl Stats {
    /// Nothing counted.
    pub(crate) const fn new() -> Self {
        Self {
            ids: None,
            requests: 0,
            keyless: 0,
            denied: 0,
            peer_not_allowed: 0,
            flags_failed: 0,
            reconnects: 0,
            refused: 0,
            dropped: 0,
            version: Some(0),
        }
    }

    /// Hands everything to Envoy. While Envoy does not take the metrics, counts stay.
    pub(crate) fn flush(&mut self, host: &mut impl Host) {
        if self.ids.is_none() {
            self.ids = Ids::define(host);
        }
        let Some(ids) = &self.ids else {
            return;
        };
        let counters = [
            (ids.requests, &mut self.requests),
            (ids.keyless, &mut self.keyless),
            (ids.denied, &mut self.denied),
            (ids.peer_not_allowed, &mut self.peer_not_allowed),
            (ids.flags_failed, &mut self.flags_failed),
            (ids.reconnects, &mut self.reconnects),
            (ids.refused, &mut self.refused),
            (ids.dropped, &mut self.dropped),
        ];
        for (id, count) in counters {
            let count = std::mem::take(count);
            if count > 0 {
                host.increment(id, count);
            }
        }
        if let Some(version) = self.version.take() {
            host.record(ids.version, version);
        }
    }
}

impl Ids {
    /// Makes the metrics known, once a VM.
    fn define(host: &mut impl Host) -> Option<Self> {
        let mut counter = |name| host.define_metric(MetricKind::Counter, name).ok();
        Some(Self {
            requests: counter("knhk_requests")?,
            keyless: counter("knhk_requests_keyless")?,
            denied: counter("knhk_requests_denied")?,
            peer_not_allowed: counter("knhk_requests_peer_not_allowed")?,
            flags_failed: counter("knhk_flags_failed")?,
            reconnects: counter("knhk_stream_reconnects")?,
            refused: counter("knhk_snapshots_refused")?,
            dropped: counter("knhk_decisions_dropped")?,
            version: host
                .define_metric(MetricKind::Gauge, "knhk_policy_version")
                .ok()?,
        })
    }
}
