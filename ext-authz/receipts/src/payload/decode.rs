//! Deterministic CBOR in. Keys are asked for in ascending order, so one that is out of order, doubled or unknown is left over
//! and refused; what was read is encoded again and must give the same bytes, so no second form of a payload is accepted.

use std::fmt;

use knhk_decision::{
    Admission, ConditionTruth, Evidence, EvidenceRoute, FlagReason, FlagTruth, PolicyId, Variant,
};
use minicbor::Decoder;
use sha2::{Digest, Sha256};

use super::{
    ActionReceipt, DecisionReceipt, Genesis, KeyReceipt, MAX_PAYLOAD_BYTES, PAYLOAD_VERSION, Payload,
    PolicyReceipt, Reporter, Via,
};

/// Why bytes are not a payload or a receipt file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// More bytes than are read.
    #[error("it has {len} bytes, and at most {bound} are read")]
    TooLarge {
        /// How many there are.
        len: usize,
        /// How many are read at most.
        bound: usize,
    },
    /// A value is not what the format says.
    #[error("`{field}` is not valid: {reason}")]
    Malformed {
        /// The value's name.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A value is missing.
    #[error("`{field}` is missing")]
    Missing {
        /// The value's name.
        field: &'static str,
    },
    /// A key that is not known here, is repeated, or is out of order.
    #[error("key {key} is unknown, repeated or out of order; it may need a newer `knhk`")]
    UnexpectedKey {
        /// The key.
        key: u64,
    },
    /// A format of another version.
    #[error("its format has version {found}, and this `knhk` reads version {known}; use a newer one")]
    UnknownVersion {
        /// The version it has.
        found: u64,
        /// The version that is read here.
        known: u64,
    },
    /// The values are fine, the bytes are not the one encoding that they have.
    #[error("it is not in deterministic CBOR (RFC 8949, 4.2.1), or has bytes after its end")]
    NotDeterministic,
}

impl DecodeError {
    /// A stable name for metrics and programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Malformed { .. } => "malformed",
            Self::Missing { .. } => "missing",
            Self::UnexpectedKey { .. } => "unexpected_key",
            Self::UnknownVersion { .. } => "unknown_version",
            Self::NotDeterministic => "not_deterministic",
        }
    }

    /// A value of which `reason` says what is wrong.
    pub fn malformed(field: &'static str, reason: &dyn fmt::Display) -> Self {
        Self::Malformed {
            field,
            reason: reason.to_string(),
        }
    }
}

/// Reads a map whose keys are small integers in ascending order.
pub struct MapReader<'d, 'b> {
    decoder: &'d mut Decoder<'b>,
    left: u64,
    next: Option<u64>,
}

impl<'d, 'b> MapReader<'d, 'b> {
    /// Begins with the map's head; `field` names the map in errors.
    pub fn new(decoder: &'d mut Decoder<'b>, field: &'static str) -> Result<Self, DecodeError> {
        let left = decoder
            .map()
            .map_err(|e| DecodeError::malformed(field, &e))?
            .ok_or_else(|| DecodeError::malformed(field, &"its length is indefinite"))?;
        let mut map = Self {
            decoder,
            left,
            next: None,
        };
        map.read_key()?;
        Ok(map)
    }

    /// The value of `key` if it is the next one.
    pub fn optional<T>(
        &mut self,
        key: u64,
        field: &'static str,
        read: impl FnOnce(&mut Decoder<'b>) -> Result<T, minicbor::decode::Error>,
    ) -> Result<Option<T>, DecodeError> {
        self.optional_with(key, |d| read(d).map_err(|e| DecodeError::malformed(field, &e)))
    }

    /// The value of `key`, which has to be the next one.
    pub fn required<T>(
        &mut self,
        key: u64,
        field: &'static str,
        read: impl FnOnce(&mut Decoder<'b>) -> Result<T, minicbor::decode::Error>,
    ) -> Result<T, DecodeError> {
        self.optional(key, field, read)?
            .ok_or(DecodeError::Missing { field })
    }

    /// As `optional`, for values whose reading has errors of its own.
    pub fn optional_with<T>(
        &mut self,
        key: u64,
        read: impl FnOnce(&mut Decoder<'b>) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.next != Some(key) {
            return Ok(None);
        }
        let value = read(self.decoder)?;
        self.read_key()?;
        Ok(Some(value))
    }

    /// Refuses what was not asked for.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.next {
            None => Ok(()),
            Some(key) => Err(DecodeError::UnexpectedKey { key }),
        }
    }

