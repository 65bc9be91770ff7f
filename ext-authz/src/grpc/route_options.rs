//! What a route asks of the service: of `ext_authz` in Envoy's `context_extensions`, of `ext_proc` in the stream's
//! initial metadata.

use std::collections::HashMap;
use std::time::Duration;

use knhk_decision::spec::Weight;
use thiserror::Error;
use tonic::metadata::MetadataMap;

/// Where `ext_authz` has a route's options.
const CONTEXT_EXTENSIONS: &str = "context_extensions";
/// Where `ext_proc` has them: `ExtProcPerRoute.overrides.grpc_initial_metadata`.
const INITIAL_METADATA: &str = "grpc_initial_metadata";
/// Every option of a route.
const OPTIONS: [&str; 5] = ["record", "wait", "wait_timeout", "on_error", "peer"];

/// `wait_timeout` unless the route says otherwise: below Envoy's default timeout of 200 ms, so that
/// `on_error` decides and not Envoy's `failure_mode_allow`.
pub(crate) const DEFAULT_WAIT: Duration = Duration::from_millis(150);
/// Bounds of `wait_timeout`.
const WAIT_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);

/// A route's options. Defaults: record all, wait for the local disk at most [`DEFAULT_WAIT`], fail closed, take the caller
/// from the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouteOptions {
    pub(crate) record: RecordWhen,
    pub(crate) wait: Wait,
    pub(crate) wait_timeout: Duration,
    pub(crate) on_error: OnError,
    pub(crate) peer: PeerSource,
}

/// Which decisions of a route are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordWhen {
    Never,
    Denials,
    Always,
    /// Of this share of the requests, chosen by their `x-request-id`.
    Sample(Weight),
}

/// What a recorded decision waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The local disk.
    Local,
    /// A quorum of regions.
    Quorum,
}

/// Where the caller's SPIFFE ID is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerSource {
    /// In the certificate that Envoy verified on the connection, as Envoy tells.
    Certificate,
    /// In the last element of `x-forwarded-client-cert`.
    Xfcc,
}

/// What happens to a request whose decision cannot be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnError {
    Open,
    Closed,
}

/// A route's option is not one; the operator's mistake, shown in the answer and in the log.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{place}.{option}: {reason}")]
pub(crate) struct BadOption {
    place: &'static str,
    option: String,
    reason: String,
}

impl Default for RouteOptions {
    fn default() -> Self {
        Self {
            record: RecordWhen::Always,
            wait: Wait::Local,
            wait_timeout: DEFAULT_WAIT,
            on_error: OnError::Closed,
            peer: PeerSource::Certificate,
        }
    }
}

impl RouteOptions {
    /// Reads `ext_authz`'s options; an unknown one is an error.
    pub(crate) fn from_context_extensions(extensions: &HashMap<String, String>) -> Result<Self, BadOption> {
        let mut options = Self::default();
        for (option, value) in extensions {
            options
                .set(option, value)
                .map_err(|reason| BadOption::new(CONTEXT_EXTENSIONS, option, reason))?;
        }
        Ok(options)
    }

    /// Reads `ext_proc`'s options. Metadata of other names is not ours, so it is let be.
    pub(crate) fn from_metadata(metadata: &MetadataMap) -> Result<Self, BadOption> {
        let mut options = Self::default();
        for option in OPTIONS {
            let mut values = metadata.get_all(option).iter();
            let Some(value) = values.next() else { continue };
            let value = match (value.to_str(), values.next()) {
                (Ok(value), None) => Ok(value),
                (Ok(_), Some(_)) => Err("given more than once; give it once".to_owned()),
                (Err(_), _) => Err("not printable ASCII".to_owned()),
            };
            value
                .and_then(|value| options.set(option, value))
                .map_err(|reason| BadOption::new(INITIAL_METADATA, option, reason))?;
        }
        Ok(options)
    }

    fn set(&mut self, option: &str, value: &str) -> Result<(), String> {
        match option {
            "record" => self.record = parse_record(value)?,
            "wait" => self.wait = parse_wait(value)?,
            "wait_timeout" => self.wait_timeout = parse_timeout(value)?,
            "on_error" => self.on_error = parse_on_error(value)?,
            "peer" => self.peer = parse_peer(value)?,
            _ => return Err(format!("unknown option; known are {}", OPTIONS.join(", "))),
        }
        Ok(())
    }
}

impl BadOption {
    fn new(place: &'static str, option: &str, reason: String) -> Self {
        Self {
            place,
            option: option.to_owned(),
            reason,
        }
    }
}

fn parse_record(value: &str) -> Result<RecordWhen, String> {
    match value {
        "none" => Ok(RecordWhen::Never),
        "denials" => Ok(RecordWhen::Denials),
        "all" => Ok(RecordWhen::Always),
        _ => value
            .strip_prefix("sample:")
            .and_then(|percent| percent.parse().ok())
            .and_then(|percent: f64| Weight::from_percent(percent).ok())
            .map(RecordWhen::Sample)
            .ok_or_else(|| format!("`{value}` is none of none, denials, all, sample:PERCENT")),
    }
}

