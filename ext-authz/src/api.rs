//! The JSON of the HTTP API, shared by the server and the command line.

use serde::{Deserialize, Serialize};

use knhk_decision::{Admission, FlagTruth};
use knhk_kms::Algorithm;
use knhk_promotion::{Explanation, HistoryEntry};
use knhk_receipts::{DecisionReceipt, LogKey, Payload};

/// Answer of `GET /v1/rollouts`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RolloutList {
    pub(crate) rollouts: Vec<RolloutSummary>,
}

/// One row of `knhk rollout list`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RolloutSummary {
    pub(crate) name: String,
    /// `Progressing`, `Paused`, `Succeeded` or `Failed`.
    pub(crate) phase: String,
    /// Why, where the phase has a reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) generation: u64,
    pub(crate) stable: String,
    pub(crate) version: String,
    /// Percent of the matched keys that the new version serves.
    pub(crate) weight: f64,
    /// The region that advances it, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) home: Option<String>,
}

/// Answer of `GET /v1/rollouts/{name}` and of every operator's action on it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RolloutStatus {
    #[serde(flatten)]
    pub(crate) summary: RolloutSummary,
    /// What the rollout waits for and the numbers behind it.
    pub(crate) explanation: Explanation,
    /// How far the newest snapshot has come.
    pub(crate) workers: Workers,
    /// The newest snapshot, `EPOCH.N`.
    pub(crate) policy: String,
}

/// Workers that carried a request in the last five minutes.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Workers {
    /// Of those, the ones that run the newest snapshot.
    pub(crate) newest: u64,
    /// All of them.
    pub(crate) active: u64,
    /// Open streams, busy or idle.
    pub(crate) connected: u64,
    /// Workers that refused the newest snapshot, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) refusals: Vec<WorkerRefusal>,
}

/// A worker that refused a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WorkerRefusal {
    pub(crate) node: String,
    pub(crate) policy: String,
    pub(crate) reason: String,
    pub(crate) detail: String,
}

/// Answer of `GET /v1/rollouts/{name}/history`, oldest first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RolloutHistory {
    pub(crate) name: String,
    pub(crate) history: Vec<HistoryEntry>,
    /// Pass it as `after` to go on; absent where the history ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next_after: Option<u64>,
}

/// Body of `POST /v1/rollouts/{name}/promote`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PromoteRequest {
    /// Skip what is left of the canary stage.
    #[serde(default)]
    pub(crate) full: bool,
    /// Why without its evidence; it goes into receipt and history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// Answer of `DELETE /v1/rollouts/{name}`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Deleted {
    pub(crate) deleted: String,
}

/// Answer of `PUT /v1/flags`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FlagsApplied {
    /// How many flags are defined now.
    pub(crate) flags: usize,
    /// The newest snapshot, `EPOCH.N`.
    pub(crate) policy: String,
}

/// Kinds of receipts, see [`Payload::kind`].
pub(crate) const KINDS: [&str; 5] = ["genesis", "policy", "action", "decision", "key"];

/// Answer of `GET /v1/receipts`, newest first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReceiptList {
    pub(crate) receipts: Vec<ReceiptSummary>,
    /// Pass it as `before` to go on; absent at the log's beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_before: Option<u64>,
}

/// One row of `knhk receipt list`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReceiptSummary {
    /// `REGION/INDEX`.
    pub(crate) id: String,
    /// RFC 3339, UTC.
    pub(crate) time: String,
    /// `genesis`, `policy`, `action`, `decision` or `key`.
    pub(crate) kind: String,
    /// The rollout, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rollout: Option<String>,
    /// One line for a person.
    pub(crate) summary: String,
    /// Whether a signed checkpoint covers it already.
    pub(crate) signed: bool,
}

/// Answer of `GET /v1/keys`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeySet {
    /// Every key that signs or signed this region's log, oldest first.
    pub(crate) keys: Vec<KeyInfo>,
    pub(crate) rotation: RotationInfo,
    /// The key that this region acknowledges other regions' logs with; none where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) acknowledges_with: Option<AckKey>,
}

