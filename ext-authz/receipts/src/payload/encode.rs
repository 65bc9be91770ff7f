//! Deterministic CBOR out. Keys are written in ascending order; minicbor writes every integer and length in its shortest form.

use std::convert::Infallible;

use knhk_decision::{Admission, Evidence, EvidenceRoute, FlagReason, FlagTruth, Variant};

use super::{
    ActionReceipt, DecisionReceipt, Genesis, KeyReceipt, PAYLOAD_VERSION, Payload, PolicyReceipt, Via,
};

/// Writes CBOR into memory.
pub type Encoder<'b> = minicbor::Encoder<&'b mut Vec<u8>>;
/// What writing gives.
pub type Written = Result<(), minicbor::encode::Error<Infallible>>;

/// Runs a writer on a buffer. Writing to memory cannot fail.
#[allow(clippy::missing_panics_doc)]
pub fn in_memory(capacity: usize, write: impl FnOnce(&mut Encoder<'_>) -> Written) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(capacity);
    write(&mut minicbor::Encoder::new(&mut bytes)).expect("a Vec takes every byte");
    bytes
}

pub(super) fn payload(payload: &Payload) -> Vec<u8> {
    in_memory(TYPICAL_BYTES, |e| match payload {
        Payload::Genesis(it) => genesis(e, it),
        Payload::Decision(it) => decision(e, it),
        Payload::Action(it) => action(e, it),
        Payload::Policy(it) => policy(e, it),
        Payload::Key(it) => key(e, it),
    })
}

/// Room for a decision without growing.
const TYPICAL_BYTES: usize = 512;

/// Keys 0 to 3, in a map of `more` further ones.
fn head(e: &mut Encoder<'_>, more: usize, kind: u8, region: &str, time_unix_ms: u64) -> Written {
    e.map(4 + more as u64)?;
    e.u8(0)?.u64(PAYLOAD_VERSION)?;
    e.u8(1)?.u8(kind)?;
    e.u8(2)?.str(region)?;
    e.u8(3)?.u64(time_unix_ms)?;
    Ok(())
}

fn genesis(e: &mut Encoder<'_>, it: &Genesis) -> Written {
    head(e, 4, 0, &it.region, it.time_unix_ms)?;
    e.u8(4)?.str(&it.origin)?;
    e.u8(5)?.bytes(&it.public_key_der)?;
    e.u8(6)?.str(&it.provider)?;
    e.u8(7)?.str(&it.version)?;
    Ok(())
}

fn decision(e: &mut Encoder<'_>, it: &DecisionReceipt) -> Written {
    let optional = [
        it.reporter.vm_nonce.is_some(),
        it.reporter.seq.is_some(),
        it.evidence.subject.is_some(),
        it.evidence.rollout.is_some(),
        it.status.is_some(),
        it.duration_us.is_some(),
        it.reporter.identity.is_some(),
        !it.evidence.flags.is_empty(),
    ];
    let present = optional.into_iter().filter(|present| *present).count();
    head(e, 11 + present, 1, &it.region, it.time_unix_ms)?;
    e.u8(4)?.u64(it.policy.epoch)?;
    e.u8(5)?.u64(it.policy.n)?;
    e.u8(6)?.bytes(&it.policy_sha256)?;
    e.u8(7)?.u8(match it.via {
        Via::Filter => 0,
        Via::ExtAuthz => 1,
        Via::ExtProc => 2,
    })?;
    e.u8(8)?.str(&it.reporter.node)?;
    if let Some(nonce) = &it.reporter.vm_nonce {
        e.u8(9)?.bytes(nonce)?;
    }
    if let Some(seq) = it.reporter.seq {
        e.u8(10)?.u64(seq)?;
    }
    evidence(e, &it.evidence)?;
    if let Some(status) = it.status {
        e.u8(19)?.u16(status)?;
    }
    if let Some(duration_us) = it.duration_us {
        e.u8(20)?.u64(duration_us)?;
    }
    if let Some(identity) = &it.reporter.identity {
        e.u8(21)?.str(identity)?;
    }
    if !it.evidence.flags.is_empty() {
        e.u8(22)?.array(it.evidence.flags.len() as u64)?;
        it.evidence.flags.iter().try_for_each(|truth| flag(e, truth))?;
    }
    Ok(())
}

fn flag(e: &mut Encoder<'_>, it: &FlagTruth) -> Written {
    e.array(4)?.str(&it.rollout)?.str(&it.flag)?;
    match &it.variant {
        Some(variant) => e.str(variant)?,
        None => e.null()?,
    };
    e.u8(match it.reason {
        FlagReason::Static => 0,
        FlagReason::TargetingMatch => 1,
        FlagReason::Default => 2,
        FlagReason::Disabled => 3,
        FlagReason::Error => 4,
    })?;
    Ok(())
}

/// Keys 11 to 18.
fn evidence(e: &mut Encoder<'_>, it: &Evidence) -> Written {
    e.u8(11)?.u8(match it.admission {
        Admission::Admitted => 0,
        Admission::Denied => 1,
    })?;
    e.u8(12)?.str(&it.method)?;
    e.u8(13)?.str(&it.host)?;
    e.u8(14)?.bytes(&it.path_sha256)?;
    if let Some(subject) = &it.subject {
        e.u8(15)?.str(subject)?;
    }
    e.u8(16)?.array(it.paths.len() as u64)?;
    for path in &it.paths {
        e.str(path)?;
    }
    e.u8(17)?.array(it.conditions.len() as u64)?;
    for condition in &it.conditions {
        e.array(3)?
            .str(&condition.rollout)?
            .u32(condition.index)?
            .bool(condition.holds)?;
    }
    if let Some(it) = &it.rollout {
        e.u8(18)?;
        route(e, it)?;
    }
    Ok(())
}

fn route(e: &mut Encoder<'_>, it: &EvidenceRoute) -> Written {
    e.map(3 + u64::from(it.bucket.is_some()) + u64::from(it.key.is_some()))?;
    e.u8(0)?.str(&it.name)?;
    e.u8(1)?.u64(it.generation)?;
    if let Some(bucket) = it.bucket {
        e.u8(2)?.u32(bucket)?;
    }
    if let Some(key) = it.key {
        e.u8(3)?.u32(key)?;
    }
    e.u8(4)?.u8(match it.variant {
        Variant::Stable => 0,
        Variant::Canary => 1,
        Variant::Staging => 2,
    })?;
    Ok(())
}

fn action(e: &mut Encoder<'_>, it: &ActionReceipt) -> Written {
    let present = usize::from(it.before.is_some()) + usize::from(it.after.is_some());
    head(e, 4 + present, 2, &it.region, it.time_unix_ms)?;
    e.u8(4)?.str(&it.who)?;
    e.u8(5)?.str(&it.what)?;
    e.u8(6)?.str(&it.target)?;
    if let Some(before) = &it.before {
        e.u8(7)?.bytes(before)?;
    }
    if let Some(after) = &it.after {
        e.u8(8)?.bytes(after)?;
    }
    e.u8(9)?.str(&it.reason)?;
    Ok(())
}

fn policy(e: &mut Encoder<'_>, it: &PolicyReceipt) -> Written {
    head(e, 4, 3, &it.region, it.time_unix_ms)?;
    e.u8(4)?.u64(it.id.epoch)?;
    e.u8(5)?.u64(it.id.n)?;
    e.u8(6)?.bytes(&it.sha256)?;
    e.u8(7)?.bytes(&it.bytes)?;
    Ok(())
}

fn key(e: &mut Encoder<'_>, it: &KeyReceipt) -> Written {
    head(e, 6, 4, &it.region, it.time_unix_ms)?;
    e.u8(4)?.bytes(&it.public_key_der)?;
    e.u8(5)?.str(&it.provider)?;
    e.u8(6)?.str(&it.version)?;
    e.u8(7)?.bytes(&it.previous)?;
    e.u8(8)?.str(&it.who)?;
    e.u8(9)?.bytes(&it.proof)?;
    Ok(())
}
