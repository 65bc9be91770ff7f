//! What is sent to whom and when, and which acknowledgements are believed.

use knhk_receipts::checkpoint::Unsigned;
use knhk_receipts::storage::ModelStorage;
use knhk_receipts::testing::TestSigner;
use knhk_receipts::{PublicKey, SignedCheckpoint};
use knhk_regions::sender::{
    BREAKER_FAILURES, BreakerState, Leads, LinkError, MIN_BATCH_BYTES, Own, PAUSE_CAP_MS, PROBE_EVERY_MS,
    Sent,
};
use knhk_regions::wire::{Ack, Answer, Hash, KeyId, MAX_ITEMS_BYTES, Refused};
use knhk_regions::{Event, SavedAcks, Sender, SenderOptions, Stop, TransportError};
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::EncodePublicKey;

use crate::rig::{key, origin};

/// The key that a peer acknowledges with.
fn peers_key() -> SigningKey {
    SigningKey::from_slice(&[77; 32]).expect("a key")
}

fn public(key: &SigningKey) -> PublicKey {
    let der = key.verifying_key().to_public_key_der().expect("a key");
    PublicKey::from_der(der.as_bytes()).expect("a key")
}

pub(crate) struct Log(pub(crate) u64);

impl Own for Log {
    fn origin(&self) -> &'static str {
        "knhk.dev/log/us"
    }

    fn signed(&self) -> u64 {
        self.0
    }

    fn root_of(&self, size: u64) -> Option<Hash> {
        (size <= self.0).then(|| root(size))
    }

    fn is_signed_by_us(&self, checkpoint: &SignedCheckpoint) -> bool {
        checkpoint.verify(&[key(1)]).is_ok()
    }

    fn ack_key(&self, peer: &str, kid: &KeyId) -> Option<PublicKey> {
        let known = public(&peers_key());
        (peer != "ap" && known.key_id() == *kid).then_some(known)
    }
}

fn root(size: u64) -> Hash {
    let [.., a, b] = size.to_be_bytes();
    let mut root = [a; 32];
    root[0] = b;
    root
}

fn checkpoint(size: u64, root: Hash, seed: u8) -> SignedCheckpoint {
    let unsigned = Unsigned {
        origin: origin("us"),
        size,
        root,
    };
    let signature = TestSigner::new(seed).sign(&unsigned.digest());
    unsigned.signed(&key(seed), signature).expect("signed")
}

pub(crate) fn ack(peer: &str, size: u64) -> Ack {
    let key = peers_key();
    let digest = Ack::digest(peer, &origin("us"), size, &root(size));
    let signature: Signature = key.sign_prehash(&digest).expect("signs");
    Ack {
        peer: peer.to_owned(),
        origin: origin("us"),
        size,
        root: root(size),
        kid: public(&key).key_id(),
        signature: signature.to_der().as_bytes().to_vec(),
    }
}

pub(crate) fn holds(peer: &str, size: u64) -> Answer {
    Answer {
        held: size,
        trusted: key(1).key_id(),
        checkpoint: (size > 0).then(|| checkpoint(size, root(size), 1)),
        ack: (size > 0).then(|| ack(peer, size)),
        refused: None,
    }
}

pub(crate) fn sender(peers: &[&str], quorum: usize) -> Sender {
    let options = SenderOptions {
        region: "us".to_owned(),
        peers: peers.iter().map(|it| (*it).to_owned()).collect(),
        quorum,
        bytes_per_second: 1_000_000,
    };
    Sender::new(options, &SavedAcks::default())
}

pub(crate) fn answered(
    sender: &mut Sender,
    peer: &str,
    token: u64,
    answer: Answer,
    own: u64,
    now: u64,
) -> Vec<Event> {
    let sent = Sent {
        token,
        from: 0,
        end: answer.held,
        bytes: 1000,
    };
    sender.answered(peer, sent, Ok(answer), &Log(own), now, 0)
}

