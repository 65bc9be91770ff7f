//! One log and one mirror of it.

use std::sync::Arc;

use knhk_receipts::Log;
use knhk_receipts::storage::{Crash, ModelStorage, Storage};
use knhk_regions::source::{Order, pack};
use knhk_regions::wire::Batch;
use knhk_regions::{AckSigner, Mirror, Refusal};

use crate::rig::{grow, key, mirrored, open, packed, rotate, runtime};

const NOW: u64 = 1_700_000_000_000;

fn mirror(storage: &ModelStorage, pin: u8) -> Mirror {
    Mirror::open(Arc::new(storage.clone()), &mirrored("us", pin)).expect("opens")
}

fn receive(mirror: &mut Mirror, bytes: &[u8]) -> Result<(), Refusal> {
    mirror.receive(&Batch::from_bytes(bytes).expect("a batch"), NOW)
}

fn acks() -> AckSigner {
    let random = |bytes: &mut [u8]| bytes.fill(7);
    AckSigner::open(&ModelStorage::new(), "eu", &random).expect("a key")
}

/// The batch that the mirror asks for next.
fn next(log: &Log, mirror: &Mirror, most_bytes: usize) -> Vec<u8> {
    let answer = mirror.answer(None, &acks());
    let order = Order {
        from: answer.held,
        covered: answer.checkpoint.map_or(0, |it| it.size()),
        trusted: Some(answer.trusted),
        most_bytes,
    };
    pack(log, order)
        .expect("reads")
        .expect("something is signed")
        .bytes
}

/// Sends until the mirror has everything that is signed. Says how many batches it took.
pub(crate) fn catch_up(log: &Log, mirror: &mut Mirror, most_bytes: usize) -> usize {
    let signed = log.checkpoint().expect("signed").size();
    let mut batches = 0;
    while mirror.checkpoint().is_none_or(|it| it.size() < signed) {
        receive(mirror, &next(log, mirror, most_bytes)).expect("taken");
        batches += 1;
        assert!(batches < 10_000, "it does not come to an end");
    }
    batches
}

#[test]
fn a_mirror_has_the_log_and_says_so_with_its_signature() {
    let rt = runtime();
    let _in = rt.enter();
    let (data, copy) = (ModelStorage::new(), ModelStorage::new());
    let log = rt.block_on(open(&data, "us", 1));
    rt.block_on(grow(&log, 700));
    let mut it = mirror(&copy, 1);
    assert!(catch_up(&log, &mut it, 4096) > 5, "in pieces");
    let answer = it.answer(None, &acks());
    let ack = answer.ack.expect("acknowledged");
    let checkpoint = log.checkpoint().expect("signed");
    assert_eq!((answer.held, ack.size, ack.root), (701, 701, checkpoint.root()));
    assert!(ack.is_signed_by(acks().public_key()));
    // Opened again after a crash that kept only what was synced, it is the same.
    drop(it);
    let it = mirror(&copy.crash(Crash::LoseAll, 1), 1);
    assert_eq!((it.held(), it.checkpoint()), (701, Some(&checkpoint)));
}

#[test]
fn a_duplicate_changes_nothing_and_a_gap_is_named() {
    let rt = runtime();
    let _in = rt.enter();
    let (data, copy) = (ModelStorage::new(), ModelStorage::new());
    let log = rt.block_on(open(&data, "us", 1));
    rt.block_on(grow(&log, 300));
    let mut it = mirror(&copy, 1);
    let first = packed(&log, 0, Some(1), 2000);
    let gap = receive(&mut it, &packed(&log, first.end, Some(1), 2000).bytes).expect_err("a gap");
    assert!(matches!(gap, Refusal::Gap { held: 0, .. }), "{gap}");
    assert_eq!(it.held(), 0);
    receive(&mut it, &first.bytes).expect("taken");
    let steps = copy.steps();
    receive(&mut it, &first.bytes).expect("taken before");
    assert_eq!((copy.steps(), it.held()), (steps, first.end));
    // The first entry always goes, whatever its size, and no more bytes than are asked for.
    let one = packed(&log, first.end, Some(1), 1);
    assert_eq!(one.end - one.from, 1);
    // One that overlaps brings what is new.
    let overlapping = packed(&log, first.end - 5, Some(1), 3000);
    receive(&mut it, &overlapping.bytes).expect("taken");
    assert_eq!(it.held(), overlapping.end);
}

