//! Buckets: sticky, monotone in the weight, uniform, independent between salts.

use knhk_decision::spec::Weight;
use knhk_decision::{GROUPS, RolloutRule, Variant, Verdict, bucket, decide};
use proptest::prelude::*;

use crate::support::{Request, any_weight, policy, rule, rule_for};

const BUCKETS: usize = 1_000_000;

/// How far counts are from what is expected, in standard deviations of chi-square, which is near normal at as many
/// degrees of freedom as there are here. Good hashing stays within 4 but for one time in 16,000.
fn deviation(counts: &[u32], expected: f64, freedom: usize) -> f64 {
    let chi_square: f64 = counts
        .iter()
        .map(|&count| (f64::from(count) - expected).powi(2) / expected)
        .sum();
    let freedom = f64::from(u32::try_from(freedom).expect("a small number"));
    (chi_square - freedom) / (2.0 * freedom).sqrt()
}

/// A million keys as applications have them: 0, 1, 2, ... behind the same first letters.
fn a_million_keys(mut each: impl FnMut(&[u8])) {
    let mut key = *b"user-000000";
    for i in 0..BUCKETS {
        let mut rest = i;
        for digit in key[5..].iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
            rest /= 10;
        }
        each(&key);
    }
}

#[test]
fn a_million_keys_are_uniform_over_the_buckets() {
    const CELLS: usize = 1000;
    let (mut coarse, mut fine) = (vec![0; CELLS], vec![0; CELLS]);
    let mut per_weight = [(1_u32, 0_u32), (100, 0), (10_000, 0), (333_333, 0), (999_999, 0)];
    a_million_keys(|key| {
        let bucket = bucket("checkout", key);
        coarse[bucket as usize / (BUCKETS / CELLS)] += 1;
        fine[bucket as usize % CELLS] += 1;
        for (weight, taken) in &mut per_weight {
            *taken += u32::from(bucket < *weight);
        }
    });
    for counts in [coarse, fine] {
        let off = deviation(&counts, 1000.0, CELLS - 1);
        assert!(off.abs() < 4.0, "{off} standard deviations");
    }
    // Of a million keys a weight of w parts per million takes w, give or take five standard deviations.
    for (weight, taken) in per_weight {
        let share = f64::from(weight) / 1e6;
        let allowed = 5.0 * (1e6 * share * (1.0 - share)).sqrt();
        assert!(
            (f64::from(taken) - f64::from(weight)).abs() <= allowed,
            "{taken} keys for {weight} ppm"
        );
    }
}

#[test]
fn salts_are_independent() {
    const SIDE: usize = 32;
    // Salts that differ in one letter, and one that is the other's beginning.
    for (one, other) in [("checkout", "checkouu"), ("checkout", "checkou")] {
        let mut joint = vec![0; SIDE * SIDE];
        a_million_keys(|key| {
            let cell = |salt| bucket(salt, key) as usize * SIDE / BUCKETS;
            joint[cell(one) * SIDE + cell(other)] += 1;
        });
        // Uniform in the joint table: both uniform alone, and neither says anything about the other.
        let off = deviation(&joint, 1e6 / 1024.0, SIDE * SIDE - 1);
        assert!(off.abs() < 4.0, "{one} and {other}: {off} standard deviations");
    }
}

/// Of a canary of 5 % every group has its sixteenth: what one group shows is not what its buckets are.
#[test]
fn groups_are_uniform_among_the_canarys_keys() {
    let weight = Weight::from_ppm(50_000).expect("5 %");
    let policy = policy(vec![RolloutRule {
        weight,
        ..rule("shop")
    }]);
    let mut counts = vec![0_u32; GROUPS.into()];
    for user in 0..200_000 {
        let request = Request::get("a.com", "/").with("x-user-id", &format!("user-{user}"));
        let Verdict::Routed(routed) = decide(&policy, &request).verdict else {
            panic!("the rule is for every request")
        };
        if routed.variant == Variant::Canary {
            counts[usize::from(routed.group)] += 1;
        }
    }
    let expected = f64::from(counts.iter().sum::<u32>()) / f64::from(GROUPS);
    let off = deviation(&counts, expected, counts.len() - 1);
    assert!(off.abs() < 4.0, "{off} standard deviations: {counts:?}");
}

