//! Whatever happened to the files, a history is whole and in order.

use super::*;
use knhk_promotion::{Command, Event, Now, RolloutSpec, create, step};
use proptest::prelude::*;

const SPEC: &str = "
apiVersion: knhk.dev/v1
kind: Rollout
metadata: { name: checkout }
spec:
  version: v2
  stable: v1
  match: {}
  key: [ { header: x-user-id } ]
  stages: [ { name: canary, steps: [ { setWeight: 5 } ] } ]
  analysis: { slos: [ { metric: request-success-rate, min: 99 } ] }
";

const NOW: Now = Now {
    wall_ms: 1,
    mono_ms: 1,
};

fn first() -> Rollout {
    create(RolloutSpec::from_yaml(SPEC).expect("valid"), "ada", NOW).0
}

/// The rollout after one more transition.
fn after(rollout: &Rollout) -> Rollout {
    let command = if rollout.sequence() % 2 == 1 {
        Command::Pause
    } else {
        Command::Resume
    };
    let event = Event::Command { by: "ada", command };
    step(rollout, event, NOW).expect("it is possible").0
}

/// A rollout after so many transitions, of which those that settled are written and not synced.
fn written(data: &Path, transitions: usize) -> (Archive, Rollout) {
    let mut archive = Archive::of(data);
    let mut rollout = first();
    for _ in 0..transitions {
        archive.settle(&rollout).expect("written");
        rollout = after(&rollout);
    }
    (archive, rollout)
}

/// All of a history, page by page.
fn whole(data: &Path, rollout: &Rollout, limit: usize) -> Vec<u64> {
    let mut seen: Vec<u64> = Vec::new();
    loop {
        let page = page(data, rollout, seen.last().copied().unwrap_or(0), limit).expect("it can be read");
        if page.is_empty() {
            return seen;
        }
        assert!(page.len() <= limit);
        seen.extend(page.iter().map(|entry| entry.seq));
    }
}

fn up_to(seq: u64) -> Vec<u64> {
    (1..=seq).collect()
}

#[test]
fn nothing_is_written_while_the_state_holds_everything() {
    let data = tempfile::tempdir().expect("a directory");
    let (mut archive, rollout) = written(data.path(), SETTLED_BEHIND - 1);
    archive.sync().expect("synced");
    assert!(!data.path().join(HISTORY_DIRECTORY).exists());
    assert_eq!(whole(data.path(), &rollout, 100), up_to(rollout.sequence()));
}

#[test]
fn a_history_longer_than_the_state_is_whole() {
    let data = tempfile::tempdir().expect("a directory");
    let (mut archive, rollout) = written(data.path(), 3 * MAX_HISTORY);
    archive.sync().expect("synced");
    assert_eq!(rollout.history().len(), MAX_HISTORY);
    for limit in [1, 7, PER_FILE, 10_000] {
        assert_eq!(whole(data.path(), &rollout, limit), up_to(rollout.sequence()));
    }
    let page = page(data.path(), &rollout, 40, 3).expect("it can be read");
    assert_eq!(
        page.iter().map(|entry| entry.seq).collect::<Vec<_>>(),
        [41, 42, 43]
    );
    assert_eq!(page[0].who, "ada");
    let files = files(&data.path().join(HISTORY_DIRECTORY).join("checkout")).expect("listed");
    assert!(files.len() > 3, "{files:?}");
}

#[test]
fn a_name_that_is_used_again_begins_anew() {
    let data = tempfile::tempdir().expect("a directory");
    let (mut archive, _) = written(data.path(), 2 * MAX_HISTORY);
    archive.forget("checkout").expect("removed");
    archive.forget("checkout").expect("it may be gone already");
    let again = after(&first());
    archive.settle(&again).expect("written");
    assert_eq!(whole(data.path(), &again, 100), up_to(2));
}

#[test]
fn a_line_that_cannot_be_read_is_said_and_not_passed_over() {
    let data = tempfile::tempdir().expect("a directory");
    let (mut archive, rollout) = written(data.path(), 2 * MAX_HISTORY);
    archive.sync().expect("synced");
    let directory = data.path().join(HISTORY_DIRECTORY).join("checkout");
    let file = files(&directory).expect("listed").remove(0);
    let text = fs::read_to_string(&file).expect("text");
    fs::write(&file, text.replacen("ada", "a\"da", 1)).expect("written");
    let error = page(data.path(), &rollout, 0, 10)
        .expect_err("damaged")
        .to_string();
    assert!(
        error.contains("cannot be read") && !error.contains('\n'),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The service is killed again and again; of what was not synced any part may be lost, in the middle of a line too.
    #[test]
    fn a_crash_loses_nothing(
        lives in prop::collection::vec((1usize..200, 0u64..4_000), 1..12),
        start in 200usize..700,
    ) {
        let data = tempfile::tempdir().expect("a directory");
        let (mut archive, mut rollout) = written(data.path(), start);
        archive.sync().expect("synced");
        for (transitions, lost) in lives {
            // The state on the disk is the one at the last sync.
            let durable = rollout.clone();
            let directory = data.path().join(HISTORY_DIRECTORY).join("checkout");
            let lengths: HashMap<PathBuf, u64> = files(&directory)
                .expect("listed")
                .into_iter()
                .map(|path| { let length = fs::metadata(&path).expect("a file").len(); (path, length) })
                .collect();
            for _ in 0..transitions {
                rollout = after(&rollout);
                archive.settle(&rollout).expect("written");
            }
            // Only the last file is not synced as a whole.
            if let Some(path) = files(&directory).expect("listed").pop() {
                let synced = lengths.get(&path).copied().unwrap_or(0);
                let length = fs::metadata(&path).expect("a file").len();
                let file = OpenOptions::new().write(true).open(&path).expect("a file");
                file.set_len(synced.max(length.saturating_sub(lost))).expect("cut");
            }
            archive = Archive::of(data.path());
            rollout = durable;
            // What happens after the start settles again what was lost.
            for _ in 0..transitions {
                archive.settle(&rollout).expect("written");
                rollout = after(&rollout);
            }
            archive.settle(&rollout).expect("written");
            archive.sync().expect("synced");
            prop_assert_eq!(whole(data.path(), &rollout, 100), up_to(rollout.sequence()));
        }
    }
}
