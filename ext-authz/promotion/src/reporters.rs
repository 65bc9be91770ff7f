//! Who reported, and how much of it counts.
//!
//! A report is the word of a proxy, and the application beside a proxy may share its identity. So what is judged is not
//! the plain sum: whoever provably differs from all the others is set aside ([`outlier`]), nobody counts for more than a
//! third ([`cap`]), and nothing is done that rests on one identity alone (`trials.rs`). `docs/analysis.md` says it in
//! plain words, with its limits.
//!
//! All of it begins at three identities. With fewer, and without identities, counts are the plain sum.

mod cap;
mod outlier;
mod provenance;

pub use self::cap::REPORTING_SHARE;
pub use self::outlier::{OUTLIER_LEVEL, SetAside};
pub use self::provenance::{Contribution, MAX_NAMED, Part, Provenance};

use self::cap::Cap;
use crate::counts::{Counts, WindowCounts};
use crate::spec::RolloutSpec;
use knhk_decision::Variant;
use std::sync::Arc;

/// As many identities have to report for one of them to be limited.
pub const ENOUGH_IDENTITIES: usize = 3;

/// For so long after a window began, identities that reported in the one before it are awaited, in milliseconds; and for
/// so long after a rollout or the service began, it is not known who will. A filter that has lost its stream is back
/// within this time.
pub const GATHERING_MS: u64 = 5_000;

/// The variants, in the order in which they are weighed.
pub(crate) const VARIANTS: [Variant; 3] = [Variant::Stable, Variant::Canary, Variant::Staging];

/// What all proxies of one identity counted in a window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reporter {
    /// The proven SPIFFE ID. All that comes without one is one reporter, of which nothing is proven.
    pub identity: Option<Arc<str>>,
    /// Requests that stable served. Nothing counted of any variant: it is known, and still awaited.
    pub stable: Counts,
    /// Requests that the canary served.
    pub canary: Counts,
    /// Requests that a staging stage led to the canary's version.
    pub staging: Counts,
}

/// Whether it is known who reports on a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Everybody had the time to report once.
    Known,
    /// The first seconds of a rollout, or of the service: more may follow.
    Gathering,
}

/// The counts that a rollout is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weighed {
    counts: WindowCounts,
    /// What the counts are the sum of, by identity; empty where nothing has to be agreed.
    parts: Vec<Reporter>,
    pub(crate) agreement: Agreement,
    provenance: Option<Provenance>,
    aside: Vec<Option<Arc<str>>>,
}

/// What has to hold without any one identity as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agreement {
    /// Nothing: too few identities are known.
    No,
    /// What stops a rollout or takes it back.
    ToAct,
    /// That, and what passes a step: some identities have had no time to speak.
    ToActAndPass,
}

/// Weighs what was reported on the present window of a rollout. The order of `reporters` does not matter; each identity
/// must be there at most once.
pub fn weigh(spec: &RolloutSpec, window: u64, audience: Audience, mut reporters: Vec<Reporter>) -> Weighed {
    reporters.sort_by(|one, other| one.identity.cmp(&other.identity));
    let agreement = agreement(audience, &reporters);
    let set_aside = outlier::find(spec, &reporters);
    let (aside, kept): (Vec<_>, Vec<_>) = reporters
        .into_iter()
        .partition(|reporter| set_aside.iter().any(|it| it.identity == reporter.identity));
    let names = aside.iter().map(|reporter| reporter.identity.clone()).collect();
    let caps = VARIANTS.map(|variant| Cap::of(kept.iter().map(|it| it.of(variant).requests)));
    let parts: Vec<_> = kept
        .iter()
        .map(|reporter| {
            let [stable, canary, staging] = &caps;
            Reporter {
                identity: reporter.identity.clone(),
                stable: stable.cut(&reporter.stable),
                canary: canary.cut(&reporter.canary),
                staging: staging.cut(&reporter.staging),
            }
        })
        .collect();
    let provenance = provenance::Sources {
        kept: &kept,
        parts: &parts,
        aside: &aside,
        set_aside,
        caps,
    }
    .provenance();
    Weighed {
        counts: sum(window, spec.thresholds().len(), parts.iter()),
        parts: if agreement == Agreement::No {
            Vec::new()
        } else {
            parts
        },
        agreement,
        provenance,
        aside: names,
    }
}

fn agreement(audience: Audience, reporters: &[Reporter]) -> Agreement {
    let proven = reporters.iter().any(|reporter| reporter.identity.is_some());
    let awaited = audience == Audience::Gathering || reporters.iter().any(Reporter::is_silent);
    match (audience, reporters.len()) {
        _ if !proven => Agreement::No,
        (Audience::Known, ..ENOUGH_IDENTITIES) => Agreement::No,
        _ if awaited => Agreement::ToActAndPass,
        _ => Agreement::ToAct,
    }
}

impl Reporter {
    pub(crate) fn of(&self, variant: Variant) -> &Counts {
        match variant {
            Variant::Stable => &self.stable,
            Variant::Canary => &self.canary,
            Variant::Staging => &self.staging,
        }
    }

    /// Whether it has reported no request of the window.
    fn is_silent(&self) -> bool {
        VARIANTS.iter().all(|variant| self.of(*variant).requests == 0)
    }
}

impl Weighed {
    /// The sum of what counts.
    pub fn counts(&self) -> &WindowCounts {
        &self.counts
    }

    /// Who reported; none where no identity was proven.
    pub fn provenance(&self) -> Option<&Provenance> {
        self.provenance.as_ref()
    }

    /// Whether what `identity` reports is set aside.
    pub(crate) fn is_aside(&self, identity: Option<&Arc<str>>) -> bool {
        self.aside.iter().any(|aside| aside.as_ref() == identity)
    }

    /// How many identities are set aside.
    pub fn set_aside(&self) -> usize {
        self.provenance.as_ref().map_or(0, Provenance::aside)
    }

    /// Each identity that counts, and what the counts are without it.
    pub(crate) fn without_each(&self) -> impl Iterator<Item = (Option<&Arc<str>>, WindowCounts)> {
        let thresholds = self.counts.canary.over.len();
        self.parts.iter().enumerate().map(move |(left_out, part)| {
            let others = self.parts.iter().enumerate();
            let others = others.filter(move |(index, _)| *index != left_out);
            let counts = sum(self.counts.window, thresholds, others.map(|(_, part)| part));
            (part.identity.as_ref(), counts)
        })
    }
}

/// Counts of nobody in particular: judged as they are.
impl From<WindowCounts> for Weighed {
    fn from(counts: WindowCounts) -> Self {
        Self {
            counts,
            parts: Vec::new(),
            agreement: Agreement::No,
            provenance: None,
            aside: Vec::new(),
        }
    }
}

fn sum<'a>(window: u64, thresholds: usize, parts: impl Iterator<Item = &'a Reporter>) -> WindowCounts {
    let nothing = Counts {
        over: vec![0; thresholds],
        ..Counts::default()
    };
    let mut counts = WindowCounts {
        window,
        stable: nothing.clone(),
        canary: nothing.clone(),
        staging: nothing,
    };
    for part in parts {
        counts.stable.add(&part.stable);
        counts.canary.add(&part.canary);
        counts.staging.add(&part.staging);
    }
    counts
}
