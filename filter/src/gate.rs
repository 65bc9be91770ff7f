//! The filter's side of `knhk.v1.Gate`: what is said to the service, and what its answers change.
//!
//! Everything here belongs to the VM and outlives its plugins: the snapshot, the counts, the decisions that wait.

use std::ops::Deref;

use knhk_proto::v1;
use prost::Message;
use v1::down::Message as Down;
use v1::up::Message as Up;

use crate::host::{Host, LogLevel, Mono, Refused, StreamToken};
use crate::observe::{Finished, Observations, Shown, WindowRef};
use crate::record::Waiting;
use crate::snapshots::{Snapshot, SnapshotError};
use crate::stats::Stats;
use crate::stream::{Effect, Event, Roll, Stream};

const SERVICE: &str = "knhk.v1.Gate";
const METHOD: &str = "Stream";
/// The longest silence towards the service. A report goes out with each tick in which a count changed, and after this
/// long without one, so that the service knows the worker is alive.
pub(crate) const REPORT_IDLE_MILLIS: u64 = 5_000;
/// gRPC's status for a stream that ended as it should, as at the service's maximum age.
const GRPC_OK: u32 = 0;

/// What a VM shares with the service.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Drawn when the first stream is opened.
    nonce: Option<[u8; 16]>,
    snapshot: Option<Snapshot>,
    observations: Observations,
    waiting: Waiting,
    stats: Stats,
    totals: Totals,
    /// The last report's number.
    seq: u64,
    /// What the service was told last on the present stream, and when.
    reported: Option<(Totals, Mono)>,
    /// Whether a stream was ever opened.
    opened: bool,
    /// Whether the log says that there is no stream.
    told_lost: bool,
}

/// A plugin's way to the service.
#[derive(Debug)]
pub(crate) struct Link {
    /// Envoy's cluster of the service.
    pub(crate) cluster: String,
    pub(crate) stream: Stream,
}

/// Counts over all requests since the VM started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    requests: u64,
    keyless: u64,
    decisions_dropped: u64,
}

impl Gate {
    /// Knows nothing, has said nothing.
    pub(crate) const fn new() -> Self {
        Self {
            nonce: None,
            snapshot: None,
            observations: Observations::new(),
            waiting: Waiting::new(),
            stats: Stats::new(),
            totals: Totals {
                requests: 0,
                keyless: 0,
                decisions_dropped: 0,
            },
            seq: 0,
            reported: None,
            opened: false,
            told_lost: false,
        }
    }

    /// The last good snapshot, if there ever was one.
    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// The filter saw a request.
    pub(crate) fn count_request(&mut self) {
        self.totals.requests += 1;
        self.stats.requests += 1;
    }

    /// A rollout matched a request that had none of its keys.
    pub(crate) fn count_keyless(&mut self) {
        self.totals.keyless += 1;
        self.stats.keyless += 1;
    }

    /// A request was answered here, since there was nothing to decide by.
    pub(crate) fn count_denied(&mut self) {
        self.stats.denied += 1;
    }

    /// A request was answered here, since its rollout does not admit its caller.
    pub(crate) fn count_peer_not_allowed(&mut self) {
        self.stats.peer_not_allowed += 1;
    }

    /// So many flags failed for a request.
    pub(crate) fn count_flags_failed(&mut self, flags: u64) {
        self.stats.flags_failed += flags;
    }

    /// A request that was routed is over.
    pub(crate) fn count_finished<B: Deref<Target = [u8]>>(
        &mut self,
        window: WindowRef,
        finished: Finished,
        header: impl FnMut(&str) -> Shown<B>,
    ) {
        self.observations.count(window, finished, header);
    }

    /// A decision is to reach the service.
    pub(crate) fn record(&mut self, decision: &v1::Decision) {
        if !self.waiting.push(decision) {
            self.totals.decisions_dropped += 1;
            self.stats.dropped += 1;
        }
    }

