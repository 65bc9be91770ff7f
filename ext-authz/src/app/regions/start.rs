//! Before a region opens its own log it asks its peers what they hold of it, and restores what it lacks: see
//! [`knhk_regions::start`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use knhk_receipts::cose::RootSignature;
use knhk_receipts::storage::Storage;
use knhk_receipts::{LogError, LogOptions, PublicKey, SignedCheckpoint, Signer, SignerError, SigningKey};
use knhk_regions::start::{Holding, OwnAtRest};
use knhk_regions::wire::Answer;
use knhk_regions::{Decision, Refusal, Restore, RestoreError, Restored, Start, Stop, TransportError};
use knhk_telemetry::{event, span};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tracing::Instrument as _;

use super::{Regions, millis, wall_ms};

/// A peer that did not answer is asked again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// When nobody gave what was to be restored, all are asked again after so long.
const START_AGAIN: Duration = Duration::from_secs(2);

/// Why the log may not be opened.
#[derive(Debug, Error)]
pub(crate) enum StartRefused {
    #[error(transparent)]
    Stop(#[from] Stop),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the log cannot be restored from the peers: {0}")]
    Restore(#[from] RestoreError),
    #[error("the log cannot be restored from the peers: {0}")]
    NotSigned(#[from] SignerError),
    #[error(
        "the log cannot be restored from the peers: its newest checkpoint has to be signed again by the key that signed it, and the key service has no version of that one; bring the version back at the key service"
    )]
    EarlierKey,
    /// Asking again changes nothing.
    #[error("the log cannot be restored from the peers: {0}")]
    OtherHistory(Refusal),
    #[error("the log cannot be restored: {0}")]
    Broken(String),
}

/// What a start waits for, for `/readyz`. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Waiting(Arc<Mutex<String>>);

impl Default for Waiting {
    fn default() -> Self {
        Self(Arc::new(Mutex::new("starting: the log is opened".to_owned())))
    }
}

impl Waiting {
    fn says(&self, what: String) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != what {
            tracing::info!("{what}");
            *said = what;
        }
    }

