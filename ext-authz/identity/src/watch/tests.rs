//! The state machine, driven by hand and by lot.

use proptest::prelude::*;

use super::*;
use crate::testing::{Authority, Svid, update};

const START: Duration = Duration::from_secs(1_000_000);
const MINUTE: Duration = Duration::from_secs(60);

/// A watch, the time, and what it asked for.
struct Drive {
    watch: Option<Watch>,
    now: Now,
    told: Vec<News>,
    opened: Vec<StreamId>,
    closed: Vec<StreamId>,
    random: u64,
}

impl Drive {
    fn new() -> Self {
        Self::with(Refresh::Auto, None)
    }

    fn with(refresh: Refresh, trust_domain: Option<&str>) -> Self {
        let trust_domain = trust_domain.map(|name| TrustDomain::new(name).expect("a trust domain"));
        Self {
            watch: Some(Watch::new(refresh, trust_domain)),
            now: Now {
                unix: START,
                steady: Duration::ZERO,
            },
            told: Vec::new(),
            opened: Vec::new(),
            closed: Vec::new(),
            random: 7,
        }
    }

    fn watch(&self) -> &Watch {
        self.watch.as_ref().expect("between steps")
    }

    fn view(&self) -> &View {
        self.watch().view()
    }

    fn step(&mut self, event: Event) {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let watch = self.watch.take().expect("between steps");
        let (watch, effects) = watch.step(event, self.now, self.random >> 33);
        self.watch = Some(watch);
        for effect in effects {
            match effect {
                Effect::Open(id) => self.opened.push(id),
                Effect::Close(id) => self.closed.push(id),
                Effect::Tell(news) => self.told.push(news),
                Effect::Publish => {}
            }
        }
    }

    /// Sleeps as long as the watch says, then wakes it.
    fn rest(&mut self) -> Duration {
        let rest = self.watch().rest(self.now);
        self.pass(rest);
        rest
    }

    fn pass(&mut self, time: Duration) {
        self.now.unix += time;
        self.now.steady += time;
        self.step(Event::Tick);
    }

    /// Sleeps until a stream is wanted, and says how long that took.
    fn until_open(&mut self) -> Duration {
        let (before, start) = (self.opened.len(), self.now.steady);
        while self.opened.len() == before {
            self.rest();
        }
        self.now.steady.saturating_sub(start)
    }

    fn newest(&self) -> StreamId {
        *self.opened.last().expect("a stream was opened")
    }

    fn give(&mut self, svid: &Svid, authority: &Authority) {
        let newest = self.newest();
        self.step(Event::Update(newest, Ok(update(svid, &[authority]))));
    }

    fn fail(&mut self, error: SourceError) {
        let newest = self.newest();
        self.step(Event::Failed(newest, error));
    }

    fn serial(&self) -> Option<String> {
        self.view()
            .snapshot
            .as_ref()
            .map(|held| held.serial().to_string())
    }
}

fn ended() -> SourceError {
    SourceError::Ended {
        path: "/a".to_owned(),
    }
}

fn denied() -> SourceError {
    SourceError::NoIdentity {
        reason: "no identity issued".to_owned(),
    }
}

/// Valid from now for `life`.
fn svid(authority: &Authority, drive: &Drive, life: Duration) -> Svid {
    authority.svid("/web", drive.now.unix..drive.now.unix + life)
}

#[test]
fn an_hour_without_an_agent_costs_few_attempts() {
    let mut drive = Drive::new();
    drive.step(Event::Tick);
    let mut waits = Vec::new();
    while drive.now.steady < 60 * MINUTE {
        drive.fail(ended());
        waits.push(drive.until_open());
    }
    // Between half the cap and the cap once it is reached, which takes six doublings.
    assert!(
        (360..=730).contains(&drive.opened.len()),
        "{}",
        drive.opened.len()
    );
    for (at, wait) in waits.iter().enumerate() {
        let asked = RETRY_BASE.saturating_mul(1 << at.min(16)).min(RETRY_CAP);
        assert!(
            *wait >= asked / 2 && *wait <= asked,
            "{at}: {wait:?} of {asked:?}"
        );
    }
    assert!(waits[10..].windows(2).any(|pair| pair[0] != pair[1]), "no jitter");
}

#[test]
fn a_stream_that_gives_and_ends_at_once_is_not_opened_in_a_circle() {
    let (authority, mut drive) = (Authority::new("example.org"), Drive::new());
    let svid = svid(&authority, &drive, 600 * MINUTE);
    drive.step(Event::Tick);
    while drive.now.steady < MINUTE {
        drive.give(&svid, &authority);
        drive.fail(ended());
        drive.until_open();
    }
    assert!(drive.opened.len() <= 300, "{} in a minute", drive.opened.len());
    assert_eq!(drive.view().rotations, 0, "the same SVID again is no rotation");
}

