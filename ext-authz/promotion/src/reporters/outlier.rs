//! Identities whose counts contradict everybody else's.
//!
//! An identity is set aside, with everything that it says, when its share of bad requests provably differs from that of
//! all the others together by more than the rollout's tolerance: for any SLO, of either variant, upwards or downwards.
//! The others are capped for this, so that one huge claim does not become what all are measured by. The most different
//! one goes first, and then it is looked again without it: those who seemed different only beside it seem so no longer.

use super::cap::{ceiling, portion};
use super::{ENOUGH_IDENTITIES, Reporter, VARIANTS};
use crate::binomial::{upper_bound, upper_tail};
use crate::spec::RolloutSpec;
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
    let panels = panels(spec, reporters);
    let tolerance = spec.analysis.tolerance.fraction();
    let all = reporters.iter().filter(|reporter| !reporter.is_silent()).count();
    let mut aside = Vec::new();
    let mut out = BTreeSet::new();
    while (out.len() + 1) * 2 < all
        && let Some(found) = most_different(&panels, &out, tolerance)
    {
        out.insert(found.index);
        aside.extend(reporters.get(found.index).map(|reporter| SetAside {
            identity: reporter.identity.clone(),
            variant: found.panel.variant,
            slo: found.panel.slo.clone(),
            own: found.own,
            others: found.others,
        }));
    }
    aside
}

/// What was reported on one variant, seen through one SLO.
struct Panel {
    variant: Variant,
    slo: String,
    /// By index of the reporter, most requests first; never none.
    said: Vec<(usize, Tally)>,
}

fn panels(spec: &RolloutSpec, reporters: &[Reporter]) -> Vec<Panel> {
    let panel = |variant: Variant, slo: usize| {
        let tallies = reporters.iter().enumerate();
        let tallies = tallies.map(|(index, it)| (index, spec.tally(slo, it.of(variant))));
        let mut said: Vec<_> = tallies.filter(|(_, tally)| tally.requests > 0).collect();
        said.sort_by_key(|(_, tally)| Reverse(tally.requests));
        let slo = spec
            .analysis
            .slos
            .get(slo)
            .map(ToString::to_string)
            .unwrap_or_default();
        Panel { variant, slo, said }
    };
    let slos = || 0..spec.analysis.slos.len();
    VARIANTS
        .into_iter()
        .flat_map(|variant| slos().map(move |slo| panel(variant, slo)))
        .collect()
}

/// One identity against the others.
struct Comparison<'a> {
    panel: &'a Panel,
    index: usize,
    own: Tally,
    others: Tally,
}

/// Of those that provably differ, the one that differs most.
fn most_different<'a>(panels: &'a [Panel], out: &BTreeSet<usize>, tolerance: f64) -> Option<Comparison<'a>> {
    let mut suspects: Vec<_> = panels
        .iter()
        .flat_map(|panel| panel.comparisons(out))
        .filter(|it| difference(it.own, it.others) > tolerance)
        .collect();
    // Proof costs more than a difference: only those that differ are tried, and the first that is proven ends it.
    suspects.sort_by(|one, other| {
        difference(other.own, other.others).total_cmp(&difference(one.own, one.others))
    });
    suspects
        .into_iter()
        .find(|it| exceeds(it.own, it.others, tolerance) || exceeds(it.others, it.own, tolerance))
}

impl Panel {
    /// Everybody who is not `out` against the others; none where one more `out` would leave half of them or fewer.
    fn comparisons(&self, out: &BTreeSet<usize>) -> Vec<Comparison<'_>> {
        let said = self.said.iter().copied();
        let left: Vec<_> = said.filter(|(index, _)| !out.contains(index)).collect();
        if left.len().saturating_sub(1) * 2 <= self.said.len() {
            return Vec::new();
        }
        let sum = left
            .iter()
            .fold(Sum::default(), |sum, (_, tally)| sum.and(*tally));
        let others = |index: usize, own: Tally| {
            let descending = left.iter().filter(|(other, _)| *other != index);
            capped(descending.map(|(_, tally)| *tally), sum.without(own))
        };
        left.iter()
            .map(|(index, own)| Comparison {
                panel: self,
                index: *index,
                own: *own,
                others: others(*index, *own),
            })
            .collect()
    }
}

/// The sum of tallies, most requests first, none of them counted for more than a third of it (of two, half). `sum` is
/// what it is without that.
fn capped(descending: impl Iterator<Item = Tally> + Clone, sum: Sum) -> Tally {
    let parts = descending.clone().take(ENOUGH_IDENTITIES).count();
    let requests = descending.clone().map(|tally| tally.requests);
    let Some(most) = ceiling(requests, sum.requests, parts) else {
        return sum.tally();
    };
    let above = descending.take_while(|tally| tally.requests > most);
    let cut = above.fold(sum, |sum, tally| {
        let bad = portion(tally.bad, most, tally.requests);
        sum.without(tally).and(Tally { requests: most, bad })
    });
    cut.tally()
}

/// Tallies added up, whatever is claimed.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    requests: u128,
    bad: u128,
}

impl Sum {
    fn and(self, tally: Tally) -> Self {
        Self {
            requests: self.requests + u128::from(tally.requests),
            bad: self.bad + u128::from(tally.bad),
        }
    }

    /// Without a tally that is part of it.
    fn without(self, tally: Tally) -> Self {
        Self {
            requests: self.requests - u128::from(tally.requests),
            bad: self.bad - u128::from(tally.bad),
        }
    }

    fn tally(self) -> Tally {
        let count = |sum: u128| u64::try_from(sum).unwrap_or(u64::MAX);
        Tally {
            requests: count(self.requests),
            bad: count(self.bad),
        }
    }
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
