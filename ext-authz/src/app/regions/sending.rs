//! This region's log on its way to its peers: what [`Sender`] decides is carried out here.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use knhk_receipts::storage::Storage;
use knhk_receipts::{Log, LogOptions};
use knhk_regions::config::MAX_PEERS;
use knhk_regions::sender::{
    BreakerState, Leads, LinkError, MAX_FLIGHTS, PeerStatus, Sent as Delivery, ToSend,
};
use knhk_regions::source::pack;
use knhk_regions::wire::Answer;
use knhk_regions::{Event, SavedAcks, Sender, SenderOptions, Transport};
use knhk_telemetry::attribute::{RegionBreakerState, RegionSendOutcome};
use knhk_telemetry::{event, span};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::own::OpenLog;
use super::{Regions, RegionsError, Sent, millis};

/// How often peers' lag is told while nothing else happens.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What peers have acknowledged is written down so often, at most: what is lost of it is asked again.
const SAVE_EVERY_MS: u64 = 1_000;

/// What is told of requests and waits to be heard: each peer has at most [`MAX_FLIGHTS`] under way, and of each two things are told.
const WAITING_NEWS: usize = 2 * MAX_FLIGHTS * MAX_PEERS;

/// Sends the log to the peers until told to stop.
pub(crate) struct Sending {
    regions: Arc<Regions>,
    log: Log,
    storage: Arc<dyn Storage>,
    origin: String,
    sender: Sender,
    /// When what was acknowledged since is to be written down.
    save_at_ms: Option<u64>,
    /// Why each peer failed last, as it was logged.
    told: BTreeMap<String, &'static str>,
}

/// What is told of a request.
#[allow(clippy::large_enum_variant, reason = "there are few at a time")]
enum News {
    /// Its batch is made, and on its way.
    Packed {
        peer: String,
        delivery: Delivery,
        leads: Leads,
    },
    Answered(Answered),
}

/// A request that came to its end.
struct Answered {
    peer: String,
    delivery: Delivery,
    answer: Result<Answer, LinkError>,
}

/// Something for the sender.
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
enum Input {
    /// The log may have a larger checkpoint.
    Signed,
    Answered(Answered),
}

impl Sending {
    /// Goes on from what peers had acknowledged. `storage` is that of `data`.
    pub(crate) async fn open(
        regions: &Arc<Regions>,
        log: &Log,
        storage: &Arc<dyn Storage>,
    ) -> Result<Self, RegionsError> {
        let (regions, log, storage) = (Arc::clone(regions), log.clone(), Arc::clone(storage));
        let loading = {
            let storage = Arc::clone(&storage);
            tokio::task::spawn_blocking(move || SavedAcks::load(storage.as_ref()))
        };
        let loaded = loading.await.map_err(std::io::Error::other).flatten();
        let saved = loaded.map_err(|source| RegionsError::Storage {
            path: "data/regions/acks".into(),
            source,
        })?;
        let options = SenderOptions {
            region: regions.region.clone(),
            peers: regions.peers.keys().cloned().collect(),
            quorum: regions.config.quorum,
            bytes_per_second: regions.config.bytes_per_second,
        };
        Ok(Self {
            origin: LogOptions::new(&regions.region).origin,
            sender: Sender::new(options, &saved),
            regions,
            log,
            storage,
            save_at_ms: None,
            told: BTreeMap::new(),
        })
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let (news, mut told) = mpsc::channel(WAITING_NEWS);
        let mut input = Some(Input::Signed);
        while let Some(next) = input.take() {
            // What the sender knows of the log it reads from disk.
            let judged = tokio::task::spawn_blocking(move || {
                self.judge(next);
                self
            });
            self = match judged.await {
                Ok(back) => back,
                Err(error) => return tracing::error!(%error, "the log is no longer sent to the peers"),
            };
            let signed = self.sender.told();
            input = loop {
                let now = self.regions.mono_ms();
                for due in self.sender.due(now) {
                    self.deliver(due, news.clone());
                }
                let due = self.sender.next_due_ms().map(|at| millis(at.saturating_sub(now)));
                let wake = due.map_or(TELL_EVERY, |due| due.min(TELL_EVERY));
                tokio::select! {
                    () = stop.cancelled() => break None,
                    Some(it) = told.recv() => match it {
                        News::Packed { peer, delivery, leads } => self.sender.packed(&peer, delivery, leads, now),
                        News::Answered(answer) => break Some(Input::Answered(answer)),
                    },
                    covered = self.log.covered(signed) => break covered.ok().map(|_| Input::Signed),
                    () = self.regions.hear.notified() => self.hear(),
                    () = tokio::time::sleep(wake) => self.tell(),
                }
            };
        }
        self.save();
    }

    /// Peers that were heard from are tried at once.
    fn hear(&mut self) {
        let now = self.regions.mono_ms();
        let mut heard = self.regions.heard.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(peer) = heard.pop_first() {
            self.sender.heard_from(&peer, now);
        }
    }

