//! Recorded decisions on their way to the service: numbered, bounded, sent again until acknowledged.

use std::collections::VecDeque;

use knhk_decision::{Admission, Evidence, FlagReason, FlagTruth, Variant};
use knhk_proto::v1;
use prost::Message;

use crate::snapshots::SnapshotName;

/// Bytes of decisions that may wait for the service, with [`ENTRY_BYTES`] for each. More are dropped, and counted.
pub const MAX_WAITING_BYTES: usize = 1024 * 1024;
/// What a waiting decision costs besides its bytes.
pub const ENTRY_BYTES: usize = 48;
/// Bytes of decisions after which a batch is full: far below what a gRPC message may hold.
pub const BATCH_BYTES: usize = 64 * 1024;
/// A decision that is recorded once its request is over.
#[derive(Debug)]
pub struct Decided {
    /// When, by the wall clock.
    pub time_unix_ms: u64,
    /// By which snapshot.
    pub policy: SnapshotName,
    /// What it can be replayed from.
    pub evidence: Evidence,
}

impl Decided {
    /// The record, with how the request ended.
    pub fn finished(self, status: Option<u16>, duration_us: u64) -> v1::Decision {
        let evidence = self.evidence;
        let route = evidence.rollout;
        let variant = route
            .as_ref()
            .map_or(v1::Variant::Unspecified, |route| match route.variant {
                Variant::Stable => v1::Variant::Stable,
                Variant::Canary => v1::Variant::Canary,
                Variant::Staging => v1::Variant::Staging,
            });
        let admission = match evidence.admission {
            Admission::Admitted => v1::Admission::Admitted,
            Admission::Denied => v1::Admission::Denied,
        };
        v1::Decision {
            time_unix_ms: self.time_unix_ms,
            policy: Some(v1::SnapshotId {
                epoch: self.policy.id.epoch,
                n: self.policy.id.n,
            }),
            policy_sha256: self.policy.sha256.to_vec(),
            method: evidence.method,
            host: evidence.host,
            path_sha256: evidence.path_sha256.to_vec(),
            subject: evidence.subject.unwrap_or_default(),
            paths: evidence.paths,
            conditions: evidence
                .conditions
                .into_iter()
                .map(|truth| v1::Condition {
                    rollout: truth.rollout,
                    index: truth.index,
                    holds: truth.holds,
                })
                .collect(),
            flags: evidence.flags.into_iter().map(flag).collect(),
            generation: route.as_ref().map_or(0, |route| route.generation),
            bucket: route.as_ref().and_then(|route| route.bucket),
            key: route.as_ref().and_then(|route| route.key),
            rollout: route.map(|route| route.name).unwrap_or_default(),
            variant: variant.into(),
            status: status.map_or(0, u32::from),
            duration_us,
            admission: admission.into(),
        }
    }
}

fn flag(truth: FlagTruth) -> v1::Flag {
    let reason = match truth.reason {
        FlagReason::Static => v1::FlagReason::Static,
        FlagReason::TargetingMatch => v1::FlagReason::TargetingMatch,
        FlagReason::Default => v1::FlagReason::Default,
        FlagReason::Disabled => v1::FlagReason::Disabled,
        FlagReason::Error => v1::FlagReason::Error,
    };
    v1::Flag {
        rollout: truth.rollout,
        key: truth.flag,
        variant: truth.variant,
        reason: reason.into(),
    }
}

/// Decisions that the service has not acknowledged.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Sequence number and serialised decision, ascending.
    queue: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
    /// The last number that was given out. A dropped decision has one too, so that the gap shows.
    last: u64,
    /// The last number that was sent on the present stream.
    sent: u64,
    dropped: u64,
}

/// `Up` with a batch of decisions that are serialised already: on the wire, bytes and messages look the same.
#[derive(Clone, PartialEq, Message)]
struct UpBatch {
    #[prost(message, tag = "5")]
    decisions: Option<Batch>,
}

#[derive(Clone, PartialEq, Message)]
struct Batch {
    #[prost(uint64, tag = "1")]
    first: u64,
    #[prost(bytes = "vec", repeated, tag = "2")]
    decisions: Vec<Vec<u8>>,
}

impl Waiting {
    /// Nothing waits.
    pub const fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            last: 0,
            sent: 0,
            dropped: 0,
        }
    }

    /// Adds a decision. `false` if it is dropped, since too many wait.
    pub fn push(&mut self, decision: &v1::Decision) -> bool {
        self.last += 1;
        let bytes = decision.encode_to_vec();
        let size = bytes.len() + ENTRY_BYTES;
        if self.bytes + size > MAX_WAITING_BYTES {
            self.dropped += 1;
            return false;
        }
        self.bytes += size;
        self.queue.push_back((self.last, bytes));
        true
    }

    /// How many were dropped since the VM started.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The next message to send, if something waits that was not sent on this stream: consecutive decisions.
    pub fn next_batch(&mut self) -> Option<Vec<u8>> {
        let start = self.queue.partition_point(|(seq, _)| *seq <= self.sent);
        let mut decisions: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        let mut first = 0;
        for (seq, decision) in self.queue.iter().skip(start) {
            if decisions.is_empty() {
                first = *seq;
            } else if *seq != self.sent + 1 || bytes + decision.len() > BATCH_BYTES {
                break;
            }
            self.sent = *seq;
            bytes += decision.len();
            decisions.push(decision.clone());
        }
        if decisions.is_empty() {
            return None;
        }
        Some(
            UpBatch {
                decisions: Some(Batch { first, decisions }),
            }
            .encode_to_vec(),
        )
    }

    /// Forgets what the service has: everything up to and including `through`.
    pub fn acknowledge(&mut self, through: u64) {
        let done = self.queue.partition_point(|(seq, _)| *seq <= through);
        for (_, decision) in self.queue.drain(..done) {
            self.bytes -= decision.len() + ENTRY_BYTES;
        }
    }

    /// A new stream: everything that waits is sent again.
    pub fn resend(&mut self) {
        self.sent = 0;
    }
}
