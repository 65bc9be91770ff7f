//! The section `regions` of `knhk.yaml`.

use std::ops::RangeInclusive;
use std::time::Duration;

use knhk_receipts::LogOptions;
use serde::Deserialize;
use thiserror::Error;

use crate::wire::KeyId;

/// The most peers of a region.
pub const MAX_PEERS: usize = 15;

/// The longest address of a peer, in bytes.
const MAX_URL_BYTES: usize = 512;

/// Bounds of `regions.start_wait`.
pub const START_WAIT_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// `regions.start_wait`, unless set.
const DEFAULT_START_WAIT: Duration = Duration::from_secs(30);

/// Bounds of `regions.bytes_per_second`: from what carries one large entry within minutes, to 10 Gbit/s.
pub const BYTES_PER_SECOND_RANGE: RangeInclusive<u64> = 65_536..=1_250_000_000;

/// `regions.bytes_per_second`, unless set: half a Gbit/s to each peer.
const DEFAULT_BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;

/// Why a section is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {reason}")]
pub struct ConfigError {
    /// The field, such as `regions.peers[0].log_key`.
    pub field: String,
    /// What is wrong, and what to write.
    pub reason: String,
}

/// The section, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionsConfig {
    /// How many regions, this one included, have to hold a receipt before it counts as committed.
    pub quorum: usize,
    /// The other regions.
    pub peers: Vec<PeerConfig>,
    /// How long a start waits for a first answer when the region has its own log.
    pub start_wait: Duration,
    /// Bytes that each peer is sent in a second, at most.
    pub bytes_per_second: u64,
}

/// Another region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its name, and that of its log.
    pub region: String,
    /// Where it is reached: `http://` or `https://`, host and port, without a final slash.
    pub url: String,
    /// The key of its log that is trusted from the beginning.
    pub log_key: KeyId,
}

/// The section as it is written. Unknown keys are refused while it is read.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionsSection {
    quorum: usize,
    #[serde(default)]
    peers: Vec<PeerSection>,
    start_wait: Option<String>,
    bytes_per_second: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerSection {
    region: String,
    url: String,
    log_key: String,
}

impl RegionsSection {
    /// Validates the section of the region of this name.
    pub fn validate(self, region: &str) -> Result<RegionsConfig, ConfigError> {
        let most = MAX_PEERS;
        if self.peers.is_empty() || self.peers.len() > most {
            let reason = format!(
                "has {} entries; name 1 to {most} other regions, or leave `regions` out",
                self.peers.len()
            );
            return Err(at("regions.peers", reason));
        }
        let mut peers: Vec<PeerConfig> = Vec::with_capacity(self.peers.len());
        for (index, peer) in self.peers.iter().enumerate() {
            let field = format!("regions.peers[{index}]");
            let peer = peer.validate(&field)?;
            if peer.region == region {
                let reason = format!("`{region}` is this region itself; name the others only");
                return Err(at(format!("{field}.region"), reason));
            }
            if let Some(other) = peers
                .iter()
                .find(|it| it.region == peer.region || it.url == peer.url)
            {
                let reason = format!(
                    "`{}` is given twice",
                    if other.region == peer.region {
                        &peer.region
                    } else {
                        &peer.url
                    }
                );
                return Err(at(field, reason));
            }
            peers.push(peer);
        }
        let regions = peers.len() + 1;
        if !(1..=regions).contains(&self.quorum) {
            let reason = format!(
                "`{}` is out of range; there are {regions} regions with this one: write {} for a majority",
                self.quorum,
                regions / 2 + 1
            );
            return Err(at("regions.quorum", reason));
        }
        let bytes_per_second = self.bytes_per_second.unwrap_or(DEFAULT_BYTES_PER_SECOND);
        if !BYTES_PER_SECOND_RANGE.contains(&bytes_per_second) {
            let (least, most) = BYTES_PER_SECOND_RANGE.into_inner();
            let reason = format!("`{bytes_per_second}` is out of range; write {least} to {most}");
            return Err(at("regions.bytes_per_second", reason));
        }
        Ok(RegionsConfig {
            quorum: self.quorum,
            peers,
            start_wait: start_wait(self.start_wait.as_deref())?,
            bytes_per_second,
        })
    }
}

impl PeerSection {
    fn validate(&self, field: &str) -> Result<PeerConfig, ConfigError> {
        if LogOptions::new(&self.region).check().is_err() {
            let reason = format!(
                "`{}` is not a region; use 1 to 63 of a-z, 0-9, `-` and `.`",
                shown(&self.region)
            );
            return Err(at(format!("{field}.region"), reason));
        }
        Ok(PeerConfig {
            region: self.region.clone(),
            url: url(&self.url).map_err(|reason| at(format!("{field}.url"), reason))?,
            log_key: key_id(&self.log_key).ok_or_else(|| {
                let reason = format!(
                    "`{}` is not a key's ID; write sha256: and 64 hex digits, as `knhk key list` shows them in that region",
                    shown(&self.log_key)
                );
                at(format!("{field}.log_key"), reason)
            })?,
        })
    }
}

fn url(text: &str) -> Result<String, String> {
    let example = "write for example https://knhk.eu-west-1.example:9192";
    let text = text.trim_end_matches('/');
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let is_plain = |host: &str| !host.is_empty() && !host.contains(['/', '?', '#', '@', '\\', ' ']);
    let parsed = reqwest::Url::parse(text);
    if text.len() > MAX_URL_BYTES || !host.is_some_and(is_plain) || parsed.is_err() {
        return Err(format!(
            "`{}` is not the address of a region's service; {example}",
            shown(text)
        ));
    }
    Ok(text.to_owned())
}