    fn judge(&mut self, input: Input) {
        let now = self.regions.mono_ms();
        let own = OpenLog {
            origin: &self.origin,
            log: &self.log,
            regions: &self.regions,
        };
        let events = match input {
            Input::Signed => self.sender.signed(&own, now),
            Input::Answered(it) => {
                let random = rand::random();
                let events = self
                    .sender
                    .answered(&it.peer, it.delivery, it.answer, &own, now, random);
                let outcome = outcome(&events);
                self.regions.metrics.regions.sent(&it.peer, outcome);
                if outcome == RegionSendOutcome::Acknowledged {
                    self.told.remove(&it.peer);
                }
                events
            }
        };
        for event in events {
            self.happened(event, now);
        }
        if self.save_at_ms.is_some_and(|at| at <= now) {
            self.save();
        }
        self.tell();
    }

    fn happened(&mut self, event: Event, now: u64) {
        match event {
            Event::Acknowledged(_) => {
                self.save_at_ms.get_or_insert(now + SAVE_EVERY_MS);
            }
            Event::Committed { size } => self.regions.metrics.regions.committed(size),
            Event::Lost {
                peer,
                acknowledged,
                held,
            } => tracing::warn!(
                event.name = event::REGION_LOST,
                knhk.region.peer = peer,
                acknowledged,
                held,
                "a peer lost what it had acknowledged; it is sent again"
            ),
            Event::Failed { peer, error } => {
                let label = error.label();
                if self.told.insert(peer.clone(), label) != Some(label) {
                    tracing::warn!(peer, %error, "a peer does not take this region's log; it is tried again");
                }
            }
            Event::Stop(stop) => self.regions.halt.stop(stop),
        }
    }

    /// Lets everybody see how the peers are doing.
    fn tell(&self) {
        let peers = self.sender.status(self.regions.mono_ms());
        for peer in &peers {
            let metrics = &self.regions.metrics.regions;
            metrics.peer(
                &peer.region,
                peer.acknowledged,
                peer.lag_entries,
                millis(peer.lag_ms),
            );
            metrics.breaker(&peer.region, breaker(peer));
        }
        let acks = self.sender.acks();
        let acks = peers
            .iter()
            .filter_map(|peer| acks.get(&peer.region).cloned())
            .collect();
        *self.regions.sent() = Sent { peers, acks };
        let progress = self.sender.progress();
        self.regions.progress.send_if_modified(|told| {
            let is_news = **told != progress;
            if is_news {
                *told = Arc::new(progress);
            }
            is_news
        });
    }

    fn save(&mut self) {
        self.save_at_ms = None;
        if let Err(error) = self.sender.acks().save(self.storage.as_ref()) {
            tracing::warn!(%error, "what peers have acknowledged is not written down; the next start asks them");
        }
    }

    /// Makes a batch and sends it, beside everything else.
    fn deliver(&self, due: ToSend, news: mpsc::Sender<News>) {
        let Some(peer) = self.regions.peers.get(&due.peer) else {
            return;
        };
        let (transport, log) = (Arc::clone(&peer.transport), self.log.clone());
        let span = tracing::info_span!(span::REGION_SEND, "knhk.region.peer" = due.peer.as_str());
        let sending = async move {
            let end = delivered(log, transport, due, &news).await;
            // The receiver is gone when the service stops.
            let _ = news.send(News::Answered(end)).await;
        };
        tokio::spawn(sending.instrument(span));
    }
}

async fn delivered(
    log: Log,
    transport: Arc<dyn Transport>,
    due: ToSend,
    news: &mpsc::Sender<News>,
) -> Answered {
    let ToSend { peer, token, order } = due;
    let nothing = Delivery {
        token,
        from: order.from,
        end: order.from,
        bytes: 0,
    };
    let own_log = |what: String, label| Answered {
        peer: peer.clone(),
        delivery: nothing,
        answer: Err(LinkError::OwnLog { what, label }),
    };
    let packed = match tokio::task::spawn_blocking(move || pack(&log, order)).await {
        Ok(Ok(Some(packed))) => packed,
        Ok(Ok(None)) => return own_log("nothing of it is signed yet".to_owned(), "not_covered"),
        Ok(Err(error)) => return own_log(error.to_string(), error.label()),
        Err(error) => return own_log(error.to_string(), "io"),
    };
    let delivery = Delivery {
        from: packed.from,
        end: packed.end,
        bytes: packed.bytes.len(),
        ..nothing
    };
    let on_its_way = News::Packed {
        peer: peer.clone(),
        delivery,
        leads: packed.leads(),
    };
    // The receiver is gone when the service stops.
    let _ = news.send(on_its_way).await;
    let answer = transport.receipts(packed.bytes).await.map_err(LinkError::from);
    Answered {
        peer,
        delivery,
        answer,
    }
}

/// What came of a request, by the events that its answer led to.
fn outcome(events: &[Event]) -> RegionSendOutcome {
    let of = |event: &Event| match event {
        Event::Acknowledged(_) => Some(RegionSendOutcome::Acknowledged),
        Event::Failed { error, .. } => Some(RegionSendOutcome::from_label(error.label())),
        Event::Stop(stop) => Some(RegionSendOutcome::from_label(stop.label())),
        Event::Committed { .. } | Event::Lost { .. } => None,
    };
    events.iter().find_map(of).unwrap_or(RegionSendOutcome::Taken)
}

fn breaker(peer: &PeerStatus) -> RegionBreakerState {
    match peer.breaker {
        BreakerState::Closed => RegionBreakerState::Closed,
        BreakerState::Open => RegionBreakerState::Open,
        BreakerState::HalfOpen => RegionBreakerState::HalfOpen,
    }
}