    /// Time has passed for the plugin that speaks for the VM.
    pub(crate) fn tick<H: Host>(&mut self, host: &mut H, link: &mut Link) {
        let now = host.mono();
        self.advance(host, link, Event::Tick, now);
        if link.stream.is_good(now) {
            self.tell_found(host, link);
        }
        if let Some(token) = link.stream.token()
            && self.say_what_is_new(host, token, now).is_err()
        {
            self.broke(host, link, token, now);
        }
        self.stats.flush(host);
    }

    /// Another plugin speaks for the VM.
    pub(crate) fn replaced<H: Host>(&mut self, host: &mut H, link: &mut Link) {
        let now = host.mono();
        self.advance(host, link, Event::Replaced, now);
    }

    /// The service said something.
    pub(crate) fn receive<H: Host>(&mut self, host: &mut H, link: &mut Link, token: StreamToken) {
        if link.stream.token() != Some(token) {
            return;
        }
        let now = host.mono();
        self.advance(host, link, Event::Received(token), now);
        self.tell_found(host, link);
        let Ok(bytes) = host.received() else {
            return;
        };
        let answer = match v1::Down::decode(&*bytes) {
            Err(error) => Some(self.refuse(host, None, &error.into())),
            Ok(v1::Down {
                message: Some(Down::Snapshot(snapshot)),
            }) => Some(self.install(host, &snapshot)),
            Ok(v1::Down {
                message: Some(Down::BatchAck(ack)),
            }) => {
                self.waiting.acknowledge(ack.through);
                None
            }
            // A newer service may say what this filter does not know.
            Ok(v1::Down { message: None }) => None,
        };
        if let Some(answer) = answer
            && host.send(token, &up(answer)).is_err()
        {
            self.broke(host, link, token, now);
        }
    }

    /// The service closed a stream, or it broke.
    pub(crate) fn closed<H: Host>(&mut self, host: &mut H, link: &mut Link, token: StreamToken, status: u32) {
        if link.stream.token() == Some(token) && status != GRPC_OK {
            self.tell_lost(host, link, &format!("gRPC status {status}"));
        }
        let now = host.mono();
        let event = Event::Closed(token, roll(host));
        self.advance(host, link, event, now);
    }

