//! Every metric of the service behind methods that say what happened.

use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::attribute::{
    AccessDoor, AppendReason, CheckOutcome, DecisionVia, ExchangeOutcome, HttpRoute, HttpStatus,
    KmsOperation, KmsOutcome, NackReason, ObservationReason, Phase, RollbackReason, Rollout, RotationOutcome,
    SnapshotNewest, SvidRefusal, SvidSourceError, TlsOutcome, TlsSide, Version,
};
use crate::metric::service as metric;
use crate::regions::RegionMetrics;
use crate::registrar::{CountGauge, RatioGauge, Registrar, Samples};
use crate::typed::Attribute;

/// The media type of [`ServiceMetrics::expose`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The service's metrics. Methods take `&self` and may be called from every thread.
#[derive(Debug)]
pub struct ServiceMetrics {
    registry: Registry,
    streams: Gauge,
    workers: Samples<(SnapshotNewest,), CountGauge>,
    reports: Counter,
    observations_ignored: Samples<(ObservationReason,), Counter>,
    snapshot_number: CountGauge,
    snapshots_sent: Counter,
    snapshots_acked: Counter,
    snapshots_nacked: Samples<(NackReason,), Counter>,
    decisions_recorded: Samples<(DecisionVia,), Counter>,
    decisions_missing: Counter,
    decisions_malformed: Counter,
    decisions_of_others: Counter,
    decisions_flags_failed: Counter,
    checks: Samples<(CheckOutcome,), Counter>,
    check_duration: Histogram,
    exchanges: Samples<(ExchangeOutcome,), Counter>,
    exchanges_open: Gauge,
    exchanges_refused: Counter,
    exchange_violations: Counter,
    exchange_duration: Histogram,
    log_size: CountGauge,
    log_signed_size: CountGauge,
    append_duration: Histogram,
    append_failures: Samples<(AppendReason,), Counter>,
    signing_failures: Counter,
    key_rotations: Samples<(RotationOutcome,), Counter>,
    kms_calls: Samples<(KmsOperation, KmsOutcome), Counter>,
    kms_sign_duration: Histogram,
    svid_rotations: Counter,
    svid_expiry: CountGauge,
    svid_updates_refused: Samples<(SvidRefusal,), Counter>,
    svid_source_failures: Samples<(SvidSourceError,), Counter>,
    tls_handshakes: Samples<(TlsSide, TlsOutcome), Counter>,
    access_refused: Samples<(AccessDoor,), Counter>,
    rollout_weight: Samples<(Rollout,), RatioGauge>,
    rollout_phase: Samples<(Rollout, Phase), CountGauge>,
    reporters_set_aside: Samples<(Rollout,), CountGauge>,
    rollbacks: Samples<(Rollout, RollbackReason), Counter>,
    http_requests: Samples<(HttpRoute, HttpStatus), Counter>,
    /// What happens between regions.
    pub regions: RegionMetrics,
}

impl ServiceMetrics {
    /// All metrics at zero. `version` is the program's.
    pub fn new(version: &str) -> Self {
        let mut registrar = Registrar::default();
        registrar
            .gauge(&metric::BUILD)
            .with((Version(version.to_owned()),))
            .set(1);
        Self {
            streams: registrar.up_down(&metric::GATE_STREAMS).with(()),
            workers: registrar.gauge(&metric::GATE_WORKERS),
            reports: registrar.counter(&metric::GATE_REPORTS).with(()),
            observations_ignored: registrar.counter(&metric::OBSERVATIONS_IGNORED),
            snapshot_number: registrar.gauge(&metric::SNAPSHOT_NUMBER).with(()),
            snapshots_sent: registrar.counter(&metric::SNAPSHOTS_SENT).with(()),
            snapshots_acked: registrar.counter(&metric::SNAPSHOTS_ACKED).with(()),
            snapshots_nacked: registrar.counter(&metric::SNAPSHOTS_NACKED),
            decisions_recorded: registrar.counter(&metric::DECISIONS_RECORDED),
            decisions_missing: registrar.counter(&metric::DECISIONS_MISSING).with(()),
            decisions_malformed: registrar.counter(&metric::DECISIONS_MALFORMED).with(()),
            decisions_of_others: registrar.counter(&metric::DECISIONS_OF_OTHERS).with(()),
            decisions_flags_failed: registrar.counter(&metric::DECISIONS_FLAGS_FAILED).with(()),
            checks: registrar.counter(&metric::CHECKS),
            check_duration: registrar.histogram(&metric::CHECK_DURATION, durations).with(()),
            exchanges: registrar.counter(&metric::EXCHANGES),
            exchanges_open: registrar.up_down(&metric::EXCHANGES_OPEN).with(()),
            exchanges_refused: registrar.counter(&metric::EXCHANGES_REFUSED).with(()),
            exchange_violations: registrar.counter(&metric::EXCHANGE_VIOLATIONS).with(()),
            exchange_duration: registrar
                .histogram(&metric::EXCHANGE_DURATION, durations)
                .with(()),
            log_size: registrar.gauge(&metric::LOG_SIZE).with(()),
            log_signed_size: registrar.gauge(&metric::LOG_SIGNED_SIZE).with(()),
            append_duration: registrar
                .histogram(&metric::LOG_APPEND_DURATION, durations)
                .with(()),
            append_failures: registrar.counter(&metric::LOG_APPEND_FAILURES),
            signing_failures: registrar.counter(&metric::LOG_SIGNING_FAILURES).with(()),
            key_rotations: registrar.counter(&metric::KEY_ROTATIONS),
            kms_calls: registrar.counter(&metric::KMS_CALLS),
            kms_sign_duration: registrar
                .histogram(&metric::KMS_SIGN_DURATION, durations)
                .with(()),
            svid_rotations: registrar.counter(&metric::SVID_ROTATIONS).with(()),
            svid_expiry: registrar.gauge(&metric::SVID_EXPIRY).with(()),
            svid_updates_refused: registrar.counter(&metric::SVID_UPDATES_REFUSED),
            svid_source_failures: registrar.counter(&metric::SVID_SOURCE_FAILURES),
            tls_handshakes: registrar.counter(&metric::TLS_HANDSHAKES),
            access_refused: registrar.counter(&metric::ACCESS_REFUSED),
            rollout_weight: registrar.ratio(&metric::ROLLOUT_WEIGHT),
            rollout_phase: registrar.gauge(&metric::ROLLOUT_PHASE),
            reporters_set_aside: registrar.gauge(&metric::ROLLOUT_REPORTERS_SET_ASIDE),
            rollbacks: registrar.counter(&metric::ROLLBACKS),
            http_requests: registrar.counter(&metric::HTTP_REQUESTS),
            regions: RegionMetrics::new(&mut registrar),
            registry: registrar.finish(),
        }
    }

