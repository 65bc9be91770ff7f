use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::error::{LogError, SignError};
use super::publisher::Publisher;
use super::{SIGN_TIMEOUT, Stoppage};
use crate::checkpoint::{SignedCheckpoint, Unsigned};
use crate::key::PublicKey;
use crate::signer::Signer;

/// The answer to a flush: the newest checkpoint, if there is one.
pub(crate) type Flushed = Result<Option<SignedCheckpoint>, LogError>;

/// Runs the publisher: at each tick, and when asked.
pub(crate) struct Flusher {
    pub(crate) publisher: Publisher,
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) key: PublicKey,
    pub(crate) newest: watch::Sender<Option<SignedCheckpoint>>,
    pub(crate) last_error: Arc<Mutex<Option<LogError>>>,
}

impl Flusher {
    /// Ends when no one can ask any more; when it was told to stop, after a last flush.
    pub(crate) async fn run(mut self, every: Duration, mut asked: mpsc::Receiver<Ask>) -> Stoppage {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut waiting = Vec::new();
            let mut stops = false;
            tokio::select! {
                _ = ticks.tick() => {}
                ask = asked.recv() => match ask {
                    Some(ask) => stops |= ask.note(&mut waiting),
                    None => return Ok(()),
                },
            }
            // One flush serves all who asked before it began.
            while let Ok(ask) = asked.try_recv() {
                stops |= ask.note(&mut waiting);
            }
            let (this, result) = self.flush().await?;
            self = this;
            self.remember(result.as_ref().err());
            for answer in waiting {
                // Who no longer waits needs no answer.
                let _ = answer.send(result.clone());
            }
            if stops {
                return Ok(());
            }
        }
    }

    async fn flush(mut self) -> Result<(Self, Flushed), tokio::task::JoinError> {
        let (this, prepared) = spawn_blocking(move || {
            let prepared = self.publisher.prepare();
            (self, prepared)
        })
        .await?;
        self = this;
        let unsigned = match prepared {
            Ok(Some(unsigned)) => unsigned,
            Ok(None) => {
                let newest = self.publisher.published().cloned();
                return Ok((self, Ok(newest)));
            }
            Err(error) => return Ok((self, Err(error))),
        };
        let checkpoint = match self.sign(&unsigned).await {
            Ok(checkpoint) => checkpoint,
            Err(error) => return Ok((self, Err(error.into()))),
        };
        spawn_blocking(move || {
            let result = self.publisher.publish(checkpoint.clone());
            if result.is_ok() {
                self.newest.send_replace(Some(checkpoint.clone()));
            }
            (self, result.map(|()| Some(checkpoint)))
        })
        .await
    }

    async fn sign(&self, unsigned: &Unsigned) -> Result<SignedCheckpoint, SignError> {
        let digest = unsigned.digest();
        let signature = timeout(SIGN_TIMEOUT, self.signer.sign_digest(&digest))
            .await
            .map_err(|_| SignError::Timeout)??;
        Ok(unsigned.signed(&self.key, signature)?)
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

/// What the flusher is asked.
pub(crate) enum Ask {
    /// Flush now.
    Flush(oneshot::Sender<Flushed>),
    /// Flush now, and end.
    Stop(oneshot::Sender<Flushed>),
}

impl Ask {
    /// Notes who waits; says whether it was told to stop.
    fn note(self, waiting: &mut Vec<oneshot::Sender<Flushed>>) -> bool {
        match self {
            Self::Flush(answer) => {
                waiting.push(answer);
                false
            }
            Self::Stop(answer) => {
                waiting.push(answer);
                true
            }
        }
    }
}
