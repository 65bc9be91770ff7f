//! Several batches under way to one peer.

use knhk_regions::sender::{BreakerState, Leads, MAX_FLIGHTS, PAUSE_BASE_MS, Sent};
use knhk_regions::wire::{Answer, Refused};
use knhk_regions::{Event, Sender, TransportError};

use crate::rig::key;
use crate::sending::{Log, ack, answered, holds, sender};

/// A peer that has ten entries, and is sent what is signed from then on.
struct Busy {
    sender: Sender,
    signed: u64,
}

impl Busy {
    fn new() -> Self {
        let mut sender = sender(&["eu"], 2);
        sender.signed(&Log(10), 0);
        let token = sender.due(0)[0].token;
        answered(&mut sender, "eu", token, holds("eu", 10), 10, 0);
        Self { sender, signed: 10 }
    }

    /// Ten more entries are signed. The batch of them that is sent, if one is.
    fn flush(&mut self, now: u64) -> Option<Sent> {
        self.signed += 10;
        self.sender.signed(&Log(self.signed), now);
        let due = self.sender.due(now).pop()?;
        let sent = Sent {
            token: due.token,
            from: due.order.from,
            end: self.signed,
            bytes: 0,
        };
        let leads = Leads {
            end: self.signed,
            covered: Some(self.signed),
            key: key(1).key_id(),
        };
        self.sender.packed("eu", sent, leads, now);
        Some(sent)
    }

    fn hear(&mut self, sent: Sent, answer: Answer, now: u64) -> Vec<Event> {
        let own = Log(self.signed);
        self.sender.answered("eu", sent, Ok(answer), &own, now, 0)
    }
}

fn gap(held: u64) -> Answer {
    Answer {
        refused: Some(Refused::new("gap", "it begins too late")),
        ..holds("eu", held)
    }
}

#[test]
fn a_batch_does_not_wait_for_the_answer_to_the_one_before() {
    let mut busy = Busy::new();
    let sent: Vec<_> = (0..MAX_FLIGHTS)
        .map(|_| busy.flush(1).expect("there is room"))
        .collect();
    let ranges: Vec<_> = sent.iter().map(|it| (it.from, it.end)).collect();
    assert!(
        ranges.windows(2).all(|pair| pair[0].1 == pair[1].0),
        "each begins where the one before ends: {ranges:?}"
    );
    assert_eq!(busy.flush(1), None, "there are enough under way");
    for one in sent {
        let events = busy.hear(one, holds("eu", one.end), 2);
        let acknowledged = Event::Acknowledged(ack("eu", one.end));
        assert_eq!(events, [acknowledged, Event::Committed { size: one.end }]);
    }
    let due = busy.sender.due(2);
    assert_eq!(due[0].order.from, busy.signed - 10, "what waited goes together");
}

#[test]
fn batches_that_overtake_each_other_are_sent_again_and_nothing_counts_as_lost() {
    let mut busy = Busy::new();
    let (first, second) = (busy.flush(1).expect("one"), busy.flush(1).expect("two"));
    assert_eq!(busy.hear(second, gap(10), 2), [], "it came first");
    assert_eq!(busy.flush(2), None, "until it is known what arrived");
    let events = busy.hear(first, holds("eu", 20), 3);
    assert_eq!(events.len(), 2, "it is taken: {events:?}");
    assert_eq!(busy.sender.due(3)[0].order.from, 20);

    // Answers, too: the peer said this before it took the first one.
    let mut busy = Busy::new();
    let (first, second) = (busy.flush(1).expect("one"), busy.flush(1).expect("two"));
    assert_eq!(busy.hear(first, holds("eu", 20), 2).len(), 2);
    assert_eq!(busy.hear(second, gap(0), 3), [], "no loss by what may be old");
    let alone = busy.sender.due(3)[0].clone();
    let sent = Sent {
        token: alone.token,
        from: alone.order.from,
        end: 30,
        bytes: 0,
    };
    let events = busy.hear(sent, gap(0), 4);
    assert!(matches!(&events[..], [Event::Lost { held: 0, .. }]), "{events:?}");
}

#[test]
fn what_fails_together_is_one_failure() {
    let mut busy = Busy::new();
    let sent: Vec<_> = (0..MAX_FLIGHTS)
        .map(|_| busy.flush(1).expect("there is room"))
        .collect();
    let own = Log(busy.signed);
    for one in sent {
        let failed = Err(TransportError::Timeout { seconds: 1 }.into());
        let events = busy.sender.answered("eu", one, failed, &own, 2, u64::MAX);
        assert!(matches!(&events[..], [Event::Failed { .. }]), "{events:?}");
    }
    assert_eq!(busy.sender.status(2)[0].breaker, BreakerState::Closed);
    let next = busy.sender.next_due_ms().expect("again");
    assert!((3..=2 + PAUSE_BASE_MS).contains(&next), "{next}");
    let due = busy.sender.due(next);
    assert_eq!((due.len(), due[0].order.from), (1, 10), "from what is known");
    assert_eq!(busy.flush(next), None, "one alone, until it is answered");
}