/// A public key that signs or signed this region's log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeyInfo {
    /// `sha256:` and the SHA-256 of the SPKI DER in hexadecimal, as `knhk receipt verify` shows it.
    pub(crate) id: String,
    pub(crate) provider: String,
    /// The provider's name of it.
    pub(crate) version: String,
    pub(crate) algorithm: String,
    /// When the log announced it, RFC 3339.
    pub(crate) valid_from: String,
    /// The entry that announced it; 0 is the log's first.
    pub(crate) announced: u64,
    /// Entries under the first checkpoint that it signed; none before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_size: Option<u64>,
    /// Entries under the last checkpoint that it signed; none while it signs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_size: Option<u64>,
    /// `active`: it signs. `retired`: it signed. `announced`: a rotation to it is under way, or failed.
    pub(crate) state: String,
    /// SPKI in PEM.
    pub(crate) pem: String,
}

/// How the rotation of the key stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RotationInfo {
    /// `kms.rotate_every`: `never` or a duration.
    pub(crate) every: String,
    /// When it is due by that, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
    /// Why the newest rotation failed; none where it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<String>,
}

/// Answer of `GET /v1/log/{region}/consistency/{from}`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Consistency {
    /// Entries of the earlier tree.
    pub(crate) from: u64,
    /// Entries of the newest checkpoint's tree.
    pub(crate) to: u64,
    /// The newest checkpoint, as `GET .../checkpoint` answers it.
    pub(crate) checkpoint: String,
    /// Hashes of the proof (RFC 6962, 2.1.2), in hexadecimal.
    pub(crate) proof: Vec<String>,
}

/// Answer of `/readyz`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Readiness {
    /// Can decide and can record.
    pub(crate) ready: bool,
    /// What is amiss; empty when nothing is.
    pub(crate) detail: Vec<String>,
}

/// Every refusal of the API.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    /// A stable label.
    pub(crate) error: String,
    /// One line: what, where, why, what to do.
    pub(crate) message: String,
}

/// Unix milliseconds as RFC 3339 in UTC; times that no calendar holds are shown as the number.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{unix_ms} ms"), |time| format!("{time:.3}"))
}

/// A key of the log, for people and auditors.
pub(crate) fn key_info(key: &LogKey) -> KeyInfo {
    KeyInfo {
        id: key.key.to_string(),
        provider: key.provider.clone(),
        version: key.version.clone(),
        algorithm: Algorithm::EcdsaP256Sha256.as_str().to_owned(),
        valid_from: rfc3339(key.announced_unix_ms),
        announced: key.announced,
        first_size: key.first_size,
        last_size: key.last_size,
        state: key.state.as_str().to_owned(),
        pem: key.key.pem(),
    }
}

/// The same text without what would break its line or draw on a terminal.
pub(crate) fn in_one_line(text: &str) -> String {
    let plain = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    text.chars().map(plain).collect()
}

/// What a payload says, in one line for a person.
pub(crate) fn summary(payload: &Payload) -> String {
    in_one_line(&summarised(payload))
}

fn summarised(payload: &Payload) -> String {
    match payload {
        Payload::Genesis(_) => "the log begins".to_owned(),
        Payload::Key(key) => format!("key {} of {} announced by {}", key.version, key.provider, key.who),
        Payload::Policy(policy) => format!("policy {} published, {} bytes", policy.id, policy.bytes.len()),
        Payload::Action(action) => format!(
            "{} {} by {}: {}",
            action.what, action.target, action.who, action.reason
        ),
        Payload::Decision(decision) => decision_summary(decision),
    }
}