#[test]
fn a_mirror_follows_the_keys_from_the_pinned_one_wherever_that_is() {
    let rt = runtime();
    let _in = rt.enter();
    let data = ModelStorage::new();
    let log = rt.block_on(open(&data, "us", 1));
    rt.block_on(async {
        grow(&log, 20).await;
        for seed in [2, 3, 4] {
            rotate(&log, seed).await;
            grow(&log, 20).await;
        }
    });
    for pin in 1..=4 {
        let copy = ModelStorage::new();
        let mut it = mirror(&copy, pin);
        catch_up(&log, &mut it, 500);
        assert_eq!(
            (it.checkpoint(), it.key()),
            (log.checkpoint().as_ref(), Some(&key(4))),
            "pin {pin}"
        );
    }
    let mut stranger = mirror(&ModelStorage::new(), 9);
    let refusal = receive(&mut stranger, &packed(&log, 0, Some(9), 5000).bytes).expect_err("unknown");
    assert_eq!(refusal.label(), "unknown_key");
    assert_eq!(stranger.held(), 0);
}

#[test]
fn a_changed_batch_is_refused_and_is_no_alarm() {
    let rt = runtime();
    let _in = rt.enter();
    let (data, copy) = (ModelStorage::new(), ModelStorage::new());
    let log = rt.block_on(open(&data, "us", 1));
    rt.block_on(grow(&log, 12));
    let mut it = mirror(&copy, 1);
    receive(&mut it, &packed(&log, 0, Some(1), 900).bytes).expect("taken");
    let (held, steps) = (it.held(), copy.steps());
    let good = packed(&log, held, Some(1), 900).bytes;
    let (mut parsed, mut same) = (0, 0);
    for at in 0..good.len() {
        for bit in [0, 3, 7] {
            let mut changed = good.clone();
            changed[at] ^= 1 << bit;
            let Ok(batch) = Batch::from_bytes(&changed) else {
                continue;
            };
            parsed += 1;
            match it.receive(&batch, NOW) {
                Err(refusal) => assert!(!matches!(refusal, Refusal::Fork(_)), "byte {at}: {refusal}"),
                // An entry fewer or more than said is found; a COSE signature that is left out is not needed.
                Ok(()) => same += 1,
            }
            assert_eq!(
                (it.held(), copy.steps(), it.is_alarmed()),
                (held, steps, false),
                "byte {at}, bit {bit}"
            );
        }
    }
    assert!(parsed > 1000 && same == 0, "{parsed} parsed, {same} taken");
    receive(&mut it, &good).expect("the unchanged one is taken");
}

