//! Requests with a status and a duration, one by one and in order.

use crate::contender::SLOW_MS;
use knhk_promotion::sequential::GROUPS;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::f64::consts::TAU;

pub(crate) const PER_SECOND: u32 = 1_000;
/// Filters report as often.
pub(crate) const TICKS_PER_SECOND: u32 = 4;
/// The canary's share.
const WEIGHT: f64 = 0.05;
/// Durations of a version that is not slow are log-normal: their median, and the standard deviation of the logarithm.
const MEDIAN_MS: f64 = 50.0;
const SPREAD: f64 = 0.6;

/// How a version answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Version {
    /// The chance of a failure.
    pub(crate) errors: f64,
    /// What durations are multiplied by.
    pub(crate) slowness: f64,
}

/// One finished request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) is_canary: bool,
    pub(crate) group: u8,
    pub(crate) failed: bool,
    pub(crate) ms: f64,
}

impl Request {
    pub(crate) fn is_slow(&self) -> bool {
        self.ms > SLOW_MS
    }
}

pub(crate) struct Traffic {
    stable: Version,
    canary: Version,
    rng: StdRng,
    /// The second of a pair of normal numbers.
    spare: Option<f64>,
}

impl Traffic {
    pub(crate) fn new(stable: Version, canary: Version, seed: u64) -> Self {
        Self {
            stable,
            canary,
            rng: StdRng::seed_from_u64(seed),
            spare: None,
        }
    }

    /// What finishes in one tick.
    pub(crate) fn tick(&mut self) -> Vec<Request> {
        (0..PER_SECOND / TICKS_PER_SECOND)
            .map(|_| self.request())
            .collect()
    }

    #[allow(clippy::cast_possible_truncation, reason = "there are 16 groups")]
    fn request(&mut self) -> Request {
        let is_canary = self.rng.random::<f64>() < WEIGHT;
        let version = if is_canary { self.canary } else { self.stable };
        Request {
            is_canary,
            group: self.rng.random::<u8>() % GROUPS as u8,
            failed: self.rng.random::<f64>() < version.errors,
            ms: MEDIAN_MS * version.slowness * (SPREAD * self.normal()).exp(),
        }
    }

    /// A standard normal number, by Box and Muller.
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * (1.0 - self.rng.random::<f64>()).ln()).sqrt();
        let angle = TAU * self.rng.random::<f64>();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}
