//! `knhk.yaml`: parsed once, checked whole, unknown keys refused.

mod kms;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use knhk_identity::{ENDPOINT_VARIABLE, SpiffeConfig, SpiffeSection};
use knhk_regions::{RegionsConfig, RegionsSection};
use serde::Deserialize;
use thiserror::Error;

pub(crate) use kms::{KmsSettings, Provider};

/// Largest configuration file, in bytes.
pub(crate) const MAX_CONFIG_BYTES: u64 = 256 * 1024;
/// Longest region name, in bytes.
pub(crate) const MAX_REGION_BYTES: usize = 63;
/// Bounds of `receipts.flush`.
pub(crate) const FLUSH_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(20)..=Duration::from_secs(10);
/// Bounds of `receipts.flush_entries`. Each flush is two signatures, so it is not for every single entry.
pub(crate) const FLUSH_ENTRIES_RANGE: std::ops::RangeInclusive<u64> = 256..=16_777_216;
/// `receipts.flush_entries` unless the file says otherwise.
const DEFAULT_FLUSH_ENTRIES: u64 = 65_536;

/// The service's configuration, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Name of this region; part of every receipt's ID and of the log's origin.
    pub(crate) region: String,
    /// Where the service listens.
    pub(crate) listen: Listen,
    /// Directory of everything that must survive a restart.
    pub(crate) data: PathBuf,
    /// Operators' writes over loopback TCP, by anybody on the machine.
    pub(crate) insecure_dev: bool,
    /// Who holds the key that signs the log.
    pub(crate) kms: KmsSettings,
    /// Where the service's identity comes from, and who may do what. None: no TLS, and loopback only.
    pub(crate) spiffe: Option<SpiffeConfig>,
    /// The other regions. None: this one is alone.
    pub(crate) regions: Option<RegionsConfig>,
    /// How often new receipts are covered by a signed checkpoint.
    pub(crate) flush: Duration,
    /// So many new receipts are covered at once, without waiting for `flush`.
    pub(crate) flush_entries: u64,
}

/// Listening addresses. Port 0 takes a free one; `data/addresses.json` says which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    /// Gate, `ext_authz`, `ext_proc` and health. Loopback, unless `spiffe` is given.
    pub(crate) grpc: SocketAddr,
    /// The HTTP API. Loopback, unless `spiffe` is given.
    pub(crate) http: SocketAddr,
    /// `/healthz`, `/readyz` and `/metrics`, nothing else; may be any address.
    pub(crate) probe: SocketAddr,
}

/// Why a configuration is refused; one line for the operator.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    #[error("{path}: cannot be read: {source}; give the path of a configuration")]
    Unreadable { path: String, source: std::io::Error },
    #[error("{path}: too large; a configuration has at most {MAX_CONFIG_BYTES} bytes")]
    TooLarge { path: String },
    #[error("{path}: {reason}")]
    Syntax { path: String, reason: String },
    #[error("{path}: {field}: {reason}")]
    Field {
        path: String,
        field: Cow<'static, str>,
        reason: String,
    },
}

impl Config {
    /// Reads and validates a file. Nothing of a refused file is used.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let unreadable = |source| ConfigError::Unreadable {
            path: shown.clone(),
            source,
        };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut text = String::new();
        file.take(MAX_CONFIG_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        if text.len() as u64 > MAX_CONFIG_BYTES {
            return Err(ConfigError::TooLarge { path: shown });
        }
        let environment = Environment {
            workload_api: std::env::var(ENDPOINT_VARIABLE).ok(),
        };
        Self::parse_in(&text, &environment).map_err(|error| error.located(&shown))
    }

    /// Parses and validates a configuration's text.
    pub(crate) fn parse_in(text: &str, environment: &Environment) -> Result<Self, Refusal> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| Refusal::syntax(&error))?;
        file.refuse_what_is_not_supported()?;
        file.validate(environment)
    }

    /// The same configuration for a region of another name.
    pub(crate) fn of_region(self, region: &str) -> Result<Self, ConfigError> {
        let refused = |reason| ConfigError::Field {
            path: "--new-log".to_owned(),
            field: "region".into(),
            reason,
        };
        let region = parse_region(region.to_owned()).map_err(|refusal| match refusal {
            Refusal::Syntax(reason) | Refusal::Field(_, reason) => refused(reason),
        })?;
        let peers = self.regions.iter().flat_map(|regions| &regions.peers);
        if peers.clone().any(|peer| peer.region == region) {
            return Err(refused(format!(
                "`{region}` is one of `regions.peers`; give a name of its own"
            )));
        }
        Ok(Self { region, ..self })
    }

    /// The same where the environment says nothing.
    #[cfg(test)]
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        Self::parse_in(text, &Environment::default())
    }
}