#[test]
fn a_quorum_is_committed_when_so_many_have_acknowledged() {
    let mut it = sender(&["eu", "sa"], 2);
    assert_eq!(
        (it.due(0).len(), it.next_due_ms()),
        (0, None),
        "nothing is signed"
    );
    it.signed(&Log(10), 0);
    let due = it.due(0);
    assert_eq!(
        due.iter()
            .map(|it| (it.peer.as_str(), it.order.from, it.order.most_bytes))
            .collect::<Vec<_>>(),
        [("eu", 0, MIN_BATCH_BYTES), ("sa", 0, MIN_BATCH_BYTES)]
    );
    assert!(it.due(0).is_empty(), "one at a time");
    let events = answered(&mut it, "eu", due[0].token, holds("eu", 10), 10, 50);
    assert_eq!(
        events,
        [Event::Acknowledged(ack("eu", 10)), Event::Committed { size: 10 }]
    );
    assert_eq!((it.committed(), it.acks().get("eu")), (10, Some(&ack("eu", 10))));
    assert!(
        answered(&mut it, "eu", due[0].token, holds("eu", 10), 10, 60).is_empty(),
        "an answer counts once"
    );
    let status = it.status(80);
    assert_eq!(
        (
            status[0].lag_entries,
            status[0].lag_ms,
            status[1].lag_entries,
            status[1].lag_ms
        ),
        (0, 0, 10, 80)
    );
    it.progress().holds(9).expect("committed");
    let missing = it.progress().holds(10).expect_err("not signed");
    assert_eq!(
        (missing.wanted, missing.got.len(), missing.missing.len()),
        (2, 0, 3)
    );
}

/// More is signed between the batch and its answer: the region itself holds that, too.
#[test]
fn an_answer_to_more_than_was_told_counts_with_what_is_signed_here() {
    let mut it = sender(&["eu", "sa"], 2);
    it.signed(&Log(10), 0);
    let due = it.due(0);
    let events = answered(&mut it, "eu", due[0].token, holds("eu", 12), 12, 50);
    assert_eq!(
        events,
        [Event::Acknowledged(ack("eu", 12)), Event::Committed { size: 12 }]
    );
    assert_eq!((it.told(), it.committed()), (12, 12));
}

#[test]
fn an_acknowledgement_is_believed_only_as_the_peers_own_of_our_tree() {
    let forged = [
        Ack {
            peer: "sa".to_owned(),
            ..ack("sa", 10)
        },
        Ack {
            origin: origin("eu"),
            ..ack("eu", 10)
        },
        ack("eu", 11),
        Ack {
            root: [1; 32],
            ..ack("eu", 10)
        },
        Ack {
            size: 9,
            root: root(9),
            ..ack("eu", 10)
        },
        Ack {
            signature: ack("eu", 9).signature,
            ..ack("eu", 10)
        },
    ];
    for forged in forged {
        let mut it = sender(&["eu"], 2);
        it.signed(&Log(10), 0);
        let token = it.due(0)[0].token;
        let answer = Answer {
            ack: Some(forged),
            ..holds("eu", 10)
        };
        let events = answered(&mut it, "eu", token, answer, 10, 0);
        assert!(
            matches!(
                &events[..],
                [Event::Failed {
                    error: LinkError::BadAck { .. },
                    ..
                }]
            ),
            "{events:?}"
        );
        assert_eq!((it.committed(), it.status(0)[0].acknowledged), (0, 0));
    }
}

#[test]
fn an_acknowledgement_by_a_key_that_is_not_known_yet_is_asked_again_soon() {
    let mut it = sender(&["ap"], 2);
    it.signed(&Log(10), 0);
    let token = it.due(0)[0].token;
    assert!(answered(&mut it, "ap", token, holds("ap", 10), 10, 0).is_empty());
    assert_eq!(
        it.status(0)[0].last_error.as_ref().map(LinkError::label),
        Some("unknown_ack_key")
    );
    assert!(it.next_due_ms().expect("again") < PROBE_EVERY_MS);
}

