use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Fills a slice with random bytes.
pub type FillRandom = dyn Fn(&mut [u8]) + Send + Sync;

/// What the log takes from its surroundings: the time and randomness. Tests pass their own.
#[derive(Clone)]
pub struct Env {
    /// Milliseconds since the Unix epoch. Only shown and stored, never used to order anything.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Fills the slice with cryptographically secure random bytes. Salts come from here: a salt that can be guessed
    /// makes the payload behind a commitment guessable too.
    pub fill_random: Arc<FillRandom>,
}

impl Env {
    /// The system's clock, and a cryptographic generator for each thread that is seeded by the operating system.
    #[allow(
        clippy::disallowed_methods,
        reason = "for who assembles the service: the one place of this crate that looks at the clock"
    )]
    pub fn system() -> Self {
        Self {
            clock: Arc::new(|| {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }),
            fill_random: Arc::new(|bytes| rand::fill(bytes)),
        }
    }

    pub(crate) fn now_unix_ms(&self) -> u64 {
        (self.clock)()
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}
