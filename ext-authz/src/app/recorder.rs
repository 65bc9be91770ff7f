//! Recorded decisions: from the wire into the log, each once, in each worker's order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use knhk_decision::{Admission, ConditionTruth, Evidence, EvidenceRoute, PolicyId, Variant};
use knhk_proto::v1;
use knhk_receipts::{DecisionReceipt, LogError, Payload, Reporter as ReceiptReporter, Via};
use knhk_telemetry::ServiceMetrics;
use knhk_telemetry::attribute::DecisionVia;
use thiserror::Error;

use super::journal::Journal;
use super::workers::Nonce;

/// Bytes of decisions in one append: half of what the log takes, since they are estimated.
const MAX_APPEND_BYTES: usize = knhk_receipts::MAX_APPEND_BYTES / 2;
/// More than the fixed parts of a recorded decision take, in bytes.
const FIXED_BYTES: usize = 1024;
/// More than the fixed parts of a recorded path or condition take, in bytes.
const FIXED_ITEM_BYTES: usize = 64;
/// Worker VMs whose last sequence number is remembered across a restart; the least recently heard goes first.
pub(crate) const MAX_WATERMARKS: usize = 100_000;
/// The reporter of what the service decided itself.
const SERVICE: &str = "knhk";
/// Longest text in a decision, in bytes; longer ones are malformed.
const MAX_TEXT_BYTES: usize = 8 * 1024;
/// Path patterns and conditions in a decision.
const MAX_READ: usize = 4 * 1024;