/// What the environment says, for what the file leaves open.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    /// [`ENDPOINT_VARIABLE`].
    workload_api: Option<String>,
}

/// A refusal before the file's name is known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Syntax(String),
    Field(Cow<'static, str>, String),
}

impl Refusal {
    fn field(field: impl Into<Cow<'static, str>>, reason: impl Into<String>) -> Self {
        Self::Field(field.into(), reason.into())
    }

    fn syntax(error: &serde_saphyr::Error) -> Self {
        Self::Syntax(first_line(&error.to_string()))
    }

    fn located(self, path: &str) -> ConfigError {
        let path = path.to_owned();
        match self {
            Self::Syntax(reason) => ConfigError::Syntax { path, reason },
            Self::Field(field, reason) => ConfigError::Field { path, field, reason },
        }
    }
}

/// A parser's message without the excerpt of the source below it, and without advice for programmers.
fn first_line(message: &str) -> String {
    let line = message
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .map_or("not valid YAML", |line| line.trim_start_matches("error: "));
    let advice = line.find(", set DuplicateKeyPolicy").unwrap_or(line.len());
    line[..advice].to_owned()
}

/// The file as written. Sections of later versions are known by name, so that their refusal can say so.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    region: String,
    #[serde(default)]
    listen: FileListen,
    #[serde(default = "default_data")]
    data: PathBuf,
    #[serde(default)]
    insecure_dev: bool,
    #[serde(default)]
    kms: BTreeMap<String, String>,
    #[serde(default)]
    receipts: FileReceipts,
    spiffe: Option<SpiffeSection>,
    regions: Option<RegionsSection>,
    retention: Option<serde_json::Value>,
    telemetry: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileListen {
    grpc: SocketAddr,
    http: SocketAddr,
    probe: SocketAddr,
}

impl Default for FileListen {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            grpc: loopback(9191),
            http: loopback(9192),
            probe: loopback(9193),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileReceipts {
    flush: String,
    flush_entries: u64,
}

impl Default for FileReceipts {
    fn default() -> Self {
        Self {
            flush: "250ms".to_owned(),
            flush_entries: DEFAULT_FLUSH_ENTRIES,
        }
    }
}

impl FileListen {
    /// Whoever has no identity to show stays on this machine. The probe shows nothing that is secret.
    fn are_loopback(&self) -> Result<(), Refusal> {
        for (field, address) in [("listen.grpc", self.grpc), ("listen.http", self.http)] {
            if !address.ip().is_loopback() {
                let reason = format!("{address} is not loopback; without `spiffe` use 127.0.0.1 or [::1]");
                return Err(Refusal::field(field, reason));
            }
        }
        Ok(())
    }

    /// Port 0 is another free one each time.
    fn are_distinct(&self) -> Result<(), Refusal> {
        let named = [
            ("listen.grpc", self.grpc),
            ("listen.http", self.http),
            ("listen.probe", self.probe),
        ];
        for (at, (field, address)) in named.iter().enumerate() {
            let taken = named[..at].iter().find(|(_, other)| other == address);
            if let Some((other, _)) = taken.filter(|_| address.port() != 0) {
                let reason = format!("{address} is the address of {other} too; give each its own port");
                return Err(Refusal::field(*field, reason));
            }
        }
        Ok(())
    }
}

fn default_data() -> PathBuf {
    PathBuf::from("./data")
}

impl File {
    fn refuse_what_is_not_supported(&self) -> Result<(), Refusal> {
        let absent = "is not supported by this version; remove it";
        for (field, given) in [
            ("retention", self.retention.is_some()),
            ("telemetry", self.telemetry.is_some()),
        ] {
            if given {
                return Err(Refusal::field(field, absent));
            }
        }
        Ok(())
    }

