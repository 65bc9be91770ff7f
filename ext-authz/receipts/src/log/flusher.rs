use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::error::{LogError, SignError};
use super::publisher::Publisher;
use super::queue::Queue;
use super::rotation::{Rotated, Rotation};
use super::{SIGN_TIMEOUT, Stoppage};
use crate::checkpoint::{CheckpointError, Unsigned};
use crate::cose::RootSignature;
use crate::env::Env;
use crate::root::SignedRoot;
use crate::signer::{Signer, SigningKey};

/// After flushes that failed, the next one by itself comes after twice as long as the one before, and never later than this.
/// A key service that is away, or says no, is not asked at each tick; whoever asks for a flush is not kept waiting.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The answer to a flush: the newest signed root, if there is one.
pub(crate) type Flushed = Result<Option<Arc<SignedRoot>>, LogError>;

/// Runs the publisher: at each tick, when many entries are uncovered, and when asked.
pub(crate) struct Flusher {
    pub(crate) publisher: Publisher,
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) env: Env,
    pub(crate) queue: Arc<Queue>,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) newest: watch::Sender<Option<Arc<SignedRoot>>>,
    pub(crate) last_error: Arc<Mutex<Option<LogError>>>,
}

/// Calls for a flush when so many entries came since the last one began, whether that one succeeded or not.
pub(crate) struct Backlog {
    most: u64,
    begun_at: AtomicU64,
    reached: Notify,
}

impl Backlog {
    pub(crate) fn new(most: u64, size: u64) -> Self {
        Self {
            most,
            begun_at: AtomicU64::new(size),
            reached: Notify::new(),
        }
    }

    /// The log has `size` durable entries now.
    pub(crate) fn grown(&self, size: u64) {
        if size.saturating_sub(self.begun_at.load(Ordering::Relaxed)) >= self.most {
            self.reached.notify_one();
        }
    }
}

impl Flusher {
    /// Flushes by itself `first` after the start, and then `every` so often. Ends when no one can ask any more; when it was told
    /// to stop, after a last flush.
    pub(crate) async fn run(
        mut self,
        first: Duration,
        every: Duration,
        mut asked: mpsc::Receiver<Ask>,
    ) -> Stoppage {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset_after(first);
        let backlog = Arc::clone(&self.backlog);
        let mut pace = Pace::new(every);
        loop {
            let mut asks = Vec::new();
            tokio::select! {
                _ = ticks.tick() => {}
                () = backlog.reached.notified(), if pace.failures == 0 => {}
                ask = asked.recv() => match ask {
                    Some(ask) => asks.push(ask),
                    None => return Ok(()),
                },
            }
            // One flush serves all who asked before it began.
            while let Ok(ask) = asked.try_recv() {
                asks.push(ask);
            }
            let (mut waiting, mut stops) = (Vec::new(), false);
            for ask in asks {
                match ask {
                    Ask::Flush(answer) => waiting.push(answer),
                    Ask::Stop(answer) => {
                        waiting.push(answer);
                        stops = true;
                    }
                    Ask::Rotate(rotation, answer) => {
                        let (this, rotated) = self.rotate(*rotation).await?;
                        self = this;
                        let _ = answer.send(rotated);
                    }
                }
            }
            let (this, result) = self.flush().await?;
            self = this;
            if let Some(pause) = pace.after(&result) {
                ticks.reset_after(pause);
            }
            for answer in waiting {
                // Who no longer waits needs no answer.
                let _ = answer.send(result.clone());
            }
            if stops {
                return Ok(());
            }
        }
    }

    pub(crate) async fn flush(mut self) -> Result<(Self, Flushed), JoinError> {
        let (this, result) = self.try_flush().await?;
        self = this;
        self.remember(result.as_ref().err());
        Ok((self, result))
    }

    async fn try_flush(mut self) -> Result<(Self, Flushed), JoinError> {
        let (this, prepared) = spawn_blocking(move || {
            let prepared = self.prepare();
            (self, prepared)
        })
        .await?;
        self = this;
        let unsigned = match prepared {
            Ok(Some(unsigned)) => unsigned,
            Ok(None) => {
                let newest = self.publisher.book().root().cloned();
                return Ok((self, Ok(newest)));
            }
            Err(error) => return Ok((self, Err(error))),
        };
        let root = match self.sign(&unsigned).await {
            Ok(root) => root,
            Err(error) => return Ok((self, Err(error.into()))),
        };
        spawn_blocking(move || {
            let result = self.publisher.publish(root, self.env.now_unix_ms());
            let newest = self.publisher.book().root().cloned();
            // It is in force once it is durable, whatever came after that.
            self.newest.send_replace(newest.clone());
            (self, result.map(|()| newest))
        })
        .await
    }