    /// Key 0, a version that has to be `known`.
    pub fn version(&mut self, known: u64) -> Result<(), DecodeError> {
        match self.required(0, "version", Decoder::u64)? {
            found if found == known => Ok(()),
            found => Err(DecodeError::UnknownVersion { found, known }),
        }
    }

    /// A text that has to be there.
    pub fn text(&mut self, key: u64, field: &'static str) -> Result<String, DecodeError> {
        self.required(key, field, |d| d.str().map(str::to_owned))
    }

    /// A number that has to be there.
    pub fn number(&mut self, key: u64, field: &'static str) -> Result<u64, DecodeError> {
        self.required(key, field, Decoder::u64)
    }

    /// Bytes that have to be there.
    pub fn bytes(&mut self, key: u64, field: &'static str) -> Result<Vec<u8>, DecodeError> {
        self.required(key, field, |d| d.bytes().map(<[u8]>::to_vec))
    }

    /// So many bytes that have to be there.
    pub fn array<const N: usize>(&mut self, key: u64, field: &'static str) -> Result<[u8; N], DecodeError> {
        self.optional_array(key, field)?
            .ok_or(DecodeError::Missing { field })
    }

    /// So many bytes, if `key` is the next one.
    pub fn optional_array<const N: usize>(
        &mut self,
        key: u64,
        field: &'static str,
    ) -> Result<Option<[u8; N]>, DecodeError> {
        self.optional_with(key, |d| fixed_bytes(d, field))
    }

    fn read_key(&mut self) -> Result<(), DecodeError> {
        self.next = None;
        if self.left > 0 {
            self.left -= 1;
            self.next = Some(
                self.decoder
                    .u64()
                    .map_err(|e| DecodeError::malformed("key", &e))?,
            );
        }
        Ok(())
    }
}

/// A byte string of exactly this length.
pub fn fixed_bytes<const N: usize>(d: &mut Decoder<'_>, field: &'static str) -> Result<[u8; N], DecodeError> {
    let bytes = d.bytes().map_err(|e| DecodeError::malformed(field, &e))?;
    bytes
        .try_into()
        .map_err(|_| DecodeError::malformed(field, &format_args!("it has {} bytes, not {N}", bytes.len())))
}

pub(super) fn payload(bytes: &[u8]) -> Result<Payload, DecodeError> {
    if bytes.len() > MAX_PAYLOAD_BYTES {
        return Err(DecodeError::TooLarge {
            len: bytes.len(),
            bound: MAX_PAYLOAD_BYTES,
        });
    }
    let mut decoder = Decoder::new(bytes);
    let mut map = MapReader::new(&mut decoder, "payload")?;
    map.version(PAYLOAD_VERSION)?;
    let kind = map.number(1, "kind")?;
    let region = map.text(2, "region")?;
    let time_unix_ms = map.number(3, "time")?;
    let payload = match kind {
        0 => Payload::Genesis(Genesis {
            region,
            time_unix_ms,
            origin: map.text(4, "origin")?,
            public_key_der: map.bytes(5, "public_key")?,
            provider: map.text(6, "provider")?,
            version: map.text(7, "version")?,
        }),
        1 => Payload::Decision(decision(&mut map, region, time_unix_ms)?),
        2 => Payload::Action(action(&mut map, region, time_unix_ms)?),
        3 => Payload::Policy(policy(&mut map, region, time_unix_ms)?),
        4 => Payload::Key(KeyReceipt {
            region,
            time_unix_ms,
            public_key_der: map.bytes(4, "public_key")?,
            provider: map.text(5, "provider")?,
            version: map.text(6, "version")?,
            previous: map.array(7, "previous")?,
            who: map.text(8, "who")?,
            proof: map.bytes(9, "proof")?,
        }),
        other => return Err(unknown("kind", other)),
    };
    map.finish()?;
    if payload.to_bytes() != bytes {
        return Err(DecodeError::NotDeterministic);
    }
    Ok(payload)
}

