//! A region sends its log, and counts what a quorum holds.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use knhk_receipts::storage::ModelStorage;
use knhk_receipts::{Log, LogError, PublicKey, SignedCheckpoint};
use knhk_regions::sender::{LinkError, Own, Sent, ToSend};
use knhk_regions::source::{Order, pack};
use knhk_regions::wire::{Answer, Hash, KeyId};
use knhk_regions::{Event, Mirror, Sender};
use tokio::runtime::Runtime;

use super::{Body, Node, Out, SILENCE_MS, Stage};
use crate::rig::origin;

/// Batches are small, so that a backlog takes several.
const BATCH_BYTES: usize = 1_500;

/// Sends what is due, and what follows it.
pub(super) fn send_due(sender: &mut Sender, view: &View<'_>, now: u64, out: &mut Out) {
    loop {
        let due = sender.due(now);
        if due.is_empty() {
            return;
        }
        for due in due {
            send(sender, due, view, now, out);
        }
    }
}

fn send(sender: &mut Sender, due: ToSend, view: &View<'_>, now: u64, out: &mut Out) {
    let order = Order {
        most_bytes: BATCH_BYTES,
        ..due.order
    };
    match pack(view.log, order) {
        Ok(packed) => {
            let packed = packed.expect("something is signed");
            let sent = Sent {
                token: due.token,
                from: packed.from,
                end: packed.end,
                bytes: packed.bytes.len(),
            };
            sender.packed(&due.peer, sent, packed.leads(), now);
            out.timers.push((now + SILENCE_MS, sent, due.peer.clone()));
            let bytes = packed.bytes;
            out.packets.push((due.peer, Body::Receipts { sent, bytes }));
        }
        Err(error) => {
            let failed = unreadable(&error);
            sender.answered(&due.peer, nothing(due.token), Err(failed), view, now, 7);
        }
    }
}

fn nothing(token: u64) -> Sent {
    Sent {
        token,
        from: 0,
        end: 0,
        bytes: 0,
    }
}

fn unreadable(error: &LogError) -> LinkError {
    LinkError::OwnLog {
        what: error.to_string(),
        label: error.label(),
    }
}

/// A log as its sender sees it, beside the mirrors of those whom it sends to.
pub(super) struct View<'a> {
    origin: String,
    log: &'a Log,
    mirrors: &'a BTreeMap<String, Mirror>,
}

pub(super) fn view<'a>(region: &str, log: &'a Log, mirrors: &'a BTreeMap<String, Mirror>) -> View<'a> {
    View {
        origin: origin(region),
        log,
        mirrors,
    }
}

impl Own for View<'_> {
    fn origin(&self) -> &str {
        &self.origin
    }

    fn signed(&self) -> u64 {
        self.log.checkpoint().map_or(0, |it| it.size())
    }

    fn root_of(&self, size: u64) -> Option<Hash> {
        self.log.root_of(size).ok()
    }

    fn is_signed_by_us(&self, checkpoint: &SignedCheckpoint) -> bool {
        let keys: Vec<_> = self.log.keys().into_iter().map(|it| it.key).collect();
        checkpoint.verify(&keys).is_ok()
    }

    fn ack_key(&self, peer: &str, kid: &KeyId) -> Option<PublicKey> {
        let keys = self.mirrors.get(peer)?.ack_keys();
        keys.iter().find(|key| key.key_id() == *kid).cloned()
    }
}

impl Node {
    /// A peer answered, or was silent for too long.
    pub(super) fn answered(
        &mut self,
        from: &str,
        sent: Sent,
        answer: Result<Answer, LinkError>,
        now: u64,
        out: &mut Out,
    ) {
        let random = self.random.fetch_add(1, Ordering::SeqCst);
        let Some(up) = &mut self.up else { return };
        let Stage::Running { log, sender } = &mut up.stage else {
            return;
        };
        let view = view(&self.name, log, &up.mirrors);
        let events = sender.answered(
            from,
            sent,
            answer,
            &view,
            now,
            random.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        );
        if note(events, sender, log, &self.disk.data, out) {
            up.stage = Stage::Stopped;
        }
    }

    pub(crate) fn flush(&mut self, rt: &Runtime, now: u64) -> Out {
        let mut out = Out::default();
        let Some(up) = &mut self.up else { return out };
        let Stage::Running { log, sender } = &mut up.stage else {
            return out;
        };
        if rt.block_on(log.flush_now()).is_ok() {
            let view = view(&self.name, log, &up.mirrors);
            let events = sender.signed(&view, now);
            note(events, sender, log, &self.disk.data, &mut out);
        }
        out
    }
}

/// Persists what is to be persisted. Says whether everything has to stop.
pub(super) fn note(
    events: Vec<Event>,
    sender: &Sender,
    log: &Log,
    data: &ModelStorage,
    out: &mut Out,
) -> bool {
    let mut stop = false;
    for event in events {
        match event {
            // Lost, it is asked again.
            Event::Acknowledged(_) => drop(sender.acks().save(data)),
            Event::Committed { size } => {
                out.committed = log.root_of(size).ok().map(|root| (size, root));
            }
            Event::Stop(_) => stop = true,
            Event::Lost { .. } | Event::Failed { .. } => {}
        }
    }
    stop
}
