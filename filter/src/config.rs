//! The plugin's configuration: a JSON document in Envoy's `configuration`.
//!
//! | field | default | meaning |
//! |---|---|---|
//! | `cluster` | `knhk` | Envoy's cluster that leads to the service |
//! | `failMode` | `open` | before any snapshot: `open` sends every request to stable, without headers of ours; `closed` answers 503 |
//! | `policy` | none | a policy document to decide by until the service has sent one; its decisions are neither reported nor recorded, since the service does not know it |
//! | `peer` | `certificate` | where the caller's SPIFFE ID is read, when a rule asks for it: `certificate` from the one that Envoy verified on this connection; `xfcc` from the last element of `x-forwarded-client-cert`, for proxies behind one that terminates mTLS. The latter is whatever Envoy lets through: its `forward_client_cert_details` must not pass on what clients send |
//! | `record` | `rollout` | `rollout` records the decisions that the rollouts' rules say; `none` records only denials, which end here, for chains where an `ext_authz` behind the filter records what goes on |

use knhk_decision::{Policy, PolicyError};
use serde::Deserialize;

/// The longest name of a cluster, in bytes.
pub const MAX_CLUSTER_BYTES: usize = 256;

/// A valid configuration.
#[derive(Debug)]
pub struct Config {
    /// Envoy's cluster of the service.
    pub cluster: String,
    /// What happens to requests before any snapshot.
    pub fail_mode: FailMode,
    /// What to decide by until the first snapshot.
    pub policy: Option<Policy>,
    /// Where the caller's SPIFFE ID is read.
    pub peer: PeerSource,
    /// Whose word it is whether a decision is recorded.
    pub record: Recording,
}

/// What happens to requests before any snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailMode {
    /// They go on, to stable.
    #[default]
    Open,
    /// They are answered with 503.
    Closed,
}

/// Where the caller's SPIFFE ID is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PeerSource {
    /// In the certificate that Envoy verified on this connection.
    #[default]
    Certificate,
    /// In the last element of `x-forwarded-client-cert`.
    Xfcc,
}

/// Whose word it is whether a decision is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Recording {
    /// The rollout's rule says.
    #[default]
    Rollout,
    /// What goes on is not recorded here; what is denied is, as the rule says: nobody behind the filter sees it.
    None,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The host did not hand it over.
    #[error("configuration: {0}")]
    Unreadable(#[from] crate::host::Refused),
    /// It is no JSON, or not this document.
    #[error(
        "configuration: {0}; the fields are cluster, failMode (open|closed), policy, peer (certificate|xfcc), record (rollout|none)"
    )]
    Malformed(#[from] serde_json::Error),
    /// The cluster's name is no name.
    #[error(
        "configuration: cluster: {0} bytes; give the name of an Envoy cluster, 1 to {MAX_CLUSTER_BYTES} bytes"
    )]
    Cluster(usize),
    /// The policy is not valid.
    #[error("configuration: {0}")]
    Policy(#[from] PolicyError),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Document {
    cluster: String,
    fail_mode: FailMode,
    policy: Option<serde_json::Value>,
    peer: PeerSource,
    record: Recording,
}

impl Default for Document {
    fn default() -> Self {
        Self {
            cluster: "knhk".to_owned(),
            fail_mode: FailMode::default(),
            policy: None,
            peer: PeerSource::default(),
            record: Recording::default(),
        }
    }
}

impl Config {
    /// Reads a configuration. No bytes are the default one.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let document: Document = if bytes.is_empty() {
            Document::default()
        } else {
            serde_json::from_slice(bytes)?
        };
        let length = document.cluster.len();
        if length == 0 || length > MAX_CLUSTER_BYTES {
            return Err(ConfigError::Cluster(length));
        }
        let policy = match document.policy {
            None => None,
            Some(value) => Some(Policy::parse(&serde_json::to_vec(&value)?)?),
        };
        Ok(Self {
            cluster: document.cluster,
            fail_mode: document.fail_mode,
            policy,
            peer: document.peer,
            record: document.record,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        Config::parse(json.as_bytes()).expect_err("refused").to_string()
    }

    #[test]
    fn everything_has_a_default() {
        for json in ["", "{}"] {
            let config = Config::parse(json.as_bytes()).expect("valid");
            assert_eq!(
                (
                    config.cluster.as_str(),
                    config.fail_mode,
                    config.peer,
                    config.record,
                    config.policy.is_none()
                ),
                (
                    "knhk",
                    FailMode::Open,
                    PeerSource::Certificate,
                    Recording::Rollout,
                    true
                )
            );
        }
    }

    #[test]
    fn everything_can_be_said() {
        let json = r#"{"cluster":"gate","failMode":"closed","peer":"xfcc","record":"none",
            "policy":{"apiVersion":"knhk.dev/v1","kind":"Policy","epoch":7,"n":3,"rollouts":[]}}"#;
        let config = Config::parse(json.as_bytes()).expect("valid");
        assert_eq!(
            (
                config.cluster.as_str(),
                config.fail_mode,
                config.peer,
                config.record
            ),
            ("gate", FailMode::Closed, PeerSource::Xfcc, Recording::None)
        );
        assert_eq!(config.policy.expect("a policy").id().to_string(), "7.3");
    }

    #[test]
    fn a_refusal_names_field_and_remedy_in_one_line() {
        let refusals = [
            (r#"{"failmode":"open"}"#, "unknown field `failmode`"),
            (r#"{"failMode":"ajar"}"#, "unknown variant `ajar`"),
            (r#"{"peer":"header"}"#, "unknown variant `header`"),
            (r#"{"cluster":""}"#, "cluster: 0 bytes"),
            (r#"{"cluster":7}"#, "invalid type"),
            (r"[", "EOF"),
            (
                r#"{"policy":{"apiVersion":"knhk.dev/v1","kind":"Policy","epoch":7,"n":3,"rollout":[]}}"#,
                "rollout",
            ),
        ];
        for (json, part) in refusals {
            let error = refused(json);
            assert!(
                error.contains(part) && error.starts_with("configuration: "),
                "{json}: {error}"
            );
            assert!(!error.contains('\n'), "{error}");
        }
        assert!(
            refused(&format!(
                r#"{{"cluster":"{}"}}"#,
                "x".repeat(MAX_CLUSTER_BYTES + 1)
            ))
            .contains("257 bytes")
        );
    }
}
