//! Numbers that are exact in millionths: percentages in steps of 0.0001, fractions in steps of 0.000001.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// Parts per million in the whole.
const WHOLE: u32 = 1_000_000;

/// A share of requests, exact in parts per million. Written as a percentage: `99.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u32);

/// A quantile or a probability, exact in parts per million. Written as a fraction: `0.99`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fraction(u32);

impl Percent {
    /// A share in parts per million, at most 1,000,000.
    pub(crate) const fn from_ppm(ppm: u32) -> Self {
        assert!(ppm <= WHOLE, "a share is at most 1,000,000 parts per million");
        Self(ppm)
    }

    /// The share as a fraction, 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }

    /// What is left of the whole, as a fraction: exact, unlike `1.0 - fraction()`.
    pub fn rest(self) -> f64 {
        f64::from(WHOLE - self.0) / f64::from(WHOLE)
    }

    /// Whether it is no share at all.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl Fraction {
    /// A fraction in parts per million, at most 1,000,000.
    pub(crate) const fn from_ppm(ppm: u32) -> Self {
        assert!(ppm <= WHOLE, "a fraction is at most 1,000,000 parts per million");
        Self(ppm)
    }

    /// The fraction as a float, 0 to 1.
    pub fn value(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }

    /// What is left of 1, exact, unlike `1.0 - value()`.
    pub fn rest(self) -> f64 {
        f64::from(WHOLE - self.0) / f64::from(WHOLE)
    }

    /// The fraction in parts per million.
    pub const fn ppm(self) -> u32 {
        self.0
    }
}

/// `number` in parts per million of `whole`, if it lies in 0..=`whole` and is a whole number of parts.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn parts(number: f64, whole: f64) -> Option<u32> {
    /// How far a decimal number may lie from its nearest double, in parts.
    const ROUNDING: f64 = 1e-6;
    if !(0.0..=whole).contains(&number) {
        return None;
    }
    let exact = number / whole * f64::from(WHOLE);
    let rounded = exact.round();
    ((exact - rounded).abs() <= ROUNDING).then_some(rounded as u32)
}

/// The shortest decimal of `ppm` with the point moved `places` to the left of the millionths.
fn decimal(ppm: u32, whole: u32, places: usize) -> String {
    let fraction = format!("{:0places$}", ppm % whole);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        format!("{}", ppm / whole)
    } else {
        format!("{}.{fraction}", ppm / whole)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", decimal(self.0, 10_000, 4))
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&decimal(self.0, WHOLE, 6))
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / 10_000.0)
    }
}

impl Serialize for Fraction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / f64::from(WHOLE))
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        parts(number, 100.0).map(Self).ok_or_else(|| {
            de::Error::custom(format_args!(
                "{number} is not a percentage; write a number from 0 to 100 in steps of 0.0001"
            ))
        })
    }
}

impl<'de> Deserialize<'de> for Fraction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        parts(number, 1.0).map(Self).ok_or_else(|| {
            de::Error::custom(format_args!(
                "{number} is not a fraction; write a number between 0 and 1 in steps of 0.000001"
            ))
        })
    }
}
