//! Sending the region's own log to its peers, as a pure state machine: it says what to send to whom and when, judges the answers, and
//! counts which entries a quorum of regions holds. A shell reads batches, sends them, and persists what is acknowledged.
//!
//! The log is the outbox: what a peer has not acknowledged is sent again, in order. A few batches may be under way to each peer, each
//! beginning where the one before ends; they grow while there is a backlog.

mod breaker;
mod error;
mod flights;
mod link;
mod quorum;
mod saved;

pub use breaker::{BREAKER_FAILURES, BreakerState, PAUSE_BASE_MS, PAUSE_CAP_MS};
pub use error::{LinkError, Stop};
pub use flights::{Leads, MAX_BYTES_UNDER_WAY, MAX_FLIGHTS};
use link::{Link, Outcome};
pub use link::{MIN_BATCH_BYTES, Own, PROBE_EVERY_MS, Sent};
pub use quorum::{Holder, Progress, QuorumError, quorum_of};
pub use saved::SavedAcks;

use crate::source::Order;
use crate::wire::{Ack, Answer};

/// What sending is set up with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderOptions {
    /// This region.
    pub region: String,
    /// The others.
    pub peers: Vec<String>,
    /// How many regions, this one included, have to hold an entry.
    pub quorum: usize,
    /// Bytes that each peer is sent in a second, at most.
    pub bytes_per_second: u64,
}

/// The state of sending to all peers. Times are milliseconds of a clock that never goes back.
#[derive(Clone, Debug)]
pub struct Sender {
    options: SenderOptions,
    links: Vec<Link>,
    tokens: u64,
    signed: u64,
    committed: u64,
    stopped: Option<Stop>,
}

/// A batch that is to be made and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToSend {
    /// To whom.
    pub peer: String,
    /// The request's number, which its answer has to come with.
    pub token: u64,
    /// What.
    pub order: Order,
}

/// Something that a shell persists, tells or counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer acknowledged more. To be persisted ([`SavedAcks`]).
    Acknowledged(Ack),
    /// A quorum holds all entries before this one.
    Committed {
        /// How many entries that is.
        size: u64,
    },
    /// A peer lost what it had acknowledged: it was wiped, or restored from an old copy. It is sent again.
    Lost {
        /// The peer.
        peer: String,
        /// What it had acknowledged.
        acknowledged: u64,
        /// What it holds now.
        held: u64,
    },
    /// Sending failed. It is tried again.
    Failed {
        /// The peer.
        peer: String,
        /// Why.
        error: LinkError,
    },
    /// Nothing may be signed any more.
    Stop(Stop),
}

/// How a peer is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub region: String,
    /// Entries that it has acknowledged.
    pub acknowledged: u64,
    /// Signed entries that it has not.
    pub lag_entries: u64,
    /// For how long the oldest of those waits, in milliseconds.
    pub lag_ms: u64,
    /// How long ago it last took something or said that it has everything, in milliseconds.
    pub last_success_ms_ago: Option<u64>,
    /// Why it failed last, if it did not succeed since.
    pub last_error: Option<LinkError>,
    /// Whether it is sent to.
    pub breaker: BreakerState,
}

impl Sender {
    /// Goes on from what was persisted.
    pub fn new(options: SenderOptions, saved: &SavedAcks) -> Self {
        let links = options.peers.iter();
        let links = links.map(|peer| Link::new(peer.clone(), saved.get(peer).cloned()));
        Self {
            links: links.collect(),
            options,
            tokens: 0,
            signed: 0,
            committed: 0,
            stopped: None,
        }
    }

    /// The log's newest checkpoint has so many entries. What was persisted of acknowledgements and is not of this log is dropped.
    pub fn signed(&mut self, own: &dyn Own, now_ms: u64) -> Vec<Event> {
        let size = own.signed();
        if self.signed == 0 {
            for link in &mut self.links {
                let is_ours = |ack: &Ack| {
                    ack.origin == own.origin() && ack.size <= size && own.root_of(ack.size) == Some(ack.root)
                };
                link.ack = link.ack.take().filter(is_ours);
            }
        }
        if size > self.signed {
            self.signed = size;
            self.links.iter_mut().for_each(|link| link.signed(size, now_ms));
        }
        self.commit().into_iter().collect()
    }

    /// What is to be sent now. Each is to be answered or failed with [`Sender::answered`], and before that, where there is a batch for
    /// it, told with [`Sender::packed`]: then there may be more that is due.
    pub fn due(&mut self, now_ms: u64) -> Vec<ToSend> {
        if self.stopped.is_some() {
            return Vec::new();
        }
        let (signed, tokens) = (self.signed, &mut self.tokens);
        let due = self.links.iter_mut().filter_map(|link| {
            let order = link.order(*tokens, signed, now_ms)?;
            *tokens += 1;
            Some(ToSend {
                peer: link.region.clone(),
                token: *tokens - 1,
                order,
            })
        });
        due.collect()
    }