    /// The text that `/metrics` answers with, in the form of [`CONTENT_TYPE`].
    #[expect(clippy::missing_panics_doc, reason = "writing to a String does not fail")]
    pub fn expose(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("a String takes every write");
        out
    }

    /// A filter opened a stream; dropping the answer says that it ended.
    pub fn stream_opened(&self) -> Open {
        Open::of(&self.streams)
    }

    /// How many workers run the newest snapshot, and how many another one or none.
    pub fn workers(&self, newest: u64, others: u64) {
        self.workers.with((SnapshotNewest(true),)).set(newest);
        self.workers.with((SnapshotNewest(false),)).set(others);
    }

    /// A report arrived.
    pub fn report_received(&self) {
        self.reports.inc();
    }

    /// A worker's counts of one variant were left out of the evidence.
    pub fn observation_ignored(&self, reason: ObservationReason) {
        self.observations_ignored.with((reason,)).inc();
    }

    /// The newest snapshot is the one with this `n`.
    pub fn snapshot_made(&self, n: u64) {
        self.snapshot_number.set(n);
    }

    /// A snapshot went down a stream.
    pub fn snapshot_sent(&self) {
        self.snapshots_sent.inc();
    }

    /// A worker took a snapshot.
    pub fn snapshot_acked(&self) {
        self.snapshots_acked.inc();
    }

    /// A worker refused a snapshot.
    pub fn snapshot_nacked(&self, reason: NackReason) {
        self.snapshots_nacked.with((reason,)).inc();
    }

    /// So many decisions are durable.
    pub fn decisions_recorded(&self, via: DecisionVia, count: u64) {
        self.decisions_recorded.with((via,)).inc_by(count);
    }

    /// So many sequence numbers were skipped by a filter.
    pub fn decisions_missing(&self, count: u64) {
        self.decisions_missing.inc_by(count);
    }

    /// So many recorded decisions were about hosts that are not the reporting proxy's, and were left out.
    pub fn decisions_of_others(&self, count: u64) {
        self.decisions_of_others.inc_by(count);
    }

    /// So many flags gave nothing in a decision that the service made.
    pub fn flags_failed(&self, flags: u64) {
        self.decisions_flags_failed.inc_by(flags);
    }

    /// A decision in a batch could not be read.
    pub fn decision_malformed(&self) {
        self.decisions_malformed.inc();
    }

    /// A Check was answered, so long after it arrived.
    pub fn check(&self, outcome: CheckOutcome, took: Duration) {
        self.checks.with((outcome,)).inc();
        self.check_duration.observe(took.as_secs_f64());
    }

    /// A stream of `ext_proc` opened; dropping the answer says that it ended and that its decision is recorded or lost.
    pub fn exchange_opened(&self) -> Open {
        Open::of(&self.exchanges_open)
    }

    /// A stream of `ext_proc` was refused, since too many are open.
    pub fn exchange_refused(&self) {
        self.exchanges_refused.inc();
    }

    /// A request and its response came to this end.
    pub fn exchange(&self, outcome: ExchangeOutcome) {
        self.exchanges.with((outcome,)).inc();
    }

    /// A stream of `ext_proc` was ended: its messages came in an order that cannot be.
    pub fn exchange_violated(&self) {
        self.exchange_violations.inc();
    }

