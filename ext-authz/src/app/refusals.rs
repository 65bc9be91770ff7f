//! Whoever was refused because of who they are: counted, logged, and recorded as a receipt.
//!
//! What strangers do must not fill the log: of one kind of refusal the first is recorded at once, and then at most one
//! receipt in [`RECEIPT_EVERY`], which says how many there were.

mod book;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use knhk_identity::{PeerError, SpiffeId};
use knhk_receipts::{ActionReceipt, Payload};
use knhk_telemetry::ServiceMetrics;
use knhk_telemetry::attribute::AccessDoor;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::book::{Book, Due};
use super::clock::{Clock, wall_ms};
use super::journal::Journal;

/// Two receipts of one kind of refusal are at least so far apart.
pub(crate) const RECEIPT_EVERY: Duration = Duration::from_secs(60);
/// Refusals that wait for the task that records them. More are counted, and their receipts are left out.
const WAITING: usize = 1024;
/// `what` of their receipts.
const WHAT: &str = "access.refused";
/// `who` where nobody said who they are.
const UNKNOWN: &str = "unknown";
/// Before an ID that was claimed and not proven.
const UNPROVEN: &str = "unproven:";

/// Somebody who was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) door: AccessDoor,
    pub(crate) who: Who,
    /// What was asked for, such as `PUT /v1/rollouts/{name}` or `Gate/Stream`. One of few.
    pub(crate) target: String,
    /// One line: what it would have needed.
    pub(crate) reason: String,
}

/// Who was refused, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A certificate proved it.
    Proven(SpiffeId),
    /// A certificate that proves nothing says so; none where not even that.
    Unproven(Option<SpiffeId>),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proven(id) => write!(f, "{id}"),
            Self::Unproven(Some(id)) => write!(f, "{UNPROVEN}{id}"),
            Self::Unproven(None) => f.write_str(UNKNOWN),
        }
    }
}

impl Refused {
    /// A peer that was refused in the handshake of one of our listeners.
    pub(crate) fn in_handshake(error: &PeerError) -> Self {
        let id = error.id().cloned();
        let who = match (error, id) {
            (PeerError::NotAllowed(_), Some(id)) => Who::Proven(id),
            (_, id) => Who::Unproven(id),
        };
        Self {
            door: AccessDoor::Handshake,
            who,
            target: format!("handshake ({})", error.label()),
            reason: error.to_string(),
        }
    }

    /// A peer that showed no certificate in a handshake.
    pub(crate) fn without_certificate() -> Self {
        Self {
            door: AccessDoor::Handshake,
            who: Who::Unproven(None),
            target: "handshake (no_certificate)".to_owned(),
            reason: "it shows no certificate".to_owned(),
        }
    }
}

/// Where refusals are told. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Refusals {
    metrics: Arc<ServiceMetrics>,
    told: mpsc::Sender<Refused>,
}

impl Refusals {
    /// The handle, and the task that records what is told to it.
    pub(crate) fn new(metrics: Arc<ServiceMetrics>) -> (Self, Waiting) {
        let (told, waiting) = mpsc::channel(WAITING);
        (Self { metrics, told }, Waiting(waiting))
    }

    /// Counts a refusal, and has it recorded. Waits for nothing.
    pub(crate) fn tell(&self, refused: Refused) {
        self.metrics.access_refused(refused.door);
        // The count has it; where so many wait, one receipt more says nothing new.
        let _ = self.told.try_send(refused);
    }
}

/// What was told and is not recorded yet.
#[derive(Debug)]
pub(crate) struct Waiting(mpsc::Receiver<Refused>);

/// Records refusals.
pub(crate) struct Clerk {
    region: String,
    clock: Clock,
    journal: Journal,
    waiting: Waiting,
}

impl Clerk {
    pub(crate) fn new(region: String, clock: Clock, journal: Journal, waiting: Waiting) -> Self {
        Self {
            region,
            clock,
            journal,
            waiting,
        }
    }

    /// Runs until `stop`; then what was not recorded yet is.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut book = Book::default();
        let mut tick = tokio::time::interval(RECEIPT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = tokio::select! {
                () = stop.cancelled() => break,
                Some(refused) = self.waiting.0.recv() => {
                    book.refused(refused, self.clock.mono()).into_iter().collect()
                }
                _ = tick.tick() => book.due(self.clock.mono()),
            };
            self.record(due).await;
        }
        while let Ok(refused) = self.waiting.0.try_recv() {
            let due = book.refused(refused, self.clock.mono());
            self.record(due.into_iter().collect()).await;
        }
        self.record(book.close()).await;
    }

    async fn record(&self, due: Vec<Due>) {
        for Due { refused, more } in &due {
            tracing::warn!(who = %refused.who, target = refused.target, more, "refused: {}", refused.reason);
        }
        if due.is_empty() {
            return;
        }
        let receipts = due.into_iter().map(|due| self.receipt(due)).collect();
        if let Err(error) = self.journal.append(receipts).await {
            tracing::warn!(%error, "the receipt of a refusal could not be recorded");
        }
    }

    fn receipt(&self, Due { refused, more }: Due) -> Payload {
        let reason = match more {
            0 => refused.reason,
            more => format!("{}; {more} more since the last receipt", refused.reason),
        };
        Payload::Action(ActionReceipt {
            region: self.region.clone(),
            time_unix_ms: wall_ms(),
            who: refused.who.to_string(),
            what: WHAT.to_owned(),
            target: refused.target,
            before: None,
            after: None,
            reason,
        })
    }
}
