//! One retry policy for every provider: exponential backoff with full jitter under one deadline for the whole call.
//!
//! [`Retry::next`] decides, and is a function of what happened so far; [`Retry::run`] tries, waits and asks it.

use std::future::Future;
use std::time::Duration;

use crate::{Call, Env, KmsError};

/// How long a call may take, all its attempts and pauses included. Below the log's limit for a signature, 10 s, so that the
/// log hears why a signature failed instead of giving up itself.
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// How long a rotation may take: it makes several calls, and nothing waits for it.
pub const ROTATION_DEADLINE: Duration = Duration::from_secs(30);

/// How long one attempt may take.
pub const ATTEMPT_LIMIT: Duration = Duration::from_secs(2);

/// The upper bound of the first pause; it doubles from one attempt to the next.
pub const PAUSE_BASE: Duration = Duration::from_millis(50);

/// The upper bound of every pause.
pub const PAUSE_CAP: Duration = Duration::from_secs(1);

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How long the whole call may take.
    pub deadline: Duration,
    /// How long one attempt may take.
    pub attempt: Duration,
    /// The upper bound of the first pause.
    pub base: Duration,
    /// The upper bound of every pause.
    pub cap: Duration,
}

impl Retry {
    /// For a call that signs or reads.
    pub const CALL: Self = Self {
        deadline: CALL_DEADLINE,
        attempt: ATTEMPT_LIMIT,
        base: PAUSE_BASE,
        cap: PAUSE_CAP,
    };

    /// For a rotation.
    pub const ROTATION: Self = Self {
        deadline: ROTATION_DEADLINE,
        ..Self::CALL
    };

    /// The pause after `failures` failed attempts (at least 1) that took `elapsed` in all: uniform between zero and
    /// `base * 2^(failures - 1)`, at most `cap` (full jitter), chosen by `random`. None when the deadline would pass in it.
    pub fn next(&self, failures: u32, elapsed: Duration, random: u64) -> Option<Duration> {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        let bound = self.base.saturating_mul(doubled).min(self.cap);
        // A random 64-bit fraction of the bound.
        let nanoseconds = (bound.as_nanos().saturating_mul(u128::from(random))) >> 64;
        let pause = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        (elapsed.saturating_add(pause) < self.deadline).then_some(pause)
    }

    /// Runs attempts until one succeeds, fails in a way that time does not heal, or the deadline leaves no room.
    ///
    /// Every attempt is bounded by [`Retry::attempt`] and by what is left of the deadline. Only failures for which
    /// [`KmsError::is_transient`] holds are tried again. What comes back after several attempts has the label of the last
    /// failure; an attempt that the deadline cut short says less than the one before it, which is reported instead. Once the
    /// deadline is used up nothing more is attempted: a rotation shares one among its calls, so that can be so from the start.
    pub async fn run<T, F, Fut>(&self, env: &Env, call: &Call, mut attempt: F) -> Result<T, KmsError>
    where
        F: FnMut() -> Fut + Send,
        Fut: Future<Output = Result<T, KmsError>> + Send,
        T: Send,
    {
        let start = env.time.now();
        let elapsed = || env.time.now().saturating_sub(start);
        let mut failures: u32 = 0;
        let mut before: Option<KmsError> = None;
        loop {
            let left = self.deadline.saturating_sub(elapsed());
            if left.is_zero() {
                let last = before.unwrap_or_else(|| call.no_time_left());
                return Err(given_up(failures, elapsed(), last));
            }
            let limit = self.attempt.min(left);
            let result = tokio::select! {
                biased;
                result = attempt() => result,
                () = env.time.limit(limit) => Err(call.timeout(limit)),
            };
            let error = match result {
                Ok(value) => return Ok(value),
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => error,
            };
            failures = failures.saturating_add(1);
            let error = match before.take() {
                Some(before) if limit < self.attempt && matches!(error, KmsError::Timeout { .. }) => before,
                _ => error,
            };
            match self.next(failures, elapsed(), (env.random)()) {
                Some(pause) => env.time.pause(pause).await,
                None => return Err(given_up(failures, elapsed(), error)),
            }
            before = Some(error);
        }
    }
}

/// The last failure, and how often it was tried if that was more than once.
fn given_up(attempts: u32, after: Duration, last: KmsError) -> KmsError {
    if attempts < 2 {
        return last;
    }
    KmsError::GaveUp {
        attempts,
        after: Duration::from_millis(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        last: Box::new(last),
    }
}

#[cfg(test)]
mod tests;
