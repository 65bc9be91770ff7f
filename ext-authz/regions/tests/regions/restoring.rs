//! A region that lost its disk gets its log back from a mirror.

use std::sync::Arc;

use knhk_receipts::audit::{Audit, Directory, audit};
use knhk_receipts::storage::{Crash, DiskStorage, ModelStorage, Storage};
use knhk_receipts::{AtRest, Log, SignedCheckpoint};
use knhk_regions::source::{Order, pack};
use knhk_regions::wire::Batch;
use knhk_regions::{Mirror, OwnLog, Refusal, Restore, RestoreError, Restored};

use crate::mirrors::catch_up;
use crate::rig::{action, grow, key, mirrored, open, open_on, origin, rotate, runtime};

/// What a mirror gives who wants its entries from here on.
fn given(mirror: &Mirror, from: u64) -> Vec<u8> {
    let order = Order {
        from,
        covered: from,
        trusted: None,
        most_bytes: 3000,
    };
    pack(mirror, order)
        .expect("reads")
        .expect("it has a checkpoint")
        .bytes
}

/// The mirror is sent one more batch.
fn take(log: &Log, mirror: &mut Mirror) {
    let trusted = mirror.key().cloned().unwrap_or_else(|| key(1)).key_id();
    let order = Order {
        from: mirror.held(),
        covered: mirror.checkpoint().map_or(0, SignedCheckpoint::size),
        trusted: Some(trusted),
        most_bytes: 3000,
    };
    let packed = pack(log, order).expect("reads").expect("signed");
    let batch = Batch::from_bytes(&packed.bytes).expect("a batch");
    mirror.receive(&batch, 1).expect("taken");
}

/// A log of three keys, and a mirror of it that trusts it from the key of this number on.
fn mirrored_log(pin: u8) -> (ModelStorage, Log, Mirror) {
    let data = ModelStorage::new();
    let rt = runtime();
    let _in = rt.enter();
    let log = rt.block_on(async {
        let log = open(&data, "us", 1).await;
        grow(&log, 300).await;
        rotate(&log, 2).await;
        grow(&log, 20).await;
        rotate(&log, 3).await;
        grow(&log, 20).await;
        log
    });
    let mut mirror = Mirror::open(Arc::new(ModelStorage::new()), &mirrored("us", pin)).expect("opens");
    catch_up(&log, &mut mirror, 3000);
    rt.block_on(log.clone().close()).expect("closes");
    (data, log, mirror)
}

/// Our log, as far as we have these keys.
fn ours(keys: &[u8]) -> Restored {
    Restored {
        region: "us".to_owned(),
        origin: origin("us"),
        keys: keys.iter().map(|seed| key(*seed)).collect(),
    }
}

fn restored(storage: Arc<dyn Storage>, mirror: &Mirror) -> Result<(), String> {
    let wanted = mirror.checkpoint().expect("one").size();
    let mut restore = Restore::open(storage, ours(&[3]), wanted).map_err(|e| e.to_string())?;
    while restore
        .receive(&given(mirror, restore.next()), 1)
        .map_err(|e| e.to_string())?
    {}
    restore.finish(None).map_err(|e| e.to_string())
}

#[test]
fn a_restored_log_is_the_one_that_was_lost_and_goes_on() {
    let rt = runtime();
    let _in = rt.enter();
    for pin in 1..=3 {
        let (_, lost, mirror) = mirrored_log(pin);
        let dir = tempfile::tempdir().expect("a directory");
        let storage = || Arc::new(DiskStorage::open(dir.path()).expect("opens"));
        restored(storage(), &mirror).expect("restored");
        let log = rt.block_on(open_on(storage(), "us", 3));
        assert_eq!(
            (log.size(), log.checkpoint()),
            (lost.size(), lost.checkpoint()),
            "pin {pin}"
        );
        let keys = |log: &Log| {
            log.keys()
                .into_iter()
                .map(|it| (it.key, it.first_size, it.last_size))
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(&log), keys(&lost), "pin {pin}");
        rt.block_on(async {
            grow(&log, 3).await;
            rotate(&log, 4).await;
            grow(&log, 3).await;
            log.close().await.expect("closes");
        });
        let source = Directory::open(dir.path()).expect("a log");
        let asked = Audit {
            threads: 1,
            pinned: &[],
            since: &[],
            progress: &|_| {},
        };
        let report = audit(&source, &asked).expect("something to audit");
        assert!(report.findings.is_empty(), "pin {pin}: {:?}", report.findings);
    }
}

