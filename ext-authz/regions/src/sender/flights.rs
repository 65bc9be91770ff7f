//! Requests that are under way to one peer.
//!
//! A flush is shorter than a round trip, so who waits for a quorum would wait for the batch before as well if there were only one at a
//! time. The next one begins where the last one ends, before the peer has said anything: it takes them in their order, or says from
//! where to go on.

use std::collections::VecDeque;

use super::link::Sent;
use crate::wire::KeyId;

/// The most requests that are under way to one peer. At a flush each 20 ms that is a round trip of 160 ms; over a longer one some
/// flushes go together.
pub const MAX_FLIGHTS: usize = 8;

/// Another request waits while as many bytes as this are under way.
pub const MAX_BYTES_UNDER_WAY: usize = 4 * 1024 * 1024;

/// Where a batch leads the peer that takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leads {
    /// The index behind its last entry.
    pub end: u64,
    /// How many entries the newest checkpoint has that it holds all of then, where that is this batch's.
    pub covered: Option<u64>,
    /// The key that signed that one, which it then trusts.
    pub key: KeyId,
}

/// The requests under way, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flights(VecDeque<Flight>);

#[derive(Clone, Debug)]
struct Flight {
    token: u64,
    covered: u64,
    is_alone: bool,
    packed: Option<(Leads, usize)>,
}

/// Where the next batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) from: u64,
    pub(crate) covered: u64,
}

impl Flights {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A request is under way to a peer that will hold so much under a checkpoint if it was sent everything before.
    pub(crate) fn begin(&mut self, token: u64, covered: u64) {
        for other in &mut self.0 {
            other.is_alone = false;
        }
        let is_alone = self.0.is_empty();
        self.0.push_back(Flight {
            token,
            covered,
            is_alone,
            packed: None,
        });
    }

    /// What is sent with it.
    pub(crate) fn packed(&mut self, sent: Sent, leads: Leads) {
        if let Some(flight) = self.0.iter_mut().find(|it| it.token == sent.token) {
            flight.packed = Some((leads, sent.bytes));
        }
    }

    /// It is answered, or failed. Whether no other one was under way meanwhile; nothing for one that is not known any more.
    pub(crate) fn end(&mut self, token: u64) -> Option<bool> {
        let at = self.0.iter().position(|it| it.token == token)?;
        self.0.remove(at).map(|flight| flight.is_alone)
    }

    /// The last of them.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.0.back().map(|flight| flight.token)
    }

    /// Where the next one begins, if there is room for it, and it is known where the last one leads a peer that trusts this key.
    pub(crate) fn next(&self, trusted: Option<KeyId>) -> Option<Next> {
        let last = self.0.back()?;
        let (leads, _) = last.packed?;
        let bytes: usize = self.0.iter().filter_map(|it| Some(it.packed?.1)).sum();
        let has_room = self.0.len() < MAX_FLIGHTS && bytes < MAX_BYTES_UNDER_WAY;
        (has_room && Some(leads.key) == trusted).then_some(Next {
            from: leads.end,
            covered: leads.covered.unwrap_or(last.covered),
        })
    }
}
