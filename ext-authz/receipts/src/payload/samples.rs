//! Payloads for tests: fixed ones, and every possible one.
#![allow(clippy::missing_panics_doc)]

use knhk_decision::{
    Admission, ConditionTruth, Evidence, EvidenceRoute, FlagReason, FlagTruth, PolicyId, Variant,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use sha2::{Digest, Sha256};

use super::{ActionReceipt, DecisionReceipt, Genesis, KeyReceipt, Payload, PolicyReceipt, Reporter, Via};

/// A decision as a filter reports it, about 300 bytes encoded. `seq` makes it differ from others.
pub fn decision(seq: u64) -> Payload {
    Payload::Decision(DecisionReceipt {
        region: "test".to_owned(),
        time_unix_ms: 1_700_000_000_000,
        policy: PolicyId {
            epoch: 1_700_000_000,
            n: 7,
        },
        policy_sha256: [0xaa; 32],
        via: Via::Filter,
        reporter: Reporter {
            node: "gateway-1".to_owned(),
            vm_nonce: Some([1; 16]),
            seq: Some(seq),
            identity: None,
        },
        evidence: Evidence {
            method: "GET".to_owned(),
            host: "checkout.example.com".to_owned(),
            path_sha256: [0xbb; 32],
            subject: Some("spiffe://example.com/ns/shop/sa/cart".to_owned()),
            paths: vec!["/api".to_owned()],
            conditions: vec![ConditionTruth {
                rollout: "checkout".to_owned(),
                index: 1,
                holds: true,
            }],
            flags: Vec::new(),
            rollout: Some(EvidenceRoute {
                name: "checkout".to_owned(),
                generation: 3,
                bucket: Some(123_456),
                key: Some(0),
                variant: Variant::Canary,
            }),
            admission: Admission::Admitted,
        },
        status: Some(200),
        duration_us: Some(12_345),
    })
}

/// Every possible payload, of sizes that keep tests fast.
pub fn any_payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        (
            (".{0,40}", any::<u64>(), ".{0,60}"),
            (vec(any::<u8>(), 0..100), ".{0,20}", ".{0,60}")
        )
            .prop_map(
                |((region, time_unix_ms, origin), (public_key_der, provider, version))| {
                    Payload::Genesis(Genesis {
                        region,
                        time_unix_ms,
                        origin,
                        public_key_der,
                        provider,
                        version,
                    })
                }
            ),
        (
            (
                ".{0,40}",
                any::<u64>(),
                vec(any::<u8>(), 0..100),
                any::<[u8; 32]>()
            ),
            (".{0,20}", ".{0,60}", ".{0,40}", vec(any::<u8>(), 0..80)),
        )
            .prop_map(
                |((region, time_unix_ms, public_key_der, previous), (provider, version, who, proof))| {
                    Payload::Key(KeyReceipt {
                        region,
                        time_unix_ms,
                        public_key_der,
                        provider,
                        version,
                        previous,
                        who,
                        proof,
                    })
                }
            ),
        any_decision().prop_map(Payload::Decision),
        (
            (".{0,40}", any::<u64>(), ".{0,40}", ".{0,40}"),
            (
                ".{0,40}",
                option::of(vec(any::<u8>(), 0..300)),
                option::of(vec(any::<u8>(), 0..300)),
                ".{0,80}"
            ),
        )
            .prop_map(
                |((region, time_unix_ms, who, what), (target, before, after, reason))| {
                    Payload::Action(ActionReceipt {
                        region,
                        time_unix_ms,
                        who,
                        what,
                        target,
                        before,
                        after,
                        reason,
                    })
                }
            ),
        (
            ".{0,40}",
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            vec(any::<u8>(), 0..2000)
        )
            .prop_map(|(region, time_unix_ms, epoch, n, bytes)| {
                let sha256 = Sha256::digest(&bytes).into();
                Payload::Policy(PolicyReceipt {
                    region,
                    time_unix_ms,
                    id: PolicyId { epoch, n },
                    sha256,
                    bytes,
                })
            }),
    ]
}

fn any_decision() -> impl Strategy<Value = DecisionReceipt> {
    let reporter = (
        ".{0,40}",
        option::of(any::<[u8; 16]>()),
        option::of(any::<u64>()),
        option::of(".{0,60}"),
    )
        .prop_map(|(node, vm_nonce, seq, identity)| Reporter {
            node,
            vm_nonce,
            seq,
            identity,
        });
    let via = prop_oneof![Just(Via::Filter), Just(Via::ExtAuthz), Just(Via::ExtProc)];
    (
        (
            ".{0,40}",
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<[u8; 32]>(),
        ),
        (
            via,
            reporter,
            any_evidence(),
            option::of(any::<u16>()),
            option::of(any::<u64>()),
        ),
    )
        .prop_map(
            |(
                (region, time_unix_ms, epoch, n, policy_sha256),
                (via, reporter, evidence, status, duration_us),
            )| {
                DecisionReceipt {
                    region,
                    time_unix_ms,
                    policy: PolicyId { epoch, n },
                    policy_sha256,
                    via,
                    reporter,
                    evidence,
                    status,
                    duration_us,
                }
            },
        )
}

fn any_evidence() -> impl Strategy<Value = Evidence> {
    let condition =
        (".{0,20}", any::<u32>(), any::<bool>()).prop_map(|(rollout, index, holds)| ConditionTruth {
            rollout,
            index,
            holds,
        });
    let reason = select(vec![
        FlagReason::Static,
        FlagReason::TargetingMatch,
        FlagReason::Default,
        FlagReason::Disabled,
        FlagReason::Error,
    ]);
    let flag =
        (".{0,20}", ".{0,20}", option::of(".{0,20}"), reason).prop_map(|(rollout, flag, variant, reason)| {
            FlagTruth {
                rollout,
                flag,
                variant,
                reason,
            }
        });
    let variant = prop_oneof![
        Just(Variant::Stable),
        Just(Variant::Canary),
        Just(Variant::Staging)
    ];
    let route = (
        ".{0,20}",
        any::<u64>(),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        variant,
    )
        .prop_map(|(name, generation, bucket, key, variant)| EvidenceRoute {
            name,
            generation,
            bucket,
            key,
            variant,
        });
    (
        ("[A-Z]{0,10}", ".{0,40}", any::<[u8; 32]>(), option::of(".{0,60}")),
        (
            vec(".{0,30}", 0..5),
            vec(condition, 0..30),
            vec(flag, 0..5),
            option::of(route),
        ),
        prop_oneof![Just(Admission::Admitted), Just(Admission::Denied)],
    )
        .prop_map(
            |((method, host, path_sha256, subject), (paths, conditions, flags, rollout), admission)| {
                Evidence {
                    method,
                    host,
                    path_sha256,
                    subject,
                    paths,
                    conditions,
                    flags,
                    rollout,
                    admission,
                }
            },
        )
}
