//! Disks that fail and hang, and what a crash leaves behind.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use futures::FutureExt;
use knhk_decision::spec::Weight;
use knhk_promotion::{Command, Event, Rollout};
use knhk_receipts::storage::{File, LockError, LockGuard, Storage};
use knhk_receipts::{ActionReceipt, DiskStorage, Payload};

use super::flags::BETA;
use super::{Ending, Running, SPEC, regions, reporter};
use crate::app::rollouts::CommandError;
use crate::config::Config;

/// What a disk does when it is told to make something durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Works,
    Fails,
    Hangs,
}

/// A real directory whose syncs do as they are told.
struct MoodyDisk {
    disk: DiskStorage,
    mood: Arc<(Mutex<Mood>, Condvar)>,
}

struct MoodyFile(Box<dyn File>, Arc<(Mutex<Mood>, Condvar)>);

impl MoodyDisk {
    fn open(data: &Path) -> Arc<Self> {
        Arc::new(Self {
            disk: DiskStorage::open(data).expect("a directory"),
            mood: Arc::new((Mutex::new(Mood::Works), Condvar::new())),
        })
    }

    fn turns(&self, mood: Mood) {
        *self.mood.0.lock().expect("not poisoned") = mood;
        self.mood.1.notify_all();
    }

    fn file(&self, file: Box<dyn File>) -> Box<dyn File> {
        Box::new(MoodyFile(file, Arc::clone(&self.mood)))
    }
}

impl Storage for MoodyDisk {
    fn lock(&self) -> Result<LockGuard, LockError> {
        self.disk.lock()
    }
    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.disk.create_dir(path)
    }
    fn create(&self, path: &str) -> io::Result<Box<dyn File>> {
        Ok(self.file(self.disk.create(path)?))
    }
    fn open(&self, path: &str) -> io::Result<Box<dyn File>> {
        Ok(self.file(self.disk.open(path)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn remove_dir(&self, path: &str) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }
    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
}

impl File for MoodyFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        let (mood, changed) = &*self.1;
        let guard = mood.lock().expect("not poisoned");
        let mood = changed
            .wait_while(guard, |mood| *mood == Mood::Hangs)
            .expect("not poisoned");
        match *mood {
            Mood::Fails => Err(io::Error::other("told to fail")),
            Mood::Works | Mood::Hangs => self.0.sync(),
        }
    }
}

/// A service whose log is on `disk`.
async fn start_on(disk: &Arc<MoodyDisk>, data: &Path) -> Running {
    let config = Config::parse(&format!("region: eu-west-1\ndata: {}", data.display())).expect("valid");
    start_as(&config, disk, data).await
}

async fn start_as(config: &Config, disk: &Arc<MoodyDisk>, data: &Path) -> Running {
    let storage: Arc<dyn Storage> = Arc::clone(disk) as _;
    let kms = crate::app::keys::open(&config.kms.provider, data).expect("a key");
    Running::run(super::open_on(config, storage, kms).await.expect("opens"))
}

/// A second rollout beside `checkout`.
fn other_spec() -> String {
    SPEC.replace("name: checkout", "name: search")
        .replace("checkout.example.com", "search.example.com")
}

async fn tell(service: &Running, name: &str, command: Command) -> Result<(), CommandError> {
    let rollouts = &service.app.rollouts;
    rollouts.command(name.into(), "someone".into(), command).await
}

/// Hands a command over to the driver without waiting for its answer.
fn hand_over(command: &mut (impl Future<Output = Result<(), CommandError>> + Unpin)) {
    assert!(
        command.now_or_never().is_none(),
        "the driver has not answered yet"
    );
}

fn weight(service: &Running, name: &str) -> Weight {
    let newest = service.app.snapshots.newest();
    let rule = newest.policy.rules().iter().find(|rule| rule.name == name);
    rule.expect("in the policy").weight
}

fn percent(percent: f64) -> Weight {
    Weight::from_percent(percent).expect("in range")
}

fn actions(service: &Running) -> Vec<ActionReceipt> {
    let entries = service.app.log.scan(0).map(|entry| entry.expect("readable").1);
    entries
        .filter_map(|payload| match payload {
            Payload::Action(action) => Some(action),
            _ => None,
        })
        .collect()
}

