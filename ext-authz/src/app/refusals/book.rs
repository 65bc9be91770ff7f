//! Which refusals get a receipt now, and how many wait for the next one.

use std::collections::HashMap;
use std::time::Duration;

use knhk_identity::SpiffeId;

use super::{RECEIPT_EVERY, Refused, Who};

/// Kinds of refusals that are told apart at once. Past it, those who proved who they are share one kind for each target.
const MAX_KINDS: usize = 1024;

/// A receipt that is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The refusal, or the newest of several.
    pub(super) refused: Refused,
    /// How many more there were of its kind since the last receipt.
    pub(super) more: u64,
}

/// Refusals of one kind share receipts. IDs that are not proven are no kind of their own: they cost a stranger nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    target: String,
    who: Option<SpiffeId>,
}

#[derive(Debug)]
struct Told {
    at: Duration,
    since: u64,
    newest: Refused,
}

/// What was recorded lately.
#[derive(Debug, Default)]
pub(super) struct Book(HashMap<Kind, Told>);

impl Book {
    /// Takes a refusal; gives the receipt if one is due at `now`, a time that does not run backwards.
    pub(super) fn refused(&mut self, refused: Refused, now: Duration) -> Option<Due> {
        let kind = self.kind(&refused);
        let Some(told) = self.0.get_mut(&kind) else {
            let told = Told {
                at: now,
                since: 0,
                newest: refused.clone(),
            };
            self.0.insert(kind, told);
            return Some(Due { refused, more: 0 });
        };
        if now.saturating_sub(told.at) < RECEIPT_EVERY {
            told.since += 1;
            told.newest = refused;
            return None;
        }
        told.at = now;
        Some(Due {
            refused,
            more: std::mem::take(&mut told.since),
        })
    }

    /// The receipts that are due at `now`. Forgets the kinds of which nothing is to be told.
    pub(super) fn due(&mut self, now: Duration) -> Vec<Due> {
        let mut due = Vec::new();
        self.0.retain(|_, told| {
            if now.saturating_sub(told.at) < RECEIPT_EVERY {
                return true;
            }
            let Some(more) = told.since.checked_sub(1) else {
                return false;
            };
            let refused = told.newest.clone();
            due.push(Due { refused, more });
            (told.at, told.since) = (now, 0);
            true
        });
        due
    }

    /// All that was not told yet.
    pub(super) fn close(self) -> Vec<Due> {
        let untold = self.0.into_values().filter_map(|told| {
            let more = told.since.checked_sub(1)?;
            let refused = told.newest;
            Some(Due { refused, more })
        });
        untold.collect()
    }

    fn kind(&self, refused: &Refused) -> Kind {
        let kind = Kind {
            target: refused.target.clone(),
            who: match &refused.who {
                Who::Proven(id) => Some(id.clone()),
                Who::Unproven(_) => None,
            },
        };
        if self.0.len() < MAX_KINDS || self.0.contains_key(&kind) {
            return kind;
        }
        Kind { who: None, ..kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knhk_telemetry::attribute::AccessDoor;
    use proptest::prelude::*;

    fn refused(who: Who, target: &str) -> Refused {
        Refused {
            door: AccessDoor::Http,
            who,
            target: target.to_owned(),
            reason: "no".to_owned(),
        }
    }

    fn id(n: usize) -> SpiffeId {
        SpiffeId::new(format!("spiffe://example.org/{n}")).expect("an ID")
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn the_first_is_told_at_once_and_the_others_together() {
        let mut book = Book::default();
        let mut tell = |at| book.refused(refused(Who::Proven(id(1)), "x"), seconds(at));
        assert_eq!(tell(0).map(|due| due.more), Some(0));
        assert!((1..60).all(|at| tell(at).is_none()));
        assert_eq!(tell(60).map(|due| due.more), Some(59));
    }

    #[test]
    fn what_stops_is_told_when_its_time_has_come_and_then_forgotten() {
        let mut book = Book::default();
        for at in 0..3 {
            book.refused(refused(Who::Proven(id(1)), "x"), seconds(at));
        }
        assert_eq!(book.due(seconds(59)), []);
        assert_eq!(book.due(seconds(60)).first().map(|due| due.more), Some(1));
        assert_eq!(book.due(seconds(120)), []);
        assert!(book.0.is_empty());
    }

    #[test]
    fn strangers_are_one_kind_however_they_call_themselves() {
        let mut book = Book::default();
        let claims = (0..100).map(|n| Who::Unproven(Some(id(n))));
        let told = claims.filter_map(|who| book.refused(refused(who, "handshake"), seconds(0)));
        assert_eq!(told.count(), 1);
    }

    proptest! {
        /// However many come and from however many, nothing is lost from the counts, receipts of one kind keep their
        /// distance, and what is remembered is bounded.
        #[test]
        fn every_refusal_is_counted_once(calls in prop::collection::vec((0usize..3_000, 0u64..40), 1..3_000)) {
            let (mut book, mut now, mut counted) = (Book::default(), 0, 0);
            for (who, pause) in &calls {
                now += pause / 39;
                for due in book.due(seconds(now)) {
                    counted += 1 + due.more;
                }
                if let Some(due) = book.refused(refused(Who::Proven(id(*who)), "x"), seconds(now)) {
                    counted += 1 + due.more;
                }
                prop_assert!(book.0.len() <= MAX_KINDS + 1);
            }
            counted += book.close().iter().map(|due| 1 + due.more).sum::<u64>();
            prop_assert_eq!(counted, calls.len() as u64);
        }
    }
}
