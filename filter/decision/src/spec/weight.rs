//! The share of a rollout's keys that its canary serves.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::bucket::BUCKETS;

/// Parts per million in one percent.
const PPM_PER_PERCENT: u32 = BUCKETS / 100;

/// A share from 0 % to 100 % in steps of 0.0001 %, held in parts per million.
///
/// In YAML and JSON it is a number of percent: `5`, `33.3333`, `0.0001`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

/// Why a number is no weight.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// Below 0 %, above 100 %, or not a number.
    #[error("{0} is no weight: give percent from 0 to 100")]
    OutOfRange(f64),
    /// Between two steps.
    #[error("{0} is too fine for a weight: percent come in steps of 0.0001")]
    TooFine(f64),
    /// Not a number at all.
    #[error("that is no weight: give percent from 0 to 100 as a number, for example 12.5")]
    NotANumber,
}

impl Weight {
    /// 0 %: every key is served by stable.
    pub const ZERO: Self = Self(0);
    /// 100 %: every key is served by the canary.
    pub const FULL: Self = Self(BUCKETS);

    /// A weight of `ppm` parts per million, 0 to 1,000,000.
    pub fn from_ppm(ppm: u32) -> Result<Self, WeightError> {
        if ppm > BUCKETS {
            Err(WeightError::OutOfRange(Self(ppm).percent()))
        } else {
            Ok(Self(ppm))
        }
    }

    /// A weight of `percent`, 0 to 100, which must be a step of 0.0001.
    pub fn from_percent(percent: f64) -> Result<Self, WeightError> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(WeightError::OutOfRange(percent));
        }
        // In 0..=1,000,000 because of the check above.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let weight = Self((percent * f64::from(PPM_PER_PERCENT)).round() as u32);
        // A decimal of at most four places parses to the double nearest to it, or to that one's neighbour where the
        // parser is not exact; the division gives the nearest one. All else lies far further off.
        let nearest = weight.percent();
        if (nearest - percent).abs() <= nearest * f64::EPSILON {
            Ok(weight)
        } else {
            Err(WeightError::TooFine(percent))
        }
    }

    /// Parts per million, 0 to 1,000,000.
    pub const fn ppm(self) -> u32 {
        self.0
    }

    /// Percent, 0 to 100: the double nearest to it.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / f64::from(PPM_PER_PERCENT)
    }

    /// Whether the canary serves keys of this bucket.
    pub const fn takes(self, bucket: u32) -> bool {
        bucket < self.0
    }
}

/// `5 %`, `0.0001 %`: without trailing zeros.
impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.percent())
    }
}

/// Reads what a person types: `5`, `12.5`, `5%`, `5 %`.
impl FromStr for Weight {
    type Err = WeightError;

    fn from_str(text: &str) -> Result<Self, WeightError> {
        let number = text.strip_suffix('%').unwrap_or(text).trim();
        number
            .parse()
            .map_err(|_| WeightError::NotANumber)
            .and_then(Self::from_percent)
    }
}

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Whole percents without a decimal point, so that 5 is written back as 5.
        if self.0.is_multiple_of(PPM_PER_PERCENT) {
            serializer.serialize_u32(self.0 / PPM_PER_PERCENT)
        } else {
            serializer.serialize_f64(self.percent())
        }
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Percent)
    }
}

struct Percent;

impl de::Visitor<'_> for Percent {
    type Value = Weight;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a weight: percent from 0 to 100 in steps of 0.0001, as a number")
    }

    fn visit_u64<E: de::Error>(self, percent: u64) -> Result<Weight, E> {
        // Above 2^53 a double is not exact, but far out of range all the same.
        #[allow(clippy::cast_precision_loss)]
        self.visit_f64(percent as f64)
    }

    fn visit_i64<E: de::Error>(self, percent: i64) -> Result<Weight, E> {
        #[allow(clippy::cast_precision_loss)]
        self.visit_f64(percent as f64)
    }

    fn visit_f64<E: de::Error>(self, percent: f64) -> Result<Weight, E> {
        Weight::from_percent(percent).map_err(E::custom)
    }
}
