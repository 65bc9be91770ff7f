//! Exact binomial tails, accurate from one trial to billions of them.
//!
//! A probability mass is computed in the saddle-point form (Stirling's error plus a deviance), which
//! keeps its relative precision where differences of log-gammas would lose it. A tail is summed from its
//! edge outward, away from the mode, until the terms no longer count: about the square root of the
//! number of trials in the worst case, so callers bound them.

use std::f64::consts::PI;

/// [`upper_bound`] is searched for until it is known to this relative precision.
const BOUND_PRECISION: f64 = 1e-9;

/// A term this much smaller than the sum so far ends it. Terms fall at least geometrically from there.
const NEGLIGIBLE: f64 = 1e-17;

/// The probability of `at_least` or more successes in `n` trials that succeed with probability `p` each.
///
/// Always within [0, 1]; 1 for `at_least == 0`, 0 for `at_least > n`.
pub(crate) fn upper_tail(at_least: u64, n: u64, p: f64) -> f64 {
    if at_least == 0 {
        return 1.0;
    }
    if at_least > n || p <= 0.0 {
        return 0.0;
    }
    if p >= 1.0 {
        return 1.0;
    }
    // The smaller of the two tails is summed, so that its terms fall from the edge on.
    if count(at_least) > count(n) * p {
        sum_up(at_least, n, p)
    } else {
        (1.0 - sum_down(at_least - 1, n, p)).max(0.0)
    }
}

/// The probability of `at_most` or fewer successes in `n` trials that succeed with probability `p` each.
pub(crate) fn lower_tail(at_most: u64, n: u64, p: f64) -> f64 {
    if at_most >= n || p <= 0.0 {
        return 1.0;
    }
    if p >= 1.0 {
        return 0.0;
    }
    if count(at_most) < count(n) * p {
        sum_down(at_most, n, p)
    } else {
        (1.0 - sum_up(at_most + 1, n, p)).max(0.0)
    }
}