fn parse_wait(value: &str) -> Result<Wait, String> {
    match value {
        "local" => Ok(Wait::Local),
        "quorum" => Ok(Wait::Quorum),
        _ => Err(format!("`{value}` is neither `local` nor `quorum`")),
    }
}

fn parse_timeout(value: &str) -> Result<Duration, String> {
    humantime::parse_duration(value)
        .ok()
        .filter(|timeout| WAIT_RANGE.contains(timeout))
        .ok_or_else(|| {
            let (least, most) = (WAIT_RANGE.start(), WAIT_RANGE.end());
            format!("`{value}` is not a duration from {least:?} to {most:?}")
        })
}

fn parse_on_error(value: &str) -> Result<OnError, String> {
    match value {
        "open" => Ok(OnError::Open),
        "closed" => Ok(OnError::Closed),
        _ => Err(format!("`{value}` is neither `open` nor `closed`")),
    }
}

fn parse_peer(value: &str) -> Result<PeerSource, String> {
    match value {
        "certificate" => Ok(PeerSource::Certificate),
        "xfcc" => Ok(PeerSource::Xfcc),
        _ => Err(format!("`{value}` is neither `certificate` nor `xfcc`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extensions(pairs: &[(&str, &str)]) -> Result<RouteOptions, BadOption> {
        let extensions = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        RouteOptions::from_context_extensions(&extensions.collect())
    }

    fn metadata(pairs: &[(&str, &str)]) -> Result<RouteOptions, BadOption> {
        let mut metadata = MetadataMap::new();
        for (key, value) in pairs {
            let key: tonic::metadata::AsciiMetadataKey = key.parse().expect("a key");
            metadata.append(key, value.parse().expect("a value"));
        }
        RouteOptions::from_metadata(&metadata)
    }

    #[test]
    fn what_a_route_says_is_taken() {
        for parse in [extensions, metadata] {
            let options = parse(&[
                ("record", "sample:0.5"),
                ("wait", "quorum"),
                ("wait_timeout", "80ms"),
                ("on_error", "open"),
                ("peer", "xfcc"),
            ])
            .expect("valid");
            assert_eq!(
                options.record,
                RecordWhen::Sample(Weight::from_percent(0.5).expect("valid"))
            );
            assert_eq!(
                (options.wait, options.wait_timeout),
                (Wait::Quorum, Duration::from_millis(80))
            );
            assert_eq!(options.on_error, OnError::Open);
            assert_eq!(options.peer, PeerSource::Xfcc);
            assert_eq!(parse(&[]).expect("valid"), RouteOptions::default());
        }
    }

    #[test]
    fn what_is_not_a_value_is_refused_by_the_name_of_its_option() {
        for (option, value) in [
            ("record", "some"),
            ("record", "sample:101"),
            ("record", "sample:"),
            ("wait", "remote"),
            ("wait_timeout", "1h"),
            ("wait_timeout", "soon"),
            ("on_error", "ignore"),
            ("peer", "header"),
        ] {
            let message = extensions(&[(option, value)]).expect_err("refused").to_string();
            assert!(
                message.starts_with(&format!("context_extensions.{option}: ")),
                "{message}"
            );
            let message = metadata(&[(option, value)]).expect_err("refused").to_string();
            assert!(
                message.starts_with(&format!("grpc_initial_metadata.{option}: ")),
                "{message}"
            );
        }
    }

    #[test]
    fn what_is_not_an_option_is_refused_where_all_are_ours() {
        let message = extensions(&[("onerror", "open")])
            .expect_err("refused")
            .to_string();
        assert!(
            message.starts_with("context_extensions.onerror: unknown option"),
            "{message}"
        );
        let others = metadata(&[("onerror", "open"), ("x-team", "a"), ("grpc-timeout", "1S")]);
        assert_eq!(others.expect("not ours"), RouteOptions::default());
    }

    #[test]
    fn metadata_that_is_not_one_text_is_refused() {
        let twice = metadata(&[("record", "all"), ("record", "none")]).expect_err("refused");
        assert!(
            twice
                .to_string()
                .starts_with("grpc_initial_metadata.record: given more than once"),
            "{twice}"
        );
        let mut map = MetadataMap::new();
        map.insert(
            "on_error",
            tonic::metadata::AsciiMetadataValue::try_from(b"\xff".as_slice()).expect("a value"),
        );
        let refused = RouteOptions::from_metadata(&map).expect_err("refused");
        assert_eq!(
            refused.to_string(),
            "grpc_initial_metadata.on_error: not printable ASCII"
        );
    }
}
