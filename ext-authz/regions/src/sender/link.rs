//! One peer as this region sends to it: what it is known to hold, when it is tried next, and why it failed.

use std::collections::VecDeque;

use knhk_receipts::{PublicKey, SignedCheckpoint};

use super::breaker::Breaker;
use super::error::{LinkError, Stop};
use super::flights::{Flights, Leads, Next};
use crate::source::Order;
use crate::wire::{Ack, Answer, Hash, KeyId, MAX_ITEMS_BYTES};

/// Bytes of entries in the first batch, and after failures.
pub const MIN_BATCH_BYTES: usize = 256 * 1024;

/// A peer that has everything is asked so often whether it still has, in milliseconds.
pub const PROBE_EVERY_MS: u64 = 10_000;

/// A peer that has everything and whose acknowledgement could not be used is asked again after so long, in milliseconds.
const ASK_AGAIN_MS: u64 = 500;

/// How many signed trees are remembered to tell the lag in time.
const MAX_SAMPLES: usize = 1024;

/// What is known of the region's own log, to judge answers by. Its functions may read from disk.
pub trait Own {
    /// The log's name.
    fn origin(&self) -> &str;
    /// Entries under the newest checkpoint.
    fn signed(&self) -> u64;
    /// The root of the first `size` entries, which are signed. None where it cannot be read.
    fn root_of(&self, size: u64) -> Option<Hash>;
    /// Whether a key of the log signed this checkpoint.
    fn is_signed_by_us(&self, checkpoint: &SignedCheckpoint) -> bool;
    /// The key of this ID, if the peer's own log announces it for acknowledgements.
    fn ack_key(&self, peer: &str, kid: &KeyId) -> Option<PublicKey>;
}

/// The state of sending to one peer. Times are milliseconds of a clock that never goes back.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) region: String,
    /// The newest acknowledgement that was checked.
    pub(crate) ack: Option<Ack>,
    /// How many entries it holds, as it said last: the next batch begins there unless others are under way.
    next: u64,
    /// Entries of the newest checkpoint that the peer has taken.
    covered: u64,
    trusted: Option<KeyId>,
    most_bytes: usize,
    flights: Flights,
    /// What was sent did not arrive in its order, or not at all: one request goes alone next, whose answer can be believed.
    is_alone_next: bool,
    /// Failures of requests up to this one were told by one of them.
    blamed: Option<u64>,
    not_before_ms: u64,
    /// The bandwidth is used up until then.
    paced_until_ms: u64,
    pub(crate) breaker: Breaker,
    pub(crate) last_success_ms: Option<u64>,
    pub(crate) last_error: Option<LinkError>,
    /// Sizes that were signed and are not acknowledged, and when.
    waiting: VecDeque<(u64, u64)>,
}

/// What came of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The peer holds what was sent, or says where to go on.
    Went,
    /// It acknowledged more than before.
    Acknowledged(Ack),
    /// It holds less than it acknowledged.
    Lost { acknowledged: u64, held: u64 },
    /// It shows that our own log is not what it was.
    Stop(Stop),
    /// It failed.
    Failed(LinkError),
}

impl Link {
    /// Goes on from the acknowledgement that was persisted.
    pub(crate) fn new(region: String, ack: Option<Ack>) -> Self {
        Self {
            region,
            next: ack.as_ref().map_or(0, |ack| ack.size),
            covered: ack.as_ref().map_or(0, |ack| ack.size),
            ack,
            trusted: None,
            most_bytes: MIN_BATCH_BYTES,
            flights: Flights::default(),
            is_alone_next: false,
            blamed: None,
            not_before_ms: 0,
            paced_until_ms: 0,
            breaker: Breaker::default(),
            last_success_ms: None,
            last_error: None,
            waiting: VecDeque::new(),
        }
    }