/// The one-sided upper confidence bound (Clopper and Pearson) of a share of which `bad` of `n` were seen:
/// the share at which seeing as few as `bad` has probability `level`. 1 when nothing was seen.
pub(crate) fn upper_bound(bad: u64, n: u64, level: f64) -> f64 {
    if bad >= n {
        return 1.0;
    }
    let (mut low, mut high) = (count(bad) / count(n), 1.0);
    while high - low > high * BOUND_PRECISION {
        let middle = f64::midpoint(low, high);
        if lower_tail(bad, n, middle) > level {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

fn sum_up(from: u64, n: u64, p: f64) -> f64 {
    let odds = p / (1.0 - p);
    let mut term = mass(from, n, p);
    let mut sum = term;
    for k in from..n {
        term *= count(n - k) / (count(k) + 1.0) * odds;
        sum += term;
        if term <= sum * NEGLIGIBLE {
            break;
        }
    }
    sum.min(1.0)
}

fn sum_down(from: u64, n: u64, p: f64) -> f64 {
    let odds = (1.0 - p) / p;
    let mut term = mass(from, n, p);
    let mut sum = term;
    for k in (1..=from).rev() {
        term *= count(k) / (count(n - k) + 1.0) * odds;
        sum += term;
        if term <= sum * NEGLIGIBLE {
            break;
        }
    }
    sum.min(1.0)
}

/// The probability of exactly `k` of `n`, for 0 < p < 1.
fn mass(k: u64, n: u64, p: f64) -> f64 {
    let (successes, trials) = (count(k), count(n));
    if k == 0 {
        return (trials * (-p).ln_1p()).exp();
    }
    if k == n {
        return (trials * p.ln()).exp();
    }
    let failures = count(n - k);
    let exponent = stirling_error(n)
        - stirling_error(k)
        - stirling_error(n - k)
        - deviance(successes, trials * p)
        - deviance(failures, trials * (1.0 - p));
    exponent.exp() * (trials / (2.0 * PI * successes * failures)).sqrt()
}

/// ln(n!) minus Stirling's approximation of it, for n > 0.
fn stirling_error(n: u64) -> f64 {
    const EXACT_BELOW: u64 = 16;
    if n < EXACT_BELOW {
        let ln_factorial: f64 = (2..=n).map(|i| count(i).ln()).sum();
        let x = count(n);
        return ln_factorial - ((x + 0.5) * x.ln() - x + 0.5 * (2.0 * PI).ln());
    }
    let x = count(n);
    let square = x * x;
    (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - 1.0 / (1680.0 * square)) / square) / square) / x
}

/// x ln(x / mean) + mean - x, without cancellation where x is near its mean.
fn deviance(x: f64, mean: f64) -> f64 {
    const SERIES_BELOW: f64 = 0.1;
    let distance = (x - mean) / mean;
    if distance.abs() >= SERIES_BELOW {
        return x * (x / mean).ln() + mean - x;
    }
    // (1 + d) ln(1 + d) - d as its series: the sum over k >= 2 of (-d)^k / (k (k - 1)).
    let mut power = -distance;
    let mut sum = 0.0;
    let mut k = 2.0;
    loop {
        power *= -distance;
        let next = sum + power / (k * (k - 1.0));
        // The comparison ends the loop: a term that no longer changes the sum.
        if (next - sum).abs() <= f64::EPSILON * next.abs() {
            return mean * next;
        }
        sum = next;
        k += 1.0;
    }
}

/// A count as a float; exact up to 2^53, and beyond that the rounding does not matter here.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn count(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, with products in place of factorials: only for small `n`.
    fn mass_by_definition(k: u64, n: u64, p: f64) -> f64 {
        let choose: f64 = (0..k).map(|i| count(n - i) / count(i + 1)).product();
        choose * p.powf(count(k)) * (1.0 - p).powf(count(n - k))
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-11 * a.abs().max(b.abs()).max(1e-300)
    }

    proptest! {
        #[test]
        fn small_tails_are_the_sum_of_the_definition(n in 1u64..80, k in 0u64..82, p in 0.0001f64..0.9999) {
            let expected: f64 = (k..=n).rev().map(|i| mass_by_definition(i, n, p)).sum();
            prop_assert!(close(upper_tail(k, n, p), expected), "{} {}", upper_tail(k, n, p), expected);
        }

        #[test]
        fn the_two_tails_cover_everything_once(n in 1u64..3_000_000, at in 0.0f64..1.0, p in 0.00001f64..0.99999) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let k = (count(n) * at) as u64;
            let whole = upper_tail(k + 1, n, p) + lower_tail(k, n, p);
            prop_assert!((whole - 1.0).abs() < 1e-9, "{whole}");
        }

        #[test]
        fn more_bad_is_never_more_likely(n in 1u64..1_000_000, k in 0u64..1_000, p in 0.0f64..=1.0) {
            prop_assert!(upper_tail(k + 1, n, p) <= upper_tail(k, n, p) * (1.0 + 1e-9));
        }

        #[test]
        fn the_bound_is_where_the_lower_tail_is_the_level(n in 1u64..100_000, k in 0u64..500, level in 1e-6f64..0.5) {
            let k = k.min(n - 1);
            let bound = upper_bound(k, n, level);
            prop_assert!(bound >= count(k) / count(n));
            prop_assert!((lower_tail(k, n, bound) / level - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn known_values() {
        // None of 100 bad: the bound is 1 - level^(1/100).
        assert!((upper_bound(0, 100, 0.01) / (1.0 - 0.01f64.powf(0.01)) - 1.0).abs() < 1e-8);
        // Half of a fair coin's even number of throws: the upper tail is (1 + mass) / 2.
        let half = 1.0 / (PI * 5e8).sqrt() * (1.0 - 1.0 / 4e9);
        let tail = upper_tail(500_000_000, 1_000_000_000, 0.5);
        assert!((tail - 0.5 - half / 2.0).abs() < 1e-10, "{tail}");
        // One in a thousand trials at one in a thousand.
        assert!(close(upper_tail(1, 1_000, 0.001), 1.0 - 0.999f64.powi(1_000)));
    }

    #[test]
    fn the_edges_are_defined() {
        assert!((upper_tail(0, 0, 0.5) - 1.0).abs() < f64::EPSILON);
        assert!(upper_tail(1, 0, 0.5).abs() < f64::EPSILON);
        assert!(upper_tail(1, 10, 0.0).abs() < f64::EPSILON);
        assert!((upper_tail(10, 10, 1.0) - 1.0).abs() < f64::EPSILON);
        assert!((upper_bound(0, 0, 0.01) - 1.0).abs() < f64::EPSILON);
        assert!((upper_bound(7, 7, 0.01) - 1.0).abs() < f64::EPSILON);
        let far = upper_tail(u64::MAX / 2, u64::MAX, 0.1);
        assert!((0.0..=1.0).contains(&far));
    }
}
