//! Identities whose counts contradict everybody else's.
//!
//! An identity is set aside, with everything that it says, when its share of bad requests provably differs from that of
//! all the others together by more than the rollout's tolerance: for any SLO, of either variant, upwards or downwards.
//! The others are capped for this, so that one huge claim does not become what all are measured by. The most different
//! one goes first, and then it is looked again without it: those who seemed different only beside it seem so no longer.

use super::cap::{ceiling, scaled};
use super::{ENOUGH_IDENTITIES, Reporter, VARIANTS};
use crate::binomial::{upper_bound, upper_tail};
use crate::spec::{RolloutSpec, Slo};
use crate::tally::Tally;
use knhk_decision::Variant;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The chance, each, of two exact bounds (Clopper and Pearson) being wrong that together prove a difference.
///
/// Strict, because it is tried for every identity, SLO and variant at each look, four times a second.
pub const OUTLIER_LEVEL: f64 = 1e-6;

/// The most requests that a comparison uses of either side. A share of one percent is then known to a sixth of a point,
/// and more requests would only cost time.
const MAX_COMPARED: u64 = 100_000;

/// An identity that was set aside, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetAside {
    /// Who; none is all that came without an identity.
    pub identity: Option<Arc<str>>,
    /// The variant whose requests it sees differently.
    pub variant: Variant,
    /// The SLO as text.
    pub slo: String,
    /// What it reported.
    pub own: Tally,
    /// What all the others reported, none of them counted for more than a third of it.
    pub others: Tally,
}

/// Those that are to be set aside: fewer than half of all that reported, and of those that reported on the variant.
pub(super) fn find(spec: &RolloutSpec, reporters: &[Reporter]) -> Vec<SetAside> {
    let mut aside = Vec::new();
    let mut out = BTreeSet::new();
    let all = reporters.iter().filter(|reporter| !reporter.is_silent()).count();
    while (out.len() + 1) * 2 < all
        && let Some((index, set_aside)) = most_different(spec, reporters, &out)
    {
        out.insert(index);
        aside.push(set_aside);
    }
    aside
}

/// One identity against the others, for one SLO and variant.
struct Comparison {
    index: usize,
    variant: Variant,
    slo: Slo,
    own: Tally,
    others: Tally,
}

/// Of those that provably differ, the one that differs most.
fn most_different(
    spec: &RolloutSpec,
    reporters: &[Reporter],
    out: &BTreeSet<usize>,
) -> Option<(usize, SetAside)> {
    let tolerance = spec.analysis.tolerance.fraction();
    let mut suspects: Vec<_> = VARIANTS
        .into_iter()
        .flat_map(|variant| comparisons(spec, reporters, out, variant))
        .filter(|it| difference(it.own, it.others) > tolerance)
        .collect();
    // Proof costs more than a difference: only those that differ are tried, and the first that is proven ends it.
    suspects.sort_by(|one, other| {
        difference(other.own, other.others).total_cmp(&difference(one.own, one.others))
    });
    let proven = suspects
        .into_iter()
        .find(|it| exceeds(it.own, it.others, tolerance) || exceeds(it.others, it.own, tolerance))?;
    let set_aside = SetAside {
        identity: reporters.get(proven.index)?.identity.clone(),
        variant: proven.variant,
        slo: proven.slo.to_string(),
        own: proven.own,
        others: proven.others,
    };
    Some((proven.index, set_aside))
}

/// Every identity against the others, by every SLO; none where setting one more aside would leave half of them or fewer.
fn comparisons(
    spec: &RolloutSpec,
    reporters: &[Reporter],
    out: &BTreeSet<usize>,
    variant: Variant,
) -> Vec<Comparison> {
    let mut having: Vec<usize> = (0..reporters.len())
        .filter(|index| requests(reporters, *index, variant) > 0)
        .collect();
    let all = having.len();
    having.retain(|index| !out.contains(index));
    if having.len().saturating_sub(1) * 2 <= all {
        return Vec::new();
    }
    having.sort_by_key(|index| Reverse(requests(reporters, *index, variant)));
    let thresholds = spec.thresholds();
    let mut comparisons = Vec::new();
    for index in having.iter().copied() {
        let others: Vec<_> = having.iter().copied().filter(|other| *other != index).collect();
        let descending: Vec<_> = others
            .iter()
            .map(|other| requests(reporters, *other, variant))
            .collect();
        let most = ceiling(&descending, others.len().min(ENOUGH_IDENTITIES)).unwrap_or(u64::MAX);
        for slo in spec.analysis.slos.iter().copied() {
            let tally = |of: usize, most: u64| {
                reporters.get(of).map_or(Tally::default(), |reporter| {
                    let counts = reporter.of(variant);
                    let cut = scaled(counts, most.min(counts.requests));
                    Tally::of(slo, &cut, &thresholds)
                })
            };
            let together = others
                .iter()
                .map(|other| tally(*other, most))
                .fold(Tally::default(), Tally::and);
            comparisons.push(Comparison {
                index,
                variant,
                slo,
                own: tally(index, u64::MAX),
                others: together,
            });
        }
    }
    comparisons
}

fn requests(reporters: &[Reporter], index: usize, variant: Variant) -> u64 {
    reporters
        .get(index)
        .map_or(0, |reporter| reporter.of(variant).requests)
}

fn difference(one: Tally, other: Tally) -> f64 {
    (one.share() - other.share()).abs()
}

/// Whether it is proven that the true share of bad requests in `more` is above that in `less` by more than `tolerance`.
fn exceeds(more: Tally, less: Tally, tolerance: f64) -> bool {
    let (more, less) = (more.at_most(MAX_COMPARED), less.at_most(MAX_COMPARED));
    let proven = |bound: f64| upper_tail(more.bad, more.requests, bound + tolerance) <= OUTLIER_LEVEL;
    // The bound is searched for, which takes some forty tails: not where even the seen share would not do.
    more.requests > 0
        && less.requests > 0
        && proven(less.share())
        && proven(upper_bound(less.bad, less.requests, OUTLIER_LEVEL))
}
