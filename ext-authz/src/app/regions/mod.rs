//! The other regions: their logs that are mirrored here, and this region's log that is mirrored there.
//!
//! - [`Regions`]: what peers ask of this region, and what everybody here asks about the peers.
//! - [`start`]: a region asks its peers before it opens its own log.
//! - [`sending`]: its own log goes to its peers, and a quorum is counted.
//! - [`replication`]: rollouts and flags go to all peers, ahead of receipts; [`following`]: theirs are taken over here.

mod following;
mod halt;
mod own;
mod quorum;
mod relay;
pub(crate) mod replication;
pub(crate) mod sending;
pub(crate) mod start;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use knhk_identity::{Allow, Alpn, Identity, Role, Roles};
use knhk_receipts::storage::Storage;
use knhk_receipts::{Ack, DiskStorage, LogError, LogOptions, PublicKey, SignedCheckpoint};
use knhk_regions::sender::PeerStatus;
use knhk_regions::source::{Order, pack};
use knhk_regions::wire::{Answer, Batch, MAX_ITEMS_BYTES};
use knhk_regions::{
    AckSigner, HttpPeer, Mirror, Mirrored, PeerConfig, Progress, Refusal, RegionsConfig, Transport,
    TransportError,
};
use knhk_telemetry::attribute::RegionReceivedOutcome;
use knhk_telemetry::{ServiceMetrics, event, span};
use thiserror::Error;
use tokio::sync::{Notify, watch};

use super::clock::{Clock, wall_ms};
pub(crate) use halt::{Halt, Halting};
use relay::Relay;
pub(crate) use replication::Replication;

/// Directory of the mirrors, one for each peer, below `data`.
const MIRRORS_DIR: &str = "mirrors";

/// The peers, and what is kept of their logs. One for the whole service.
pub(crate) struct Regions {
    region: String,
    config: RegionsConfig,
    clock: Clock,
    metrics: Arc<ServiceMetrics>,
    acks: AckSigner,
    peers: BTreeMap<String, Peer>,
    /// What is known of this region's log at its peers; told by [`sending`].
    progress: watch::Sender<Arc<Progress>>,
    sent: Mutex<Sent>,
    /// Peers that were heard from, and may have been away before.
    heard: Mutex<BTreeSet<String>>,
    hear: Notify,
    /// Somebody waits for a quorum: the log is to be signed without waiting for the next flush.
    hurry: Notify,
    halt: Halt,
    replication: Replication,
    relay: Relay,
}

/// One other region.
struct Peer {
    url: String,
    transport: Arc<dyn Transport>,
    mirror: Arc<Mutex<Mirror>>,
    /// What the mirrored log announces, so that nobody who checks an acknowledgement waits for a mirror that is writing.
    ack_keys: RwLock<Vec<PublicKey>>,
    /// As the mirror says, for the same reason.
    is_alarmed: AtomicBool,
}

/// How sending goes.
#[derive(Default)]
struct Sent {
    peers: Vec<PeerStatus>,
    acks: Vec<Ack>,
}

/// Why the mirrors cannot be opened.
#[derive(Debug, Error)]
pub(crate) enum RegionsError {
    #[error("{path}: {source}; check the directory's owner and the disk")]
    Storage { path: PathBuf, source: std::io::Error },
    #[error("the mirror of `{region}`: {source}")]
    Mirror { region: String, source: LogError },
    #[error("regions.peers: the connection to `{region}` cannot be set up: {source}")]
    Transport { region: String, source: TransportError },
}

