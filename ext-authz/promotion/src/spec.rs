//! What an operator asks for: `rollout.yaml`, parsed into a form that can only be right.
//!
//! ```yaml
//! apiVersion: knhk.dev/v1
//! kind: Rollout
//! metadata: { name: checkout }
//! spec:
//!   version: v42                    # the canary
//!   stable: v41                     # the version that last succeeded
//!   match: { hosts: [checkout.example.com], pathPrefix: / }
//!   key: [ { header: x-user-id }, { cookie: session }, { requestId: {} } ]
//!   stages:
//!     - { name: canary, steps: [ { setWeight: 1, pause: 30s }, { setWeight: 50, pause: 1m } ] }
//!     - { name: staging, match: { headers: [ { name: x-tester, present: true } ] }, pause: 10m }
//!     - { name: production, watch: 15m }
//!   analysis:
//!     slos: [ { metric: request-success-rate, min: 99.5 }, { metric: request-duration, quantile: 0.99, max: 250ms } ]
//! ```
//!
//! What may be left out: `salt` (the rollout's name), `admit` (everybody), `flags` (none),
//! `record` (`none`), a step's `pause` ([`DEFAULT_PAUSE`]: the step
//! then waits for its evidence alone), `analysis.minRequests` ([`DEFAULT_MIN_REQUESTS`]), `analysis.alpha`
//! ([`DEFAULT_ALPHA`]), `analysis.tolerance` ([`DEFAULT_TOLERANCE`]), `autoRollback` ([`DEFAULT_AUTO_ROLLBACK`]), and
//! the stages `staging` and `production`: without the last the rollout has succeeded when its last step has.
//! `match` must be there, `{}` is every request; `key` must be there, because who stays with a version is no default.

mod answer;
mod check;
mod document;
mod error;
mod read;
mod share;
mod span;
mod write;

pub use self::answer::Answer;
pub use self::error::SpecError;
pub use self::share::{Fraction, Percent};
pub use self::span::Span;

use self::document::Document;
use knhk_decision::spec::{AdmitSpec, KeySpec, MatchSpec, OutcomeSpec, Record, StagingSpec, Weight};
use serde::{Deserialize, Serialize};

/// The only `apiVersion` that this version reads.
pub const API_VERSION: &str = "knhk.dev/v1";
/// The only `kind` that is a rollout.
pub const KIND: &str = "Rollout";

/// The longest document, in bytes.
pub const MAX_SPEC_BYTES: usize = 64 * 1024;
/// The most nested collections of a YAML document.
pub const MAX_YAML_DEPTH: usize = 16;
/// The most values, keys and collections of a YAML document.
pub const MAX_YAML_NODES: usize = 4_096;
/// The most steps of a canary stage.
pub const MAX_STEPS: usize = 100;
/// The most SLOs of a rollout.
pub const MAX_SLOS: usize = 8;
/// The longest pause of a step and the longest watch: 30 days.
pub const MAX_PAUSE: Span = Span::from_secs(30 * 24 * 60 * 60);
/// The most operators who may approve a stage.
pub const MAX_APPROVERS: usize = 64;
/// The longest name of one, in bytes: that of a SPIFFE ID.
pub const MAX_APPROVER_BYTES: usize = 2_048;
/// The longest reason for going without something, in bytes.
pub const MAX_REASON_BYTES: usize = 1_024;
/// The largest `minRequests`.
pub const MAX_MIN_REQUESTS: u64 = 100_000_000;
/// The largest `alpha`.
pub const MAX_ALPHA: Fraction = Fraction::from_ppm(500_000);
/// The longest duration that an SLO can name, as for the policy's thresholds: one hour.
pub const MAX_SLO_DURATION: Span = Span::from_secs(60 * 60);