#[test]
fn a_crash_at_any_step_of_restoring_is_gone_on_from() {
    let rt = runtime();
    let _in = rt.enter();
    let (_, lost, mirror) = mirrored_log(2);
    let whole = ModelStorage::new();
    restored(Arc::new(whole.clone()), &mirror).expect("restored");
    for step in 0..whole.steps() {
        let data = ModelStorage::new();
        data.crash_after(step);
        restored(Arc::new(data.clone()), &mirror).expect_err("a crash");
        let kinds = [Crash::Process, Crash::LoseAll, Crash::KeepAll, Crash::Scramble];
        let data = data.crash(kinds[usize::try_from(step % 4).expect("small")], step);
        let own = knhk_regions::start::OwnAtRest::find(Arc::new(data.clone()), Vec::new()).expect("looks");
        if own.found() != OwnLog::There {
            restored(Arc::new(data.clone()), &mirror).expect("restored");
        }
        let log = rt.block_on(open(&data, "us", 3));
        assert_eq!(
            (log.size(), log.checkpoint()),
            (lost.size(), lost.checkpoint()),
            "step {step}"
        );
    }
}

#[test]
fn an_old_copy_is_restored_to_what_peers_hold_and_another_history_is_not() {
    let rt = runtime();
    let _in = rt.enter();
    let data = ModelStorage::new();
    let log = rt.block_on(open(&data, "us", 1));
    rt.block_on(async {
        grow(&log, 20).await;
        log.close().await.expect("closes");
    });
    let (old, forked) = (data.copy(), data.copy());
    let log = rt.block_on(open(&data, "us", 1));
    rt.block_on(async {
        grow(&log, 5).await;
        rotate(&log, 2).await;
        rotate(&log, 3).await;
        grow(&log, 5).await;
    });
    let mut mirror = Mirror::open(Arc::new(ModelStorage::new()), &mirrored("us", 1)).expect("opens");
    catch_up(&log, &mut mirror, 2000);
    restored(Arc::new(old.clone()), &mirror).expect("restored");
    let again = rt.block_on(open(&old, "us", 3));
    assert_eq!((again.size(), again.checkpoint()), (log.size(), log.checkpoint()));

    let other = rt.block_on(open(&forked, "us", 1));
    rt.block_on(async {
        other.append(vec![action("us", 99)]).await.expect("appends");
        other.flush_now().await.expect("signs");
        other.close().await.expect("closes");
    });
    restored(Arc::new(forked.clone()), &mirror).expect_err("another history");
    for path in forked.paths().iter().filter(|path| path.contains("/tile/0/")) {
        forked.remove(path).expect("a tile");
    }
    let own = AtRest::find(Arc::new(forked)).expect("looks").expect("a log");
    let (without_tiles, with) = (own.root_of(21).expect("a root"), log.root_of(21).expect("a root"));
    assert_eq!(without_tiles, with, "tiles are not needed");
    assert_eq!(own.root().expect("signed").size(), 22, "it is as it was");
}

#[test]
fn a_log_that_is_shorter_than_what_peers_hold_is_not_put_in_place() {
    let (_, _, mirror) = mirrored_log(1);
    let wanted = mirror.checkpoint().expect("one").size();
    let mut restore = Restore::open(Arc::new(ModelStorage::new()), ours(&[3]), wanted).expect("opens");
    restore.receive(&given(&mirror, 0), 1).expect("a part");
    let refused = restore.finish(None).expect_err("too short");
    assert!(
        matches!(refused, RestoreError::TooShort { has: 0, .. }),
        "{refused}"
    );
    let mut restore = Restore::open(Arc::new(ModelStorage::new()), ours(&[3]), wanted).expect("opens");
    let changed = &mut given(&mirror, 0);
    let at = changed.len() / 2;
    changed[at] ^= 1;
    let refused = restore.receive(changed, 1).expect_err("changed on the way");
    assert!(
        !matches!(refused, Refusal::Storage(_) | Refusal::Fork(_)),
        "{refused}"
    );
}

