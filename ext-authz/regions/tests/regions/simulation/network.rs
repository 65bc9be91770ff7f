//! What is under way between regions, and what a bad network does to it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use knhk_receipts::storage::ModelStorage;
use knhk_regions::sender::Sent;
use knhk_regions::wire::{Ack, Answer, MAX_BATCH_BYTES};
use rand::RngExt;
use rand::rngs::SmallRng;

/// Something that arrives at a region at a time.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) body: Body,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    Receipts {
        sent: Sent,
        bytes: Vec<u8>,
    },
    Answer {
        sent: Sent,
        bytes: Vec<u8>,
    },
    /// The sender's own timer: no answer came.
    Silence {
        sent: Sent,
    },
    AskHeld,
    Held(Vec<u8>),
    AskEntries {
        from: u64,
    },
    Entries(Vec<u8>),
    Replicate(Vec<u8>),
    Replicated(Vec<u8>),
}

/// How bad it is. Each a chance in 100 for a packet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) lost: u32,
    pub(crate) doubled: u32,
    pub(crate) changed: u32,
    pub(crate) forged: u32,
    /// Longer than it is said to be, or than anything may be.
    pub(crate) oversized: u32,
    /// Somebody sends what was sent long ago.
    pub(crate) replayed: u32,
    /// The longest way takes so long, in milliseconds.
    pub(crate) slow_ms: u64,
}

#[derive(Default)]
pub(crate) struct Network {
    under_way: BinaryHeap<Reverse<(u64, u64)>>,
    packets: std::collections::HashMap<u64, Packet>,
    numbers: u64,
    pub(crate) weather: Weather,
    /// Pairs that do not reach each other, in this direction.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// A region that everything takes [`SLOW_MS`] to and from.
    pub(crate) slow: Option<usize>,
    /// What was sent before, some of it.
    past: Vec<Packet>,
}

/// How long the way to a slow region takes.
const SLOW_MS: u64 = 5_000;

/// So many packets are remembered, to be sent again.
const REMEMBERED: usize = 64;

impl Network {
    pub(crate) fn send(&mut self, packet: Packet, now: u64, rng: &mut SmallRng) {
        let Weather { lost, doubled, .. } = self.weather;
        self.replay(&packet, now, rng);
        if self.cut.contains(&(packet.from, packet.to)) || rng.random_ratio(lost, 100) {
            return;
        }
        if rng.random_ratio(doubled, 100) {
            // Some come again much later.
            let late = rng.random_range(0..5_000);
            self.put(packet.clone(), now + late);
        }
        let packet = self.spoiled(packet, rng);
        let ends = [packet.from, packet.to];
        let slow = self.slow.is_some_and(|it| ends.contains(&it));
        let way = 5 + rng.random_range(0..=self.weather.slow_ms) + if slow { SLOW_MS } else { 0 };
        self.put(packet, now + way);
    }

    fn replay(&mut self, packet: &Packet, now: u64, rng: &mut SmallRng) {
        if let Some(place) = self.past.get_mut(rng.random_range(0..REMEMBERED)) {
            if rng.random_ratio(self.weather.replayed, 100) {
                let again = place.clone();
                self.put(again, now + 5);
            } else if rng.random_ratio(1, 8) {
                *place = packet.clone();
            }
        } else if self.past.len() < REMEMBERED {
            self.past.push(packet.clone());
        }
    }

    pub(crate) fn put(&mut self, packet: Packet, at: u64) {
        self.numbers += 1;
        self.under_way.push(Reverse((at, self.numbers)));
        self.packets.insert(self.numbers, packet);
    }

    /// The next packet that arrives up to this time.
    pub(crate) fn arrive(&mut self, until: u64) -> Option<(u64, Packet)> {
        let Reverse((at, number)) = *self.under_way.peek()?;
        if at > until {
            return None;
        }
        self.under_way.pop();
        self.packets.remove(&number).map(|packet| (at, packet))
    }

    fn spoiled(&self, mut packet: Packet, rng: &mut SmallRng) -> Packet {
        let Weather {
            changed,
            forged,
            oversized,
            ..
        } = self.weather;
        let is_oversized = rng.random_ratio(oversized, 100);
        let is_changed = is_oversized || rng.random_ratio(changed, 100);
        let is_forged = rng.random_ratio(forged, 100);
        match &mut packet.body {
            Body::Answer { bytes, .. } if is_forged => forge(bytes, rng),
            Body::Receipts { bytes, .. }
            | Body::Answer { bytes, .. }
            | Body::Held(bytes)
            | Body::Entries(bytes)
            | Body::Replicate(bytes)
            | Body::Replicated(bytes)
                if is_changed && !bytes.is_empty() =>
            {
                let at = rng.random_range(0..bytes.len());
                if is_oversized {
                    let whole = if rng.random_ratio(1, 50) {
                        MAX_BATCH_BYTES + 1
                    } else {
                        bytes.len() + 1 + at
                    };
                    bytes.resize(whole, 0);
                } else if rng.random() {
                    bytes[at] ^= 1 << rng.random_range(0..8);
                } else {
                    bytes.truncate(at);
                }
            }
            _ => {}
        }
        packet
    }
}

/// Says that everything is held, with an acknowledgement of the peer's name by a key of our own.
fn forge(bytes: &mut Vec<u8>, rng: &mut SmallRng) {
    let Ok(mut answer) = Answer::from_bytes(bytes) else {
        return;
    };
    let seed = rng.random_range(1..200);
    let forger = knhk_regions::AckSigner::open(&ModelStorage::new(), "x", &move |bytes: &mut [u8]| {
        bytes.fill(seed);
    })
    .expect("a key");
    let Some(held) = answer.checkpoint.clone() else {
        return;
    };
    let kid = forger.public_key().key_id();
    if let Some(ack) = &mut answer.ack {
        *ack = Ack {
            size: ack.size + u64::from(rng.random::<bool>()),
            kid: if rng.random() { kid } else { ack.kid },
            signature: if rng.random() {
                vec![0x30; 70]
            } else {
                ack.signature.clone()
            },
            ..ack.clone()
        };
    }
    answer.refused = None;
    answer.held = answer.held.max(held.size());
    *bytes = answer.to_bytes();
}