/// Why a request of a peer is not served.
#[derive(Debug, Error)]
pub(crate) enum PeerRequestError {
    #[error("`{0}` is none of `regions.peers` here")]
    UnknownRegion(String),
    #[error("nothing of `{0}` is held here that a signed checkpoint covers")]
    Nothing(String),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What the regions are made of.
pub(crate) struct RegionsParts {
    pub(crate) region: String,
    pub(crate) config: RegionsConfig,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<ServiceMetrics>,
    /// How peers are proven; none without `spiffe`, where they are on this machine.
    pub(crate) identity: Option<(Identity, Arc<Roles>)>,
}

impl Regions {
    /// Opens what is held of the peers' logs. `storage` is that of `data`. Blocking.
    pub(crate) fn open(
        parts: RegionsParts,
        data: &Path,
        storage: &dyn Storage,
    ) -> Result<Self, RegionsError> {
        let RegionsParts {
            region,
            config,
            clock,
            metrics,
            identity,
        } = parts;
        let env = knhk_receipts::Env::system();
        let acks = AckSigner::open(storage, &region, env.fill_random.as_ref());
        let acks = acks.map_err(|source| RegionsError::Storage {
            path: data.join("regions"),
            source,
        })?;
        let mut peers = BTreeMap::new();
        for peer in &config.peers {
            let opened = Peer::open(peer, data, identity.as_ref())?;
            metrics
                .regions
                .split_view(&peer.region, opened.mirror().is_alarmed());
            peers.insert(peer.region.clone(), opened);
        }
        let nothing = Progress {
            quorum: config.quorum,
            committed: 0,
            holders: Vec::new(),
        };
        Ok(Self {
            replication: Replication::new(&region, config.peers.iter().map(|peer| peer.region.clone())),
            region,
            config,
            clock,
            metrics,
            acks,
            peers,
            progress: watch::Sender::new(Arc::new(nothing)),
            sent: Mutex::default(),
            heard: Mutex::default(),
            hear: Notify::new(),
            hurry: Notify::new(),
            halt: Halt::default(),
            relay: Relay::default(),
        })
    }

    /// The key that this region acknowledges other logs with.
    pub(crate) fn ack_key(&self) -> &PublicKey {
        self.acks.public_key()
    }

    /// What stops the log's signer.
    pub(crate) fn halt(&self) -> &Halt {
        &self.halt
    }

    /// What the regions know of rollouts.
    pub(crate) fn replication(&self) -> &Replication {
        &self.replication
    }

    /// Takes a batch of a peer's log in. The answer says what is held now, and why nothing was taken where that is so. Blocking.
    pub(crate) fn receive(&self, batch: &Batch<'_>) -> Result<Answer, PeerRequestError> {
        let (name, peer) = self.peer(batch.region)?;
        let _span = tracing::info_span!(span::REGION_RECEIVE, "knhk.region.peer" = name).entered();
        let mut mirror = peer.mirror();
        let refusal = mirror.receive(batch, wall_ms()).err();
        let outcome = refusal.as_ref().map_or(RegionReceivedOutcome::Taken, |refusal| {
            RegionReceivedOutcome::from_label(refusal.label())
        });
        self.metrics.regions.received(name, outcome);
        if let Some(refusal) = &refusal {
            self.refused(name, refusal);
        }
        peer.changed(&mirror);
        Ok(mirror.answer(refusal.as_ref(), &self.acks))
    }

    /// What is held of a peer's log, which the peer asks when it starts.
    pub(crate) fn held(&self, region: &str) -> Result<Answer, PeerRequestError> {
        let (name, peer) = self.peer(region)?;
        self.heard_from(name);
        Ok(peer.mirror().answer(None, &self.acks))
    }

    /// A batch of a peer's log, for the peer that lost it. Blocking.
    pub(crate) fn entries(&self, region: &str, from: u64) -> Result<Vec<u8>, PeerRequestError> {
        let (_, peer) = self.peer(region)?;
        let order = Order {
            from,
            covered: from,
            trusted: None,
            most_bytes: MAX_ITEMS_BYTES,
        };
        let packed = pack(&*peer.mirror(), order)?;
        packed
            .map(|packed| packed.bytes)
            .ok_or_else(|| PeerRequestError::Nothing(region.to_owned()))
    }