#[test]
fn a_gap_says_from_where_to_go_on_and_other_refusals_are_failures() {
    let mut it = sender(&["eu"], 2);
    it.signed(&Log(10), 0);
    let token = it.due(0)[0].token;
    let refused = |label: &str| Some(Refused::new(label, "why"));
    let events = answered(
        &mut it,
        "eu",
        token,
        Answer {
            refused: refused("gap"),
            ack: None,
            ..holds("eu", 4)
        },
        10,
        0,
    );
    assert!(events.is_empty(), "{events:?}");
    let due = it.due(1_000);
    assert_eq!((due[0].order.from, due[0].order.covered), (4, 4));
    let answer = Answer {
        refused: refused("split_view"),
        ack: None,
        ..holds("eu", 4)
    };
    let events = answered(&mut it, "eu", due[0].token, answer, 10, 1_000);
    assert!(matches!(&events[..], [Event::Failed { error, .. }] if error.label() == "split_view"));
    let due = it.due(9_000);
    let answer = Answer {
        refused: refused("made up"),
        ..holds("eu", 4)
    };
    let events = answered(&mut it, "eu", due[0].token, answer, 10, 9_000);
    assert!(
        matches!(&events[..], [Event::Failed { error, .. }] if error.label() == "refused"),
        "no label from outside"
    );
}

#[test]
fn pauses_grow_until_the_breaker_opens_and_one_success_closes_it() {
    let mut it = sender(&["eu"], 2);
    it.signed(&Log(10), 0);
    let (mut now, mut pauses) = (0, Vec::new());
    for _ in 0..2 * BREAKER_FAILURES {
        let token = it.due(now)[0].token;
        let sent = Sent {
            token,
            from: 0,
            end: 10,
            bytes: 10,
        };
        it.answered(
            "eu",
            sent,
            Err(TransportError::Timeout { seconds: 1 }.into()),
            &Log(10),
            now,
            u64::MAX,
        );
        let next = it.next_due_ms().expect("again");
        pauses.push(next - now);
        assert!(it.due(next - 1).is_empty());
        now = next;
    }
    assert!(
        pauses.windows(2).all(|pair| pair[0] <= pair[1]) && pauses.last() <= Some(&PAUSE_CAP_MS),
        "{pauses:?}"
    );
    assert_eq!(it.status(now)[0].breaker, BreakerState::Open);
    let token = it.due(now)[0].token;
    assert_eq!(it.status(now)[0].breaker, BreakerState::HalfOpen);
    answered(&mut it, "eu", token, holds("eu", 10), 10, now);
    let status = &it.status(now)[0];
    assert_eq!(
        (status.breaker, &status.last_error, status.last_success_ms_ago),
        (BreakerState::Closed, &None, Some(0))
    );
}

#[test]
fn batches_grow_with_the_backlog_and_are_paced() {
    let mut it = sender(&["eu"], 2);
    it.signed(&Log(60_000), 0);
    let (mut now, mut most) = (0, 0);
    for step in 1..12 {
        let due = it.due(now);
        assert!(due[0].order.most_bytes >= most, "it grows");
        most = due[0].order.most_bytes;
        let sent = Sent {
            token: due[0].token,
            from: due[0].order.from,
            end: step * 1000,
            bytes: 500_000,
        };
        let answer = Answer {
            ack: None,
            checkpoint: None,
            ..holds("eu", step * 1000)
        };
        let leads = Leads {
            end: sent.end,
            covered: None,
            key: key(1).key_id(),
        };
        it.packed("eu", sent, leads, now);
        it.answered("eu", sent, Ok(answer), &Log(60_000), now, 0);
        let next = it.next_due_ms().expect("more");
        assert_eq!(next - now, 500, "half a megabyte at a megabyte a second");
        now = next;
    }
    assert_eq!(most, MAX_ITEMS_BYTES);
}

