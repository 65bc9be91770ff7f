//! What arrives at a region.

use knhk_regions::TransportError;
use knhk_regions::sender::LinkError;
use knhk_regions::source::{Order, pack};
use knhk_regions::wire::{Answer, Batch, Message};
use tokio::runtime::Runtime;

use super::{Body, Ended, Node, Out, SILENCE_MS, Setup, Stage, ended};

impl Node {
    /// Something arrived. What is done about it is in the answer; an unreadable one gets none.
    pub(crate) fn receive(
        &mut self,
        from: &str,
        body: Body,
        setup: &Setup,
        rt: &Runtime,
        now: u64,
    ) -> Result<Out, Ended> {
        let wall = now.saturating_add_signed(self.skew_ms) + 1_700_000_000_000;
        let mut out = Out::default();
        let Some(up) = &mut self.up else { return Ok(out) };
        match body {
            Body::Receipts { sent, bytes } => {
                let Ok(batch) = Batch::from_bytes(&bytes) else {
                    return Ok(out);
                };
                let Some(mirror) = up.mirrors.get_mut(batch.region) else {
                    return Ok(out);
                };
                let refusal = mirror.receive(&batch, wall).err();
                let bytes = mirror.answer(refusal.as_ref(), &up.acks).to_bytes();
                out.packets.push((from.to_owned(), Body::Answer { sent, bytes }));
            }
            Body::Answer { sent, bytes } => {
                let answer = Answer::from_bytes(&bytes);
                let answer = answer.map_err(|e| TransportError::Unreadable {
                    reason: e.to_string(),
                });
                self.answered(from, sent, answer.map_err(LinkError::from), now, &mut out);
            }
            Body::Silence { sent } => {
                let silence = TransportError::Timeout {
                    seconds: SILENCE_MS / 1000,
                };
                self.answered(from, sent, Err(silence.into()), now, &mut out);
            }
            Body::AskHeld => {
                if let Some(mirror) = up.mirrors.get(from) {
                    let bytes = mirror.answer(None, &up.acks).to_bytes();
                    out.packets.push((from.to_owned(), Body::Held(bytes)));
                }
            }
            Body::Held(bytes) => {
                if let (Stage::Starting { start, own }, Ok(answer)) =
                    (&mut up.stage, Answer::from_bytes(&bytes))
                {
                    start.heard(from, answer, own, now).map_err(ended("log"))?;
                }
            }
            Body::AskEntries { from: first } => {
                if let Some(mirror) = up.mirrors.get(from) {
                    let order = Order {
                        from: first,
                        covered: first,
                        trusted: None,
                        most_bytes: 2_000,
                    };
                    if let Ok(Some(packed)) = pack(mirror, order) {
                        out.packets.push((from.to_owned(), Body::Entries(packed.bytes)));
                    }
                }
            }
            Body::Entries(bytes) => self.restored(&bytes, setup, rt, now, &mut out)?,
            Body::Replicate(bytes) => {
                let Ok(message) = Message::from_bytes(&bytes) else {
                    return Ok(out);
                };
                let states = self.rollouts.newer_than(&message.states);
                for seen in &message.seen {
                    for mirror in up.mirrors.values_mut() {
                        // An alarm shows in the mirror.
                        let _ = mirror.witness(seen, wall);
                    }
                }
                message.states.into_iter().for_each(|state| {
                    self.rollouts.merge(state);
                });
                let answer = Message {
                    states,
                    ..Message::of(&self.name)
                };
                out.packets
                    .push((from.to_owned(), Body::Replicated(answer.to_bytes())));
            }
            Body::Replicated(bytes) => {
                let Ok(message) = Message::from_bytes(&bytes) else {
                    return Ok(out);
                };
                message.states.into_iter().for_each(|state| {
                    self.rollouts.merge(state);
                });
            }
        }
        Ok(out)
    }
}