    fn validate(self, environment: &Environment) -> Result<Config, Refusal> {
        let region = parse_region(self.region)?;
        let flush = parse_flush(&self.receipts.flush)?;
        if self.data.as_os_str().is_empty() {
            let reason = "is empty; name a directory, for example ./data";
            return Err(Refusal::field("data", reason));
        }
        let kms = KmsSettings::parse(self.kms)?;
        let entries = self.receipts.flush_entries;
        if !FLUSH_ENTRIES_RANGE.contains(&entries) {
            let (least, most) = (FLUSH_ENTRIES_RANGE.start(), FLUSH_ENTRIES_RANGE.end());
            let reason = format!("{entries} is not from {least} to {most}");
            return Err(Refusal::field("receipts.flush_entries", reason));
        }
        let endpoint = environment.workload_api.as_deref();
        let spiffe = self
            .spiffe
            .map(|section| section.validate(endpoint))
            .transpose()
            .map_err(|error| Refusal::field(error.field, error.reason))?;
        if spiffe.is_none() {
            self.listen.are_loopback()?;
        }
        if spiffe.is_some() && self.insecure_dev {
            let reason =
                "is for services without `spiffe`; remove it: with `spiffe` operators show who they are";
            return Err(Refusal::field("insecure_dev", reason));
        }
        self.listen.are_distinct()?;
        let regions = self
            .regions
            .map(|section| section.validate(&region))
            .transpose()
            .map_err(|error| Refusal::field(error.field, error.reason))?;
        if let Some(regions) = &regions {
            peers_are_proven(regions, spiffe.is_some())?;
        }
        Ok(Config {
            region,
            listen: Listen {
                grpc: self.listen.grpc,
                http: self.listen.http,
                probe: self.listen.probe,
            },
            data: self.data,
            insecure_dev: self.insecure_dev,
            kms,
            spiffe,
            regions,
            flush,
            flush_entries: entries,
        })
    }
}

/// Other regions show who they are, or are on this machine.
fn peers_are_proven(regions: &RegionsConfig, over_tls: bool) -> Result<(), Refusal> {
    for (index, peer) in regions.peers.iter().enumerate() {
        let host = peer.url.strip_prefix("http://");
        let reason = match host {
            Some(_) if over_tls => "with `spiffe` peers show who they are: write https://",
            Some(host) if is_loopback(host) => continue,
            None if over_tls => continue,
            Some(_) | None => "without `spiffe` a peer is on this machine: write http://127.0.0.1:PORT",
        };
        let reason = format!("`{}`: {reason}", peer.url);
        return Err(Refusal::field(format!("regions.peers[{index}].url"), reason));
    }
    Ok(())
}

/// Of an authority without a user: `127.0.0.1:9192`, `[::1]:9192`.
fn is_loopback(authority: &str) -> bool {
    authority
        .parse::<SocketAddr>()
        .is_ok_and(|address| address.ip().is_loopback())
}

fn parse_region(region: String) -> Result<String, Refusal> {
    let shape = region
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && region
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_lowercase())
        && !region.ends_with('-');
    if shape && region.len() <= MAX_REGION_BYTES {
        return Ok(region);
    }
    let reason = format!(
        "`{region}` is not a region name; use 1 to {MAX_REGION_BYTES} of a-z, 0-9 and '-', a letter first, no '-' last"
    );
    Err(Refusal::field("region", reason))
}