/// The pause of a step that names none.
pub const DEFAULT_PAUSE: Span = Span::ZERO;
/// The canary's requests that a step needs before it can be passed, unless the rollout says otherwise.
pub const DEFAULT_MIN_REQUESTS: u64 = 200;
/// The chance of rolling back a good canary that is accepted, unless the rollout says otherwise: 0.01.
pub const DEFAULT_ALPHA: Fraction = Fraction::from_ppm(10_000);
/// How much worse than stable a canary may be, unless the rollout says otherwise: 0.5 percentage points.
pub const DEFAULT_TOLERANCE: Percent = Percent::from_ppm(5_000);
/// Whether a violation rolls back by itself, unless the rollout says otherwise.
pub const DEFAULT_AUTO_ROLLBACK: bool = true;

/// A rollout as its operator wants it. Values of this type have passed every check of this module.
///
/// Serialised it is the document again (`apiVersion`, `kind`, `metadata`, `spec`), with every default written out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Document", into = "Document")]
pub struct RolloutSpec {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) stable: String,
    pub(crate) salt: Option<String>,
    pub(crate) r#match: MatchSpec,
    pub(crate) admit: Option<AdmitSpec>,
    pub(crate) key: Vec<KeySpec>,
    pub(crate) flags: Vec<String>,
    pub(crate) record: Record,
    pub(crate) stages: Vec<Stage>,
    pub(crate) analysis: Analysis,
    pub(crate) auto_rollback: bool,
}

/// A part of a rollout's way. Each kind is there once at most, in the order of the document; `production` is the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Growing shares of the keys, beside stable. Never empty; weights rise from step to step.
    Canary {
        /// In their order.
        steps: Vec<Step>,
        /// Who has to approve before it begins, where somebody has to.
        approval: Option<Approval>,
    },
    /// Every request that is picked, whatever its key; the others keep the weight that the stage before has left.
    Staging {
        /// Which requests of the rollout's.
        picked: StagingSpec,
        /// The one step that it is, at the weight that the others keep.
        step: Step,
        /// Who has to approve before it begins, where somebody has to.
        approval: Option<Approval>,
    },
    /// Every request, watched.
    Production {
        /// How long.
        watch: Span,
        /// Who has to approve before it begins, where somebody has to.
        approval: Option<Approval>,
    },
}

/// Who may let a rollout into a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Approval {
    /// Operators by the names that their receipts have: SPIFFE IDs where the service has them. 1 to [`MAX_APPROVERS`].
    pub by: Vec<String>,
}

/// One step of a canary stage, or a staging stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The canary's share of the keys.
    pub weight: Weight,
    /// The least time that the step lasts.
    pub pause: Span,
    /// For so long it may wait for its evidence, from its beginning; the analysis's unless it has one of its own.
    pub deadline: Option<Span>,
    /// Why the step is passed without evidence, where it is. It is still watched: a canary that fails is rolled back.
    pub skip_analysis: Option<String>,
}

/// How a canary is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Analysis {
    /// The canary's requests that a step needs before it can be passed; at least 1. A rollback does not wait for them.
    pub min_requests: u64,
    /// The chance of rolling back a canary that is not worse than stable by more than `tolerance`; in (0, 0.5].
    pub alpha: Fraction,
    /// How much larger than stable's the canary's share of bad requests may be.
    pub tolerance: Percent,
    /// For so long a step may wait for its evidence, from its beginning, unless it has a deadline of its own.
    pub deadline: Option<Span>,
    /// 1 to [`MAX_SLOS`], all different.
    pub slos: Vec<Slo>,
}

/// A service level objective.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slo {
    /// `request-success-rate`: at least this share of the requests is answered with a status below 500.
    SuccessRate {
        /// Above 0.
        min: Percent,
    },
    /// `request-duration`: this quantile of the requests' durations is at most `max`.
    Duration {
        /// Strictly between 0 and 1.
        quantile: Fraction,
        /// Above 0, at most [`MAX_SLO_DURATION`].
        max: Span,
    },
    /// `request-outcome`: at least this share of the responses says in a header that all went well.
    Outcome {
        /// Which header, and what is good.
        outcome: OutcomeSpec,
        /// Above 0.
        min: Percent,
    },
}

impl RolloutSpec {
    /// Reads `rollout.yaml`: one YAML document of at most [`MAX_SPEC_BYTES`], without anchors, aliases or tags.
    pub fn from_yaml(text: &str) -> Result<Self, SpecError> {
        check::check(read::yaml(text)?)
    }