    /// One line.
    pub(crate) fn for_what(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What came of a try.
enum Tried {
    /// The log may be opened.
    Ready,
    /// Nobody gave what was to be restored.
    Again,
}

impl Regions {
    /// Returns when the log in `storage` may be opened. `signer` says which key is ours.
    pub(crate) async fn prepare(
        &self,
        storage: &Arc<dyn Storage>,
        signer: &dyn Signer,
        waiting: &Waiting,
    ) -> Result<(), StartRefused> {
        while let Tried::Again = self.try_start(storage, signer, waiting).await? {
            tokio::time::sleep(START_AGAIN).await;
        }
        Ok(())
    }

    async fn try_start(
        &self,
        storage: &Arc<dyn Storage>,
        signer: &dyn Signer,
        waiting: &Waiting,
    ) -> Result<Tried, StartRefused> {
        let own = Arc::new(at_rest(storage, our_public_keys(signer).await).await?);
        let origin = LogOptions::new(&self.region).origin;
        let wait_ms = u64::try_from(self.config.start_wait.as_millis()).unwrap_or(u64::MAX);
        let mut start = Start::new(
            own.found(),
            &origin,
            self.peers.len(),
            self.config.quorum,
            wait_ms,
            self.mono_ms(),
        );
        let (heard, mut answers) = mpsc::channel(self.peers.len().max(1));
        let mut asking = JoinSet::new();
        for (name, peer) in &self.peers {
            let (name, transport) = (name.clone(), Arc::clone(&peer.transport));
            let (region, heard) = (self.region.clone(), heard.clone());
            asking.spawn(async move {
                let answer = until_answered(&name, || transport.held(&region)).await;
                // Nobody listens any more once it is decided.
                let _ = heard.send((name, answer)).await;
            });
        }
        loop {
            match start.decide(self.mono_ms()) {
                Decision::Wait { until_ms, missing } => {
                    waiting.says(self.waits_for(missing));
                    let until = until_ms.map(|at| millis(at.saturating_sub(self.mono_ms())));
                    tokio::select! {
                        Some((peer, answer)) = answers.recv() => {
                            start = heard_from(start, peer, answer, &own, self.mono_ms()).await?;
                        }
                        () = until_or_never(until) => {}
                    }
                }
                Decision::Begin => {
                    tracing::info!("no peer holds anything of this region's log: it begins");
                    return Ok(Tried::Ready);
                }
                Decision::GoOn { unheard } => {
                    if unheard {
                        tracing::warn!(
                            "no peer has answered within `regions.start_wait`; this region goes on with its own log"
                        );
                    }
                    return Ok(Tried::Ready);
                }
                Decision::Stop(stop) => return Err(stop.into()),
                Decision::Restore { from } => {
                    let keys = own.keys().to_vec();
                    let restoring = self.restore(storage, from, keys, signer, waiting);
                    return restoring
                        .instrument(tracing::info_span!(span::REGION_RESTORE))
                        .await;
                }
            }
        }
    }

    fn waits_for(&self, missing: usize) -> String {
        let peers: Vec<_> = self.peers.keys().map(String::as_str).collect();
        match missing {
            0 => format!(
                "starting: peers are asked for this region's log ({})",
                peers.join(", ")
            ),
            missing => format!(
                "starting: {missing} more of the peers {} have to say what they hold of this region's log",
                peers.join(", ")
            ),
        }
    }

    async fn restore(
        &self,
        storage: &Arc<dyn Storage>,
        from: Vec<Holding>,
        keys: Vec<PublicKey>,
        signer: &dyn Signer,
        waiting: &Waiting,
    ) -> Result<Tried, StartRefused> {
        let Some(mut restore) = self.open_restore(storage, &from, keys).await? else {
            return Ok(Tried::Again);
        };
        let wanted = from.iter().map(|it| it.covered).max().unwrap_or(0);
        for holding in &from {
            let Some(peer) = self.peers.get(&holding.peer) else {
                continue;
            };
            loop {
                waiting.says(format!(
                    "starting: this region's log is restored from {}: {} of {wanted} entries",
                    holding.peer,
                    restore.next()
                ));
                let batch = match peer.transport.entries(&self.region, restore.next()).await {
                    Ok(batch) => batch,
                    Err(error) => {
                        tracing::warn!(peer = holding.peer, %error, "the log is not restored from this peer");
                        break;
                    }
                };
                let (back, received) = take_in(restore, batch).await?;
                restore = back;
                match received {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(Refusal::Storage(error)) => return Err(error.into()),
                    Err(refusal @ (Refusal::OldCopy { .. } | Refusal::Fork(_))) => {
                        return Err(StartRefused::OtherHistory(refusal));
                    }
                    Err(refusal) => {
                        tracing::warn!(peer = holding.peer, %refusal, "the log is not restored from this peer");
                        break;
                    }
                }
            }
            if restore.is_whole() {
                break;
            }
        }
        if !restore.is_whole() {
            return Ok(Tried::Again);
        }
        finish(restore, signer).await?;
        tracing::info!(
            event.name = event::REGION_RESTORED,
            "this region's log is restored from its peers"
        );
        Ok(Tried::Ready)
    }

    /// None where nothing is being restored any more.
    async fn open_restore(
        &self,
        storage: &Arc<dyn Storage>,
        from: &[Holding],
        keys: Vec<PublicKey>,
    ) -> Result<Option<Restore>, StartRefused> {
        let (storage, is_held) = (Arc::clone(storage), !from.is_empty());
        let wanted = from.iter().map(|it| it.covered).max().unwrap_or(0);
        let log = Restored {
            region: self.region.clone(),
            origin: LogOptions::new(&self.region).origin,
            keys,
        };
        let opening = spawn_blocking(move || {
            if is_held {
                Restore::open(storage, log, wanted).map(Some)
            } else {
                Restore::resume(storage, log.keys)
            }
        });
        Ok(opening.await.map_err(broken)??)
    }
}

/// The keys that sign for us, and did, the newest one last. Who may not list them is told the newest one.
async fn our_keys(signer: &dyn Signer) -> Result<Vec<SigningKey>, SignerError> {
    match signer.all().await {
        Ok(keys) => Ok(keys),
        Err(error) => {
            tracing::debug!(%error, "the key service does not list our keys");
            Ok(vec![signer.newest().await?])
        }
    }
}

/// A key service that is away is waited for only where the log does not name our keys.
async fn our_public_keys(signer: &dyn Signer) -> Vec<PublicKey> {
    match our_keys(signer).await {
        Ok(keys) => keys.into_iter().map(|key| key.public).collect(),
        Err(error) => {
            tracing::warn!(%error, "the key service does not say which keys are ours; the log's own list is used");
            Vec::new()
        }
    }
}

async fn at_rest(storage: &Arc<dyn Storage>, keys: Vec<PublicKey>) -> Result<OwnAtRest, StartRefused> {
    let storage = Arc::clone(storage);
    let looking = spawn_blocking(move || OwnAtRest::find(storage, keys));
    Ok(looking.await.map_err(broken)??)
}

async fn heard_from(
    mut start: Start,
    peer: String,
    answer: Answer,
    own: &Arc<OwnAtRest>,
    now_ms: u64,
) -> Result<Start, StartRefused> {
    let own = Arc::clone(own);
    // What was signed of the log is read from disk.
    let hearing = spawn_blocking(move || {
        start.heard(&peer, answer, own.as_ref(), now_ms)?;
        Ok::<_, LogError>(start)
    });
    Ok(hearing.await.map_err(broken)??)
}

async fn take_in(
    mut restore: Restore,
    batch: Vec<u8>,
) -> Result<(Restore, Result<bool, Refusal>), StartRefused> {
    let taking = spawn_blocking(move || {
        let received = restore.receive(&batch, wall_ms());
        (restore, received)
    });
    taking.await.map_err(broken)
}

async fn finish(restore: Restore, signer: &dyn Signer) -> Result<(), StartRefused> {
    let cose = match restore.without_cose().cloned() {
        Some(checkpoint) => Some(signed_again(&checkpoint, signer).await?),
        None => None,
    };
    let finishing = spawn_blocking(move || restore.finish(cose));
    Ok(finishing.await.map_err(broken)??)
}

/// The COSE signature over a root of ours that came without it.
async fn signed_again(
    checkpoint: &SignedCheckpoint,
    signer: &dyn Signer,
) -> Result<RootSignature, StartRefused> {
    let is_its = |key: &SigningKey| checkpoint.verify(std::slice::from_ref(&key.public)).is_ok();
    let key = our_keys(signer).await?.into_iter().find(is_its);
    let key = key.ok_or(StartRefused::EarlierKey)?;
    let root = checkpoint.root();
    let digest = RootSignature::digest(&key.public.key_id(), &root);
    let signature = signer.sign_digest(&key, &digest).await?;
    RootSignature::new(&key.public, &root, &signature)
        .ok_or_else(|| StartRefused::Broken("the key service's signature is none".to_owned()))
}

async fn until_answered<F>(peer: &str, ask: impl Fn() -> F) -> Answer
where
    F: Future<Output = Result<Answer, TransportError>>,
{
    let mut told = None;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                if told.replace(error.label()) != Some(error.label()) {
                    tracing::warn!(peer, %error, "a peer does not say what it holds of this region's log");
                }
            }
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn until_or_never(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn broken(error: tokio::task::JoinError) -> StartRefused {
    StartRefused::Broken(error.to_string())
}
