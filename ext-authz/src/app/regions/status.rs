//! How the regions are doing, for operators.

use std::sync::atomic::Ordering;

use knhk_receipts::SignedCheckpoint;
use knhk_regions::sender::PeerStatus;
use knhk_regions::{Fork, Mirror};

use super::{Peer, Regions};
use crate::api::{AckKey, MirrorInfo, PeerError, PeerInfo, RegionsInfo, SplitView, Stopped, rfc3339};

impl Regions {
    /// What `GET /v1/regions` answers. Blocking.
    pub(crate) fn info(&self) -> RegionsInfo {
        let sent = self.sent().peers.clone();
        let peers = self.peers.iter().map(|(name, peer)| {
            let sent = sent.iter().find(|it| it.region == *name);
            self.peer_info(name, peer, sent)
        });
        let progress = self.progress.borrow().clone();
        RegionsInfo {
            region: self.region.clone(),
            quorum: self.config.quorum,
            signed: progress.holders.first().map_or(0, |own| own.size),
            committed: progress.committed,
            stopped: self.halt.reason().map(|stop| Stopped {
                label: stop.label().to_owned(),
                reason: stop.to_string(),
            }),
            acknowledges_with: self.ack_info(),
            peers: peers.collect(),
        }
    }

    /// The key that this region acknowledges other logs with, for who verifies receipts.
    pub(crate) fn ack_info(&self) -> AckKey {
        AckKey {
            id: self.ack_key().to_string(),
            pem: self.ack_key().pem(),
        }
    }

    /// For anybody who can probe the service: what is amiss, if something is.
    pub(crate) fn trouble(&self) -> Option<String> {
        if let Some(stop) = self.halt.reason() {
            return Some(format!(
                "this region signs nothing any more ({}): peers hold its log otherwise; see `knhk region status`",
                stop.label()
            ));
        }
        let alarmed = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.is_alarmed.load(Ordering::Relaxed));
        let alarmed: Vec<_> = alarmed.map(|(name, _)| name.as_str()).collect();
        (!alarmed.is_empty()).then(|| {
            let regions = alarmed.join(", ");
            format!("{regions}: two histories of its log were shown; see `knhk region status`")
        })
    }

    fn peer_info(&self, name: &str, peer: &Peer, sent: Option<&PeerStatus>) -> PeerInfo {
        let mirror = peer.mirror();
        PeerInfo {
            region: name.to_owned(),
            url: peer.url.clone(),
            acknowledged: sent.map_or(0, |it| it.acknowledged),
            lag_entries: sent.map_or(0, |it| it.lag_entries),
            lag_ms: sent.map_or(0, |it| it.lag_ms),
            last_success_ms_ago: sent.and_then(|it| it.last_success_ms_ago),
            last_error: sent.and_then(|it| it.last_error.as_ref()).map(|error| PeerError {
                label: error.label().to_owned(),
                reason: error.to_string(),
            }),
            breaker: sent.map_or("closed", |it| it.breaker.as_str()).to_owned(),
            rollouts_behind: self.replication.behind(name),
            flags_behind: self.replication.is_without_flags(name),
            mirror: mirror_info(&mirror),
        }
    }
}

fn mirror_info(mirror: &Mirror) -> MirrorInfo {
    MirrorInfo {
        held: mirror.held(),
        signed: mirror.checkpoint().map_or(0, SignedCheckpoint::size),
        is_alarmed: mirror.is_alarmed(),
        split_views: mirror.forks().iter().map(split_view).collect(),
    }
}

fn split_view(fork: &Fork) -> SplitView {
    SplitView {
        seen: rfc3339(fork.seen_unix_ms),
        size: fork.size,
        held: fork.held.size(),
        shown: fork.shown.size(),
    }
}
