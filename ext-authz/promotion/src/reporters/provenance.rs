//! Who reported what, as it is shown in a status and kept in history and receipts.

use super::cap::Cap;
use super::{ENOUGH_IDENTITIES, Reporter, SetAside};
use knhk_decision::Variant;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

/// The most identities that are named, of those that count and of those that are set aside each. A SPIFFE ID has up to
/// 2,048 bytes, and a history holds hundreds of these.
pub const MAX_NAMED: usize = 8;

/// Who reported the evidence of a window, and how much of it counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provenance {
    /// Identities that are known to report on the rollout, those included that have not yet in this window.
    pub identities: usize,
    /// How many of them report on the canary, with enough requests to share a cap; the set aside are not among them.
    pub canary_reporting: usize,
    /// The same of stable.
    pub stable_reporting: usize,
    /// The same of staging; left out where there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub staging_reporting: usize,
    /// Those that count, most of the canary's requests first; at most [`MAX_NAMED`].
    pub counted: Vec<Contribution>,
    /// How many more count than are named.
    pub more: usize,
    /// Those that do not count, and why; at most [`MAX_NAMED`].
    pub set_aside: Vec<SetAside>,
    /// How many more do not count than are named.
    pub more_set_aside: usize,
}

/// What one identity adds to the evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Contribution {
    /// Who; none is all that came without an identity.
    pub identity: Option<Arc<str>>,
    /// Of the canary's requests.
    pub canary: Part,
    /// Of stable's.
    pub stable: Part,
    /// Of staging's; left out where there are none.
    #[serde(default, skip_serializing_if = "Part::is_nothing")]
    pub staging: Part,
}

/// Requests that an identity reported, and how many it counts for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Part {
    /// Reported.
    pub reported: u64,
    /// Counted: all of them, or what the cap leaves.
    pub counted: u64,
}

/// What a provenance is made of.
pub(super) struct Sources<'a> {
    pub(super) kept: &'a [Reporter],
    /// What counts of each of `kept`.
    pub(super) parts: &'a [Reporter],
    pub(super) aside: &'a [Reporter],
    pub(super) set_aside: Vec<SetAside>,
    /// Of stable, of the canary, of staging.
    pub(super) caps: [Cap; 3],
}

impl Sources<'_> {
    /// None where no identity was proven.
    pub(super) fn provenance(mut self) -> Option<Provenance> {
        let mut everybody = self.kept.iter().chain(self.aside);
        if !everybody.any(|reporter| reporter.identity.is_some()) {
            return None;
        }
        let mut counted: Vec<_> = self.kept.iter().zip(self.parts).map(contribution).collect();
        counted.sort_by_key(|it| Reverse((it.version_reported(), it.stable.reported)));
        let [stable, canary, staging] = self.caps;
        let (more, more_set_aside) = (beyond(&counted), beyond(&self.set_aside));
        counted.truncate(MAX_NAMED);
        self.set_aside.truncate(MAX_NAMED);
        Some(Provenance {
            identities: self.kept.len().saturating_add(self.aside.len()),
            canary_reporting: canary.reporting,
            stable_reporting: stable.reporting,
            staging_reporting: staging.reporting,
            counted,
            more,
            set_aside: self.set_aside,
            more_set_aside,
        })
    }
}

fn contribution((kept, part): (&Reporter, &Reporter)) -> Contribution {
    let part = |variant| Part {
        reported: kept.of(variant).requests,
        counted: part.of(variant).requests,
    };
    Contribution {
        identity: kept.identity.clone(),
        canary: part(Variant::Canary),
        stable: part(Variant::Stable),
        staging: part(Variant::Staging),
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Contribution {
    /// Requests of the version, whichever way they came.
    fn version_reported(&self) -> u64 {
        self.canary.reported.saturating_add(self.staging.reported)
    }
}

impl Part {
    fn is_nothing(&self) -> bool {
        self.reported == 0
    }
}

fn beyond<T>(named: &[T]) -> usize {
    named.len().saturating_sub(MAX_NAMED)
}

impl Provenance {
    /// How many identities are set aside.
    pub fn aside(&self) -> usize {
        self.set_aside.len().saturating_add(self.more_set_aside)
    }
}

/// An identity as people read it.
pub(crate) fn named(identity: Option<&Arc<str>>) -> &str {
    identity.map_or("without identity", |identity| identity)
}

/// In short: how many reported, whether there is a cap, and how many are set aside.
impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.identities {
            1 => write!(f, "1 identity reports, ")?,
            many => write!(f, "{many} identities report, ")?,
        }
        let (reporting, variant) = if self.staging_reporting > 0 {
            (self.staging_reporting, "staging")
        } else {
            (self.canary_reporting, "the canary")
        };
        if reporting >= ENOUGH_IDENTITIES {
            write!(f, "none counts for more than a third of {variant}'s requests")?;
        } else {
            write!(
                f,
                "no cap: {reporting} reporting on {variant}, {ENOUGH_IDENTITIES} are needed"
            )?;
        }
        match self.aside() {
            0 => Ok(()),
            aside => write!(f, ", {aside} set aside"),
        }
    }
}

impl fmt::Display for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, whose {} has {} for {}, the others' {}",
            named(self.identity.as_ref()),
            self.variant.as_str(),
            self.own,
            self.slo,
            self.others
        )
    }
}

/// `spiffe://example.org/web: canary 300 of 1200 requests counted, stable 24000`.
impl fmt::Display for Contribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = named(self.identity.as_ref());
        write!(f, "{identity}: canary {}, stable {}", self.canary, self.stable)?;
        if self.staging.is_nothing() {
            return Ok(());
        }
        write!(f, ", staging {}", self.staging)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.counted == self.reported {
            write!(f, "{} requests", self.reported)
        } else {
            write!(f, "{} of {} requests counted", self.counted, self.reported)
        }
    }
}