fn parse_flush(text: &str) -> Result<Duration, Refusal> {
    match humantime::parse_duration(text) {
        Ok(flush) if FLUSH_RANGE.contains(&flush) => Ok(flush),
        _ => {
            let (least, most) = (FLUSH_RANGE.start(), FLUSH_RANGE.end());
            let reason =
                format!("`{text}` is not a duration from {least:?} to {most:?}; write for example 250ms");
            Err(Refusal::field("receipts.flush", reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Config::parse(text)
            .expect_err("refused")
            .located("knhk.yaml")
            .to_string()
    }

    #[test]
    fn every_key_but_the_region_has_a_default() {
        let config = Config::parse("region: us-east-1").expect("valid");
        assert_eq!(config.listen.grpc.to_string(), "127.0.0.1:9191");
        assert_eq!(config.listen.http.to_string(), "127.0.0.1:9192");
        assert_eq!(config.listen.probe.to_string(), "127.0.0.1:9193");
        assert_eq!(config.data, PathBuf::from("./data"));
        assert_eq!(config.flush, Duration::from_millis(250));
        assert_eq!(config.flush_entries, 65_536);
        assert_eq!(config.kms, KmsSettings::default());
        assert!(!config.insecure_dev);
    }

    #[test]
    fn a_refusal_is_one_line_that_names_field_and_remedy() {
        for (text, field) in [
            ("region: US", "region"),
            ("region: eu\nlisten: { grpc: 0.0.0.0:9191 }", "listen.grpc"),
            ("region: eu\nlisten: { http: '10.0.0.1:80' }", "listen.http"),
            ("region: eu\nreceipts: { flush: 1h }", "receipts.flush"),
            ("region: eu\ndata: ''", "data"),
            ("region: eu\nkms: { provider: aws }", "kms.key_id"),
            ("region: eu\nkms: { rotate_every: 30s }", "kms.rotate_every"),
            (
                "region: eu\nreceipts: { flush_entries: 1 }",
                "receipts.flush_entries",
            ),
            ("region: eu\nlisten: { http: '127.0.0.1:9191' }", "listen.http"),
            ("region: eu\nlisten: { probe: '127.0.0.1:9192' }", "listen.probe"),
            ("region: eu\nspiffe: {}", "spiffe.workload_api"),
            (
                "region: eu\nspiffe: { workload_api: /run/agent.sock }",
                "spiffe.workload_api",
            ),
            (
                "region: eu\nspiffe: { workload_api: 'unix:///x', allow: { peers: [x] } }",
                "spiffe.allow.peers[0]",
            ),
            (
                "region: eu\ninsecure_dev: true\nspiffe: { workload_api: 'unix:///x' }",
                "insecure_dev",
            ),
            ("region: eu\nspiffe: { allow: { filter: [] } }", "filter"),
            ("region: eu\nregions: { quorum: 2 }", "regions"),
            ("region: eu\nretention: []", "retention"),
            ("region: eu\ntelemetry: { otlp_endpoint: x }", "telemetry"),
            ("region: eu\nlistne: {}", "listne"),
            ("region: eu\nlisten: { grcp: 1 }", "grcp"),
            ("{}", "region"),
            ("region: eu\nregion: us", "duplicate mapping key: region"),
        ] {
            let message = refused(text);
            assert!(message.contains(field), "{text}: {message}");
            assert!(
                !message.contains('\n') && !message.contains("Policy"),
                "{message}"
            );
            assert!(message.starts_with("knhk.yaml: "), "{message}");
        }
    }

    #[test]
    fn the_probe_may_listen_beyond_loopback() {
        let config = Config::parse("region: eu\nlisten: { probe: 0.0.0.0:9193 }").expect("valid");
        assert!(config.listen.probe.ip().is_unspecified());
    }

    #[test]
    fn with_an_identity_the_service_may_listen_beyond_loopback() {
        let text = "region: eu\nlisten: { grpc: 0.0.0.0:9191, http: 0.0.0.0:9192 }\nspiffe: {}";
        let environment = Environment {
            workload_api: Some("unix:///run/agent.sock".to_owned()),
        };
        let config = Config::parse_in(text, &environment).expect("valid");
        assert!(config.spiffe.is_some());
        assert!(
            Config::parse(text).is_err(),
            "nothing says where the Workload API is"
        );
    }

    #[test]
    fn a_file_without_end_is_not_read_to_its_end() {
        let error = Config::load(Path::new("/dev/zero"))
            .expect_err("refused")
            .to_string();
        assert!(error.contains("262144"), "{error}");
    }
}
