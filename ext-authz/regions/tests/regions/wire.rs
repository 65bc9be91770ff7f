//! Formats: what is written is read again, and nothing else is.

use knhk_receipts::checkpoint::Unsigned;
use knhk_receipts::testing::TestSigner;
use knhk_receipts::{SignedCheckpoint, bundle};
use knhk_regions::wire::{
    Ack, Answer, Batch, FlagsState, MAX_ACK_BYTES, MAX_ANSWER_BYTES, MAX_BATCH_BYTES, MAX_DETAIL_BYTES,
    MAX_DOCUMENT_BYTES, MAX_MESSAGE_BYTES, Message, Refused, Relayed, RolloutState, RootAt,
};
use proptest::prelude::*;

use crate::rig::{key, origin};

fn signed(size: u64, root: [u8; 32]) -> SignedCheckpoint {
    let unsigned = Unsigned {
        origin: origin("us"),
        size,
        root,
    };
    let signature = TestSigner::new(1).sign(&unsigned.digest());
    unsigned.signed(&key(1), signature).expect("signed")
}

fn any_hash() -> impl Strategy<Value = [u8; 32]> {
    any::<u8>().prop_map(|byte| [byte; 32])
}

prop_compose! {
    fn any_ack()(size in 0..u64::MAX, root in any_hash(), kid in any_hash(), signature in prop::collection::vec(any::<u8>(), 0..=72)) -> Ack {
        Ack { peer: "eu".to_owned(), origin: origin("us"), size, root, kid, signature }
    }
}

prop_compose! {
    fn any_answer()(
        held in any::<u64>(),
        trusted in any_hash(),
        checkpoint in prop::option::of((2..99_u64, any_hash())),
        ack in prop::option::of(any_ack()),
        refused in prop::option::of("[a-zé ]{0,40}"),
    ) -> Answer {
        Answer {
            held,
            trusted,
            checkpoint: checkpoint.map(|(size, root)| signed(size, root)),
            ack,
            refused: refused.map(|detail| Refused::new("gap", &detail)),
        }
    }
}

fn any_message() -> impl Strategy<Value = Message> {
    let document = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    let state = ("[a-z]{0,63}", any::<u64>(), any::<u64>(), any::<bool>(), document);
    let states = prop::collection::btree_map("[a-z]{1,5}", state, 0..5);
    let identity = prop::option::of("spiffe://[a-z]{1,9}");
    let report = (
        identity,
        any::<[u8; 16]>(),
        prop::collection::vec(any::<u8>(), 0..40),
    );
    let reports = prop::collection::vec(report, 0..3);
    let flags = (
        "[a-z]{0,63}",
        any::<u64>(),
        prop::collection::vec(any::<u8>(), 0..40),
    );
    (
        states,
        prop::collection::vec((2..99_u64, any_hash()), 0..3),
        reports,
        prop::option::of(flags),
    )
        .prop_map(|(states, seen, reports, flags)| {
            let state = |(name, (home, generation, sequence, aborted, document))| RolloutState {
                name,
                home,
                generation,
                sequence,
                aborted,
                document,
            };
            Message {
                region: "us".to_owned(),
                states: states.into_iter().map(state).collect(),
                seen: seen.into_iter().map(|(size, root)| signed(size, root)).collect(),
                reports: reports
                    .into_iter()
                    .map(|(identity, nonce, report)| Relayed {
                        identity,
                        nonce,
                        report,
                    })
                    .collect(),
                flags: flags.map(|(region, revision, document)| FlagsState {
                    revision,
                    region,
                    document,
                }),
            }
        })
}

/// A batch's own parts; its items are to be borrowed.
#[derive(Debug, Clone)]
struct Parts {
    from: u64,
    count: u64,
    items: Vec<u8>,
    cose: bool,
    before: bool,
    hashes: usize,
    kept: u64,
}

prop_compose! {
    fn any_parts()(from in 0..50_u64, count in 0..20_u64, cose: bool, before: bool, hashes in 0..64_usize, kept in 0..4_u64) -> Parts {
        let mut items = Vec::new();
        (0..count).for_each(|byte| bundle::put(&mut items, &[7; 32], &byte.to_be_bytes()));
        Parts { from, count, items, cose, before: before && from > 0, hashes, kept: kept.min(count) }
    }
}

impl Parts {
    fn batch(&self) -> Batch<'_> {
        let origin: &'static str = "knhk.dev/log/us";
        let hashes = vec![[9; 32]; self.hashes];
        Batch {
            region: "us",
            origin,
            from: self.from,
            count: self.count,
            items: &self.items,
            checkpoint: signed(self.from + self.count + 2, [3; 32]),
            key: key(1),
            cose: self.cose.then_some([5; 64]),
            before: self.before.then(|| RootAt {
                root: [4; 32],
                proof: hashes.clone(),
            }),
            proof: hashes,
            kept: (1..=self.kept).map(|n| signed(self.from + n, [6; 32])).collect(),
        }
    }
}

