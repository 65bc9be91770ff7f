//! What tests give to a provider instead of its surroundings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::{Env, Time};

/// Time that passes only when something waits for it. A pause is over at once; an attempt's limit is reached when the test
/// says so ([`TestTime::expire`]), mostly because its peer has taken a request that it will not answer.
#[derive(Debug)]
pub struct TestTime {
    nanoseconds: AtomicU64,
    expired: Semaphore,
}

impl TestTime {
    /// It is zero o'clock.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            nanoseconds: AtomicU64::new(0),
            expired: Semaphore::new(0),
        })
    }

    /// Ends the attempt that is under way, or the next one, as if its limit had passed.
    pub fn expire(&self) {
        self.expired.add_permits(1);
    }

    /// Lets time pass.
    pub fn advance(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::SeqCst);
    }
}

#[async_trait]
impl Time for TestTime {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::SeqCst))
    }

    async fn pause(&self, duration: Duration) {
        self.advance(duration);
    }

    async fn limit(&self, duration: Duration) {
        if let Ok(permit) = self.expired.acquire().await {
            permit.forget();
        }
        self.advance(duration);
    }
}

/// This time, jitter that always takes half of what it may, and these environment variables.
pub fn env(time: Arc<dyn Time>, variables: &[(&str, &str)]) -> Env {
    let variables: BTreeMap<String, String> = variables
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Env {
        time,
        random: Arc::new(|| u64::MAX / 2),
        variables: Arc::new(move |name| variables.get(name).cloned()),
    }
}

/// A new [`TestTime`], and these environment variables.
pub fn env_with(variables: &[(&str, &str)]) -> Env {
    env(TestTime::new(), variables)
}