#[test]
fn a_second_history_is_kept_as_evidence_until_an_operator_has_seen_it() {
    let rt = runtime();
    let _in = rt.enter();
    let (data, copy) = (ModelStorage::new(), ModelStorage::new());
    let log = rt.block_on(open(&data, "us", 1));
    rt.block_on(grow(&log, 10));
    rt.block_on(log.close()).expect("closes");
    let backup = data.copy();
    let log = rt.block_on(open(&data, "us", 1));
    rt.block_on(grow(&log, 5));
    let mut it = mirror(&copy, 1);
    catch_up(&log, &mut it, 100_000);
    // The old copy goes on as if nothing had been, with fewer entries, as many, and more.
    let other = rt.block_on(open(&backup, "us", 1));
    rt.block_on(async {
        other
            .append(vec![crate::rig::action("us", 99)])
            .await
            .expect("appends");
        other.flush_now().await.expect("signs");
    });
    let fork = receive(&mut it, &packed(&other, 11, Some(1), 9000).bytes).expect_err("another history");
    assert!(matches!(fork, Refusal::Fork(_)), "{fork}");
    rt.block_on(grow(&other, 30));
    let more = packed(&other, 16, Some(1), 9000).bytes;
    let again = receive(&mut it, &more).expect_err("alarm");
    assert!(matches!(again, Refusal::SplitView { .. }));
    let good = packed(&log, 0, Some(1), 9000).bytes;
    assert!(
        receive(&mut it, &good).is_err(),
        "nothing is taken from it while there is an alarm"
    );
    assert!(it.answer(None, &acks()).ack.is_none(), "nor acknowledged");
    drop(it);
    let mut it = mirror(&copy.crash(Crash::LoseAll, 3), 1);
    assert!(it.is_alarmed(), "over a crash");
    let evidence = &it.forks()[0];
    assert_eq!(
        (evidence.held.size(), evidence.shown.size(), evidence.size),
        (16, 12, 12)
    );
    assert!(evidence.held.verify(&[key(1)]).is_ok() && evidence.shown.verify(&[key(1)]).is_ok());
    assert_ne!(evidence.held_root, evidence.shown_root);

    it.clear().expect("clears");
    receive(&mut it, &good).expect("the history that is held is taken again");
    let fork = receive(&mut it, &more).expect_err("the other one is not");
    assert!(
        matches!(&fork, Refusal::Fork(it) if it.size == 16 && it.shown.size() == 42),
        "{fork}"
    );
    let proven = it.forks();
    assert_eq!((proven.len(), it.held()), (1, 16));
}

#[test]
fn a_checkpoint_that_another_region_holds_gives_a_second_history_away() {
    let rt = runtime();
    let _in = rt.enter();
    let (data, copy) = (ModelStorage::new(), ModelStorage::new());
    let log = rt.block_on(open(&data, "us", 1));
    rt.block_on(grow(&log, 10));
    rt.block_on(log.close()).expect("closes");
    let other = rt.block_on(open(&data.copy(), "us", 1));
    let log = rt.block_on(open(&data, "us", 1));
    rt.block_on(grow(&log, 5));
    rt.block_on(async {
        other
            .append(vec![crate::rig::action("us", 99)])
            .await
            .expect("appends");
        other.flush_now().await.expect("signs");
    });
    let mut it = mirror(&copy, 1);
    catch_up(&log, &mut it, 100_000);
    it.witness(&log.checkpoint().expect("signed"), NOW)
        .expect("the same history");
    assert!(it.witness(&other.checkpoint().expect("signed"), NOW).is_err());
    assert!(it.is_alarmed());
    assert!(
        copy.list("mirror/evidence")
            .expect("lists")
            .contains(&"1".to_owned())
    );
}

#[test]
fn a_crash_at_any_step_leaves_a_mirror_that_goes_on() {
    let rt = runtime();
    let _in = rt.enter();
    let data = ModelStorage::new();
    let log = rt.block_on(open(&data, "us", 1));
    rt.block_on(async {
        grow(&log, 30).await;
        rotate(&log, 2).await;
        grow(&log, 290).await;
    });
    let whole = ModelStorage::new();
    catch_up(&log, &mut mirror(&whole, 1), 3000);
    for step in 0..whole.steps() {
        for (seed, kind) in (0..).zip([Crash::Process, Crash::LoseAll, Crash::KeepAll, Crash::Scramble]) {
            let copy = ModelStorage::new();
            copy.crash_after(step);
            let mut acknowledged = 0;
            if let Ok(mut it) = Mirror::open(Arc::new(copy.clone()), &mirrored("us", 1)) {
                loop {
                    let batch = next(&log, &it, 3000);
                    if receive(&mut it, &batch).is_err() {
                        break;
                    }
                    acknowledged = it.answer(None, &acks()).ack.map_or(0, |ack| ack.size);
                }
            }
            let after = copy.crash(kind, step * 8 + seed);
            let mut it = mirror(&after, 1);
            assert!(
                it.held() >= acknowledged,
                "step {step}, {kind:?}: {} of {acknowledged}",
                it.held()
            );
            catch_up(&log, &mut it, 5000);
            assert_eq!(
                it.checkpoint(),
                log.checkpoint().as_ref(),
                "step {step}, {kind:?}"
            );
        }
    }
}
