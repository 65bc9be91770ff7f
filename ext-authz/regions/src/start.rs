//! What a region does before it signs anything: it asks its peers what they hold of its own log. A pure state machine; a shell asks,
//! and does what is decided.
//!
//! A disk that was lost or replaced by an old copy would make a log that contradicts what peers hold and clients have. So:
//!
//! - with its log on disk a region goes on after one answer (others may follow within [`GRACE_MS`]), or without any after
//!   `start_wait`;
//! - with an empty disk it needs `N - quorum + 1` peers' answers of N regions: among any so many is one that holds what a quorum
//!   holds. It then waits for the others too, up to `start_wait`, since they may hold entries that no quorum does;
//! - where peers hold more than the disk, the log is restored from them first;
//! - where they hold another history, nothing is signed.

use std::collections::BTreeMap;
use std::sync::Arc;

use knhk_receipts::storage::Storage;
use knhk_receipts::{AtRest, LogError, PublicKey, SignedCheckpoint};

use crate::mirror::is_mirror;
use crate::sender::Stop;
use crate::wire::{Answer, Hash};

/// After the first answer a region that has its log waits so long for further ones, in milliseconds: they were all asked at once.
pub const GRACE_MS: u64 = 1_000;

/// What a region's disk has of its own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnLog {
    /// Nothing.
    Empty,
    /// What was restored before that was interrupted.
    Restoring,
    /// A log.
    There,
}

/// A region's own log on its disk, which nobody has open, and the keys that are ours.
pub struct OwnAtRest {
    found: OwnLog,
    at_rest: Option<AtRest>,
    keys: Vec<PublicKey>,
}

impl OwnAtRest {
    /// Looks at the data directory. `keys` are those that our key service has for us, the newest one last; those that the log
    /// lists count too.
    pub fn find(storage: Arc<dyn Storage>, keys: Vec<PublicKey>) -> Result<Self, LogError> {
        let restoring = is_mirror(storage.as_ref())?;
        let at_rest = AtRest::find(storage)?;
        let listed = at_rest.iter().flat_map(AtRest::keys);
        let mut listed: Vec<_> = listed.filter(|key| !keys.contains(key)).collect();
        listed.extend(keys);
        let keys = listed;
        let found = match &at_rest {
            _ if restoring => OwnLog::Restoring,
            Some(_) => OwnLog::There,
            None => OwnLog::Empty,
        };
        Ok(Self { found, at_rest, keys })
    }

    /// What there is.
    pub fn found(&self) -> OwnLog {
        self.found
    }

    /// Our keys, those of the key service last: what a restoration is proven by ([`crate::Restored::keys`]).
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }
}

/// What a region knows of its own log before it opens it.
pub trait OwnSigned {
    /// Entries under what was signed last.
    fn signed(&self) -> u64;
    /// The root of the first `size` entries, which are signed.
    fn root_of(&self, size: u64) -> Result<Hash, LogError>;
    /// Whether one of our keys signed this checkpoint.
    fn is_signed_by_us(&self, checkpoint: &SignedCheckpoint) -> bool;
}

impl OwnSigned for OwnAtRest {
    fn signed(&self) -> u64 {
        let root = self.at_rest.as_ref().and_then(AtRest::root);
        root.map_or(0, knhk_receipts::SignedRoot::size)
    }

    fn root_of(&self, size: u64) -> Result<Hash, LogError> {
        let index = size.saturating_sub(1);
        let at_rest = self.at_rest.as_ref().ok_or(LogError::NotCovered { index })?;
        at_rest.root_of(size)
    }

    fn is_signed_by_us(&self, checkpoint: &SignedCheckpoint) -> bool {
        checkpoint.verify(&self.keys).is_ok()
    }
}

/// A start under way. Times are milliseconds of a clock that never goes back.
#[derive(Clone, Debug)]
pub struct Start {
    own: OwnLog,
    origin: String,
    peers: usize,
    needed: usize,
    give_up_ms: u64,
    first_heard_ms: Option<u64>,
    heard: BTreeMap<String, Heard>,
    signed: u64,
    stop: Option<Stop>,
}

#[derive(Clone, Debug)]
struct Heard {
    held: u64,
    checkpoint: Option<SignedCheckpoint>,
}

