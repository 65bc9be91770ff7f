//! Seeded schedules of appends, flushes and rotations, with a crash at every step of the storage, against a model of what was
//! promised.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::audited::is_clean;
use super::rig::{Promised, Rig, check};
use crate::log::error::LogError;
use crate::storage::{Crash, ModelStorage};

/// Small enough that a few groups fill one.
const SEGMENT_BYTES: u64 = 2_000;

/// Runs a schedule until it ends or the machine dies in it.
fn run(storage: &ModelStorage, schedule: u64, promised: &mut Promised) -> Result<(), LogError> {
    let mut rng = SmallRng::seed_from_u64(schedule);
    // Some schedules have so many entries that tiles of two levels come in.
    let most = if schedule.is_multiple_of(8) { 150 } else { 8 };
    let mut rig = open(storage, promised)?;
    for _ in 0..rng.random_range(3..10) {
        rig.wait(rng.random_range(0..40_000));
        match rng.random_range(0..11) {
            0..6 => rig.append(rng.random_range(1..=most), promised)?,
            6..9 => rig.flush(promised)?,
            9 => rig.rotate(promised)?,
            _ => {
                drop(rig);
                rig = open(storage, promised)?;
            }
        }
    }
    Ok(())
}

/// What a recovery keeps is durable from then on: it counts as promised.
fn open(storage: &ModelStorage, promised: &mut Promised) -> Result<Rig, LogError> {
    let rig = Rig::open(storage, SEGMENT_BYTES)?;
    rig.keep(promised)?;
    if Some(rig.active()) == promised.rotating {
        promised.active = rig.active();
        promised.rotating = None;
    }
    Ok(rig)
}

/// Recovers, checks, recovers again, goes on, and checks again.
fn recovers(storage: &ModelStorage, promised: &Promised) {
    let rig = Rig::open(storage, SEGMENT_BYTES).expect("what a crash leaves can be recovered");
    check(&rig, storage, promised);
    is_clean(&rig, storage);
    let (size, names, keys) = (
        rig.segments().size(),
        storage.paths(),
        rig.publisher.book().keyring().clone(),
    );
    drop(rig);
    let steps = storage.steps();
    let mut later = promised.clone();
    let mut rig = open(storage, &mut later).expect("recovers again");
    assert_eq!(
        (rig.segments().size(), storage.paths()),
        (size, names),
        "the second recovery changed something"
    );
    assert_eq!(rig.publisher.book().keyring(), &keys);
    assert!(
        storage.steps() - steps <= 5,
        "the second recovery does nothing but sync what is there"
    );

    rig.append(3, &mut later).expect("appends go on");
    rig.flush(&mut later).expect("flushes go on");
    check(&rig, storage, &later);
    rig.rotate(&mut later).expect("rotations go on");
    check(&rig, storage, &later);
    rig.rotate(&mut later).expect("with nothing in between too");
    check(&rig, storage, &later);
    rig.append(1, &mut later).expect("appends go on");
    rig.flush(&mut later).expect("the next key signs");
    check(&rig, storage, &later);
    is_clean(&rig, storage);
}

fn recover_and_go_on(storage: &ModelStorage, promised: &mut Promised) -> Result<(), LogError> {
    let mut rig = open(storage, promised)?;
    rig.flush(promised)?;
    rig.append(2, promised)?;
    rig.rotate(promised)?;
    rig.append(2, promised)?;
    rig.flush(promised)
}

fn crash_everywhere(schedule: u64) -> u64 {
    let whole = ModelStorage::new();
    run(&whole, schedule, &mut Promised::new()).expect("nothing fails without a crash");
    let kinds = [
        Crash::Process,
        Crash::LoseAll,
        Crash::KeepAll,
        Crash::Scramble,
        Crash::Scramble,
    ];
    for step in 0..whole.steps() {
        let storage = ModelStorage::new();
        storage.crash_after(step);
        let mut promised = Promised::new();
        let result = run(&storage, schedule, &mut promised);
        assert!(result.is_err(), "schedule {schedule} did not reach step {step}");
        let kind = kinds[usize::try_from((schedule + step) % 5).expect("small")];
        let after = storage.crash(kind, schedule << 32 | step);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // A second crash, in the recovery or soon after it, must do no harm either.
            let mut rng = SmallRng::seed_from_u64(schedule ^ (step << 20));
            after.crash_after(rng.random_range(0..60));
            let kind = if rng.random() {
                Crash::LoseAll
            } else {
                Crash::Scramble
            };
            // How far it gets does not matter.
            let _ = recover_and_go_on(&after, &mut promised);
            recovers(&after.crash(kind, step), &promised);
        }));
        assert!(
            outcome.is_ok(),
            "schedule {schedule}, {kind:?} at step {step}: see above"
        );
    }
    whole.steps()
}

/// How many crashes these schedules have been through.
fn crashes(schedules: impl Iterator<Item = u64>) -> u64 {
    schedules.map(crash_everywhere).sum()
}

/// 1 to 8 entries at once, crashes at each step. In parts, which run in parallel.
#[test]
fn no_crash_loses_or_contradicts_anything() {
    assert!(crashes((1..60).filter(|it| it % 8 != 0)) > 1_500);
}

#[test]
fn no_crash_loses_or_contradicts_anything_in_other_schedules() {
    assert!(crashes((60..120).filter(|it| it % 8 != 0)) > 1_500);
}

/// Up to 150 entries at once: full tiles, a second level, many segments.
#[test]
fn no_crash_of_a_larger_log_loses_or_contradicts_anything() {
    assert!(crashes((0..40).step_by(8)) > 200);
}