fn decision_summary(decision: &DecisionReceipt) -> String {
    let evidence = &decision.evidence;
    let route = evidence
        .rollout
        .as_ref()
        .map_or("no rollout".to_owned(), |route| {
            let to = match evidence.admission {
                Admission::Admitted => route.variant.as_str(),
                Admission::Denied => "denied",
            };
            match route.bucket {
                Some(bucket) => format!("{} {to} (bucket {bucket})", route.name),
                None => format!("{} {to} (no key)", route.name),
            }
        });
    let flags: String = evidence.flags.iter().map(flag_summary).collect();
    let caller = evidence
        .subject
        .as_ref()
        .map(|subject| format!(", caller {subject}"))
        .unwrap_or_default();
    let status = decision
        .status
        .map(|status| format!(", status {status}"))
        .unwrap_or_default();
    let proxy = decision
        .reporter
        .identity
        .as_ref()
        .map(|identity| format!(" of {identity}"))
        .unwrap_or_default();
    format!(
        "{} {}: {route}{flags}{caller}{status}, by {}{proxy}",
        evidence.method,
        evidence.host,
        decision.via.as_str()
    )
}

fn flag_summary(truth: &FlagTruth) -> String {
    match &truth.variant {
        Some(variant) => format!(", flag {}={variant}", truth.flag),
        None => format!(", flag {} {}", truth.flag, truth.reason.as_str()),
    }
}

/// Answer of `GET /v1/regions`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RegionsInfo {
    /// This one.
    pub(crate) region: String,
    /// How many regions, this one included, have to hold a receipt.
    pub(crate) quorum: usize,
    /// Entries of this region's log under its newest checkpoint.
    pub(crate) signed: u64,
    /// Entries of it that a quorum holds.
    pub(crate) committed: u64,
    /// Why this region signs nothing any more; none where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stopped: Option<Stopped>,
    pub(crate) acknowledges_with: AckKey,
    pub(crate) peers: Vec<PeerInfo>,
}

/// Why a region signs nothing any more.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stopped {
    /// `behind` or `forked`.
    pub(crate) label: String,
    /// One line.
    pub(crate) reason: String,
}

/// The key that a region acknowledges other regions' logs with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AckKey {
    /// `sha256:` and the SHA-256 of the SPKI DER.
    pub(crate) id: String,
    /// SPKI in PEM.
    pub(crate) pem: String,
}

/// Another region.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PeerInfo {
    pub(crate) region: String,
    pub(crate) url: String,
    /// Entries of this region's log that it has acknowledged.
    pub(crate) acknowledged: u64,
    /// Signed entries that it has not.
    pub(crate) lag_entries: u64,
    /// For how long the oldest of those waits.
    pub(crate) lag_ms: u64,
    /// How long ago it last took something, or said that it has everything; none before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_success_ms_ago: Option<u64>,
    /// Why it failed last, if it did not succeed since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<PeerError>,
    /// `closed`, `open` or `half_open`.
    pub(crate) breaker: String,
    /// Rollouts whose newest state it has not taken yet.
    pub(crate) rollouts_behind: usize,
    /// Whether it has not taken the newest flag definitions yet.
    pub(crate) flags_behind: bool,
    /// What is held here of its log.
    pub(crate) mirror: MirrorInfo,
}

/// Why sending to a peer failed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PeerError {
    /// A stable label.
    pub(crate) label: String,
    /// One line.
    pub(crate) reason: String,
}

/// What is held of another region's log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MirrorInfo {
    /// Entries.
    pub(crate) held: u64,
    /// Of those, the ones under the newest checkpoint that all entries of are held.
    pub(crate) signed: u64,
    /// The region has shown two histories, and no operator has cleared that: nothing is taken and acknowledged.
    pub(crate) is_alarmed: bool,
    /// The evidence of it.
    pub(crate) split_views: Vec<SplitView>,
}

/// Two histories of one log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SplitView {
    /// When it was found, RFC 3339.
    pub(crate) seen: String,
    /// Of so many first entries two roots are signed.
    pub(crate) size: u64,
    /// Entries of the checkpoint that was held.
    pub(crate) held: u64,
    /// Entries of the one that was shown.
    pub(crate) shown: u64,
}

/// Answer of `POST /v1/regions/{region}/clear`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cleared {
    pub(crate) region: String,
    /// Whether there was something to clear.
    pub(crate) was_alarmed: bool,
}
