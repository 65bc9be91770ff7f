//! What a receipt says.
//!
//! A payload is one map of deterministic CBOR (RFC 8949, 4.2.1): integer keys ascending, shortest forms, definite lengths.
//! Every payload begins with these keys; the ones of each kind are listed at its type. An absent optional value has no key.
//!
//! | key | value |
//! |---|---|
//! | 0 | version of this format: 1 |
//! | 1 | kind: 0 genesis, 1 decision, 2 action, 3 policy, 4 key |
//! | 2 | region, text |
//! | 3 | time, milliseconds since the Unix epoch |
//!
//! Decoding is strict: bytes that are not the one encoding of a payload of a known version are refused.

mod decode;
mod encode;
mod key_receipt;
#[cfg(any(test, feature = "testing"))]
pub mod samples;
mod show;
#[cfg(test)]
mod tests;

use knhk_decision::{Evidence, PolicyId};
use serde::Serialize;

pub use decode::DecodeError;
pub use decode::{MapReader, array_len, fixed_bytes};
pub use encode::{Encoder, Written, in_memory};
pub use key_receipt::KeyReceipt;
pub(crate) use key_receipt::is_key_receipt;
pub(crate) use show::to_hex;

/// The version of the payload format.
pub const PAYLOAD_VERSION: u64 = 1;

/// The largest encoded payload, in bytes. The largest ones hold a policy snapshot.
pub const MAX_PAYLOAD_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of the random number that a proxy's worker draws for itself at its start.
pub const VM_NONCE_LEN: usize = 16;

/// One entry's content.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
// Nearly every payload is a decision: a box would cost an allocation for each to save moving a few hundred bytes.
#[allow(clippy::large_enum_variant)]
pub enum Payload {
    /// Entry 0 of every log.
    Genesis(Genesis),
    /// A decision over one request.
    Decision(DecisionReceipt),
    /// Something that an operator, or the service by itself, did.
    Action(ActionReceipt),
    /// A policy snapshot that the service published.
    Policy(PolicyReceipt),
    /// A key that is to sign the log's checkpoints from now on.
    Key(KeyReceipt),
}

impl Payload {
    /// The deterministic CBOR of the payload.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode::payload(self)
    }

    /// Parses exactly what [`Payload::to_bytes`] makes; anything else is an error.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode::payload(bytes)
    }

    /// `genesis`, `decision`, `action`, `policy` or `key`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Genesis(_) => "genesis",
            Self::Decision(_) => "decision",
            Self::Action(_) => "action",
            Self::Policy(_) => "policy",
            Self::Key(_) => "key",
        }
    }

    /// The region whose log it was written to.
    pub fn region(&self) -> &str {
        match self {
            Self::Genesis(it) => &it.region,
            Self::Decision(it) => &it.region,
            Self::Action(it) => &it.region,
            Self::Policy(it) => &it.region,
            Self::Key(it) => &it.region,
        }
    }

    /// When it happened, by the clock of whoever saw it, in milliseconds since the Unix epoch.
    pub fn time_unix_ms(&self) -> u64 {
        match self {
            Self::Genesis(it) => it.time_unix_ms,
            Self::Decision(it) => it.time_unix_ms,
            Self::Action(it) => it.time_unix_ms,
            Self::Policy(it) => it.time_unix_ms,
            Self::Key(it) => it.time_unix_ms,
        }
    }
}

/// The first entry of a log. Further keys: 4 origin (text), 5 the `SubjectPublicKeyInfo` DER of the first signing key (bytes),
/// 6 provider (text), 7 version (text).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Genesis {
    /// The log's region.
    pub region: String,
    /// When the log was made.
    pub time_unix_ms: u64,
    /// The first line of every checkpoint of the log.
    pub origin: String,
    /// The key that the log began with, as DER.
    #[serde(serialize_with = "show::hex")]
    pub public_key_der: Vec<u8>,
    /// Who held its private half: `local`, `aws`, `azure` or `vault`.
    pub provider: String,
    /// The provider's name of that version of the key.
    pub version: String,
}

