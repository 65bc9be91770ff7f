//! What clients and operators do to a region.

use knhk_receipts::Log;
use knhk_receipts::testing::TestSigner;
use knhk_regions::wire::{Message, RolloutState};
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::runtime::Runtime;

use super::{Node, seed};
use crate::rig::action;

impl Node {
    /// Clients' receipts: durable, and signed a moment later.
    pub(crate) fn append(&mut self, entries: u64, rt: &Runtime) {
        let Some(log) = self.log() else { return };
        let from = log.size();
        let payloads = (from..from + entries)
            .map(|number| action(log.region(), number))
            .collect();
        // A client whose append failed was told so.
        let _ = rt.block_on(log.append(payloads));
    }

    pub(crate) fn rotate(&mut self, rt: &Runtime) {
        let next = seed(self.at, self.keys);
        let Some(log) = self.log() else { return };
        // The provider has the new version, whatever came of the rotation.
        let _ = rt.block_on(log.rotate(TestSigner::key_of(next), "test"));
        self.keys += 1;
    }

    /// A home's change, or an operator's abort or adoption anywhere.
    pub(crate) fn operate(&mut self, rng: &mut SmallRng) {
        let name = ["shop", "cart"][rng.random_range(0..2)].to_owned();
        let known = self.rollouts.get(&name).cloned();
        let home = self.name.clone();
        let state = match (known, rng.random_range(0..3)) {
            (Some(it), 0) => RolloutState {
                aborted: true,
                document: Some(home.into_bytes()),
                ..it
            },
            (Some(it), 1) => RolloutState {
                generation: it.generation + 1,
                home,
                sequence: 0,
                aborted: false,
                ..it
            },
            (Some(it), _) if it.home == home => RolloutState {
                sequence: it.sequence + 1,
                ..it
            },
            (Some(_), _) => return,
            (None, _) => RolloutState {
                name,
                home,
                generation: 1,
                sequence: 0,
                aborted: false,
                document: None,
            },
        };
        self.rollouts.merge(state);
    }

    /// What goes ahead of all receipts.
    pub(crate) fn message(&self) -> Vec<u8> {
        let mirrors = self.up.iter().flat_map(|up| up.mirrors.values());
        let seen = mirrors.filter_map(|it| it.checkpoint().cloned());
        let own = self.log().and_then(Log::checkpoint);
        let message = Message {
            states: self.rollouts.states().cloned().collect(),
            seen: seen.chain(own).collect(),
            ..Message::of(&self.name)
        };
        message.to_bytes()
    }
}
