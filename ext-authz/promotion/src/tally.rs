//! How many requests were seen, and how many of them were bad for one SLO.

use crate::binomial::count;
use serde::{Deserialize, Serialize};

/// Requests of one variant, seen through one SLO.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tally {
    /// Requests that tell something about the SLO.
    pub requests: u64,
    /// Those of them that are bad: failed, or slower than the SLO's `max`. At most `requests`.
    pub bad: u64,
}

impl Tally {
    /// The share of bad requests as a fraction; 0 of none.
    pub fn share(self) -> f64 {
        if self.requests == 0 {
            0.0
        } else {
            count(self.bad) / count(self.requests)
        }
    }

    /// The same share with at most so many requests. Fewer requests prove less, so the tests stay on the safe side.
    pub(crate) fn at_most(self, requests: u64) -> Self {
        if self.requests <= requests {
            return self;
        }
        let bad = u128::from(self.bad) * u128::from(requests) / u128::from(self.requests);
        Self {
            requests,
            bad: u64::try_from(bad).unwrap_or(requests),
        }
    }
}