    /// When [`Sender::due`] may have something, if nothing is signed or answered before.
    pub fn next_due_ms(&self) -> Option<u64> {
        let stopped = self.stopped.is_some() || self.signed == 0;
        let due_at = |link: &Link| link.due_at(self.signed);
        let at = self.links.iter().filter_map(due_at).min();
        at.filter(|_| !stopped)
    }

    /// The batch of a request is made and on its way. Another one may follow it before it is answered.
    pub fn packed(&mut self, peer: &str, sent: Sent, leads: Leads, now_ms: u64) {
        let pace = self.options.bytes_per_second;
        let link = self.links.iter_mut().find(|link| link.region == peer);
        if let Some(link) = link {
            link.packed(sent, leads, pace, now_ms);
        }
    }

    /// A peer that was away or starts again has been heard from.
    pub fn heard_from(&mut self, peer: &str, now_ms: u64) {
        let link = self.links.iter_mut().find(|link| link.region == peer);
        if let Some(link) = link {
            link.heard(now_ms);
        }
    }

    /// How many entries the newest checkpoint has that it was told of. Who waits for a larger one waits from here: one that was signed
    /// since is not to be missed.
    pub fn told(&self) -> u64 {
        self.signed
    }

    /// A peer answered, or failed. An answer to an earlier request changes nothing. `random` spreads pauses.
    pub fn answered(
        &mut self,
        peer: &str,
        sent: Sent,
        answer: Result<Answer, LinkError>,
        own: &dyn Own,
        now_ms: u64,
        random: u64,
    ) -> Vec<Event> {
        // The answer may be to more than was signed when this was told last.
        let mut events = self.signed(own, now_ms);
        let link = self.links.iter_mut().find(|link| link.region == peer);
        let Some(outcome) = link.and_then(|link| link.answered(sent, answer, own, random, now_ms)) else {
            return events;
        };
        let peer = peer.to_owned();
        events.extend(match outcome {
            Outcome::Went => None,
            Outcome::Acknowledged(ack) => Some(Event::Acknowledged(ack)),
            Outcome::Lost { acknowledged, held } => Some(Event::Lost {
                peer,
                acknowledged,
                held,
            }),
            Outcome::Failed(error) => Some(Event::Failed { peer, error }),
            Outcome::Stop(stop) => {
                self.stopped = Some(stop.clone());
                Some(Event::Stop(stop))
            }
        });
        events.extend(self.commit());
        events
    }

    /// Why nothing may be signed and sent any more, if that is so.
    pub fn stopped(&self) -> Option<&Stop> {
        self.stopped.as_ref()
    }

    /// How many entries a quorum holds. It never goes back: what was promised once was so.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Acknowledgements to be persisted.
    pub fn acks(&self) -> SavedAcks {
        SavedAcks::new(self.links.iter().filter_map(|link| link.ack.clone()).collect())
    }

    /// How the peers are doing.
    pub fn status(&self, now_ms: u64) -> Vec<PeerStatus> {
        let status = |link: &Link| PeerStatus {
            region: link.region.clone(),
            acknowledged: link.acknowledged(),
            lag_entries: self.signed.saturating_sub(link.acknowledged()),
            lag_ms: link.lag_ms(now_ms),
            last_success_ms_ago: link.last_success_ms.map(|at| now_ms.saturating_sub(at)),
            last_error: link.last_error.clone(),
            breaker: link.breaker.state(link.is_in_flight()),
        };
        self.links.iter().map(status).collect()
    }

    /// What who waits for a quorum is told.
    pub fn progress(&self) -> Progress {
        let own = Holder {
            region: self.options.region.clone(),
            size: self.signed,
            why_not: None,
        };
        let others = self.links.iter().map(|link| Holder {
            region: link.region.clone(),
            size: link.acknowledged(),
            why_not: link.last_error.as_ref().map(ToString::to_string),
        });
        Progress {
            quorum: self.options.quorum,
            committed: self.committed,
            holders: std::iter::once(own).chain(others).collect(),
        }
    }

    fn commit(&mut self) -> Option<Event> {
        let acknowledged = self.links.iter().map(Link::acknowledged);
        let held: Vec<_> = std::iter::once(self.signed).chain(acknowledged).collect();
        let size = quorum_of(held, self.options.quorum);
        if size <= self.committed {
            return None;
        }
        self.committed = size;
        Some(Event::Committed { size })
    }
}
