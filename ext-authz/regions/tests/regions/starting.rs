//! What a region does before it signs anything.

use knhk_receipts::checkpoint::Unsigned;
use knhk_receipts::testing::TestSigner;
use knhk_receipts::{LogError, SignedCheckpoint};
use knhk_regions::start::{GRACE_MS, OwnSigned};
use knhk_regions::wire::{Answer, Hash};
use knhk_regions::{Decision, OwnLog, Start, Stop};
use proptest::prelude::*;

use crate::rig::{key, origin};

const WAIT: u64 = 30_000;

/// A log whose first `n` entries have the root of bytes `n`, signed up to a size.
struct Own(u64);

impl OwnSigned for Own {
    fn signed(&self) -> u64 {
        self.0
    }

    fn root_of(&self, size: u64) -> Result<Hash, LogError> {
        Ok(root(size))
    }

    fn is_signed_by_us(&self, checkpoint: &SignedCheckpoint) -> bool {
        checkpoint.verify(&[key(1)]).is_ok()
    }
}

fn root(size: u64) -> Hash {
    [u8::try_from(size).expect("small"); 32]
}

fn holds(size: u64, root: Hash, seed: u8) -> Answer {
    let unsigned = Unsigned {
        origin: origin("us"),
        size,
        root,
    };
    let signature = TestSigner::new(seed).sign(&unsigned.digest());
    Answer {
        held: size,
        trusted: key(seed).key_id(),
        checkpoint: (size > 0).then(|| unsigned.signed(&key(seed), signature).expect("signed")),
        ack: None,
        refused: None,
    }
}

fn started(own: OwnLog, peers: usize, quorum: usize) -> Start {
    Start::new(own, &origin("us"), peers, quorum, WAIT, 1_000)
}

fn hear(start: &mut Start, peer: &str, size: u64, own: u64, now: u64) {
    start
        .heard(peer, holds(size, root(size), 1), &Own(own), now)
        .expect("reads");
}

fn from(decision: Decision) -> Vec<(String, u64)> {
    match decision {
        Decision::Restore { from } => from.into_iter().map(|it| (it.peer, it.held)).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn with_its_log_a_region_goes_on_after_one_answer_or_after_waiting() {
    let mut start = started(OwnLog::There, 2, 2);
    assert_eq!(
        start.decide(1_000),
        Decision::Wait {
            until_ms: Some(1_000 + WAIT),
            missing: 1
        }
    );
    assert_eq!(start.decide(1_000 + WAIT), Decision::GoOn { unheard: true });
    hear(&mut start, "eu", 10, 10, 2_000);
    assert_eq!(
        start.decide(2_000),
        Decision::Wait {
            until_ms: Some(2_000 + GRACE_MS),
            missing: 0
        }
    );
    assert_eq!(start.decide(2_000 + GRACE_MS), Decision::GoOn { unheard: false });
    hear(&mut start, "ap", 7, 10, 2_100);
    assert_eq!(
        start.decide(2_100),
        Decision::GoOn { unheard: false },
        "all have answered"
    );
}

#[test]
fn peers_that_hold_more_are_restored_from_the_largest_first() {
    let mut start = started(OwnLog::There, 3, 2);
    hear(&mut start, "eu", 12, 10, 2_000);
    hear(&mut start, "ap", 15, 10, 2_100);
    hear(&mut start, "sa", 9, 10, 2_200);
    assert_eq!(
        from(start.decide(2_200)),
        [("ap".to_owned(), 15), ("eu".to_owned(), 12)]
    );
}

#[test]
fn an_empty_disk_waits_for_so_many_that_one_holds_what_a_quorum_holds() {
    for (peers, quorum, needed) in [
        (2, 1, 2),
        (2, 2, 2),
        (2, 3, 1),
        (4, 3, 3),
        (4, 5, 1),
        (4, 1, 4),
        (1, 2, 1),
    ] {
        let mut start = started(OwnLog::Empty, peers, quorum);
        for number in 0..peers {
            let missing = needed - number.min(needed);
            if missing > 0 {
                let late = start.decide(999_999);
                assert_eq!(
                    late,
                    Decision::Wait {
                        until_ms: None,
                        missing
                    },
                    "{quorum} of {peers} after {number}"
                );
            }
            hear(&mut start, &format!("r{number}"), 0, 0, 2_000);
            let is_last = number + 1 == peers;
            assert_eq!(
                matches!(start.decide(2_000), Decision::Begin),
                is_last,
                "others may hold more"
            );
        }
        let mut start = started(OwnLog::Empty, peers, quorum);
        (0..needed).for_each(|number| hear(&mut start, &format!("r{number}"), 0, 0, 2_000));
        assert_eq!(start.decide(1_000 + WAIT), Decision::Begin, "{quorum} of {peers}");
    }
}

#[test]
fn what_was_being_restored_is_never_begun_anew() {
    let mut start = started(OwnLog::Restoring, 2, 2);
    hear(&mut start, "eu", 0, 0, 2_000);
    hear(&mut start, "ap", 0, 0, 2_000);
    assert!(matches!(start.decide(999_999), Decision::Wait { .. }));
    hear(&mut start, "ap", 4, 0, 3_000);
    assert_eq!(from(start.decide(3_000)), [("ap".to_owned(), 4)]);
    // It was interrupted when all was there but for the last step.
    let mut start = started(OwnLog::Restoring, 2, 2);
    hear(&mut start, "eu", 4, 4, 2_000);
    hear(&mut start, "ap", 0, 4, 2_000);
    assert_eq!(from(start.decide(2_000)), [], "it is finished as it is");
}

#[test]
fn another_history_stops_everything_and_a_strangers_word_counts_for_nothing() {
    let mut start = started(OwnLog::There, 2, 2);
    start
        .heard("eu", holds(8, [99; 32], 2), &Own(10), 2_000)
        .expect("reads");
    assert!(
        matches!(start.decide(2_500), Decision::Wait { missing: 1, .. }),
        "our keys did not sign that"
    );
    start
        .heard("eu", holds(8, [99; 32], 1), &Own(10), 2_000)
        .expect("reads");
    assert!(matches!(start.decide(2_500), Decision::Stop(Stop::Forked { .. })));

    let mut start = started(OwnLog::Empty, 2, 2);
    start
        .heard("eu", holds(8, [1; 32], 1), &Own(0), 2_000)
        .expect("reads");
    start
        .heard("ap", holds(8, [2; 32], 1), &Own(0), 2_000)
        .expect("reads");
    assert!(
        matches!(start.decide(2_500), Decision::Stop(Stop::Forked { .. })),
        "two peers hold two histories"
    );
}

proptest! {
    /// Any so many peers that are heard have one in common with any quorum that holds an entry beside the region itself.
    #[test]
    fn an_empty_disk_never_begins_or_restores_less_than_a_quorum_holds(
        peers in 1..6_usize, quorum in 2..7_usize, heard in prop::collection::vec(any::<bool>(), 6), has in prop::collection::vec(any::<bool>(), 6),
    ) {
        prop_assume!(quorum <= peers + 1);
        let holders = (0..peers).filter(|at| has[*at]).count();
        let mut start = started(OwnLog::Empty, peers, quorum);
        for at in (0..peers).filter(|at| heard[*at]) {
            hear(&mut start, &format!("r{at}"), if has[at] { 9 } else { 0 }, 0, 2_000);
        }
        let decision = start.decide(1_000 + WAIT);
        // The region itself was one of the quorum.
        if holders + 1 >= quorum {
            prop_assert!(!matches!(decision, Decision::Begin), "{holders} of {peers} hold it");
        }
    }
}