/// Who reported a decision.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    pub(crate) node: String,
    pub(crate) nonce: Nonce,
    /// The SPIFFE ID that the proxy has proved; none where connections prove none.
    pub(crate) identity: Option<Arc<str>>,
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
        let (mut payloads, mut bytes, mut last) = (Vec::new(), 0, *through);
        for (seq, decision) in fresh {
            let size = size_at_most(reporter, &decision);
            if bytes + size > MAX_APPEND_BYTES {
                self.append(std::mem::take(&mut payloads)).await?;
                // What follows may fail and be resent, and then begins here.
                *through = seq - 1;
                bytes = 0;
            }
            match payload(self.region.clone(), reporter, seq, decision) {
                Ok(payload) => {
                    bytes += size;
                    payloads.push(payload);
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
            last = seq;
        }
        self.append(payloads).await?;
        *through = last;
        Ok(last)
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

    /// Makes one decision of the service itself durable. Returns its index.
    pub(crate) async fn record_own(&self, own: OwnDecision) -> Result<u64, LogError> {
        let OwnDecision {
            decision,
            via,
            reporter,
            seen,
        } = own;
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
                identity: reporter.as_deref().map(str::to_owned),
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
    /// The SPIFFE ID of the proxy that asked; none where connections prove none.
    pub(crate) reporter: Option<Arc<str>>,
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

/// A decision that a filter sent is not one.
#[derive(Debug)]
struct Malformed(&'static str);

fn payload(
    region: String,
    reporter: &Reporter,
    seq: u64,
    decision: v1::Decision,
) -> Result<Payload, Malformed> {
    let policy = decision.policy.as_ref().ok_or(Malformed("policy is missing"))?;
    Ok(Payload::Decision(DecisionReceipt {
        region,
        time_unix_ms: decision.time_unix_ms,
        policy: PolicyId {
            epoch: policy.epoch,
            n: policy.n,
        },
        policy_sha256: digest(&decision.policy_sha256, "policy_sha256 must be 32 bytes")?,
        via: Via::Filter,
        reporter: ReceiptReporter {
            node: reporter.node.clone(),
            vm_nonce: Some(reporter.nonce),
            seq: Some(seq),
            identity: reporter.identity.as_deref().map(str::to_owned),
        },
        status: status(decision.status)?,
        duration_us: Some(decision.duration_us),
        evidence: evidence(decision)?,
    }))
}

fn evidence(decision: v1::Decision) -> Result<Evidence, Malformed> {
    let texts = [
        &decision.method,
        &decision.host,
        &decision.subject,
        &decision.rollout,
    ];
    if texts
        .into_iter()
        .chain(&decision.paths)
        .any(|text| text.len() > MAX_TEXT_BYTES)
    {
        return Err(Malformed("a text is too long"));
    }
    if decision.paths.len() > MAX_READ || decision.conditions.len() > MAX_READ {
        return Err(Malformed("too many paths or conditions"));
    }
    Ok(Evidence {
        path_sha256: digest(&decision.path_sha256, "path_sha256 must be 32 bytes")?,
        rollout: route(&decision)?,
        admission: admission(decision.admission)?,
        method: decision.method,
        host: decision.host,
        subject: Some(decision.subject).filter(|subject| !subject.is_empty()),
        paths: decision.paths,
        conditions: decision
            .conditions
            .into_iter()
            .map(|condition| ConditionTruth {
                rollout: condition.rollout,
                index: condition.index,
                holds: condition.holds,
            })
            .collect(),
    })
}

fn route(decision: &v1::Decision) -> Result<Option<EvidenceRoute>, Malformed> {
    if decision.rollout.is_empty() {
        return Ok(None);
    }
    let variant = match decision.variant() {
        v1::Variant::Stable => Variant::Stable,
        v1::Variant::Canary => Variant::Canary,
        v1::Variant::Unspecified => return Err(Malformed("variant is missing")),
    };
    Ok(Some(EvidenceRoute {
        name: decision.rollout.clone(),
        generation: decision.generation,
        bucket: decision.bucket,
        key: decision.key,
        variant,
    }))
}

fn admission(admission: i32) -> Result<Admission, Malformed> {
    match v1::Admission::try_from(admission) {
        Ok(v1::Admission::Admitted) => Ok(Admission::Admitted),
        Ok(v1::Admission::Denied) => Ok(Admission::Denied),
        Err(_) => Err(Malformed("admission is unknown")),
    }
}

fn digest(bytes: &[u8], what: &'static str) -> Result<[u8; 32], Malformed> {
    bytes.try_into().map_err(|_| Malformed(what))
}

/// 0 says that the request ended without an answer.
fn status(status: u32) -> Result<Option<u16>, Malformed> {
    let status = u16::try_from(status).map_err(|_| Malformed("status is out of range"))?;
    Ok(Some(status).filter(|status| *status != 0))
}

/// How many bytes a decision takes in the log, and rather too many.
fn size_at_most(reporter: &Reporter, decision: &v1::Decision) -> usize {
    let texts = [
        &reporter.node,
        &decision.method,
        &decision.host,
        &decision.subject,
        &decision.rollout,
    ];
    let conditions = decision.conditions.iter().map(|condition| &condition.rollout);
    let items = decision.paths.iter().chain(conditions);
    FIXED_BYTES
        + reporter.identity.as_deref().map_or(0, str::len)
        + texts.into_iter().map(String::len).sum::<usize>()
        + items.map(|item| item.len() + FIXED_ITEM_BYTES).sum::<usize>()
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

    #[test]
    fn an_admission_of_a_newer_filter_is_not_taken_for_one_that_is_known() {
        let denied = admission(v1::Admission::Denied.into()).expect("known");
        assert_eq!(denied, Admission::Denied);
        assert!(admission(2).is_err() && admission(-1).is_err());
    }

    #[test]
    fn the_size_of_a_decision_is_never_guessed_too_small() {
        let reporter = Reporter {
            node: "n".repeat(1024),
            nonce: [255; 16],
            identity: Some("i".repeat(2048).into()),
        };
        for (paths, conditions) in [(0, 0), (4, 4), (100, 0), (0, 4096)] {
            let decision = v1::Decision {
                time_unix_ms: u64::MAX,
                policy: Some(v1::SnapshotId {
                    epoch: u64::MAX,
                    n: u64::MAX,
                }),
                method: "M".repeat(32),
                host: "h".repeat(253),
                path_sha256: vec![255; 32],
                subject: "s".repeat(2048),
                paths: vec!["/p".repeat(512); paths],
                conditions: vec![
                    v1::Condition {
                        rollout: "r".repeat(63),
                        index: u32::MAX,
                        holds: true,
                    };
                    conditions
                ],
                rollout: "r".repeat(63),
                generation: u64::MAX,
                bucket: Some(999_999),
                variant: v1::Variant::Canary.into(),
                key: Some(7),
                status: 599,
                duration_us: u64::MAX,
                policy_sha256: vec![255; 32],
                admission: v1::Admission::Denied.into(),
            };
            let guessed = size_at_most(&reporter, &decision);
            let payload = payload("r".repeat(63), &reporter, u64::MAX, decision).expect("well formed");
            let encoded = payload.to_bytes().len();
            assert!(encoded <= guessed, "{encoded} > {guessed}");
        }
    }
}