/// Peers of which one was cut off long ago hold what different keys of ours signed, and are asked in any order.
#[test]
fn peers_give_what_any_of_our_keys_signed() {
    let rt = runtime();
    let _in = rt.enter();
    let (_, lost, newest) = mirrored_log(1);
    for cut_off_at in 1..3_u8 {
        let mut cut_off = Mirror::open(Arc::new(ModelStorage::new()), &mirrored("us", 1)).expect("opens");
        while cut_off.key() != Some(&key(cut_off_at)) {
            take(&lost, &mut cut_off);
        }
        let orders: [[&Mirror; 3]; 2] = [[&cut_off, &newest, &cut_off], [&newest, &cut_off, &newest]];
        for peers in orders {
            let data = ModelStorage::new();
            let wanted = lost.size();
            let mut restore = Restore::open(Arc::new(data.clone()), ours(&[1, 2, 3]), wanted).expect("opens");
            for peer in peers {
                for _ in 0..2 {
                    restore.receive(&given(peer, restore.next()), 1).expect("ours");
                }
            }
            while restore.receive(&given(&newest, restore.next()), 1).expect("ours") {}
            restore.finish(None).expect("whole");
            let log = rt.block_on(open(&data, "us", 3));
            assert_eq!((log.size(), log.checkpoint()), (lost.size(), lost.checkpoint()));
            let root = log.root().expect("signed");
            assert!(
                root.cose.verifies(&key(3), &root.checkpoint.root()),
                "the key that signed"
            );
        }
    }
}

/// What a stranger signed proves nothing, whatever a peer says of it.
#[test]
fn what_no_key_of_ours_signed_is_not_restored() {
    let rt = runtime();
    let _in = rt.enter();
    let (_, lost, mirror) = mirrored_log(1);
    let mut restore =
        Restore::open(Arc::new(ModelStorage::new()), ours(&[4, 5]), lost.size()).expect("opens");
    let refused = restore.receive(&given(&mirror, 0), 1).expect_err("a stranger's");
    assert_eq!(refused.label(), "unknown_key");
}

/// An old copy that went on by itself, signed or not, is not what peers hold: whether that is under a checkpoint, or behind one.
#[test]
fn an_old_copy_that_went_on_is_found_out() {
    let rt = runtime();
    let _in = rt.enter();
    let data = ModelStorage::new();
    let log = rt.block_on(open(&data, "us", 1));
    rt.block_on(grow(&log, 3));
    let old = data.copy();
    let mut behind = Mirror::open(Arc::new(ModelStorage::new()), &mirrored("us", 1)).expect("opens");
    take(&log, &mut behind);
    rt.block_on(grow(&log, 200));
    take(&log, &mut behind);
    assert!(behind.held() > 20 && behind.checkpoint().is_some_and(|it| it.size() < 20));
    let mut whole = Mirror::open(Arc::new(ModelStorage::new()), &mirrored("us", 1)).expect("opens");
    catch_up(&log, &mut whole, 3000);
    for is_signed in [false, true] {
        let copy = old.copy();
        let other = rt.block_on(open(&copy, "us", 1));
        rt.block_on(other.append(vec![action("us", 99)]))
            .expect("appends");
        if is_signed {
            rt.block_on(other.flush_now()).expect("signs");
        }
        drop(other);
        for peer in [&behind, &whole] {
            let copy = copy.crash(Crash::Process, 1);
            let mut restore = Restore::open(Arc::new(copy), ours(&[1]), log.size()).expect("opens");
            let refused = restore
                .receive(&given(peer, restore.next()), 1)
                .expect_err("another history");
            assert_eq!(refused.label(), "old_copy", "{refused}");
            // Where nothing is proven by itself, what was changed on the way is no other history.
            if std::ptr::eq(peer, &raw const behind) {
                let mut changed = given(peer, restore.next());
                let at = changed.len() / 2;
                changed[at] ^= 1;
                let refused = restore.receive(&changed, 1).expect_err("changed on the way");
                assert_eq!(refused.label(), "mismatch", "{refused}");
            }
        }
    }
}
