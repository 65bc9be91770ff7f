//! The service's own identity, as the metrics and the receipts are told of it.

use std::sync::Arc;

use knhk_identity::{Observer, PeerError, Refusal, Side, Snapshot, SourceError};
use knhk_telemetry::ServiceMetrics;
use knhk_telemetry::attribute::{SvidRefusal, SvidSourceError, TlsOutcome, TlsSide};

use super::refusals::{Refusals, Refused};

/// Passes on what happens to the identity.
pub(crate) struct Watching {
    pub(crate) metrics: Arc<ServiceMetrics>,
    pub(crate) refusals: Refusals,
}

impl Observer for Watching {
    fn rotated(&self, snapshot: &Snapshot) {
        self.metrics.svid_rotated(snapshot.validity().not_after.as_secs());
    }

    fn lost(&self) {
        self.metrics.svid_lost();
    }

    fn refused(&self, refusal: &Refusal) {
        self.metrics
            .svid_update_refused(SvidRefusal::from_label(refusal.label()));
    }

    fn source_failed(&self, error: &SourceError) {
        self.metrics
            .svid_source_failed(SvidSourceError::from_label(error.label()));
    }

    fn handshake(&self, ours: Side, outcome: &'static str) {
        let side = match ours {
            Side::Client => TlsSide::Client,
            Side::Server => TlsSide::Server,
        };
        let outcome = TlsOutcome::from_label(outcome);
        self.metrics.tls_handshake(side, outcome);
        if (side, outcome) == (TlsSide::Server, TlsOutcome::NoCertificate) {
            self.refusals.tell(Refused::without_certificate());
        }
    }

    fn peer_refused(&self, ours: Side, error: &PeerError) {
        // What a server that we connect to shows is no access to us.
        if ours == Side::Server {
            self.refusals.tell(Refused::in_handshake(error));
        }
    }
}
