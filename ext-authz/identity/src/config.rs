//! The section `spiffe` of `knhk.yaml`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use spiffe::TrustDomain;
use thiserror::Error;

use crate::pattern::{HostPattern, IdPattern, PatternError};
use crate::roles::{FilterRule, Role, Roles};

/// The environment variable that names the Workload API where the configuration does not (SPIFFE Workload Endpoint,
/// section 4).
pub const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// Bounds of `spiffe.refresh_interval`.
pub const REFRESH_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(5)..=Duration::from_secs(24 * 60 * 60);
/// Most patterns of one role, and most `filters`.
pub const MAX_PATTERNS: usize = 1024;
/// Most hosts of one entry of `filters`.
pub const MAX_HOSTS: usize = 256;
/// A Unix socket's path has at most so many bytes (`sun_path`, without its final zero).
const MAX_SOCKET_BYTES: usize = 107;

/// Why a section is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {reason}")]
pub struct ConfigError {
    /// The field, such as `spiffe.allow.filters[0].hosts[1]`.
    pub field: String,
    /// What is wrong, and what to write.
    pub reason: String,
}

/// The section, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpiffeConfig {
    /// The Workload API.
    pub workload_api: WorkloadApi,
    /// The trust domain that our own SVID must be of. None: the first one decides.
    pub trust_domain: Option<TrustDomain>,
    /// When a stream is opened anew although nothing is wrong with the one there is.
    pub refresh: Refresh,
    /// Who may do what.
    pub roles: Roles,
}

/// When a stream is opened anew although nothing is wrong with the one there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// When two thirds of the SVID's life have passed without a new one.
    Auto,
    /// So long after each.
    Every(Duration),
}

/// Where the Workload API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadApi(PathBuf);

impl WorkloadApi {
    /// Reads `unix:///run/spire/agent.sock`, or `unix:/run/spire/agent.sock`. The other form of the standard, `tcp:`, is
    /// refused: it sends private keys in the clear.
    pub fn parse(text: &str) -> Result<Self, String> {
        let example = "write for example unix:///run/spire/agent.sock";
        let shown = text
            .chars()
            .take(120)
            .flat_map(char::escape_default)
            .collect::<String>();
        if text.starts_with("tcp:") {
            return Err(format!(
                "`{shown}` is TCP, which carries private keys in the clear; {example}"
            ));
        }
        let path = text
            .strip_prefix("unix://")
            .or_else(|| text.strip_prefix("unix:"))
            .filter(|path| path.len() > 1 && path.starts_with('/'));
        let Some(path) = path else {
            return Err(format!(
                "`{shown}` is not the address of a Unix socket; {example}"
            ));
        };
        if path.contains(['?', '#', '%', '\0']) {
            return Err(format!(
                "`{shown}` has a character that no address may have; {example}"
            ));
        }
        if path.len() > MAX_SOCKET_BYTES {
            return Err(format!(
                "`{shown}` is too long; a socket's path has at most {MAX_SOCKET_BYTES} bytes"
            ));
        }
        Ok(Self(PathBuf::from(path)))
    }