#[test]
fn the_measure_sees_what_is_not_uniform() {
    // One cell in a thousand that is a fifth too full, and two salts that are the same.
    let mut counts = vec![1000; 1000];
    counts[0] = 1_200;
    counts[1] = 800;
    assert!(deviation(&counts, 1000.0, 999).abs() > 4.0);
    let mut joint = vec![0; 1024];
    a_million_keys(|key| {
        let cell = bucket("checkout", key) as usize * 32 / BUCKETS;
        joint[cell * 32 + cell] += 1;
    });
    assert!(deviation(&joint, 1e6 / 1024.0, 1023) > 1000.0);
}

fn variant(rules: Vec<RolloutRule>, request: &Request) -> (Variant, Option<u32>) {
    match decide(&policy(rules), request).verdict {
        Verdict::Routed(routed) => (routed.variant, routed.bucket),
        Verdict::NoRollout | Verdict::Denied(_) => panic!("the rule is for every request"),
    }
}

proptest! {
    /// Whatever else a request has, and whatever other rollouts there are, a key stays where it is.
    #[test]
    fn a_key_sticks(
        key in "[ -~]{1,40}",
        weight in any_weight(),
        path in "/[a-z]{0,9}",
        generation in 1..9_u64,
        id in "[0-9a-f]{8}",
    ) {
        let shop = RolloutRule { weight, r#match: rule_for("shop", "{hosts: [shop.com]}").r#match, ..rule("shop") };
        let first = variant(vec![shop.clone()], &Request::get("shop.com", "/").with("x-user-id", &key));
        let request = Request::get("SHOP.com:443", &path).with("x-request-id", &id).with("x-user-id", &key);
        let newer = RolloutRule { generation, window: 99, canary: "v9".to_owned(), ..shop };
        let again = variant(vec![rule("another"), newer], &request);
        prop_assert_eq!(first, again);
        prop_assert_eq!(first.1, Some(bucket("shop", key.as_bytes())));
    }

    #[test]
    fn as_the_weight_grows_no_key_goes_back(
        keys in prop::collection::vec("[ -~]{1,40}", 20),
        mut weights in prop::collection::vec(any_weight(), 2..6),
    ) {
        weights.extend([Weight::ZERO, Weight::FULL]);
        weights.sort_unstable();
        for key in &keys {
            let request = Request::get("a.com", "/").with("x-user-id", key);
            let variants: Vec<_> = weights
                .iter()
                .map(|&weight| variant(vec![RolloutRule { weight, ..rule("shop") }], &request).0 == Variant::Canary)
                .collect();
            prop_assert!(variants.is_sorted());
            prop_assert_eq!((variants[0], variants[variants.len() - 1]), (false, true));
        }
    }

    /// Long keys are hashed piece by piece, short ones at once: where that changes must not show.
    #[test]
    fn the_bucket_is_the_hash_of_salt_zero_and_key(salt in "[a-z]{1,128}", key in prop::collection::vec(any::<u8>(), 0..600)) {
        let hash = xxhash_rust::xxh3::xxh3_64(&[salt.as_bytes(), &[0], &key].concat());
        let expected = u64::try_from(u128::from(hash) * 1_000_000 / (1 << 64)).expect("below a million");
        prop_assert_eq!(u64::from(bucket(&salt, &key)), expected);
    }

    /// The group is another part of the same hash, so a key has one group at every weight.
    #[test]
    fn the_group_is_the_low_four_bits(key in "[ -~]{1,300}", weight in any_weight()) {
        let hash = xxhash_rust::xxh3::xxh3_64(&[b"shop", &[0][..], key.as_bytes()].concat());
        let policy = policy(vec![RolloutRule { weight, ..rule("shop") }]);
        let request = Request::get("a.com", "/").with("x-user-id", &key);
        let group = decide(&policy, &request).verdict.routed().map(|routed| u64::from(routed.group));
        prop_assert_eq!(group, Some(hash & 15));
    }
}