    fn prepare(&mut self) -> Result<Option<Unsigned>, LogError> {
        let begun_at = self.publisher.size();
        self.backlog.begun_at.store(begun_at, Ordering::Relaxed);
        self.publisher.prepare(self.env.now_unix_ms())
    }

    /// Both signatures, at the same time.
    async fn sign(&self, unsigned: &Unsigned) -> Result<SignedRoot, SignError> {
        let key = self.publisher.book().keyring().active().signing_key();
        let kid = key.public.key_id();
        let (note, cose) = tokio::try_join!(
            sign(self.signer.as_ref(), &key, unsigned.digest()),
            sign(
                self.signer.as_ref(),
                &key,
                RootSignature::digest(&kid, &unsigned.root)
            ),
        )?;
        let checkpoint = unsigned.signed(&key.public, note)?;
        let cose = RootSignature::new(&key.public, &unsigned.root, &cose).ok_or_else(|| {
            CheckpointError::BadSignature {
                key: key.public.to_string(),
            }
        })?;
        Ok(SignedRoot { checkpoint, cose })
    }

    /// Keeps the error for `status`, and tells the operator when it begins and ends.
    fn remember(&self, error: Option<&LogError>) {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        match (last.as_ref(), error) {
            (None, Some(error)) => tracing::error!(%error, label = error.label(), "no new checkpoint"),
            (Some(_), None) => tracing::info!("checkpoints are published again"),
            _ => {}
        }
        *last = error.cloned();
    }
}

/// When the next flush comes by itself.
struct Pace {
    every: Duration,
    /// Flushes in a row that failed.
    failures: u32,
}

impl Pace {
    fn new(every: Duration) -> Self {
        Self { every, failures: 0 }
    }

    /// How long to wait after a flush, where that is not up to the ticks as they come. A success after failures ends the long
    /// pause that was begun.
    fn after<T, E>(&mut self, flushed: &Result<T, E>) -> Option<Duration> {
        let failed_before = self.failures > 0;
        if flushed.is_err() {
            self.failures = self.failures.saturating_add(1);
            return Some(self.pause());
        }
        self.failures = 0;
        failed_before.then_some(self.every)
    }

    fn pause(&self) -> Duration {
        let doubled = self.every.saturating_mul(1_u32 << self.failures.min(16));
        doubled.min(LONGEST_PAUSE).max(self.every)
    }
}

/// A signature, within [`SIGN_TIMEOUT`].
pub(crate) async fn sign(
    signer: &dyn Signer,
    key: &SigningKey,
    digest: [u8; 32],
) -> Result<Vec<u8>, SignError> {
    let signature = timeout(SIGN_TIMEOUT, signer.sign_digest(key, &digest)).await;
    Ok(signature.map_err(|_| SignError::Timeout)??)
}

/// What the flusher is asked.
pub(crate) enum Ask {
    /// Flush now.
    Flush(oneshot::Sender<Flushed>),
    /// Announce a key, and let it take over.
    Rotate(Box<Rotation>, oneshot::Sender<Rotated>),
    /// Flush now, and end.
    Stop(oneshot::Sender<Flushed>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end_at_the_longest_or_at_the_interval() {
        let every = Duration::from_millis(250);
        let mut pace = Pace::new(every);
        let pauses: Vec<_> = (1..=6)
            .map(|_| pace.after(&Err::<(), _>(())).expect("a pause").as_millis())
            .collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 5000, 5000]);
        pace.failures = u32::MAX;
        assert_eq!(pace.after(&Err::<(), _>(())), Some(LONGEST_PAUSE));
        let rare = Duration::from_secs(10);
        assert_eq!(Pace::new(rare).after(&Err::<(), _>(())), Some(rare));
    }

    #[test]
    fn a_success_ends_the_pause_that_a_failure_began() {
        let every = Duration::from_millis(250);
        let mut pace = Pace::new(every);
        let ok = Ok::<_, ()>(());
        assert_eq!(pace.after(&ok), None, "the ticks go on");
        for failures in 1..6 {
            for _ in 0..failures {
                pace.after(&Err::<(), _>(()));
            }
            assert_eq!(pace.after(&ok), Some(every), "after {failures}");
            assert_eq!(pace.after(&ok), None);
        }
    }
}
