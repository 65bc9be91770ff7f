//! The document as it is written: field names, defaults and types, nothing judged yet.

use super::share::{Fraction, Percent};
use super::span::Span;
use super::{
    Approval, DEFAULT_ALPHA, DEFAULT_AUTO_ROLLBACK, DEFAULT_MIN_REQUESTS, DEFAULT_PAUSE, DEFAULT_TOLERANCE,
};
use knhk_decision::spec::{AdmitSpec, KeySpec, MatchSpec, OutcomeSpec, Record, StagingSpec, Weight};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Document {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Metadata {
    pub(super) name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) version: String,
    pub(super) stable: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) salt: Option<String>,
    pub(super) r#match: MatchSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) admit: Option<AdmitSpec>,
    pub(super) key: Vec<KeySpec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) flags: Vec<String>,
    #[serde(default)]
    pub(super) record: Record,
    pub(super) stages: Vec<StageDoc>,
    pub(super) analysis: AnalysisDoc,
    #[serde(default = "auto_rollback")]
    pub(super) auto_rollback: bool,
}

/// One flat form for every stage, so that a wrong field is named by its path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StageDoc {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) steps: Option<Vec<StepDoc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) r#match: Option<StagingSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pause: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deadline: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) skip_analysis: Option<SkipAnalysisDoc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) watch: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) approval: Option<Approval>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StepDoc {
    pub(super) set_weight: Weight,
    #[serde(default = "pause")]
    pub(super) pause: Span,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deadline: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) skip_analysis: Option<SkipAnalysisDoc>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SkipAnalysisDoc {
    pub(super) reason: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AnalysisDoc {
    #[serde(default = "min_requests")]
    pub(super) min_requests: u64,
    #[serde(default = "alpha")]
    pub(super) alpha: Fraction,
    #[serde(default = "tolerance")]
    pub(super) tolerance: Percent,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deadline: Option<Span>,
    pub(super) slos: Vec<SloDoc>,
}

/// One flat form for every metric, as for stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SloDoc {
    pub(super) metric: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) min: Option<Percent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) quantile: Option<Fraction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<OutcomeSpec>,
}

const fn auto_rollback() -> bool {
    DEFAULT_AUTO_ROLLBACK
}

const fn pause() -> Span {
    DEFAULT_PAUSE
}

const fn min_requests() -> u64 {
    DEFAULT_MIN_REQUESTS
}

const fn alpha() -> Fraction {
    DEFAULT_ALPHA
}

const fn tolerance() -> Percent {
    DEFAULT_TOLERANCE
}