#[test]
fn a_peer_that_lost_its_disk_is_sent_everything_again() {
    let mut it = sender(&["eu"], 2);
    it.signed(&Log(10), 0);
    let token = it.due(0)[0].token;
    answered(&mut it, "eu", token, holds("eu", 10), 10, 0);
    let probe = it.due(PROBE_EVERY_MS);
    let events = answered(&mut it, "eu", probe[0].token, holds("eu", 0), 10, PROBE_EVERY_MS);
    assert_eq!(
        events,
        [Event::Lost {
            peer: "eu".to_owned(),
            acknowledged: 10,
            held: 0
        }]
    );
    assert_eq!((it.committed(), it.status(0)[0].acknowledged), (10, 0));
    assert_eq!(it.due(PROBE_EVERY_MS + 1_000)[0].order.from, 0);
}

#[test]
fn a_peer_that_is_heard_from_is_tried_at_once() {
    let mut it = sender(&["eu", "sa"], 2);
    it.signed(&Log(10), 0);
    for due in it.due(0) {
        answered(&mut it, &due.peer, due.token, holds(&due.peer, 10), 10, 0);
    }
    assert!(it.due(1_000).is_empty(), "both have everything");
    it.heard_from("eu", 1_000);
    it.heard_from("nobody", 1_000);
    let due: Vec<_> = it.due(1_000).into_iter().map(|due| due.peer).collect();
    assert_eq!(due, ["eu"]);
    it.heard_from("eu", 1_001);
    assert!(it.due(1_001).is_empty(), "one request at a time");
}

#[test]
fn a_longer_or_another_log_by_our_own_key_stops_everything() {
    for (held, label) in [
        (checkpoint(11, root(11), 1), "behind"),
        (checkpoint(9, [7; 32], 1), "forked"),
    ] {
        let mut it = sender(&["eu", "sa"], 2);
        it.signed(&Log(10), 0);
        let due = it.due(0);
        let answer = Answer {
            checkpoint: Some(held.clone()),
            ..holds("eu", 9)
        };
        let events = answered(&mut it, "eu", due[0].token, answer, 10, 0);
        assert!(
            matches!(&events[..], [Event::Stop(stop)] if stop.label() == label),
            "{events:?}"
        );
        assert_eq!(it.stopped().map(Stop::label), Some(label));
        assert!(it.due(1_000_000).is_empty() && it.next_due_ms().is_none());
    }
    let mut it = sender(&["eu"], 2);
    it.signed(&Log(10), 0);
    let token = it.due(0)[0].token;
    let strangers = Answer {
        checkpoint: Some(checkpoint(11, [7; 32], 2)),
        ack: None,
        ..holds("eu", 4)
    };
    answered(&mut it, "eu", token, strangers, 10, 0);
    assert_eq!(it.stopped(), None, "what our key did not sign stops nothing");
}

#[test]
fn saved_acknowledgements_count_if_they_are_of_this_log() {
    let storage = ModelStorage::new();
    let mut it = sender(&["eu"], 2);
    it.signed(&Log(10), 0);
    let token = it.due(0)[0].token;
    answered(&mut it, "eu", token, holds("eu", 10), 10, 0);
    it.acks().save(&storage).expect("saves");
    let saved = SavedAcks::load(&storage).expect("loads");
    let options = SenderOptions {
        region: "us".to_owned(),
        peers: vec!["eu".to_owned()],
        quorum: 2,
        bytes_per_second: 1,
    };
    let mut again = Sender::new(options.clone(), &saved);
    assert_eq!(again.signed(&Log(12), 0), [Event::Committed { size: 10 }]);
    assert_eq!(again.due(0)[0].order.from, 10);
    let mut older = Sender::new(options, &saved);
    assert!(
        older.signed(&Log(8), 0).is_empty(),
        "an old copy of the disk has not what was acknowledged"
    );
}