/// A decision, with enough to replay it against the snapshot that it names (`knhk_decision::replay`). No key of a user is in it.
///
/// Further keys: 4 policy epoch, 5 policy number, 6 policy SHA-256 (bytes), 7 via (0 filter, 1 `ext_authz`, 2 `ext_proc`),
/// 8 reporting node (text), 9 its VM nonce (bytes, optional), 10 its sequence number (optional), 11 admission (0 admitted, 1 denied),
/// 12 method, 13 host, 14 path SHA-256 (bytes), 15 subject (text, optional), 16 true path patterns (array of text),
/// 17 conditions (array of `[rollout, index, holds]`), 18 rollout (map, optional: 0 name, 1 generation, 2 bucket (optional),
/// 3 key (optional), 4 variant (0 stable, 1 canary, 2 staging)), 19 status (optional), 20 duration in microseconds (optional),
/// 21 the reporter's SPIFFE ID (text, optional), 22 flags (array of `[rollout, flag, variant or null, reason]`, optional;
/// reasons: 0 static, 1 targeting match, 2 default, 3 disabled, 4 error). Keys 11 and 22 belong to the evidence.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionReceipt {
    /// The region whose service recorded it.
    pub region: String,
    /// When it was decided, by the decider's clock.
    pub time_unix_ms: u64,
    /// The snapshot that it was decided by.
    #[serde(serialize_with = "show::policy_id")]
    pub policy: PolicyId,
    /// SHA-256 of the snapshot's bytes, which are in the log as a [`PolicyReceipt`].
    #[serde(serialize_with = "show::hex")]
    pub policy_sha256: [u8; 32],
    /// Where it was decided.
    pub via: Via,
    /// Who reported it.
    pub reporter: Reporter,
    /// The facts and truths that the decision rests on, and its outcome.
    pub evidence: Evidence,
    /// The HTTP status that the client got, where the reporter saw one.
    pub status: Option<u16>,
    /// How long the request took, in microseconds, where the reporter saw it end.
    pub duration_us: Option<u64>,
}

/// Where a decision was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// In the proxy, by the filter.
    Filter,
    /// In the service, asked through `ext_authz`.
    ExtAuthz,
    /// In the service, asked through `ext_proc`, which saw the response too.
    ExtProc,
}

impl Via {
    /// `filter`, `ext_authz` or `ext_proc`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::ExtAuthz => "ext_authz",
            Self::ExtProc => "ext_proc",
        }
    }
}

/// Who reported a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reporter {
    /// The proxy's node ID.
    pub node: String,
    /// The random number of the proxy's worker; absent where the service itself decided.
    #[serde(serialize_with = "show::hex_if_any")]
    pub vm_nonce: Option<[u8; VM_NONCE_LEN]>,
    /// The worker's running number of the decision, from 1; absent where the service itself decided.
    pub seq: Option<u64>,
    /// The SPIFFE ID that the proxy proved when it reported, or asked; absent where connections prove none.
    pub identity: Option<String>,
}

/// An operator's action, or one of the service by itself.
///
/// Further keys: 4 who (text), 5 what (text), 6 target (text), 7 before (bytes, optional), 8 after (bytes, optional), 9 reason (text).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActionReceipt {
    /// The region whose service recorded it.
    pub region: String,
    /// When it happened, by the service's clock.
    pub time_unix_ms: u64,
    /// Who did it: a SPIFFE ID, a local user, or `knhk` for the service itself.
    pub who: String,
    /// What was done: `rollout.apply`, `rollout.rolled_back`, ...
    pub what: String,
    /// To what: the rollout's name.
    pub target: String,
    /// The state before, as JSON; absent where there was none.
    #[serde(serialize_with = "show::text_if_any")]
    pub before: Option<Vec<u8>>,
    /// The state after, as JSON; absent where there is none any more.
    #[serde(serialize_with = "show::text_if_any")]
    pub after: Option<Vec<u8>>,
    /// Why, with the numbers.
    pub reason: String,
}

/// A published snapshot. Further keys: 4 epoch, 5 number, 6 SHA-256 of the bytes (bytes), 7 the snapshot (bytes).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyReceipt {
    /// The region whose service published it.
    pub region: String,
    /// When it was published, by the service's clock.
    pub time_unix_ms: u64,
    /// Its number.
    #[serde(serialize_with = "show::policy_id")]
    pub id: PolicyId,
    /// SHA-256 of `bytes`. A payload whose digest does not fit its bytes does not decode.
    #[serde(serialize_with = "show::hex")]
    pub sha256: [u8; 32],
    /// The policy document, exactly as the filters got it.
    #[serde(serialize_with = "show::text")]
    pub bytes: Vec<u8>,
}
