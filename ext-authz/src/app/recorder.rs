//! Recorded decisions: from the wire into the log, each once, in each worker's order.

mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use knhk_decision::{Evidence, PolicyId};
use knhk_proto::v1;
use knhk_receipts::{DecisionReceipt, LogError, Payload, Reporter as ReceiptReporter, Via};
use knhk_telemetry::ServiceMetrics;
use knhk_telemetry::attribute::DecisionVia;
use thiserror::Error;

use super::journal::Journal;
use super::proxies::Proxy;
use super::snapshots::Snapshots;
use super::workers::Nonce;
use wire::{Malformed, receipt, size_at_most};

/// Bytes of decisions in one append: half of what the log takes, since they are estimated.
const MAX_APPEND_BYTES: usize = knhk_receipts::MAX_APPEND_BYTES / 2;
/// Worker VMs whose last sequence number is remembered across a restart; the least recently heard goes first.
pub(crate) const MAX_WATERMARKS: usize = 100_000;
/// The reporter of what the service decided itself.
const SERVICE: &str = "knhk";

/// Who reported a decision.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    pub(crate) node: String,
    pub(crate) nonce: Nonce,
    /// The proxy that the worker is of.
    pub(crate) proxy: Arc<Proxy>,
}

/// Decisions in order; `first` is the sequence number of the first one.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    first: u64,
    decisions: Vec<v1::Decision>,
}

/// Sequence numbers begin at 1, and the last one is below the largest number.
#[derive(Debug, Error)]
#[error("decisions.first: {first} with {count} decisions is out of range; sequence numbers begin at 1")]
pub(crate) struct BadSequence {
    first: u64,
    count: usize,
}

impl TryFrom<v1::DecisionBatch> for Batch {
    type Error = BadSequence;

    fn try_from(batch: v1::DecisionBatch) -> Result<Self, BadSequence> {
        let (first, count) = (batch.first, batch.decisions.len());
        if first == 0 || first.checked_add(count as u64).is_none() {
            return Err(BadSequence { first, count });
        }
        Ok(Self {
            first,
            decisions: batch.decisions,
        })
    }
}

/// Writes decisions to the log.
pub(crate) struct Recorder {
    region: String,
    journal: Journal,
    metrics: Arc<ServiceMetrics>,
    snapshots: Arc<Snapshots>,
    watermarks: Mutex<Watermarks>,
}

/// The highest sequence number of one VM that is durable. Its lock is held across the append, so that a
/// stream that replaces another waits for what the old one still writes.
type Watermark = Arc<tokio::sync::Mutex<u64>>;

/// Watermarks, and when each was last asked for, so that the bound forgets the right ones.
#[derive(Debug, Default)]
struct Watermarks {
    by_nonce: HashMap<Nonce, (Watermark, u64)>,
    asked: u64,
}

impl Watermarks {
    fn of(&mut self, nonce: &Nonce) -> Watermark {
        if self.by_nonce.len() >= MAX_WATERMARKS && !self.by_nonce.contains_key(nonce) {
            self.forget_the_older_half();
        }
        self.asked += 1;
        let (watermark, asked) = self.by_nonce.entry(*nonce).or_default();
        *asked = self.asked;
        Arc::clone(watermark)
    }

    fn forget_the_older_half(&mut self) {
        let mut asked: Vec<_> = self.by_nonce.values().map(|(_, asked)| *asked).collect();
        asked.sort_unstable();
        let middle = asked.get(asked.len() / 2).copied().unwrap_or(0);
        self.by_nonce
            .retain(|_, (watermark, asked)| *asked > middle || Arc::strong_count(watermark) > 1);
    }
}

impl Recorder {
    /// `watermarks`: what the log already holds, by VM.
    pub(crate) fn new(
        region: String,
        journal: Journal,
        metrics: Arc<ServiceMetrics>,
        snapshots: Arc<Snapshots>,
        watermarks: impl IntoIterator<Item = (Nonce, u64)>,
    ) -> Self {
        let by_nonce = watermarks
            .into_iter()
            .map(|(nonce, through)| (nonce, (Arc::new(tokio::sync::Mutex::new(through)), 0)))
            .collect();
        Self {
            region,
            journal,
            metrics,
            snapshots,
            watermarks: Mutex::new(Watermarks { by_nonce, asked: 0 }),
        }
    }