    /// How many entries the peer has acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.ack.as_ref().map_or(0, |ack| ack.size)
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        !self.flights.is_empty()
    }

    /// A larger tree was signed.
    pub(crate) fn signed(&mut self, size: u64, now_ms: u64) {
        if self.acknowledged() < size && self.waiting.len() < MAX_SAMPLES {
            self.waiting.push_back((size, now_ms));
        }
        // A peer that waits to be asked whether it still has everything is not to wait with this.
        if self.breaker.failures() == 0 && self.next < size {
            self.not_before_ms = self.not_before_ms.min(now_ms);
        }
    }

    /// For how long the oldest signed entry waits for its acknowledgement.
    pub(crate) fn lag_ms(&self, now_ms: u64) -> u64 {
        self.waiting
            .front()
            .map_or(0, |(_, since)| now_ms.saturating_sub(*since))
    }

    /// When it is to be sent to next, while so many entries are signed.
    pub(crate) fn due_at(&self, signed: u64) -> Option<u64> {
        if self.flights.is_empty() {
            return Some(self.not_before_ms.max(self.paced_until_ms));
        }
        let has_more = self.after_flights().is_some_and(|next| next.from < signed);
        has_more.then_some(self.paced_until_ms)
    }

    /// Where a batch behind those under way begins, if one may be sent before they are answered.
    fn after_flights(&self) -> Option<Next> {
        let is_steady = !self.is_alone_next && self.breaker.failures() == 0;
        self.flights.next(self.trusted).filter(|_| is_steady)
    }

    /// The peer has been heard from, so it is there: it is not left alone any longer, and where it has everything it is asked
    /// whether it still has.
    pub(crate) fn heard(&mut self, now_ms: u64) {
        self.not_before_ms = self.not_before_ms.min(now_ms);
    }

    /// What is to be sent now, if anything is. Further batches go on behind it once [`Link::packed`] says where it ends.
    pub(crate) fn order(&mut self, token: u64, signed: u64, now_ms: u64) -> Option<Order> {
        if signed == 0 || self.due_at(signed).is_none_or(|at| at > now_ms) {
            return None;
        }
        let Next { from, covered } = self.after_flights().unwrap_or(Next {
            from: self.next.min(signed),
            covered: self.covered,
        });
        self.flights.begin(token, covered);
        Some(Order {
            from,
            covered,
            trusted: self.trusted,
            most_bytes: self.most_bytes,
        })
    }

    /// The batch of this request is made, and sent.
    pub(crate) fn packed(&mut self, sent: Sent, leads: Leads, pace: u64, now_ms: u64) {
        self.flights.packed(sent, leads);
        self.paced_until_ms = self.paced_until_ms.max(now_ms) + for_bytes(sent.bytes, pace);
    }

    /// Takes in the answer to the request of this token, which sent the entries `from` to `end` in `bytes`. `random` spreads pauses.
    pub(crate) fn answered(
        &mut self,
        sent: Sent,
        answer: Result<Answer, LinkError>,
        own: &dyn Own,
        random: u64,
        now_ms: u64,
    ) -> Option<Outcome> {
        let is_alone = self.flights.end(sent.token)?;
        self.is_alone_next &= !is_alone;
        let outcome = match answer {
            Ok(answer) => self.judge(sent, is_alone, answer, own),
            Err(error) => Outcome::Failed(error),
        };
        match &outcome {
            Outcome::Failed(error) => {
                self.most_bytes = (self.most_bytes / 2).max(MIN_BATCH_BYTES);
                self.last_error = Some(error.clone());
                self.is_alone_next = true;
                self.blame(sent.token, random, now_ms);
            }
            Outcome::Stop(stop) => self.last_error = Some(stop.as_link_error()),
            Outcome::Went | Outcome::Acknowledged(_) | Outcome::Lost { .. } => {
                self.breaker.succeeded();
                self.last_success_ms = Some(now_ms);
                self.go_on(sent, own.signed(), now_ms);
            }
        }
        Some(outcome)
    }

    /// Counts a failure. Those of requests that were under way together are one.
    fn blame(&mut self, token: u64, random: u64, now_ms: u64) {
        if self.blamed.is_none_or(|blamed| token > blamed) {
            self.blamed = self.flights.newest().max(Some(token));
            self.not_before_ms = now_ms + self.breaker.failed(random);
        }
    }

    fn go_on(&mut self, sent: Sent, signed: u64, now_ms: u64) {
        let wait = if self.next < signed {
            if sent.end > sent.from {
                self.most_bytes = (self.most_bytes * 2).min(MAX_ITEMS_BYTES);
            }
            0
        } else if self.acknowledged() < signed {
            ASK_AGAIN_MS
        } else {
            self.most_bytes = (self.most_bytes / 2).max(MIN_BATCH_BYTES);
            PROBE_EVERY_MS
        };
        self.not_before_ms = now_ms + wait;
    }

    fn judge(&mut self, sent: Sent, is_alone: bool, answer: Answer, own: &dyn Own) -> Outcome {
        if let Some(stop) = own_log_is_wrong(&answer, own) {
            return Outcome::Stop(stop);
        }
        if answer.held > own.signed() {
            return Outcome::Failed(LinkError::bad_answer(
                "it says that it holds more than is signed here",
            ));
        }
        // Answers may overtake each other: one that says less than another one is about an earlier moment, unless nothing else was
        // under way.
        if is_alone || answer.held >= self.next {
            self.trusted = Some(answer.trusted);
            self.next = answer.held;
            self.covered = answer.checkpoint.as_ref().map_or(0, SignedCheckpoint::size);
        }
        if let Some(refused) = answer.refused {
            // Told from where to go on is no failure, as long as it is somewhere else.
            if refused.label != GAP || answer.held == sent.from {
                return Outcome::Failed(LinkError::refused(&refused));
            }
            self.is_alone_next = !is_alone;
        }
        let acknowledged = self.acknowledged();
        if answer.held < acknowledged && !is_alone {
            // Whether it has lost that is seen when it is asked with nothing else under way.
            self.is_alone_next = true;
            return Outcome::Went;
        }
        if answer.held < acknowledged {
            self.ack = None;
            let held = answer.held;
            return Outcome::Lost { acknowledged, held };
        }
        self.last_error = None;
        let Some(ack) = answer.ack else {
            return Outcome::Went;
        };
        match self.check(&ack, own) {
            Ok(()) if ack.size > acknowledged => {
                self.waiting.retain(|(size, _)| *size > ack.size);
                self.ack = Some(ack.clone());
                Outcome::Acknowledged(ack)
            }
            Ok(()) => Outcome::Went,
            // The peer's log may not have told its key here yet: what was sent has arrived all the same.
            Err(error @ LinkError::UnknownAckKey { .. }) => {
                self.last_error = Some(error);
                Outcome::Went
            }
            Err(error) => Outcome::Failed(error),
        }
    }

    /// An acknowledgement is believed where it is the peer's, by a key that the peer's own log announces, and of our own tree.
    fn check(&self, ack: &Ack, own: &dyn Own) -> Result<(), LinkError> {
        if ack.peer != self.region || ack.origin != own.origin() {
            return Err(LinkError::bad_ack("it is another region's, or of another log"));
        }
        if ack.size > own.signed() || own.root_of(ack.size) != Some(ack.root) {
            return Err(LinkError::bad_ack("it is of another tree than ours"));
        }
        let key = own.ack_key(&self.region, &ack.kid);
        let key = key.ok_or_else(|| LinkError::UnknownAckKey {
            region: self.region.clone(),
        })?;
        if ack.is_signed_by(&key) {
            Ok(())
        } else {
            Err(LinkError::bad_ack("its signature is wrong"))
        }
    }
}

/// The label of the refusal that only says from where to go on.
const GAP: &str = "gap";

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The request's number.
    pub token: u64,
    /// The first entry of the batch.
    pub from: u64,
    /// The index behind its last one.
    pub end: u64,
    /// Its bytes on the wire.
    pub bytes: usize,
}

/// How long so many bytes take of a bandwidth in bytes per second, in milliseconds.
fn for_bytes(bytes: usize, bytes_per_second: u64) -> u64 {
    (bytes as u64).saturating_mul(1000) / bytes_per_second.max(1)
}

/// A checkpoint that a key of our log signed, of entries that our log does not have.
fn own_log_is_wrong(answer: &Answer, own: &dyn Own) -> Option<Stop> {
    let held = answer.checkpoint.as_ref()?;
    if held.origin() != own.origin() || !own.is_signed_by_us(held) {
        return None;
    }
    if held.size() > own.signed() {
        return Some(Stop::Behind {
            held: held.clone(),
            signed: own.signed(),
        });
    }
    let root = own.root_of(held.size())?;
    (root != held.root()).then(|| Stop::Forked { held: held.clone() })
}