/// Waits until the driver has done what it does first at a start.
async fn settled(service: &Running) {
    let refused = tell(service, "nobody", Command::Retry).await;
    assert_eq!(refused.expect_err("there is none").label(), "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_waits_for_a_hanging_log_does_not_hold_up_an_abort() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = MoodyDisk::open(directory.path());
    let service = start_on(&disk, directory.path()).await;
    service.apply(SPEC).await.expect("applied");
    let other = knhk_promotion::RolloutSpec::from_yaml(&other_spec()).expect("valid");
    tell(&service, "search", Command::Apply(other))
        .await
        .expect("applied");
    let before = service.newest();

    disk.turns(Mood::Hangs);
    let mut promote = Box::pin(tell(
        &service,
        "checkout",
        Command::Promote {
            full: false,
            reason: None,
        },
    ));
    hand_over(&mut promote);
    tell(&service, "search", Command::Abort)
        .await
        .expect("aborted although the log hangs");
    assert_eq!(weight(&service, "search"), Weight::ZERO);
    assert_eq!(
        weight(&service, "checkout"),
        percent(5.0),
        "not durable, not in force"
    );
    let unrecorded = service.app.snapshots.newest();
    assert_ne!(unrecorded.id.epoch, before.epoch);
    let refused = tell(&service, "search", Command::Retry)
        .await
        .expect_err("refused");
    assert_eq!(refused.label(), "log_behind");

    disk.turns(Mood::Works);
    promote.await.expect("promoted once it was durable");
    assert_eq!(weight(&service, "checkout"), percent(50.0));
    assert_eq!(weight(&service, "search"), Weight::ZERO);
    let newest = service.app.snapshots.newest();
    service.end(directory.path(), Ending::Killed).await;

    let again = start_on(&disk, directory.path()).await;
    settled(&again).await;
    assert_eq!(again.app.snapshots.newest().policy.rules(), newest.policy.rules());
    assert_eq!(again.app.snapshots.newest().sha256, newest.sha256);
    again.end(directory.path(), Ending::Orderly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_overtakes_a_change_of_the_same_rollout_that_waits() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = MoodyDisk::open(directory.path());
    let service = start_on(&disk, directory.path()).await;
    service.apply(SPEC).await.expect("applied");

    disk.turns(Mood::Hangs);
    let mut promote = Box::pin(tell(
        &service,
        "checkout",
        Command::Promote {
            full: false,
            reason: None,
        },
    ));
    hand_over(&mut promote);
    tell(&service, "checkout", Command::Abort).await.expect("aborted");
    disk.turns(Mood::Works);
    assert_eq!(promote.await.expect_err("overtaken").label(), "overtaken");
    assert_eq!(weight(&service, "checkout"), Weight::ZERO);
    service.end(directory.path(), Ending::Killed).await;

    let again = start_on(&disk, directory.path()).await;
    settled(&again).await;
    assert_eq!(weight(&again, "checkout"), Weight::ZERO);
    let what: Vec<_> = actions(&again).into_iter().map(|action| action.what).collect();
    assert_eq!(what, ["rollout.applied", "rollout.promoted", "rollout.aborted"]);
    again.end(directory.path(), Ending::Orderly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_a_policy_that_was_published_unrecorded_is_never_given_to_another() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = MoodyDisk::open(directory.path());
    let service = start_on(&disk, directory.path()).await;
    service.apply(SPEC).await.expect("applied");
    disk.turns(Mood::Fails);
    tell(&service, "checkout", Command::Abort).await.expect("aborted");
    let published = service.app.snapshots.newest();
    service.end(directory.path(), Ending::Killed).await;

    disk.turns(Mood::Works);
    let again = start_on(&disk, directory.path()).await;
    settled(&again).await;
    assert_eq!(
        weight(&again, "checkout"),
        percent(5.0),
        "the log knows of no abort"
    );
    tell(&again, "checkout", Command::Abort).await.expect("aborted");
    let newest = again.app.snapshots.newest();
    assert!(newest.id != published.id || newest.sha256 == published.sha256);
    again.end(directory.path(), Ending::Orderly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_only_the_shortcut_has_kept_is_in_force_and_recorded_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = MoodyDisk::open(directory.path());
    let service = start_on(&disk, directory.path()).await;
    service.apply(SPEC).await.expect("applied");
    disk.turns(Mood::Fails);
    tell(&service, "checkout", Command::Abort).await.expect("aborted");
    service.end(directory.path(), Ending::Orderly).await;

    disk.turns(Mood::Works);
    let again = start_on(&disk, directory.path()).await;
    settled(&again).await;
    assert_eq!(weight(&again, "checkout"), Weight::ZERO);
    let last = actions(&again).pop().expect("an action");
    assert_eq!(last.what, "rollout.restored");
    assert!(last.reason.contains("aborted by someone"), "{}", last.reason);
    let (policy, size) = (again.newest(), again.app.log.size());
    again.end(directory.path(), Ending::Killed).await;

    let third = start_on(&disk, directory.path()).await;
    settled(&third).await;
    assert_eq!(
        (third.newest(), third.app.log.size()),
        (policy, size),
        "once is enough"
    );
    third.end(directory.path(), Ending::Orderly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_policy_was_torn_off_by_a_crash_gets_its_policy() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = MoodyDisk::open(directory.path());
    let service = start_on(&disk, directory.path()).await;
    service.apply(SPEC).await.expect("applied");
    let promoted = promoted(&service);
    service
        .app
        .log
        .append(vec![action_alone(&promoted)])
        .await
        .expect("durable");
    service.end(directory.path(), Ending::Killed).await;

    let again = start_on(&disk, directory.path()).await;
    settled(&again).await;
    let rule = again.app.snapshots.newest().policy.rules()[0].clone();
    assert_eq!(
        rule,
        promoted.rule(),
        "filters count in the window that is judged"
    );
    again.end(directory.path(), Ending::Orderly).await;
}

fn promoted(service: &Running) -> Rollout {
    let rollout = service.app.rollouts.get("checkout").expect("there");
    let command = Event::Command {
        by: "someone",
        command: Command::Promote {
            full: false,
            reason: None,
        },
    };
    let stepped = knhk_promotion::step(&rollout, command, service.app.clock.now());
    stepped.expect("can be promoted").0
}

fn action_alone(after: &Rollout) -> Payload {
    Payload::Action(ActionReceipt {
        region: "eu-west-1".into(),
        time_unix_ms: 1,
        who: "someone".into(),
        what: "rollout.promoted".into(),
        target: "checkout".into(),
        before: None,
        after: Some(after.to_receipt_json()),
        reason: String::new(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_receipts_that_wait_are_written_before_the_service_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = MoodyDisk::open(directory.path());
    let service = start_on(&disk, directory.path()).await;
    service.apply(SPEC).await.expect("applied");
    disk.turns(Mood::Hangs);
    tell(&service, "checkout", Command::Abort).await.expect("aborted");
    disk.turns(Mood::Works);
    let newest = service.app.snapshots.newest();
    service.end(directory.path(), Ending::Killed).await;

    let again = start_on(&disk, directory.path()).await;
    settled(&again).await;
    assert_eq!(again.newest(), newest.id);
    assert_eq!(actions(&again).pop().expect("an action").what, "rollout.aborted");
    again.end(directory.path(), Ending::Orderly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_that_a_failing_log_refused_are_recorded_once_when_they_are_resent() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = MoodyDisk::open(directory.path());
    let service = start_on(&disk, directory.path()).await;
    let recorder = &service.app.recorder;
    disk.turns(Mood::Fails);
    let failed = recorder.record_batch(&reporter(), super::batch(1, 3)).await;
    assert_eq!(failed.expect_err("refused").label(), "io");
    disk.turns(Mood::Works);
    let through = recorder.record_batch(&reporter(), super::batch(1, 3)).await;
    assert_eq!(through.expect("durable"), 3);
    assert_eq!(service.decisions(), [1, 2, 3]);
    service.end(directory.path(), Ending::Orderly).await;
}

/// What a disk that takes nothing keeps from being followed keeps no abort from being so.
#[tokio::test(flavor = "multi_thread")]
async fn another_regions_abort_waits_for_no_flags_and_no_rollout() {
    for mood in [Mood::Fails, Mood::Hangs] {
        let [at_eu, at_us] = regions::directories();
        let disk = MoodyDisk::open(at_us.path());
        let eu = regions::region(at_eu.path(), regions::EU).await;
        let config = regions::config(at_us.path(), regions::US);
        let us = start_as(&config, &disk, at_us.path()).await;
        eu.apply(SPEC).await.expect("applied");
        eu.apply(&other_spec()).await.expect("applied");
        regions::tell(&eu, &us).await;

        disk.turns(mood);
        eu.apply_flags(BETA).await.expect("applied");
        tell(&eu, "search", Command::Pause).await.expect("paused");
        tell(&eu, "checkout", Command::Abort).await.expect("aborted");
        let message = regions::regions(&eu).replication().to_tell(regions::US);
        let not_all = regions::hear(&us, &message).await;
        not_all.expect_err("the disk takes nothing");
        assert_eq!(weight(&us, "checkout"), Weight::ZERO, "{mood:?}");

        disk.turns(Mood::Works);
        // Until the log has taken what waited, it is refused again.
        while regions::hear(&us, &message).await.is_err() {
            settled(&us).await;
        }
        assert_eq!(us.app.rollouts.flags(), eu.app.rollouts.flags());
        assert_eq!(regions::state(&us), regions::state(&eu));
        us.end(at_us.path(), Ending::Orderly).await;
    }
}