#[test]
fn a_new_svid_takes_the_place_of_the_old_one() {
    let (authority, mut drive) = (Authority::new("example.org"), Drive::new());
    drive.step(Event::Tick);
    let first = svid(&authority, &drive, 10 * MINUTE);
    drive.give(&first, &authority);
    let serial = drive.serial().expect("held");
    assert_eq!((drive.view().rotations, drive.told.len()), (0, 1));
    drive.pass(MINUTE);
    let second = svid(&authority, &drive, 10 * MINUTE);
    drive.give(&second, &authority);
    assert_ne!(drive.serial().expect("held"), serial);
    assert_eq!(drive.view().rotations, 1);
    assert_eq!(drive.told, [News::Rotated, News::Rotated]);
}

#[test]
fn without_a_push_a_stream_is_opened_at_two_thirds_and_the_old_one_closed_after_it() {
    let (authority, mut drive) = (Authority::new("example.org"), Drive::new());
    drive.step(Event::Tick);
    let first = svid(&authority, &drive, 30 * MINUTE);
    drive.give(&first, &authority);
    assert_eq!(drive.until_open(), 20 * MINUTE);
    assert!(drive.closed.is_empty(), "news of the old stream may still come");
    drive.step(Event::Update(1, Ok(update(&first, &[&authority]))));
    drive.give(&first, &authority);
    assert_eq!(
        (drive.opened.as_slice(), drive.closed.as_slice()),
        (&[1, 2][..], &[1][..])
    );
    // Nothing new: the next look is at a third of what is left.
    let wait = drive.until_open();
    assert_eq!(wait, 10 * MINUTE / 3);
}

#[test]
fn an_interval_takes_the_place_of_two_thirds() {
    let authority = Authority::new("example.org");
    let mut drive = Drive::with(Refresh::Every(MINUTE), None);
    drive.step(Event::Tick);
    let first = svid(&authority, &drive, 60 * MINUTE);
    for _ in 0..3 {
        drive.give(&first, &authority);
        assert_eq!(drive.until_open(), MINUTE);
    }
}

#[test]
fn a_look_that_fails_leaves_the_stream_there_is() {
    let (authority, mut drive) = (Authority::new("example.org"), Drive::new());
    drive.step(Event::Tick);
    let first = svid(&authority, &drive, 3 * MINUTE);
    drive.give(&first, &authority);
    drive.until_open();
    drive.fail(ended());
    assert!(drive.view().connected, "the first stream is open");
    let second = svid(&authority, &drive, 3 * MINUTE);
    drive.step(Event::Update(1, Ok(update(&second, &[&authority]))));
    assert_eq!(drive.view().rotations, 1);
    assert!(drive.closed.is_empty());
}

#[test]
fn a_bad_update_is_counted_and_the_last_good_one_stays() {
    let (authority, stranger) = (Authority::new("example.org"), Authority::new("other.org"));
    let mut drive = Drive::new();
    drive.step(Event::Tick);
    let good = svid(&authority, &drive, 10 * MINUTE);
    drive.give(&good, &authority);
    let serial = drive.serial();
    let newest = drive.newest();
    let over = authority.svid("/web", Duration::ZERO..START.saturating_sub(MINUTE));
    let early = authority.svid("/web", START + 60 * MINUTE..START + 90 * MINUTE);
    let elsewhere = svid(&stranger, &drive, 10 * MINUTE);
    let mut other_key = svid(&authority, &drive, 10 * MINUTE);
    other_key.key = good.key.clone();
    let forged = authority.forged("/web");
    for (expected, offered) in [
        ("expired", update(&over, &[&authority])),
        ("not_yet_valid", update(&early, &[&authority])),
        ("other_trust_domain", update(&elsewhere, &[&stranger])),
        ("other_key", update(&other_key, &[&authority])),
        ("empty_bundle", update(&good, &[&stranger])),
        ("untrusted", update(&forged, &[&authority])),
    ] {
        drive.step(Event::Update(newest, Ok(offered)));
        assert_eq!(drive.serial(), serial, "{expected}");
        let Some(News::Refused(refusal)) = drive.told.last() else {
            panic!("{expected}: {:?}", drive.told.last());
        };
        assert_eq!(refusal.label(), expected);
        assert!(!refusal.to_string().contains('\n'));
        assert_eq!(drive.view().refused[expected], 1);
    }
    assert_eq!(drive.view().rotations, 0);
    drive.give(&good, &authority);
    assert_eq!(drive.view().last_refusal, None);
}

#[test]
fn the_first_svid_has_to_be_of_the_trust_domain_that_is_configured() {
    let stranger = Authority::new("other.org");
    let mut drive = Drive::with(Refresh::Auto, Some("example.org"));
    drive.step(Event::Tick);
    let first = svid(&stranger, &drive, 10 * MINUTE);
    drive.give(&first, &stranger);
    assert!(drive.view().snapshot.is_none());
    assert_eq!(drive.view().refused["other_trust_domain"], 1);
    assert!(drive.until_open() <= RETRY_CAP, "and it asks again");
}