    /// Another region holds these checkpoints: an alarm where one is of another history than the one held here. Blocking.
    pub(crate) fn witness(&self, seen: &[SignedCheckpoint]) {
        for (name, peer) in &self.peers {
            let mut mirror = peer.mirror();
            for checkpoint in seen {
                if let Err(refusal) = mirror.witness(checkpoint, wall_ms()) {
                    self.refused(name, &refusal);
                }
            }
            peer.changed(&mirror);
        }
    }

    /// The newest checkpoints that are held here, of the peers' logs. Blocking.
    pub(crate) fn seen(&self) -> Vec<SignedCheckpoint> {
        let mirrors = self.peers.values();
        mirrors
            .filter_map(|peer| peer.mirror().checkpoint().cloned())
            .collect()
    }

    /// An operator has looked at two histories of a peer's log. Says whether there was something to look at. Blocking.
    pub(crate) fn clear(&self, region: &str) -> Result<bool, PeerRequestError> {
        let (name, peer) = self.peer(region)?;
        let mut mirror = peer.mirror();
        let was_open = mirror.is_alarmed();
        mirror.clear()?;
        peer.changed(&mirror);
        self.metrics.regions.split_view(name, false);
        Ok(was_open)
    }

    /// A peer is there: it may have been away, and have lost what it held.
    fn heard_from(&self, peer: &str) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.insert(peer.to_owned());
        drop(heard);
        self.hear.notify_one();
    }

    fn refused(&self, region: &str, refusal: &Refusal) {
        match refusal {
            Refusal::Fork(_) => {
                self.metrics.regions.split_view(region, true);
                tracing::error!(
                    event.name = event::REGION_SPLIT_VIEW,
                    knhk.region.peer = region,
                    %refusal,
                    "a region shows two histories of its log"
                );
            }
            // The sender goes on from where it is told to.
            Refusal::Gap { .. } => {}
            refusal => tracing::warn!(region, %refusal, "a batch of a region's log was refused"),
        }
    }

    fn peer(&self, region: &str) -> Result<(&str, &Peer), PeerRequestError> {
        let known = self.peers.get_key_value(region);
        let unknown = || PeerRequestError::UnknownRegion(region.chars().take(64).collect());
        known
            .map(|(name, peer)| (name.as_str(), peer))
            .ok_or_else(unknown)
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mono_ms(&self) -> u64 {
        self.clock.now().mono_ms
    }
}

impl Peer {
    fn open(
        peer: &PeerConfig,
        data: &Path,
        identity: Option<&(Identity, Arc<Roles>)>,
    ) -> Result<Self, RegionsError> {
        let path = data.join(MIRRORS_DIR).join(&peer.region);
        let storage = DiskStorage::open(&path).map_err(|source| RegionsError::Storage { path, source })?;
        let of = Mirrored {
            region: peer.region.clone(),
            origin: LogOptions::new(&peer.region).origin,
            pin: peer.log_key,
        };
        let mirror = Mirror::open(Arc::new(storage), &of).map_err(|source| RegionsError::Mirror {
            region: peer.region.clone(),
            source,
        })?;
        let tls = identity.map(|(identity, roles)| {
            let allow = Allow::Roles {
                roles: Arc::clone(roles),
                any_of: vec![Role::Peer],
            };
            identity.client_config(allow, &[Alpn::Http1])
        });
        let transport = HttpPeer::new(&peer.url, tls).map_err(|source| RegionsError::Transport {
            region: peer.region.clone(),
            source,
        })?;
        Ok(Self {
            url: peer.url.clone(),
            transport: Arc::new(transport),
            ack_keys: RwLock::new(mirror.ack_keys().to_vec()),
            is_alarmed: AtomicBool::new(mirror.is_alarmed()),
            mirror: Arc::new(Mutex::new(mirror)),
        })
    }

    fn changed(&self, mirror: &Mirror) {
        *self.ack_keys.write().unwrap_or_else(PoisonError::into_inner) = mirror.ack_keys().to_vec();
        self.is_alarmed.store(mirror.is_alarmed(), Ordering::Relaxed);
    }

    fn mirror(&self) -> MutexGuard<'_, Mirror> {
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