    /// Reads the same document as JSON.
    pub fn from_json(text: &str) -> Result<Self, SpecError> {
        check::check(read::json(text)?)
    }

    /// The document as JSON, every default written out. [`Self::from_json`] reads it back to an equal value.
    pub fn to_json(&self) -> String {
        // Writing to memory cannot fail, and every key here is text.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The rollout's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version that is rolled out.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The version that it replaces.
    pub fn stable(&self) -> &str {
        &self.stable
    }

    /// The stages in their order.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// How the canary is judged.
    pub fn analysis(&self) -> &Analysis {
        &self.analysis
    }

    /// The weight of the first step.
    pub fn first_weight(&self) -> Weight {
        match self.stages.first() {
            Some(Stage::Canary { steps, .. }) => steps.first().map_or(Weight::ZERO, |step| step.weight),
            Some(Stage::Staging { .. } | Stage::Production { .. }) | None => Weight::ZERO,
        }
    }

    /// The staging stage's place among the stages, and which requests it picks.
    pub(crate) fn staging(&self) -> Option<(usize, &StagingSpec)> {
        let mut stages = self.stages.iter().enumerate();
        stages.find_map(|(index, stage)| match stage {
            Stage::Staging { picked, .. } => Some((index, picked)),
            Stage::Canary { .. } | Stage::Production { .. } => None,
        })
    }

    /// The latency thresholds that filters count over: of every duration SLO, in microseconds, ascending, each once.
    pub fn thresholds(&self) -> Vec<u64> {
        let mut thresholds: Vec<u64> = self.analysis.slos.iter().filter_map(Slo::threshold).collect();
        thresholds.sort_unstable();
        thresholds.dedup();
        thresholds
    }

    /// The outcomes that filters count by, in the order of their SLOs.
    pub fn outcomes(&self) -> Vec<OutcomeSpec> {
        let slos = self.analysis.slos.iter();
        slos.filter_map(|slo| match slo {
            Slo::Outcome { outcome, .. } => Some(outcome.clone()),
            Slo::SuccessRate { .. } | Slo::Duration { .. } => None,
        })
        .collect()
    }
}

impl Stage {
    /// `canary`, `staging` or `production`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Canary { .. } => "canary",
            Self::Staging { .. } => "staging",
            Self::Production { .. } => "production",
        }
    }

    /// Who has to approve before it begins, where somebody has to.
    pub fn approval(&self) -> Option<&Approval> {
        match self {
            Self::Canary { approval, .. }
            | Self::Staging { approval, .. }
            | Self::Production { approval, .. } => approval.as_ref(),
        }
    }
}

impl Slo {
    /// `request-success-rate`, `request-duration` or `request-outcome`.
    pub fn metric(&self) -> &'static str {
        match self {
            Self::Outcome { .. } => "request-outcome",
            Self::SuccessRate { .. } => "request-success-rate",
            Self::Duration { .. } => "request-duration",
        }
    }

    /// The share of requests that may be bad: failed, slower than `max`, or without a good outcome.
    pub fn allowed(&self) -> f64 {
        match self {
            Self::SuccessRate { min } | Self::Outcome { min, .. } => min.rest(),
            Self::Duration { quantile, .. } => quantile.rest(),
        }
    }

    /// The latency threshold in microseconds, if it has one.
    pub fn threshold(&self) -> Option<u64> {
        match self {
            Self::SuccessRate { .. } | Self::Outcome { .. } => None,
            Self::Duration { max, .. } => Some(max.micros()),
        }
    }
}

impl std::fmt::Display for Slo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SuccessRate { min } => write!(f, "request-success-rate min {min}"),
            Self::Duration { quantile, max } => write!(f, "request-duration quantile {quantile} max {max}"),
            Self::Outcome { outcome, min } => write!(f, "request-outcome {} min {min}", outcome.header),
        }
    }
}

impl TryFrom<Document> for RolloutSpec {
    type Error = SpecError;

    fn try_from(document: Document) -> Result<Self, SpecError> {
        check::check(document)
    }
}