fn unknown(field: &'static str, number: u64) -> DecodeError {
    DecodeError::malformed(
        field,
        &format_args!("{number} has no meaning here; it may need a newer `knhk`"),
    )
}

fn decision(
    map: &mut MapReader<'_, '_>,
    region: String,
    time_unix_ms: u64,
) -> Result<DecisionReceipt, DecodeError> {
    let policy = PolicyId {
        epoch: map.number(4, "policy.epoch")?,
        n: map.number(5, "policy.n")?,
    };
    let policy_sha256 = map.array(6, "policy.sha256")?;
    let via = match map.number(7, "via")? {
        0 => Via::Filter,
        1 => Via::ExtAuthz,
        2 => Via::ExtProc,
        other => return Err(unknown("via", other)),
    };
    let node = map.text(8, "reporter.node")?;
    let vm_nonce = map.optional_array(9, "reporter.vm_nonce")?;
    let seq = map.optional(10, "reporter.seq", Decoder::u64)?;
    let mut evidence = evidence(map)?;
    let status = map.optional(19, "status", Decoder::u16)?;
    let duration_us = map.optional(20, "duration", Decoder::u64)?;
    let identity = map.optional(21, "reporter.identity", |d| d.str().map(str::to_owned))?;
    evidence.flags = optional_list(map, 22, "flags", flag)?.unwrap_or_default();
    Ok(DecisionReceipt {
        region,
        time_unix_ms,
        policy,
        policy_sha256,
        via,
        reporter: Reporter {
            node,
            vm_nonce,
            seq,
            identity,
        },
        evidence,
        status,
        duration_us,
    })
}

fn evidence(map: &mut MapReader<'_, '_>) -> Result<Evidence, DecodeError> {
    let admission = match map.number(11, "admission")? {
        0 => Admission::Admitted,
        1 => Admission::Denied,
        other => return Err(unknown("admission", other)),
    };
    Ok(Evidence {
        method: map.text(12, "method")?,
        host: map.text(13, "host")?,
        path_sha256: map.array(14, "path_sha256")?,
        subject: map.optional(15, "subject", |d| d.str().map(str::to_owned))?,
        paths: list(map, 16, "paths", |d| {
            d.str()
                .map(str::to_owned)
                .map_err(|e| DecodeError::malformed("paths", &e))
        })?,
        conditions: list(map, 17, "conditions", condition)?,
        // Far behind, under a key of its own.
        flags: Vec::new(),
        rollout: map.optional_with(18, route)?,
        admission,
    })
}

fn list<'b, T>(
    map: &mut MapReader<'_, 'b>,
    key: u64,
    field: &'static str,
    item: impl FnMut(&mut Decoder<'b>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    optional_list(map, key, field, item)?.ok_or(DecodeError::Missing { field })
}

fn optional_list<'b, T>(
    map: &mut MapReader<'_, 'b>,
    key: u64,
    field: &'static str,
    mut item: impl FnMut(&mut Decoder<'b>) -> Result<T, DecodeError>,
) -> Result<Option<Vec<T>>, DecodeError> {
    map.optional_with(key, |d| {
        let len = array_len(d, field)?;
        // Each item takes a byte at least: a length that the input cannot hold ends at the first missing item.
        (0..len).map(|_| item(d)).collect()
    })
}