/// A peer that holds more of our log than we do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The peer.
    pub peer: String,
    /// How many entries it holds.
    pub held: u64,
    /// How many of them its newest checkpoint has.
    pub covered: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Wait for answers, and ask those again who gave none. Decide again at this time, if nothing comes before.
    Wait {
        /// When.
        until_ms: Option<u64>,
        /// How many more answers are needed.
        missing: usize,
    },
    /// Nobody holds anything of it: the log is new.
    Begin,
    /// Open the log as it is on disk.
    GoOn {
        /// No peer answered in time: to be said in a warning.
        unheard: bool,
    },
    /// Restore the log, from the first of these peers that gives it. Where none does, begin a new start: what a peer says that it
    /// holds behind its checkpoint is only its word.
    Restore {
        /// Peers that hold more than the disk, those that hold most first. None: a restoration that was interrupted has nothing
        /// more to get, and is to be finished as it is ([`crate::Restore::resume`]).
        from: Vec<Holding>,
    },
    /// Sign nothing.
    Stop(Stop),
}

impl Start {
    /// Begins with what is on the disk, among `peers` other regions.
    pub fn new(
        own: OwnLog,
        origin: &str,
        peers: usize,
        quorum: usize,
        start_wait_ms: u64,
        now_ms: u64,
    ) -> Self {
        let needed = match own {
            OwnLog::There => 1,
            OwnLog::Empty | OwnLog::Restoring => (peers + 1).saturating_sub(quorum) + 1,
        };
        Self {
            own,
            origin: origin.to_owned(),
            peers,
            needed: needed.min(peers),
            give_up_ms: now_ms.saturating_add(start_wait_ms),
            first_heard_ms: None,
            heard: BTreeMap::new(),
            signed: 0,
            stop: None,
        }
    }

    /// A peer says what it holds of our log. What our keys did not sign is not believed, and counts as no answer.
    pub fn heard(
        &mut self,
        peer: &str,
        answer: Answer,
        own: &dyn OwnSigned,
        now_ms: u64,
    ) -> Result<(), LogError> {
        self.signed = own.signed();
        if let Some(held) = &answer.checkpoint {
            if held.origin() != self.origin || !own.is_signed_by_us(held) {
                return Ok(());
            }
            let agrees = if held.size() <= self.signed {
                own.root_of(held.size())? == held.root()
            } else {
                self.agrees_with_others(held)
            };
            if !agrees {
                self.stop = Some(Stop::Forked { held: held.clone() });
            }
        }
        self.first_heard_ms.get_or_insert(now_ms);
        let (held, checkpoint) = (answer.held, answer.checkpoint);
        self.heard.insert(peer.to_owned(), Heard { held, checkpoint });
        Ok(())
    }

    /// What is to be done now.
    pub fn decide(&self, now_ms: u64) -> Decision {
        if let Some(stop) = &self.stop {
            return Decision::Stop(stop.clone());
        }
        let missing = self.needed.saturating_sub(self.heard.len());
        let wait_until = match (self.own, self.first_heard_ms) {
            (OwnLog::There, Some(first)) => first.saturating_add(GRACE_MS).min(self.give_up_ms),
            _ => self.give_up_ms,
        };
        if self.heard.len() < self.peers && now_ms < wait_until {
            let until_ms = Some(wait_until);
            return Decision::Wait { until_ms, missing };
        }
        let unheard = self.heard.is_empty() && self.peers > 0;
        match self.own {
            OwnLog::There if unheard => return Decision::GoOn { unheard },
            _ if missing > 0 => {
                let until_ms = None;
                return Decision::Wait { until_ms, missing };
            }
            _ => {}
        }
        let from = self.ahead();
        match self.own {
            _ if !from.is_empty() => Decision::Restore { from },
            OwnLog::There => Decision::GoOn { unheard },
            OwnLog::Empty => Decision::Begin,
            // It was interrupted when it was done, or began for what nobody holds: what was signed is there.
            OwnLog::Restoring if self.signed > 0 => Decision::Restore { from },
            // Somebody held what was restored so far: they have to come back, or an operator begins a new log.
            OwnLog::Restoring => Decision::Wait {
                until_ms: None,
                missing: 1,
            },
        }
    }

    /// Peers that hold more than what was signed here, those that hold most first.
    fn ahead(&self) -> Vec<Holding> {
        let signed = |it: &Heard| it.checkpoint.as_ref().map_or(0, SignedCheckpoint::size);
        let mut ahead: Vec<_> = self
            .heard
            .iter()
            .filter(|(_, it)| it.held > self.signed)
            .collect();
        ahead.sort_by_key(|(_, it)| std::cmp::Reverse((it.held, signed(it))));
        let holding = |(peer, it): (&String, &Heard)| Holding {
            peer: peer.clone(),
            held: it.held,
            covered: signed(it),
        };
        ahead.into_iter().map(holding).collect()
    }

    /// Of two checkpoints of one size more than one root is two histories.
    fn agrees_with_others(&self, held: &SignedCheckpoint) -> bool {
        let others = self.heard.values().filter_map(|it| it.checkpoint.as_ref());
        others
            .filter(|it| it.size() == held.size())
            .all(|it| it.root() == held.root())
    }
}
