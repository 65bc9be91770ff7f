//! Waiting for an event with a deadline.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::Error;

/// How long tests wait for things that take well under a second on an idle machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Between two looks. Other processes cannot wake us, so the harness looks.
const EVERY: Duration = Duration::from_millis(5);

/// Looks until `look` has something (`Ok`), and fails after `deadline` with what it saw last (`Err`).
pub async fn until<T, F, Fut>(what: &str, deadline: Duration, mut look: F) -> Result<T, Error>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let end = Instant::now() + deadline;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(last) if Instant::now() >= end => {
                return Err(Error::TimedOut {
                    what: what.to_owned(),
                    waited: deadline,
                    last,
                });
            }
            // What is waited for is in another process: it can be looked for, not listened to.
            Err(_) => tokio::time::sleep(EVERY).await,
        }
    }
}
