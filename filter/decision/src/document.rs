//! The policy document: what a snapshot's bytes hold.

use std::collections::BTreeSet;
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use knhk_flags::Document;
use serde::{Deserialize, Serialize};

use crate::spec::{AdmitSpec, KeySpec, MatchSpec, OutcomeSpec, Record, StagingSpec, Weight};

/// The only `apiVersion` that is understood.
pub const API_VERSION: &str = "knhk.dev/v1";
/// The `kind` of a policy document.
pub const KIND: &str = "Policy";

/// A whole policy as JSON: what the service sends as a snapshot and what a receipt is replayed against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyDoc {
    /// [`API_VERSION`].
    pub api_version: String,
    /// [`KIND`].
    pub kind: String,
    /// First half of the snapshot's number: a new data directory of the service is a new epoch.
    pub epoch: u64,
    /// Second half: grows by one with each snapshot of an epoch.
    pub n: u64,
    /// In any order: which one routes a request depends on their matches and names alone.
    #[serde(default)]
    pub rollouts: Vec<RolloutRule>,
    /// Flag definitions in flagd's schema, those that rollouts ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<Document>,
}

/// What a policy says about one rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutRule {
    /// Unique in the policy; a DNS label.
    pub name: String,
    /// Grows with each new version that is rolled out.
    pub generation: u64,
    /// Observation window: another number with each change of weight or generation, so that counts belong to one step.
    pub window: u64,
    /// What the key is hashed with; the rollout's name unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
    /// Which requests it routes.
    #[serde(default, rename = "match")]
    pub r#match: MatchSpec,
    /// Which of those it admits; all unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admit: Option<AdmitSpec>,
    /// Its staging stage, if it has one: also before and after it, so that every filter has checked it when it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staging: Option<StagingRule>,
    /// Where the key stands: the first that is present counts. None present: stable.
    pub key: Vec<KeySpec>,
    /// The canary's share of the keys, among the requests that are not staging's.
    pub weight: Weight,
    /// Name of the version that serves now.
    pub stable: String,
    /// Name of the version that is being rolled out.
    pub canary: String,
    /// Flags whose variants the upstream is told, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Which decisions the filter records.
    #[serde(default, skip_serializing_if = "Record::is_none")]
    pub record: Record,
    /// Latencies in microseconds, ascending: the filter counts exactly how many requests were slower than each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thresholds: Vec<u64>,
    /// The filter counts exactly how many responses were bad by each of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outcomes: Vec<OutcomeSpec>,
}

/// A rollout's staging stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StagingRule {
    /// Whether the rollout is in that stage now. If not, the stage picks no request.
    pub active: bool,
    /// Which of the rollout's requests go to the version whatever their key, as [`crate::Variant::Staging`].
    #[serde(rename = "match")]
    pub r#match: StagingSpec,
}

impl PolicyDoc {
    /// A document of these rollouts with the snapshot number `id`.
    pub fn new(id: PolicyId, rollouts: Vec<RolloutRule>) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            epoch: id.epoch,
            n: id.n,
            rollouts,
            flags: None,
        }
    }

    /// The same with those of these flags that its rollouts ask for.
    #[must_use]
    pub fn with_flags(self, flags: &Document) -> Self {
        let asked: BTreeSet<&str> = self.rollouts.iter().flat_map(RolloutRule::asks_for).collect();
        let flags = (!asked.is_empty()).then(|| flags.only(|key| asked.contains(key)));
        Self { flags, ..self }
    }

    /// The document as JSON. Equal documents give equal bytes, so their digests may be compared.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Writing to memory cannot fail, and nothing here has keys that are not text. Were that ever to change, no
        // bytes are no policy, and every reader refuses them.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The snapshot's number.
    pub fn id(&self) -> PolicyId {
        PolicyId {
            epoch: self.epoch,
            n: self.n,
        }
    }
}

impl RolloutRule {
    /// What keys are hashed with.
    pub fn salt(&self) -> &str {
        self.salt.as_deref().unwrap_or(&self.name)
    }

    /// The keys of the flags that the rollout asks for; one may come twice.
    pub fn asks_for(&self) -> impl Iterator<Item = &str> {
        let gates = self.r#match.flags.keys();
        let staging = self
            .staging
            .iter()
            .flat_map(|staging| staging.r#match.flags.keys());
        gates.chain(staging).chain(&self.flags).map(String::as_str)
    }
}

/// A snapshot's number, `EPOCH.N` as text. Ordered by age within an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyId {
    /// A new data directory of the service is a new epoch.
    pub epoch: u64,
    /// Grows by one with each snapshot of an epoch.
    pub n: u64,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.n)
    }
}

/// Why a text is no snapshot number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyIdError {
    /// There is no dot.
    #[error("a policy ID is EPOCH.N, two numbers with a dot between them")]
    NoDot,
    /// One half is not a number.
    #[error("a policy ID is EPOCH.N, two numbers with a dot between them: {0}")]
    NotANumber(#[from] ParseIntError),
}

impl FromStr for PolicyId {
    type Err = PolicyIdError;

    fn from_str(text: &str) -> Result<Self, PolicyIdError> {
        let (epoch, n) = text.split_once('.').ok_or(PolicyIdError::NoDot)?;
        Ok(Self {
            epoch: epoch.parse()?,
            n: n.parse()?,
        })
    }
}
