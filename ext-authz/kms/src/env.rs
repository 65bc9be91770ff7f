//! What a provider takes from its surroundings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

/// Looks an environment variable up.
pub type Variables = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Gives 64 random bits. They spread calls in time and protect nothing.
pub type Random = dyn Fn() -> u64 + Send + Sync;

/// Time as a call sees it. Tests pass their own, so that no test waits.
#[async_trait]
pub trait Time: Send + Sync {
    /// The time since a fixed moment; it never goes back.
    fn now(&self) -> Duration;

    /// Returns after `duration`: the pause between two attempts.
    async fn pause(&self, duration: Duration);

    /// Returns after `duration`: the bound of an attempt that is under way.
    async fn limit(&self, duration: Duration);
}

/// Time, randomness and environment variables.
#[derive(Clone)]
pub struct Env {
    /// The clock that deadlines are measured by.
    pub time: Arc<dyn Time>,
    /// Where jitter comes from.
    pub random: Arc<Random>,
    /// The environment that credentials and addresses may come from.
    pub variables: Arc<Variables>,
}

impl Env {
    /// The runtime's clock, the thread's random generator and the process's environment.
    pub fn system() -> Self {
        Self {
            time: Arc::new(RuntimeTime {
                start: tokio::time::Instant::now(),
            }),
            random: Arc::new(rand::random::<u64>),
            variables: Arc::new(|name| std::env::var(name).ok()),
        }
    }

    /// The variable's value, unless it is unset or empty.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        (self.variables)(name).filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}

/// The clock of the async runtime.
struct RuntimeTime {
    start: tokio::time::Instant,
}

#[async_trait]
impl Time for RuntimeTime {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    async fn pause(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn limit(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
