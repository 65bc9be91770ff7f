//! Time and randomness, passed in.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since 1970-01-01T00:00:00Z, by the wall clock: what certificates are measured by. It may jump.
    pub unix: Duration,
    /// Since some fixed moment, by a clock that never goes back: what waits are measured by.
    pub steady: Duration,
}

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> Now;
}

/// The clocks of the system.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

#[allow(
    clippy::disallowed_methods,
    reason = "this is where the clocks are brought in"
)]
impl SystemClock {
    /// Its steady clock begins here.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "this is where the clocks are brought in"
)]
impl Clock for SystemClock {
    fn now(&self) -> Now {
        Now {
            // Before 1970 nothing is valid, and so at 1970 nothing is.
            unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            steady: self.start.elapsed(),
        }
    }
}

/// Gives 64 random bits. They spread retries in time and protect nothing.
pub type Random = dyn Fn() -> u64 + Send + Sync;

/// What comes from outside.
#[derive(Clone)]
pub struct Env {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Where the jitter of retries comes from.
    pub random: Arc<Random>,
}

impl Env {
    /// The system's clocks and the thread's random generator.
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock::start()),
            random: Arc::new(rand::random::<u64>),
        }
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}

/// The wall clock, as rustls asks for it.
pub(crate) struct TlsClock(pub(crate) Arc<dyn Clock>);

impl fmt::Debug for TlsClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsClock")
    }
}

impl TimeProvider for TlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.now().unix))
    }
}