/// Of bytes that are changed somewhere, or cut, either nothing is read or something that has just these bytes.
fn one_form(bytes: &[u8], at: prop::sample::Index, bit: u8, reread: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let mut changed = bytes.to_vec();
    let at = at.index(bytes.len());
    changed[at] ^= 1 << bit;
    for bytes in [&changed[..], &bytes[..at], &[bytes, &[0]].concat()] {
        assert!(reread(bytes).is_none_or(|again| again == bytes), "a second form");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again_and_has_one_form(
        ack in any_ack(), answer in any_answer(), message in any_message(), parts in any_parts(), at: prop::sample::Index, bit in 0..8_u8,
    ) {
        let bytes = ack.to_bytes();
        prop_assert_eq!(Ack::from_bytes(&bytes), Ok(ack));
        one_form(&bytes, at, bit, |bytes| Ack::from_bytes(bytes).ok().map(|it| it.to_bytes()));
        let bytes = answer.to_bytes();
        prop_assert_eq!(Answer::from_bytes(&bytes), Ok(answer));
        one_form(&bytes, at, bit, |bytes| Answer::from_bytes(bytes).ok().map(|it| it.to_bytes()));
        let bytes = message.to_bytes();
        prop_assert_eq!(Message::from_bytes(&bytes), Ok(message));
        one_form(&bytes, at, bit, |bytes| Message::from_bytes(bytes).ok().map(|it| it.to_bytes()));
        let batch = parts.batch();
        let bytes = batch.to_bytes();
        prop_assert_eq!(Batch::from_bytes(&bytes), Ok(batch));
        one_form(&bytes, at, bit, |bytes| Batch::from_bytes(bytes).ok().map(|it| it.to_bytes()));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = (Ack::from_bytes(&bytes), Answer::from_bytes(&bytes), Message::from_bytes(&bytes), Batch::from_bytes(&bytes));
    }

    #[test]
    fn a_refusals_text_is_one_line_within_its_bound(detail in ".{0,700}") {
        let refused = Refused::new("mismatch", &detail);
        prop_assert!(refused.detail.len() <= MAX_DETAIL_BYTES && !refused.detail.chars().any(char::is_control));
    }
}

#[test]
fn more_bytes_than_the_bound_are_not_looked_at() {
    let huge = vec![0xa0; MAX_BATCH_BYTES + 1];
    let label = |error: knhk_receipts::DecodeError| error.label();
    assert_eq!(Batch::from_bytes(&huge).map_err(label), Err("too_large"));
    assert_eq!(
        Ack::from_bytes(&huge[..=MAX_ACK_BYTES]).map_err(label),
        Err("too_large")
    );
    assert_eq!(
        Answer::from_bytes(&huge[..=MAX_ANSWER_BYTES]).map_err(label),
        Err("too_large")
    );
    assert_eq!(
        Message::from_bytes(&huge[..=MAX_MESSAGE_BYTES]).map_err(label),
        Err("too_large")
    );
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let parts = Parts {
        from: 5,
        count: 3,
        items: Vec::new(),
        cose: false,
        before: true,
        hashes: 2,
        kept: 2,
    };
    let good = parts.batch();
    let bad = [
        Batch {
            count: 6,
            ..good.clone()
        },
        Batch {
            count: u64::MAX,
            ..good.clone()
        },
        Batch {
            from: 0,
            ..good.clone()
        },
        Batch {
            kept: vec![signed(5, [0; 32])],
            ..good.clone()
        },
        Batch {
            kept: vec![signed(9, [0; 32])],
            ..good.clone()
        },
        Batch {
            kept: vec![signed(7, [0; 32]), signed(6, [0; 32])],
            ..good.clone()
        },
    ];
    for batch in bad {
        assert!(Batch::from_bytes(&batch.to_bytes()).is_err(), "{batch:?}");
    }
    let twice = RolloutState {
        name: "a".to_owned(),
        home: "us".to_owned(),
        generation: 1,
        sequence: 1,
        aborted: false,
        document: None,
    };
    let message = Message {
        states: vec![twice.clone(), twice],
        ..Message::of("us")
    };
    assert!(Message::from_bytes(&message.to_bytes()).is_err(), "a name twice");
    for (bytes, is_read) in [(MAX_DOCUMENT_BYTES, true), (MAX_DOCUMENT_BYTES + 1, false)] {
        let message = Message {
            flags: Some(FlagsState {
                revision: 1,
                region: "us".to_owned(),
                document: vec![0; bytes],
            }),
            ..Message::of("us")
        };
        assert_eq!(
            Message::from_bytes(&message.to_bytes()).is_ok(),
            is_read,
            "{bytes}"
        );
    }
}

#[test]
fn of_two_states_of_the_flags_the_later_revision_wins_then_the_larger_name() {
    let state = |revision, region: &str, byte| FlagsState {
        revision,
        region: region.to_owned(),
        document: vec![byte],
    };
    let ascending = [
        state(1, "us", 9),
        state(2, "eu", 0),
        state(2, "eu", 1),
        state(2, "us", 0),
        state(10, "ap", 0),
    ];
    assert!(ascending.is_sorted(), "{ascending:?}");
}