/// The length of an array, which has to be definite.
pub fn array_len(d: &mut Decoder<'_>, field: &'static str) -> Result<u64, DecodeError> {
    d.array()
        .map_err(|e| DecodeError::malformed(field, &e))?
        .ok_or_else(|| DecodeError::malformed(field, &"its length is indefinite"))
}

fn so_many_values(d: &mut Decoder<'_>, field: &'static str, count: u64) -> Result<(), DecodeError> {
    match array_len(d, field)? {
        found if found == count => Ok(()),
        other => Err(DecodeError::malformed(
            field,
            &format_args!("one has {other} values, not {count}"),
        )),
    }
}

fn flag(d: &mut Decoder<'_>) -> Result<FlagTruth, DecodeError> {
    const FIELD: &str = "flags";
    so_many_values(d, FIELD, 4)?;
    let read = |e: minicbor::decode::Error| DecodeError::malformed(FIELD, &e);
    Ok(FlagTruth {
        rollout: d.str().map_err(read)?.to_owned(),
        flag: d.str().map_err(read)?.to_owned(),
        variant: if d.datatype().map_err(read)? == minicbor::data::Type::Null {
            d.null().map_err(read)?;
            None
        } else {
            Some(d.str().map_err(read)?.to_owned())
        },
        reason: match d.u64().map_err(read)? {
            0 => FlagReason::Static,
            1 => FlagReason::TargetingMatch,
            2 => FlagReason::Default,
            3 => FlagReason::Disabled,
            4 => FlagReason::Error,
            other => return Err(unknown(FIELD, other)),
        },
    })
}

fn condition(d: &mut Decoder<'_>) -> Result<ConditionTruth, DecodeError> {
    const FIELD: &str = "conditions";
    so_many_values(d, FIELD, 3)?;
    let read = |e: minicbor::decode::Error| DecodeError::malformed(FIELD, &e);
    Ok(ConditionTruth {
        rollout: d.str().map_err(read)?.to_owned(),
        index: d.u32().map_err(read)?,
        holds: d.bool().map_err(read)?,
    })
}

fn route(d: &mut Decoder<'_>) -> Result<EvidenceRoute, DecodeError> {
    let mut map = MapReader::new(d, "rollout")?;
    let route = EvidenceRoute {
        name: map.text(0, "rollout.name")?,
        generation: map.number(1, "rollout.generation")?,
        bucket: map.optional(2, "rollout.bucket", Decoder::u32)?,
        key: map.optional(3, "rollout.key", Decoder::u32)?,
        variant: match map.number(4, "rollout.variant")? {
            0 => Variant::Stable,
            1 => Variant::Canary,
            2 => Variant::Staging,
            other => return Err(unknown("rollout.variant", other)),
        },
    };
    map.finish()?;
    Ok(route)
}

fn action(
    map: &mut MapReader<'_, '_>,
    region: String,
    time_unix_ms: u64,
) -> Result<ActionReceipt, DecodeError> {
    Ok(ActionReceipt {
        region,
        time_unix_ms,
        who: map.text(4, "who")?,
        what: map.text(5, "what")?,
        target: map.text(6, "target")?,
        before: map.optional(7, "before", |d| d.bytes().map(<[u8]>::to_vec))?,
        after: map.optional(8, "after", |d| d.bytes().map(<[u8]>::to_vec))?,
        reason: map.text(9, "reason")?,
    })
}

fn policy(
    map: &mut MapReader<'_, '_>,
    region: String,
    time_unix_ms: u64,
) -> Result<PolicyReceipt, DecodeError> {
    let receipt = PolicyReceipt {
        region,
        time_unix_ms,
        id: PolicyId {
            epoch: map.number(4, "epoch")?,
            n: map.number(5, "n")?,
        },
        sha256: map.array(6, "sha256")?,
        bytes: map.bytes(7, "bytes")?,
    };
    if receipt.sha256 != <[u8; 32]>::from(Sha256::digest(&receipt.bytes)) {
        return Err(DecodeError::malformed(
            "sha256",
            &"it is not the digest of the snapshot's bytes",
        ));
    }
    Ok(receipt)
}