    /// Makes what is new in a batch durable. Returns the sequence number up to which everything is.
    pub(crate) async fn record_batch(&self, reporter: &Reporter, batch: Batch) -> Result<u64, LogError> {
        let watermark = self.watermark(&reporter.nonce);
        let mut through = watermark.lock().await;
        let missing = batch.first.saturating_sub(through.saturating_add(1));
        if missing > 0 {
            self.metrics.decisions_missing(missing);
            tracing::warn!(
                node = reporter.node,
                missing,
                "recorded decisions are missing: the filter dropped them"
            );
        }
        let fresh = (batch.first..)
            .zip(batch.decisions)
            .filter(|(seq, _)| *seq > *through)
            .collect::<Vec<_>>();
        let (mut payloads, mut bytes, mut last, mut others) = (Vec::new(), 0, *through, 0_u64);
        for (seq, decision) in fresh {
            last = seq;
            if !reporter.proxy.hosts.holds(&decision.host) {
                others += 1;
                continue;
            }
            let size = size_at_most(reporter, &decision);
            if bytes + size > MAX_APPEND_BYTES {
                self.append(std::mem::take(&mut payloads)).await?;
                // What follows may fail and be resent, and then begins here.
                *through = seq - 1;
                bytes = 0;
            }
            match receipt(self.region.clone(), reporter, seq, decision) {
                Ok(receipt) => {
                    bytes += size;
                    payloads.push(Payload::Decision(self.of_the_whole(reporter, receipt)));
                }
                Err(Malformed(what)) => {
                    self.metrics.decision_malformed();
                    tracing::warn!(
                        node = reporter.node,
                        seq,
                        what,
                        "a recorded decision is malformed and left out"
                    );
                }
            }
        }
        if others > 0 {
            self.metrics.decisions_of_others(others);
            tracing::warn!(
                node = reporter.node,
                identity = reporter.proxy.identity.as_deref(),
                others,
                "recorded decisions about hosts that are not the proxy's are left out"
            );
        }
        self.append(payloads).await?;
        *through = last;
        Ok(last)
    }

    /// A proxy that sees a part of a snapshot decides for its hosts as the whole does: the receipt names the whole, which is
    /// in the log. A snapshot that is no longer kept is named as the proxy names it.
    fn of_the_whole(&self, reporter: &Reporter, receipt: DecisionReceipt) -> DecisionReceipt {
        let whole = self
            .snapshots
            .named(receipt.policy)
            .filter(|snapshot| snapshot.view(&reporter.proxy.hosts).sha256 == receipt.policy_sha256);
        DecisionReceipt {
            policy_sha256: whole.map_or(receipt.policy_sha256, |snapshot| snapshot.sha256),
            ..receipt
        }
    }

    async fn append(&self, payloads: Vec<Payload>) -> Result<(), LogError> {
        if payloads.is_empty() {
            return Ok(());
        }
        let recorded = payloads.len() as u64;
        self.journal.append(payloads).await?;
        self.metrics.decisions_recorded(DecisionVia::Filter, recorded);
        Ok(())
    }

    /// Makes one decision of the service itself, which `proxy` asked for, durable. Returns its index.
    pub(crate) async fn record_own(&self, own: OwnDecision, proxy: &Proxy) -> Result<u64, LogError> {
        let OwnDecision { decision, via, seen } = own;
        let receipt = DecisionReceipt {
            region: self.region.clone(),
            time_unix_ms: decision.time_unix_ms,
            policy: decision.policy,
            policy_sha256: decision.policy_sha256,
            via,
            reporter: ReceiptReporter {
                node: SERVICE.to_owned(),
                vm_nonce: None,
                seq: None,
                identity: proxy.identity.as_deref().map(str::to_owned),
            },
            evidence: decision.evidence,
            status: seen.and_then(|seen| seen.status),
            duration_us: seen.map(|seen| seen.duration_us),
        };
        let indexes = self.journal.append(vec![Payload::Decision(receipt)]).await?;
        self.metrics.decisions_recorded(counted_as(via), 1);
        indexes.first().copied().ok_or(LogError::Closed)
    }

    fn watermark(&self, nonce: &Nonce) -> Watermark {
        self.watermarks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .of(nonce)
    }
}

/// A decision that the service made for a proxy, before it is recorded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OwnDecision {
    pub(crate) decision: CheckedDecision,
    pub(crate) via: Via,
    /// None where the request's end was not seen.
    pub(crate) seen: Option<Seen>,
}

/// What was decided, when, and by which snapshot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CheckedDecision {
    pub(crate) time_unix_ms: u64,
    pub(crate) policy: PolicyId,
    pub(crate) policy_sha256: [u8; 32],
    pub(crate) evidence: Evidence,
}

/// How a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// None if the response had none that can be read.
    pub(crate) status: Option<u16>,
    /// From the request's headers to the response's, in microseconds.
    pub(crate) duration_us: u64,
}

fn counted_as(via: Via) -> DecisionVia {
    match via {
        Via::Filter => DecisionVia::Filter,
        Via::ExtAuthz => DecisionVia::ExtAuthz,
        Via::ExtProc => DecisionVia::ExtProc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(first: u64, count: usize) -> Result<Batch, BadSequence> {
        Batch::try_from(v1::DecisionBatch {
            first,
            decisions: vec![v1::Decision::default(); count],
        })
    }

    #[test]
    fn sequence_numbers_that_cannot_be_are_refused() {
        assert!(batch(1, 2).is_ok() && batch(u64::MAX - 2, 2).is_ok());
        for (first, count) in [(0, 1), (u64::MAX, 1), (u64::MAX - 1, 2)] {
            let message = batch(first, count).expect_err("refused").to_string();
            assert!(message.starts_with("decisions.first: "), "{message}");
        }
    }
}