    /// The headers of a response were answered after recording, so long after they arrived.
    pub fn exchange_answered(&self, took: Duration) {
        self.exchange_duration.observe(took.as_secs_f64());
    }

    /// The log's sizes in entries: durable, and covered by the newest signed checkpoint.
    pub fn log_sizes(&self, durable: u64, signed: u64) {
        self.log_size.set(durable);
        self.log_signed_size.set(signed);
    }

    /// Entries became durable, so long after they were handed over.
    pub fn appended(&self, took: Duration) {
        self.append_duration.observe(took.as_secs_f64());
    }

    /// The log did not take entries; `AppendReason::from_label` reads the label of the log's error.
    pub fn append_failed(&self, reason: AppendReason) {
        self.append_failures.with((reason,)).inc();
    }

    /// A second went by in which the newest flush had given no signed checkpoint.
    pub fn signing_failed(&self) {
        self.signing_failures.inc();
    }

    /// A rotation of the signing key ended.
    pub fn key_rotated(&self, outcome: RotationOutcome) {
        self.key_rotations.with((outcome,)).inc();
    }

    /// A call of the KMS ended, so long after it was made. `KmsOutcome::from_label` reads the label of its error.
    pub fn kms_called(&self, operation: KmsOperation, outcome: KmsOutcome, took: Duration) {
        if operation == KmsOperation::Sign {
            self.kms_sign_duration.observe(took.as_secs_f64());
        }
        self.kms_calls.with((operation, outcome)).inc();
    }

    /// An SVID was received that ends at this second since 1970.
    pub fn svid_rotated(&self, expiry_unix: u64) {
        self.svid_rotations.inc();
        self.svid_expiry.set(expiry_unix);
    }

    /// No valid SVID is held any longer.
    pub fn svid_lost(&self) {
        self.svid_expiry.set(0);
    }

    /// An update was not used; `SvidRefusal::from_label` reads the label of the refusal.
    pub fn svid_update_refused(&self, reason: SvidRefusal) {
        self.svid_updates_refused.with((reason,)).inc();
    }

    /// A stream failed; `SvidSourceError::from_label` reads the label of the error.
    pub fn svid_source_failed(&self, reason: SvidSourceError) {
        self.svid_source_failures.with((reason,)).inc();
    }

    /// A TLS handshake ended; `TlsOutcome::from_label` reads the outcome.
    pub fn tls_handshake(&self, side: TlsSide, outcome: TlsOutcome) {
        self.tls_handshakes.with((side, outcome)).inc();
    }

    /// Somebody was refused because of who they are, or are not.
    pub fn access_refused(&self, door: AccessDoor) {
        self.access_refused.with((door,)).inc();
    }

    /// A rollout's weight, in percent, and phase are these now.
    pub fn rollout(&self, name: &str, weight_percent: f64, phase: Phase) {
        let rollout = Rollout(name.to_owned());
        self.rollout_weight.with((rollout.clone(),)).set(weight_percent);
        for each in Phase::known().unwrap_or_default() {
            self.rollout_phase
                .with((rollout.clone(), each))
                .set(u64::from(each == phase));
        }
    }

    /// So many identities' reports on a rollout are set aside now.
    pub fn reporters_set_aside(&self, name: &str, identities: usize) {
        self.reporters_set_aside
            .with((Rollout(name.to_owned()),))
            .set(u64::try_from(identities).unwrap_or(u64::MAX));
    }

    /// A rollout was deleted: its gauges are shown no longer. Its rollbacks stay, counters do not go back.
    pub fn rollout_deleted(&self, name: &str) {
        let rollout = Rollout(name.to_owned());
        self.rollout_weight.remove((rollout.clone(),));
        self.reporters_set_aside.remove((rollout.clone(),));
        for phase in Phase::known().unwrap_or_default() {
            self.rollout_phase.remove((rollout.clone(), phase));
        }
    }

    /// The analysis rolled a rollout back.
    pub fn rolled_back(&self, name: &str, reason: RollbackReason) {
        self.rollbacks.with((Rollout(name.to_owned()), reason)).inc();
    }

    /// An HTTP request was answered. `route` is the template that matched, never the path itself; a status below 100
    /// or above 599 counts as the service's error.
    pub fn http_request(&self, route: &str, status: u16) {
        let class = match status {
            100..=199 => HttpStatus::Informational,
            200..=299 => HttpStatus::Success,
            300..=399 => HttpStatus::Redirect,
            400..=499 => HttpStatus::ClientError,
            _ => HttpStatus::ServerError,
        };
        self.http_requests
            .with((HttpRoute(route.to_owned()), class))
            .inc();
    }
}

/// Something that counts as open until this is dropped.
#[derive(Debug)]
#[must_use = "it counts as open until this is dropped"]
pub struct Open {
    gauge: Gauge,
}

impl Open {
    fn of(gauge: &Gauge) -> Self {
        gauge.inc();
        Self { gauge: gauge.clone() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// Buckets from 50 microseconds to 1.6 seconds, each twice the one before.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(50e-6, 2.0, 16))
}