fn key_id(text: &str) -> Option<KeyId> {
    let digits = text.strip_prefix("sha256:")?;
    let is_lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digits.len() != 64 || !digits.bytes().all(is_lower_hex) {
        return None;
    }
    let mut id = [0; 32];
    for (byte, at) in id.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some(id)
}

fn start_wait(text: Option<&str>) -> Result<Duration, ConfigError> {
    let Some(text) = text else {
        return Ok(DEFAULT_START_WAIT);
    };
    match humantime::parse_duration(text) {
        Ok(wait) if START_WAIT_RANGE.contains(&wait) => Ok(wait),
        _ => {
            let reason = format!(
                "`{}` is not a duration from 1s to 1h; write for example 30s",
                shown(text)
            );
            Err(at("regions.start_wait", reason))
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_default).collect()
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

    fn parse(yaml: &str) -> Result<RegionsConfig, ConfigError> {
        let section: RegionsSection = serde_saphyr::from_str(yaml).expect("the shape of a section");
        section.validate("us-east-1")
    }

    fn peer(region: &str, url: &str) -> String {
        format!(
            "{{ region: {region}, url: '{url}', log_key: 'sha256:{}' }}",
            "0a".repeat(32)
        )
    }

    #[test]
    fn a_whole_section_is_read() {
        let (eu, ap) = (
            peer("eu-west-1", "https://eu.example:9192/"),
            peer("ap-south-1", "http://127.0.0.1:1"),
        );
        let config = parse(&format!(
            "quorum: 2\nstart_wait: 5s\nbytes_per_second: 1000000\npeers: [ {eu}, {ap} ]"
        ));
        let config = config.expect("valid");
        assert_eq!(
            (config.quorum, config.start_wait, config.bytes_per_second),
            (2, Duration::from_secs(5), 1_000_000)
        );
        assert_eq!(config.peers[0].url, "https://eu.example:9192");
        assert_eq!(
            (config.peers[1].region.as_str(), config.peers[1].log_key),
            ("ap-south-1", [10; 32])
        );
        let config = parse(&format!("quorum: 1\npeers: [ {eu} ]")).expect("valid");
        assert_eq!(
            (config.start_wait, config.bytes_per_second),
            (DEFAULT_START_WAIT, DEFAULT_BYTES_PER_SECOND)
        );
    }

    #[test]
    fn a_refusal_names_its_field() {
        let eu = peer("eu-west-1", "https://eu");
        let many: Vec<_> = (0..=MAX_PEERS)
            .map(|n| peer(&format!("r{n}"), &format!("https://r{n}")))
            .collect();
        for (field, yaml) in [
            ("regions.peers", "quorum: 1".to_owned()),
            (
                "regions.peers",
                format!("quorum: 1\npeers: [{}]", many.join(", ")),
            ),
            ("regions.quorum", format!("quorum: 0\npeers: [ {eu} ]")),
            ("regions.quorum", format!("quorum: 3\npeers: [ {eu} ]")),
            (
                "regions.start_wait",
                format!("quorum: 1\nstart_wait: soon\npeers: [ {eu} ]"),
            ),
            (
                "regions.start_wait",
                format!("quorum: 1\nstart_wait: 2h\npeers: [ {eu} ]"),
            ),
            (
                "regions.bytes_per_second",
                format!("quorum: 1\nbytes_per_second: 1\npeers: [ {eu} ]"),
            ),
            (
                "regions.peers[0].region",
                format!("quorum: 1\npeers: [ {} ]", peer("us-east-1", "https://a")),
            ),
            (
                "regions.peers[0].region",
                format!("quorum: 1\npeers: [ {} ]", peer("EU", "https://a")),
            ),
            ("regions.peers[1]", format!("quorum: 1\npeers: [ {eu}, {eu} ]")),
            (
                "regions.peers[1]",
                format!("quorum: 1\npeers: [ {eu}, {} ]", peer("ap", "https://eu/")),
            ),
            (
                "regions.peers[0].url",
                format!("quorum: 1\npeers: [ {} ]", peer("eu", "ftp://a")),
            ),
            (
                "regions.peers[0].url",
                format!("quorum: 1\npeers: [ {} ]", peer("eu", "https://a/path")),
            ),
            (
                "regions.peers[0].url",
                format!("quorum: 1\npeers: [ {} ]", peer("eu", "https://u@a")),
            ),
            (
                "regions.peers[0].url",
                format!("quorum: 1\npeers: [ {} ]", peer("eu", "https://")),
            ),
            (
                "regions.peers[0].log_key",
                "quorum: 1\npeers: [ { region: eu, url: 'http://a', log_key: 'sha256:0A' } ]".to_owned(),
            ),
        ] {
            let error = parse(&yaml).expect_err(&yaml);
            assert_eq!(error.field, field, "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        for (key, yaml) in [
            ("quorums", "quorum: 1\nquorums: 2"),
            ("key", "quorum: 1\npeers: [ { key: a } ]"),
        ] {
            let error = serde_saphyr::from_str::<RegionsSection>(yaml)
                .expect_err("refused")
                .to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
