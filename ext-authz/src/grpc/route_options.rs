//! What a route asks of `ext_authz`, in Envoy's `context_extensions`.

use std::collections::HashMap;
use std::time::Duration;

use knhk_decision::spec::Weight;
use thiserror::Error;

/// `wait_timeout` unless the route says otherwise: below Envoy's default timeout of 200 ms, so that
/// `on_error` decides and not Envoy's `failure_mode_allow`.
pub(crate) const DEFAULT_WAIT: Duration = Duration::from_millis(150);
/// Bounds of `wait_timeout`.
const WAIT_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);

/// A route's options. Defaults: record all, wait for the local disk at most [`DEFAULT_WAIT`], fail closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouteOptions {
    pub(crate) record: RecordWhen,
    pub(crate) wait_timeout: Duration,
    pub(crate) on_error: OnError,
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

/// What happens to a request whose decision cannot be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnError {
    Open,
    Closed,
}

/// A route's option is not one; the operator's mistake, shown in the answer and in the log.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("context_extensions.{option}: {reason}")]
pub(crate) struct BadOption {
    option: String,
    reason: String,
}

impl Default for RouteOptions {
    fn default() -> Self {
        Self {
            record: RecordWhen::Always,
            wait_timeout: DEFAULT_WAIT,
            on_error: OnError::Closed,
        }
    }
}

impl RouteOptions {
    /// Reads every option; an unknown one is an error.
    pub(crate) fn parse(extensions: &HashMap<String, String>) -> Result<Self, BadOption> {
        let mut options = Self::default();
        for (option, value) in extensions {
            let parsed = match option.as_str() {
                "record" => parse_record(value).map(|record| options.record = record),
                "wait" => parse_wait(value),
                "wait_timeout" => parse_timeout(value).map(|timeout| options.wait_timeout = timeout),
                "on_error" => parse_on_error(value).map(|on_error| options.on_error = on_error),
                _ => Err("unknown option; known are record, wait, wait_timeout, on_error".to_owned()),
            };
            parsed.map_err(|reason| BadOption {
                option: option.clone(),
                reason,
            })?;
        }
        Ok(options)
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

fn parse_wait(value: &str) -> Result<(), String> {
    match value {
        "local" => Ok(()),
        "quorum" => Err("`quorum` is not supported by this version; use `local`".to_owned()),
        _ => Err(format!("`{value}` is not `local`")),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<RouteOptions, BadOption> {
        let extensions = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        RouteOptions::parse(&extensions.collect())
    }

    #[test]
    fn what_a_route_says_is_taken() {
        let options = parse(&[
            ("record", "sample:0.5"),
            ("wait", "local"),
            ("wait_timeout", "80ms"),
            ("on_error", "open"),
        ])
        .expect("valid");
        assert_eq!(
            options.record,
            RecordWhen::Sample(Weight::from_percent(0.5).expect("valid"))
        );
        assert_eq!(options.wait_timeout, Duration::from_millis(80));
        assert_eq!(options.on_error, OnError::Open);
        assert_eq!(parse(&[]).expect("valid"), RouteOptions::default());
    }

    #[test]
    fn what_is_not_an_option_is_refused_by_name() {
        for (option, value) in [
            ("record", "some"),
            ("record", "sample:101"),
            ("record", "sample:"),
            ("wait", "quorum"),
            ("wait", "remote"),
            ("wait_timeout", "1h"),
            ("wait_timeout", "soon"),
            ("on_error", "ignore"),
            ("onerror", "open"),
        ] {
            let message = parse(&[(option, value)]).expect_err("refused").to_string();
            assert!(
                message.starts_with(&format!("context_extensions.{option}: ")),
                "{message}"
            );
        }
    }
}
