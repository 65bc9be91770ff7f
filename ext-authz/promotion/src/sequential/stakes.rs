//! How much of its capital a bet risks.
//!
//! Which stake grows fastest depends on an effect that nobody knows before. So the capital is spread over several stakes
//! that never change, from nearly all for a version that fails outright to little for a small excess, and the whole
//! does about as well as the best of them would have alone. Each stake is half of the next: the best of them is within
//! a third of what would have been ideal and grows at more than 8/9 of the ideal's rate.
//!
//! Stakes that follow what was seen (the plug-in of Waudby-Smith and Ramdas) would be a little faster on independent
//! requests, and could learn the rhythm of an outage that both versions share: see `docs/analysis-sequential.md`.

/// Stakes as shares of the largest one that cannot lose more than everything. None risks everything, so none is ever
/// ruined by a single outcome.
pub(crate) const STAKES: [f64; 16] = [
    15.0 / 16.0,
    1.0 / 2.0,
    1.0 / 4.0,
    1.0 / 8.0,
    1.0 / 16.0,
    1.0 / 32.0,
    1.0 / 64.0,
    1.0 / 128.0,
    1.0 / 256.0,
    1.0 / 512.0,
    1.0 / 1_024.0,
    1.0 / 2_048.0,
    1.0 / 4_096.0,
    1.0 / 8_192.0,
    1.0 / 16_384.0,
    1.0 / 32_768.0,
];

/// What each of the first `N` stakes gets of `amount`: shares that fall like 1, 1/2, 1/3. A large effect is found within
/// few requests, where the price of having spread the capital counts most.
pub(crate) fn spread<const N: usize>(amount: f64) -> [f64; N] {
    let mut rank = 0.0;
    let mut harmonic = 0.0;
    let mut shares = [0.0; N];
    for share in &mut shares {
        rank += 1.0;
        harmonic += 1.0 / rank;
        *share = rank;
    }
    shares.map(|rank| amount / (rank * harmonic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_given_out_than_there_is() {
        for amount in [1.0, 0.5, 1e-9] {
            let given: f64 = spread::<9>(amount).iter().sum();
            assert!((given / amount - 1.0).abs() < 1e-15, "{given}");
            let given: f64 = spread::<16>(amount).iter().sum();
            assert!((given / amount - 1.0).abs() < 1e-15, "{given}");
        }
    }

    #[test]
    fn stakes_fall_and_none_risks_everything() {
        assert!(STAKES.windows(2).all(|pair| pair[1] < pair[0]));
        assert!(STAKES.iter().all(|stake| *stake > 0.0 && *stake < 1.0));
    }
}
