//! Recorded decisions as filters send them, read into receipts.

use knhk_decision::{
    Admission, ConditionTruth, Evidence, EvidenceRoute, FlagReason, FlagTruth, PolicyId, Variant,
};
use knhk_proto::v1;
use knhk_receipts::{DecisionReceipt, Reporter as ReceiptReporter, Via};

use super::Reporter;

/// More than the fixed parts of a recorded decision take, in bytes.
const FIXED_BYTES: usize = 1024;
/// More than the fixed parts of a recorded path, condition or flag take, in bytes.
const FIXED_ITEM_BYTES: usize = 64;
/// Longest text in a decision, in bytes; longer ones are malformed.
const MAX_TEXT_BYTES: usize = 8 * 1024;
/// Path patterns, conditions and flags in a decision, each.
const MAX_READ: usize = 4 * 1024;

/// A decision that a filter sent is not one.
#[derive(Debug)]
pub(super) struct Malformed(pub(super) &'static str);

/// The receipt of a decision that a filter sent.
pub(super) fn receipt(
    region: String,
    reporter: &Reporter,
    seq: u64,
    decision: v1::Decision,
) -> Result<DecisionReceipt, Malformed> {
    let policy = decision.policy.as_ref().ok_or(Malformed("policy is missing"))?;
    Ok(DecisionReceipt {
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
            identity: reporter.proxy.identity.as_deref().map(str::to_owned),
        },
        status: status(decision.status)?,
        duration_us: Some(decision.duration_us),
        evidence: evidence(decision)?,
    })
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
    let counts = [
        decision.paths.len(),
        decision.conditions.len(),
        decision.flags.len(),
    ];
    if counts.into_iter().any(|count| count > MAX_READ) {
        return Err(Malformed("too many paths, conditions or flags"));
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
        flags: decision.flags.into_iter().map(flag).collect::<Result<_, _>>()?,
    })
}

fn flag(flag: v1::Flag) -> Result<FlagTruth, Malformed> {
    let reason = match flag.reason() {
        v1::FlagReason::Static => FlagReason::Static,
        v1::FlagReason::TargetingMatch => FlagReason::TargetingMatch,
        v1::FlagReason::Default => FlagReason::Default,
        v1::FlagReason::Disabled => FlagReason::Disabled,
        v1::FlagReason::Error => FlagReason::Error,
        v1::FlagReason::Unspecified => return Err(Malformed("a flag's reason is unknown")),
    };
    Ok(FlagTruth {
        rollout: flag.rollout,
        flag: flag.key,
        variant: flag.variant,
        reason,
    })
}

fn route(decision: &v1::Decision) -> Result<Option<EvidenceRoute>, Malformed> {
    if decision.rollout.is_empty() {
        return Ok(None);
    }
    let variant = match decision.variant() {
        v1::Variant::Stable => Variant::Stable,
        v1::Variant::Canary => Variant::Canary,
        v1::Variant::Staging => Variant::Staging,
        v1::Variant::Unspecified => return Err(Malformed("variant is missing or unknown")),
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
pub(super) fn size_at_most(reporter: &Reporter, decision: &v1::Decision) -> usize {
    let texts = [
        &reporter.node,
        &decision.method,
        &decision.host,
        &decision.subject,
        &decision.rollout,
    ];
    let conditions = decision.conditions.iter().map(|condition| &condition.rollout);
    let flags = decision.flags.iter();
    let flags: usize = flags
        .map(|flag| {
            FIXED_ITEM_BYTES
                + flag.rollout.len()
                + flag.key.len()
                + flag.variant.as_ref().map_or(0, String::len)
        })
        .sum();
    let items = decision.paths.iter().chain(conditions);
    FIXED_BYTES
        + reporter.proxy.identity.as_deref().map_or(0, str::len)
        + texts.into_iter().map(String::len).sum::<usize>()
        + items.map(|item| item.len() + FIXED_ITEM_BYTES).sum::<usize>()
        + flags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::proxies::Proxy;
    use knhk_identity::Hosts;
    use knhk_receipts::Payload;
    use std::sync::Arc;

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
            proxy: Arc::new(Proxy {
                identity: Some("i".repeat(2048).into()),
                hosts: Arc::new(Hosts::every()),
            }),
        };
        for (paths, conditions, flags) in [(0, 0, 0), (4, 4, 4), (100, 0, 0), (0, 4096, 0), (0, 0, 4096)] {
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
                flags: vec![
                    v1::Flag {
                        rollout: "r".repeat(63),
                        key: "f".repeat(256),
                        variant: Some("v".repeat(256)),
                        reason: v1::FlagReason::Error.into(),
                    };
                    flags
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
            let receipt = receipt("r".repeat(63), &reporter, u64::MAX, decision).expect("well formed");
            let encoded = Payload::Decision(receipt).to_bytes().len();
            assert!(encoded <= guessed, "{encoded} > {guessed}");
        }
    }
}
