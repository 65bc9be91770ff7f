//! Nobody counts for more than a third.

use super::ENOUGH_IDENTITIES;
use crate::counts::Counts;

/// An identity counts as *reporting* on a variant when it has at least one request for this many of the identity with
/// the second most.
///
/// A cap needs three to share the evidence. Were any third one enough, an identity with a single request would cut two
/// large ones down to it. The yardstick is the second largest: the largest may lie, and however many small ones there
/// are, they do not make it shorter, as they would a median. So with the cap on, what remains is at least three tenths of
/// what the second largest has.
pub const REPORTING_SHARE: u64 = 10;

/// How many requests of one variant each identity may count for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cap {
    /// How many identities are reporting.
    pub(super) reporting: usize,
    /// The most requests that count of one identity; none where all of everybody's do.
    pub(super) most: Option<u64>,
}

impl Cap {
    /// The cap that follows from the requests that each identity reports.
    pub(super) fn of(requests: impl Iterator<Item = u64>) -> Self {
        let mut requests: Vec<u64> = requests.filter(|requests| *requests > 0).collect();
        requests.sort_unstable_by(|one, other| other.cmp(one));
        let yardstick = requests.get(1).copied().unwrap_or(0);
        let reporting = requests
            .iter()
            .filter(|requests| u128::from(**requests) * u128::from(REPORTING_SHARE) >= u128::from(yardstick))
            .count();
        let most = if reporting < ENOUGH_IDENTITIES {
            None
        } else {
            let sum = requests.iter().copied().map(u128::from).sum();
            ceiling(requests.iter().copied(), sum, ENOUGH_IDENTITIES)
        };
        Self { reporting, most }
    }

    /// What counts of one identity's counts.
    pub(super) fn cut(self, counts: &Counts) -> Counts {
        match self.most {
            Some(most) if counts.requests > most => scaled(counts, most),
            _ => counts.clone(),
        }
    }
}

/// The largest number to which `descending`, whose sum is `sum`, can be cut so that none is more than one of `parts` equal
/// parts of what remains; none where that holds already. With fewer numbers than parts only 0 does it.
///
/// Fewer than `parts` numbers are above it: were the m largest of them cut to c, with R the sum of the others, then c is
/// the largest with `parts` x c <= m x c + R, which is R / (`parts` - m). The first m whose c leaves the others alone is
/// the right one.
pub(super) fn ceiling(descending: impl Iterator<Item = u64>, sum: u128, parts: usize) -> Option<u64> {
    let mut rest = sum;
    for (cut, largest) in descending.map(u128::from).enumerate().take(parts) {
        let most = rest / (parts - cut) as u128;
        if largest <= most {
            return (cut > 0).then(|| u64::try_from(most).unwrap_or(u64::MAX));
        }
        rest = rest.saturating_sub(largest);
    }
    Some(0)
}

/// `counts` as if there had been only `to` of its requests, with the shares that they have.
fn scaled(counts: &Counts, to: u64) -> Counts {
    let part = |n: u64| portion(n, to, counts.requests);
    Counts {
        requests: part(counts.requests),
        errors: part(counts.errors),
        over: counts.over.iter().copied().map(part).collect(),
        outcomes: counts.outcomes.iter().copied().map(part).collect(),
        histogram: counts.histogram.iter().copied().map(part).collect(),
    }
}

/// How many of `to` requests are what `n` of `of` are; at most `to`.
///
/// Rounded to the nearest whole one, a half up, so a share moves by half a request at most and in neither direction by
/// rule: rounded down, the cap would hide errors, and rounded up, one error among a million requests would become one of
/// five.
pub(super) fn portion(n: u64, to: u64, of: u64) -> u64 {
    let whole = u128::from(of.max(1));
    let part = (u128::from(n.min(of)) * u128::from(to) * 2 + whole) / (whole * 2);
    u64::try_from(part).unwrap_or(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn descending(mut requests: Vec<u64>) -> Vec<u64> {
        requests.sort_unstable_by(|one, other| other.cmp(one));
        requests
    }

    /// Whether nobody is above one part when all are cut to `most`.
    fn fair(requests: &[u64], parts: u128, most: u64) -> bool {
        let left = requests.iter().map(|n| u128::from(*n.min(&most)));
        let largest = left.clone().max().unwrap_or(0);
        largest * parts <= left.sum::<u128>()
    }

    proptest! {
        #[test]
        fn the_ceiling_is_the_largest_that_is_fair(
            requests in prop::collection::vec(prop_oneof![0u64..6, 0u64..60], 0..7),
            parts in 2usize..4,
        ) {
            let requests = descending(requests);
            let largest = requests.first().copied().unwrap_or(0);
            let by_definition = (0..=largest).rev().find(|most| fair(&requests, parts as u128, *most)).unwrap_or(0);
            let sum = requests.iter().copied().map(u128::from).sum();
            let ceiling = ceiling(requests.iter().copied(), sum, parts).map_or(largest, |most| most.min(largest));
            prop_assert_eq!(ceiling, by_definition, "{:?}", requests);
        }

        #[test]
        fn whatever_is_claimed_nobody_is_above_a_third(requests in prop::collection::vec(any::<u64>(), 3..7)) {
            let cap = Cap::of(requests.iter().copied());
            if cap.reporting >= ENOUGH_IDENTITIES {
                prop_assert!(fair(&requests, 3, cap.most.unwrap_or(u64::MAX)));
            } else {
                prop_assert_eq!(cap.most, None);
            }
        }

        #[test]
        fn the_cap_leaves_three_tenths_of_the_second_largest(requests in prop::collection::vec(1u64..100_000, 3..9)) {
            let cap = Cap::of(requests.iter().copied());
            let most = cap.most.unwrap_or(u64::MAX);
            let left: u64 = requests.iter().map(|n| n.min(&most)).sum();
            prop_assert!(left * 10 >= descending(requests)[1] * 3);
        }

        #[test]
        fn a_share_moves_by_half_a_request_at_most(requests in 1u64..1_000_000, bad in 0.0f64..=1.0, to in 0u64..1_000) {
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let bad = (requests as f64 * bad) as u64;
            let to = to.min(requests);
            let counts = Counts { requests, errors: bad, over: vec![bad, 0], ..Counts::default() };
            let cut = scaled(&counts, to);
            prop_assert_eq!(cut.requests, to);
            prop_assert!(cut.errors <= to);
            let moved = (u128::from(cut.errors) * u128::from(requests)).abs_diff(u128::from(bad) * u128::from(to));
            prop_assert!(2 * moved <= u128::from(requests));
            prop_assert_eq!(&cut.over, &[cut.errors, 0]);
        }
    }

    #[test]
    fn of_exactly_three_the_smallest_decides() {
        let cap = Cap::of([900, 40, 1_000_000].into_iter());
        // 40 are less than a tenth of 900: two are reporting.
        assert_eq!(
            cap,
            Cap {
                reporting: 2,
                most: None
            }
        );
        let cap = Cap::of([900, 90, 1_000_000].into_iter());
        assert_eq!(
            cap,
            Cap {
                reporting: 3,
                most: Some(90)
            }
        );
    }

    #[test]
    fn small_ones_neither_switch_the_cap_on_nor_choke_the_evidence() {
        assert_eq!(Cap::of([10_000, 5_000, 1, 1, 1].into_iter()).most, None);
        // Nor does one huge claim switch it off.
        assert_eq!(Cap::of([u64::MAX, 100, 90, 1].into_iter()).most, Some(91));
    }
}
