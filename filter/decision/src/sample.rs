//! Which decisions are recorded where a route records a sample.

use crate::rule::request_id_bucket;
use crate::spec::Weight;

/// What request IDs are hashed with when a sample is drawn: independent of every rollout's buckets.
const SAMPLE_SALT: &str = "knhk-record";

/// Whether a decision is in the sample of those that are recorded: the same answer for a request wherever it is asked.
/// A request without an ID is in no sample.
pub fn is_sampled(share: Weight, request_id: &[u8]) -> bool {
    request_id_bucket(SAMPLE_SALT, request_id).is_some_and(|bucket| share.takes(bucket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_its_share_and_needs_an_id() {
        let half = Weight::from_percent(50.0).expect("in range");
        let sampled = (0..1000)
            .filter(|n: &u32| is_sampled(half, n.to_string().as_bytes()))
            .count();
        assert!((400..600).contains(&sampled), "{sampled}");
        assert!(!is_sampled(Weight::FULL, b""));
        assert!(is_sampled(Weight::FULL, b"any"));
        assert!(!is_sampled(Weight::ZERO, b"any"));
    }
}
