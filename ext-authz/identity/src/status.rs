//! The identity as people and probes see it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::identity::{is_low, why_none};
use crate::view::View;

/// The identity as people and probes see it. Times are RFC 3339, in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The SVID that is held; it may have ended.
    pub svid: Option<SvidStatus>,
    /// The trust domains whose workloads can be told, sorted.
    pub trust_domains: Vec<String>,
    /// How often an SVID or its trust took the place of another one.
    pub rotations: u64,
    /// The Workload API.
    pub source: SourceStatus,
    /// Refused updates by reason.
    pub refused_updates: BTreeMap<String, u64>,
    /// Why the newest update was not used. None after a good one.
    pub last_refusal: Option<String>,
    /// Whether traffic can be served.
    pub readiness: Readiness,
}

/// An SVID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SvidStatus {
    /// Whose it is.
    pub spiffe_id: String,
    /// Its number, in hexadecimal digits.
    pub serial: String,
    /// The first moment it is valid.
    pub not_before: String,
    /// The last moment it is valid.
    pub not_after: String,
    /// When it was received: the last rotation.
    pub received: String,
    /// Seconds until it ends; 0 once it has.
    pub left_seconds: u64,
}

/// The Workload API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Where it is.
    pub endpoint: String,
    /// Whether a stream is open that gave something.
    pub connected: bool,
    /// Streams that were opened, or tried to be, since the start.
    pub attempts: u64,
    /// Failures since the last good update.
    pub failures: u32,
    /// The newest failure. None once something was received again.
    pub last_error: Option<String>,
}

/// Whether traffic can be served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "detail")]
pub enum Readiness {
    /// A valid SVID is held.
    Ready,
    /// A valid SVID is held, and less than a fifth of its life is left: it should have been rotated.
    Warns(String),
    /// No valid SVID is held.
    Fails(String),
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Warns(detail) => write!(f, "warning: {detail}"),
            Self::Fails(detail) => f.write_str(detail),
        }
    }
}

impl Status {
    pub(crate) fn of(view: &View, endpoint: &str, unix: Duration) -> Self {
        let held = view.snapshot.as_ref();
        let mut trust_domains: Vec<String> = held
            .iter()
            .flat_map(|held| held.trust_domains())
            .map(ToString::to_string)
            .collect();
        trust_domains.sort_unstable();
        Self {
            svid: held.map(|held| SvidStatus {
                spiffe_id: held.id().to_string(),
                serial: held.serial().to_string(),
                not_before: rfc3339(held.validity().not_before),
                not_after: rfc3339(held.validity().not_after),
                received: rfc3339(held.received()),
                left_seconds: held.validity().left(unix).as_secs(),
            }),
            trust_domains,
            rotations: view.rotations,
            source: SourceStatus {
                endpoint: endpoint.to_owned(),
                connected: view.connected,
                attempts: view.attempts,
                failures: view.failures,
                last_error: view.last_error.as_ref().map(ToString::to_string),
            },
            refused_updates: view
                .refused
                .iter()
                .map(|(label, count)| ((*label).to_owned(), *count))
                .collect(),
            last_refusal: view.last_refusal.as_ref().map(ToString::to_string),
            readiness: readiness(view, unix),
        }
    }
}

fn readiness(view: &View, unix: Duration) -> Readiness {
    let Some(held) = view.valid(unix) else {
        return Readiness::Fails(format!("no valid SVID: {}", why_none(view)));
    };
    let validity = held.validity();
    let left = validity.left(unix);
    if !is_low(left, validity.life()) {
        return Readiness::Ready;
    }
    let cause = match (&view.last_error, &view.last_refusal) {
        (Some(error), _) => error.to_string(),
        (None, Some(refusal)) => refusal.to_string(),
        (None, None) => "the SPIRE agent pushed no new one; look at its log".to_owned(),
    };
    Readiness::Warns(format!("the SVID ends in {} s: {cause}", left.as_secs()))
}

/// Whole seconds. A certificate's time is within what can be written.
fn rfc3339(unix: Duration) -> String {
    let seconds = i64::try_from(unix.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| format!("{seconds} s"), |time| time.to_string())
}