    /// Steps the stream's state and does what follows, until nothing does.
    fn advance<H: Host>(&mut self, host: &mut H, link: &mut Link, event: Event, now: Mono) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let (state, effect) = link.stream.step(event, now);
            link.stream = state;
            match effect {
                None => {}
                Some(Effect::Open) => next = Some(self.open(host, link)),
                Some(Effect::Greet(token)) => next = self.greet(host, token),
                Some(Effect::Close(token)) => host.close(token),
                Some(Effect::Cancel(token)) => host.cancel(token),
            }
        }
    }

    /// The host would not send on a stream.
    fn broke<H: Host>(&mut self, host: &mut H, link: &mut Link, token: StreamToken, now: Mono) {
        host.cancel(token);
        let event = Event::Closed(token, roll(host));
        self.advance(host, link, event, now);
    }

    fn open<H: Host>(&mut self, host: &mut H, link: &Link) -> Event {
        // Without a nonce nothing that is said can be told apart from another worker's words.
        if self.nonce.is_none() {
            self.nonce = host.random().ok();
        }
        if self.nonce.is_none() {
            self.tell_lost(host, link, "the proxy has no randomness");
            return Event::Refused(roll(host));
        }
        if std::mem::replace(&mut self.opened, true) {
            self.stats.reconnects += 1;
        }
        match host.open_stream(&link.cluster, SERVICE, METHOD) {
            Ok(token) => Event::Opened(token),
            Err(refused) => {
                self.tell_lost(host, link, &format!("{refused}; is it a cluster of this proxy?"));
                Event::Refused(roll(host))
            }
        }
    }

    /// Says Hello, and that everything has to be told again: whoever listens now may know nothing.
    fn greet<H: Host>(&mut self, host: &mut H, token: StreamToken) -> Option<Event> {
        self.reported = None;
        self.observations.repeat_all();
        self.waiting.resend();
        let hello = v1::Hello {
            node: host.node_id().unwrap_or_default(),
            vm_nonce: self.nonce.unwrap_or_default().to_vec(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            last: self.running(),
        };
        host.send(token, &up(Up::Hello(hello))).err()?;
        host.cancel(token);
        Some(Event::Closed(token, roll(host)))
    }

    /// Writes one line when the stream is lost, and none for the attempts that follow.
    fn tell_lost<H: Host>(&mut self, host: &mut H, link: &Link, why: &str) {
        if std::mem::replace(&mut self.told_lost, true) {
            return;
        }
        let meanwhile = match self.snapshot.as_ref().and_then(Snapshot::name) {
            Some(name) => format!("snapshot {} decides meanwhile", name.id),
            None => "there is no snapshot yet".to_owned(),
        };
        let message = format!(
            "knhk: no stream to cluster {} ({why}): {meanwhile}, tries again",
            link.cluster
        );
        host.log(LogLevel::Warn, &message);
    }

    fn tell_found<H: Host>(&mut self, host: &mut H, link: &Link) {
        if std::mem::take(&mut self.told_lost) {
            host.log(
                LogLevel::Info,
                &format!("knhk: has a stream to cluster {} again", link.cluster),
            );
        }
    }

    fn say_what_is_new<H: Host>(
        &mut self,
        host: &mut H,
        token: StreamToken,
        now: Mono,
    ) -> Result<(), Refused> {
        if let Some(report) = self.report(now) {
            host.send(token, &up(Up::Report(report)))?;
        }
        while let Some(batch) = self.waiting.next_batch() {
            host.send(token, &batch)?;
        }
        Ok(())
    }

    /// The report that is due, if one is. Counts that did not change since they were last told on this stream are left
    /// out: they only grow, so what is not told stays as it was.
    fn report(&mut self, now: Mono) -> Option<v1::Report> {
        let due = match self.reported {
            None => true,
            Some((totals, at)) => {
                totals != self.totals
                    || self.observations.changed()
                    || now >= at.plus_millis(REPORT_IDLE_MILLIS)
            }
        };
        if !due {
            return None;
        }
        self.reported = Some((self.totals, now));
        self.seq += 1;
        Some(v1::Report {
            seq: self.seq,
            running: self.running(),
            requests: self.totals.requests,
            keyless: self.totals.keyless,
            decisions_dropped: self.totals.decisions_dropped,
            observed: self.observations.take_changed(),
        })
    }

    /// Puts a snapshot in force if it is good, and says whether it was.
    fn install<H: Host>(&mut self, host: &mut H, message: &v1::Snapshot) -> Up {
        match Snapshot::issued(message, &mut self.observations) {
            Ok(snapshot) => {
                self.stats.version = snapshot.name().map(|name| name.id.n);
                self.snapshot = Some(snapshot);
                Up::Ack(v1::Ack { id: message.id })
            }
            Err(error) => self.refuse(host, message.id, &error),
        }
    }

    fn refuse<H: Host>(&mut self, host: &mut H, id: Option<v1::SnapshotId>, error: &SnapshotError) -> Up {
        self.stats.refused += 1;
        host.log(
            LogLevel::Warn,
            &format!("knhk: snapshot refused, the last good one stays: {error}"),
        );
        Up::Nack(v1::Nack {
            id,
            reason: error.label().to_owned(),
            detail: error.to_string(),
        })
    }

    fn running(&self) -> Option<v1::SnapshotId> {
        let id = self.snapshot.as_ref()?.name()?.id;
        Some(v1::SnapshotId {
            epoch: id.epoch,
            n: id.n,
        })
    }
}

fn up(message: Up) -> Vec<u8> {
    v1::Up {
        message: Some(message),
    }
    .encode_to_vec()
}

/// Draws a number; without randomness the wait is the shortest.
fn roll<H: Host>(host: &mut H) -> Roll {
    let drawn = host.random().ok().and_then(|bytes| bytes.first_chunk().copied());
    Roll(drawn.map_or(0, u32::from_le_bytes))
}