    /// The socket.
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

/// The section as it is written. Unknown keys are refused while it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpiffeSection {
    /// `unix:///run/spire/agent.sock`; else the environment says where.
    workload_api: Option<String>,
    trust_domain: Option<String>,
    /// `auto`, or a duration.
    refresh_interval: Option<String>,
    #[serde(default)]
    allow: AllowSection,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AllowSection {
    filters: Vec<FilterSection>,
    peers: Vec<String>,
    deployers: Vec<String>,
    key_admins: Vec<String>,
    custodians: Vec<String>,
    auditors: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilterSection {
    id: String,
    hosts: Vec<String>,
}

impl SpiffeSection {
    /// Validates the section. `endpoint` is the value of [`ENDPOINT_VARIABLE`], where that is set.
    pub fn validate(self, endpoint: Option<&str>) -> Result<SpiffeConfig, ConfigError> {
        let workload_api = match (&self.workload_api, endpoint) {
            (Some(text), _) => {
                WorkloadApi::parse(text).map_err(|reason| at("spiffe.workload_api", reason))?
            }
            (None, Some(text)) => WorkloadApi::parse(text).map_err(|reason| at(ENDPOINT_VARIABLE, reason))?,
            (None, None) => {
                let reason = format!(
                    "is missing, and {ENDPOINT_VARIABLE} is not set; write for example workload_api: unix:///run/spire/agent.sock"
                );
                return Err(at("spiffe.workload_api", reason));
            }
        };
        let trust_domain = match &self.trust_domain {
            Some(name) => Some(trust_domain(name)?),
            None => None,
        };
        Ok(SpiffeConfig {
            workload_api,
            trust_domain,
            refresh: refresh(self.refresh_interval.as_deref())?,
            roles: self.allow.validate()?,
        })
    }
}

/// A name, not an ID: `TrustDomain::new` would take both.
fn trust_domain(name: &str) -> Result<TrustDomain, ConfigError> {
    match TrustDomain::new(name) {
        Ok(domain) if !name.contains('/') => Ok(domain),
        _ => {
            let shown = name
                .chars()
                .take(100)
                .flat_map(char::escape_default)
                .collect::<String>();
            let reason =
                format!("`{shown}` is not the name of a trust domain; write for example example.org");
            Err(at("spiffe.trust_domain", reason))
        }
    }
}

fn refresh(text: Option<&str>) -> Result<Refresh, ConfigError> {
    let Some(text) = text.filter(|text| *text != "auto") else {
        return Ok(Refresh::Auto);
    };
    match humantime::parse_duration(text) {
        Ok(every) if REFRESH_RANGE.contains(&every) => Ok(Refresh::Every(every)),
        _ => {
            let shown = text
                .chars()
                .take(40)
                .flat_map(char::escape_default)
                .collect::<String>();
            let reason =
                format!("`{shown}` is neither auto nor a duration from 5s to 24h; write for example 10m");
            Err(at("spiffe.refresh_interval", reason))
        }
    }
}

impl AllowSection {
    fn validate(self) -> Result<Roles, ConfigError> {
        let field = "spiffe.allow.filters";
        bounded(field, self.filters.len(), MAX_PATTERNS)?;
        let mut filters: Vec<FilterRule> = Vec::with_capacity(self.filters.len());
        for (index, filter) in self.filters.iter().enumerate() {
            let field = format!("{field}[{index}]");
            let rule = filter.validate(&field)?;
            if filters.iter().any(|other| other.id == rule.id) {
                let reason = format!("`{}` is given twice; put its hosts into one entry", rule.id);
                return Err(at(format!("{field}.id"), reason));
            }
            filters.push(rule);
        }
        let lists = [
            (Role::Peer, &self.peers),
            (Role::Deployer, &self.deployers),
            (Role::KeyAdmin, &self.key_admins),
            (Role::Custodian, &self.custodians),
            (Role::Auditor, &self.auditors),
        ];
        let mut others = Vec::new();
        for (role, texts) in lists {
            let field = format!("spiffe.allow.{role}");
            bounded(&field, texts.len(), MAX_PATTERNS)?;
            for (index, text) in texts.iter().enumerate() {
                let field = format!("{field}[{index}]");
                let pattern: IdPattern = text
                    .parse()
                    .map_err(|error: PatternError| at(&field, error.to_string()))?;
                if others.contains(&(role, pattern.clone())) {
                    return Err(at(field, format!("`{pattern}` is given twice")));
                }
                others.push((role, pattern));
            }
        }
        Ok(Roles::new(filters, others))
    }
}

impl FilterSection {
    fn validate(&self, field: &str) -> Result<FilterRule, ConfigError> {
        let id = self
            .id
            .parse()
            .map_err(|error: PatternError| at(format!("{field}.id"), error.to_string()))?;
        let list = format!("{field}.hosts");
        bounded(&list, self.hosts.len(), MAX_HOSTS)?;
        if self.hosts.is_empty() {
            return Err(at(
                list,
                "is empty; name the hosts that these proxies serve, or \"*\"",
            ));
        }
        let mut hosts: Vec<HostPattern> = Vec::with_capacity(self.hosts.len());
        for (index, text) in self.hosts.iter().enumerate() {
            hosts.push(
                text.parse()
                    .map_err(|error: PatternError| at(format!("{list}[{index}]"), error.to_string()))?,
            );
        }
        Ok(FilterRule { id, hosts })
    }
}

fn bounded(field: &str, count: usize, most: usize) -> Result<(), ConfigError> {
    if count <= most {
        return Ok(());
    }
    Err(at(
        field,
        format!("has {count} entries; at most {most}: use a pattern such as spiffe://example.org/ns/prod/*"),
    ))
}

fn at(field: impl Into<String>, reason: impl Into<String>) -> ConfigError {
    ConfigError {
        field: field.into(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spiffe::SpiffeId;

    fn parse(yaml: &str) -> Result<SpiffeConfig, ConfigError> {
        let section: SpiffeSection = serde_saphyr::from_str(yaml).expect("the shape of a section");
        section.validate(None)
    }

    const WHOLE: &str = "
workload_api: unix:///run/spire/agent.sock
refresh_interval: 30s
trust_domain: example.org
allow:
  filters: [ { id: 'spiffe://example.org/ns/shop/*', hosts: [shop.example, '*.shop.example'] } ]
  peers: [ 'spiffe://example.org/knhk/eu' ]
  deployers: [ 'spiffe://example.org/ci/*' ]
  key_admins: []
  auditors: [ 'spiffe://audit.example/*' ]
";

    #[test]
    fn a_whole_section_is_read() {
        let config = parse(WHOLE).expect("valid");
        assert_eq!(
            config.workload_api.path(),
            std::path::Path::new("/run/spire/agent.sock")
        );
        assert_eq!(config.refresh, Refresh::Every(Duration::from_secs(30)));
        let has = |id: &str, role| config.roles.has(&SpiffeId::new(id).expect("an ID"), role);
        assert!(has("spiffe://example.org/ns/shop/web", Role::Filter));
        assert!(has("spiffe://example.org/knhk/eu", Role::Peer));
        assert!(has("spiffe://example.org/ci/main", Role::Deployer));
        assert!(has("spiffe://audit.example/x", Role::Auditor));
        assert!(!has("spiffe://example.org/ci/main", Role::KeyAdmin));
    }

    #[test]
    fn the_environment_names_the_socket_where_the_file_does_not() {
        let section = || SpiffeSection::default();
        let config = section().validate(Some("unix:/tmp/a.sock")).expect("valid");
        assert_eq!(config.workload_api.path(), std::path::Path::new("/tmp/a.sock"));
        assert_eq!((config.refresh, config.roles), (Refresh::Auto, Roles::default()));
        assert_eq!(
            section()
                .validate(Some("tcp://10.0.0.1:1"))
                .expect_err("refused")
                .field,
            ENDPOINT_VARIABLE
        );
        assert_eq!(
            section().validate(None).expect_err("refused").field,
            "spiffe.workload_api"
        );
    }

    #[test]
    fn a_refusal_names_its_field() {
        let many = format!("{{ peers: [{}] }}", vec!["a"; MAX_PATTERNS + 1].join(", "));
        for (field, section) in [
            ("spiffe.workload_api", "workload_api: /run/agent.sock"),
            ("spiffe.workload_api", "workload_api: unix://"),
            ("spiffe.workload_api", "workload_api: unix:run/a"),
            ("spiffe.workload_api", "workload_api: tcp://127.0.0.1:1"),
            ("spiffe.trust_domain", "trust_domain: spiffe://example.org"),
            ("spiffe.trust_domain", "trust_domain: ''"),
            ("spiffe.refresh_interval", "refresh_interval: 1s"),
            ("spiffe.refresh_interval", "refresh_interval: soon"),
            (
                "spiffe.allow.peers[1]",
                "allow: { peers: ['spiffe://a/b', 'spiffe://a'] }",
            ),
            (
                "spiffe.allow.deployers[1]",
                "allow: { deployers: ['spiffe://a/b', 'spiffe://A/b'] }",
            ),
            (
                "spiffe.allow.filters[0].id",
                "allow: { filters: [ { id: x, hosts: [a] } ] }",
            ),
            (
                "spiffe.allow.filters[0].hosts",
                "allow: { filters: [ { id: 'spiffe://a/b', hosts: [] } ] }",
            ),
            (
                "spiffe.allow.filters[0].hosts[1]",
                "allow: { filters: [ { id: 'spiffe://a/b', hosts: [a, 'b:1'] } ] }",
            ),
            (
                "spiffe.allow.filters[1].id",
                "allow: { filters: [ { id: 'spiffe://a/b', hosts: [a] }, { id: 'spiffe://a/b', hosts: [b] } ] }",
            ),
            ("spiffe.allow.peers", &format!("allow: {many}")),
        ] {
            let base = if section.starts_with("workload_api") {
                ""
            } else {
                "workload_api: unix:///a\n"
            };
            let error = parse(&format!("{base}{section}")).expect_err(section);
            assert_eq!(error.field, field, "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        for (key, yaml) in [
            ("socket", "socket: x"),
            ("admins", "allow: { admins: [] }"),
            ("host", "allow: { filters: [ { id: a, hosts: [], host: b } ] }"),
        ] {
            let error = serde_saphyr::from_str::<SpiffeSection>(yaml)
                .expect_err("refused")
                .to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