#[test]
fn an_svid_that_ends_is_told_once_and_a_new_one_is_taken() {
    let (authority, mut drive) = (Authority::new("example.org"), Drive::new());
    drive.step(Event::Tick);
    let first = svid(&authority, &drive, 3 * MINUTE);
    drive.give(&first, &authority);
    drive.fail(ended());
    while drive.now.steady < 5 * MINUTE {
        let before = drive.opened.len();
        drive.rest();
        if drive.opened.len() > before {
            drive.fail(ended());
        }
    }
    let ends = drive.told.iter().filter(|news| **news == News::Expired).count();
    assert_eq!(ends, 1);
    assert!(drive.view().valid(drive.now.unix).is_none());
    drive.until_open();
    let second = svid(&authority, &drive, 3 * MINUTE);
    drive.give(&second, &authority);
    assert!(drive.view().valid(drive.now.unix).is_some());
    assert_eq!(drive.view().failures, 0);
}

#[test]
fn an_identity_is_given_up_when_the_workload_api_means_it() {
    let (authority, mut drive) = (Authority::new("example.org"), Drive::new());
    drive.step(Event::Tick);
    let first = svid(&authority, &drive, 60 * MINUTE);
    drive.give(&first, &authority);
    let start = drive.now.steady;
    drive.fail(denied());
    while drive.view().snapshot.is_some() {
        assert!(
            drive.now.steady.saturating_sub(start) < MINUTE,
            "it is never given up"
        );
        drive.until_open();
        drive.fail(denied());
    }
    assert!(
        drive.now.steady.saturating_sub(start) >= DENIED_FOR,
        "an agent that starts says it for some seconds"
    );
    assert_eq!(
        drive.told.iter().filter(|news| **news == News::Withdrawn).count(),
        1
    );
    assert!(drive.view().withdrawn);
    drive.until_open();
    drive.give(&first, &authority);
    assert!(drive.view().snapshot.is_some() && !drive.view().withdrawn);
}

#[test]
fn a_wall_clock_that_jumps_ends_an_svid_within_half_a_minute() {
    let (authority, mut drive) = (Authority::new("example.org"), Drive::new());
    drive.step(Event::Tick);
    let first = svid(&authority, &drive, 600 * MINUTE);
    drive.give(&first, &authority);
    let rest = drive.watch().rest(drive.now);
    assert!(rest <= LOOK_AT_CLOCK);
    drive.now.unix += 700 * MINUTE;
    drive.now.steady += rest;
    drive.step(Event::Tick);
    assert!(drive.told.contains(&News::Expired));
}

/// What may happen next.
#[derive(Clone, Debug)]
enum Act {
    Rest,
    Pass(u32),
    Good(u32),
    Same,
    Bad,
    Fail,
    Deny,
    OldStream,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Rest),
        1 => (0u32..2000).prop_map(Act::Pass),
        3 => (20u32..4000).prop_map(Act::Good),
        1 => Just(Act::Same),
        1 => Just(Act::Bad),
        2 => Just(Act::Fail),
        1 => Just(Act::Deny),
        1 => Just(Act::OldStream),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens: never two attempts at once, never more streams than needed, what is held is the last good one,
    /// and there is always a moment at which something is done.
    #[test]
    fn whatever_happens_the_last_good_one_is_held(acts in prop::collection::vec(act(), 1..60)) {
        let authority = Authority::new("example.org");
        let mut drive = Drive::new();
        drive.step(Event::Tick);
        let mut last: Option<Svid> = None;
        for act in acts {
            let newest = drive.newest();
            match act {
                Act::Rest => {
                    let rest = drive.rest();
                    prop_assert!(rest <= LOOK_AT_CLOCK);
                }
                Act::Pass(seconds) => drive.pass(Duration::from_secs(seconds.into())),
                Act::Good(seconds) => {
                    let fresh = svid(&authority, &drive, Duration::from_secs(seconds.into()));
                    let live = drive.watch().live.as_ref().map(|live| live.id);
                    let attached = drive.watch().opening == Some(newest) || live == Some(newest);
                    drive.step(Event::Update(newest, Ok(update(&fresh, &[&authority]))));
                    if attached {
                        last = Some(fresh);
                    }
                }
                Act::Same => if let Some(same) = &last {
                    let same = update(same, &[&authority]);
                    drive.step(Event::Update(newest, Ok(same)));
                },
                Act::Bad => drive.step(Event::Update(newest, Err(Refusal::Malformed("garbage".to_owned())))),
                Act::Fail => drive.fail(ended()),
                Act::Deny => drive.fail(denied()),
                Act::OldStream => drive.step(Event::Failed(newest.saturating_sub(2), ended())),
            }
            if drive.view().withdrawn {
                last = None;
            }
            let watch = drive.watch();
            let working = watch.opening.is_some() || watch.live.is_some() || watch.open_at.is_some();
            prop_assert!(working, "it does nothing more: {watch:?}");
            let held = drive.view().snapshot.as_ref().map(|held| held.key().cert.clone());
            prop_assert_eq!(held, last.as_ref().map(|svid| svid.chain.clone()));
        }
        prop_assert!(drive.closed.len() < drive.opened.len());
    }
}
