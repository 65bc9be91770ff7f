//! Rollouts of two regions that tell each other what they know: the services' parts, without a network between them.

use std::path::Path;
use std::sync::Arc;

use knhk_promotion::{Command, Phase};
use knhk_regions::wire::Message;
use tempfile::TempDir;

use super::flags::BETA;
use super::region_flags::flags;
use super::{App, Running, SPEC};
use crate::app::regions::Regions;
use crate::app::rollouts::CommandError;
use crate::config::Config;

pub(super) const EU: &str = "eu-west-1";
pub(super) const US: &str = "us-east-1";

/// A region whose only peer is the other one, which it cannot reach.
pub(super) async fn region(data: &Path, name: &str) -> Running {
    Running::run(App::open(&config(data, name)).await.expect("opens"))
}

pub(super) fn config(data: &Path, name: &str) -> Config {
    let peer = if name == EU { US } else { EU };
    let text = format!(
        "region: {name}\ndata: {}\nregions: {{ quorum: 1, peers: [ {{ region: {peer}, url: 'http://127.0.0.1:1', log_key: 'sha256:{}' }} ] }}",
        data.display(),
        "00".repeat(32)
    );
    Config::parse(&text).expect("valid")
}

/// The regions' data.
pub(super) fn directories() -> [TempDir; 2] {
    [(); 2].map(|()| tempfile::tempdir().expect("a directory"))
}

/// Both regions on it.
pub(super) async fn both(at_eu: &TempDir, at_us: &TempDir) -> (Running, Running) {
    (region(at_eu.path(), EU).await, region(at_us.path(), US).await)
}

/// What `from` knows and `to` has not taken yet goes there.
pub(super) async fn tell(from: &Running, to: &Running) {
    let ours = regions(from);
    let replication = ours.replication();
    let message = replication.to_tell(&to.app.region);
    hear(to, &message).await.expect("followed");
    replication.told(&to.app.region, &message);
    assert_eq!(replication.behind(&to.app.region), 0);
    assert!(!replication.is_without_flags(&to.app.region));
}

/// What a message says is followed.
pub(super) async fn hear(by: &Running, message: &Message) -> Result<(), CommandError> {
    regions(by)
        .follow(&message.region, message, &by.app.rollouts)
        .await
}

pub(super) fn regions(of: &Running) -> Arc<Regions> {
    Arc::clone(of.app.regions.as_ref().expect("regions"))
}

/// Both ways, until nothing is new.
pub(super) async fn meet(one: &Running, other: &Running) {
    for _ in 0..2 {
        tell(one, other).await;
        tell(other, one).await;
    }
}

/// Phase, weight, generation and home.
pub(super) fn state(of: &Running) -> Option<(Phase, f64, u64, String)> {
    let rollout = of.app.rollouts.get("checkout").ok()?;
    let home = rollout.home().expect("a home").to_owned();
    Some((
        rollout.phase(),
        rollout.weight().percent(),
        rollout.generation(),
        home,
    ))
}

#[tokio::test]
async fn a_rollout_is_the_homes_to_change_and_everybodys_to_abort() {
    let [at_eu, at_us] = directories();
    let (eu, us) = both(&at_eu, &at_us).await;
    eu.apply(SPEC).await.expect("applied");
    meet(&eu, &us).await;
    assert_eq!(state(&us), state(&eu));
    assert_eq!(state(&us).expect("followed").3, EU);
    let rules = |of: &Running| of.app.snapshots.newest().policy.rules().to_vec();
    assert_eq!(rules(&us), rules(&eu), "filters decide alike");

    for command in [
        Command::Pause,
        Command::Promote {
            full: false,
            reason: None,
        },
        Command::Retry,
    ] {
        let refused = us.command(command).await.expect_err("not the home");
        assert!(
            matches!(&refused, CommandError::NotHome { home, .. } if home == EU),
            "{refused}"
        );
    }
    let refused = us.app.rollouts.delete("checkout".into(), "someone".into()).await;
    refused.expect_err("not the home");

    us.command(Command::Abort).await.expect("aborted");
    eu.command(Command::Promote {
        full: false,
        reason: None,
    })
    .await
    .expect("promoted at once");
    meet(&eu, &us).await;
    assert_eq!(state(&us), state(&eu));
    let (phase, weight, ..) = state(&eu).expect("there");
    assert_eq!((phase.reason(), weight), (Some("aborted"), 0.0));
    eu.command(Command::Retry).await.expect("the home goes on");
    meet(&us, &eu).await;
    assert_eq!(state(&us), state(&eu));
    assert_eq!(state(&us).expect("there").2, 2);
}

#[tokio::test]
async fn what_was_deleted_stays_so_and_a_name_that_is_used_again_is_newer() {
    let [at_eu, at_us] = directories();
    let (eu, us) = both(&at_eu, &at_us).await;
    eu.apply(SPEC).await.expect("applied");
    meet(&eu, &us).await;
    eu.app
        .rollouts
        .delete("checkout".into(), "someone".into())
        .await
        .expect("deleted");
    // A region that has not heard of it tells what it knows.
    us.command(Command::Abort).await.expect("aborted");
    meet(&us, &eu).await;
    assert_eq!((state(&eu), state(&us)), (None, None));

    eu.end(at_eu.path(), super::Ending::Killed).await;
    let eu = region(at_eu.path(), EU).await;
    us.apply(SPEC).await.expect("applied again, elsewhere");
    meet(&us, &eu).await;
    assert_eq!(state(&eu), state(&us));
    let (_, _, generation, home) = state(&eu).expect("there");
    assert_eq!((generation, home.as_str()), (3, US));
}

#[tokio::test]
async fn a_region_can_take_a_rollout_over() {
    let [at_eu, at_us] = directories();
    let (eu, us) = both(&at_eu, &at_us).await;
    eu.apply(SPEC).await.expect("applied");
    meet(&eu, &us).await;
    let adopt = |of: &Running| {
        let rollouts = std::sync::Arc::clone(&of.app);
        async move { rollouts.rollouts.adopt("checkout".into(), "someone".into()).await }
    };
    adopt(&eu).await.expect_err("it is the home already");
    adopt(&us).await.expect("adopted");
    meet(&eu, &us).await;
    assert_eq!(state(&eu), state(&us));
    let (_, _, generation, home) = state(&eu).expect("there");
    assert_eq!((generation, home.as_str()), (2, US));
    us.command(Command::Pause).await.expect("the home's to pause");
    eu.command(Command::Resume).await.expect_err("no longer the home");
}

#[tokio::test]
async fn the_same_name_in_two_regions_at_once_ends_in_one_state() {
    let [at_eu, at_us] = directories();
    let (eu, us) = both(&at_eu, &at_us).await;
    eu.apply(SPEC).await.expect("applied");
    us.apply(&SPEC.replace("setWeight: 5", "setWeight: 7"))
        .await
        .expect("applied");
    meet(&eu, &us).await;
    assert_eq!(state(&eu), state(&us));
    assert_eq!(
        state(&eu).expect("there").1.to_bits(),
        7.0_f64.to_bits(),
        "the larger name of a region wins"
    );
}

/// Neither region could refuse the other's: both leave the same one out of the policy, and take it in once it has requests of its own.
#[tokio::test]
async fn of_two_rollouts_for_the_same_requests_the_first_by_name_has_them_in_both_regions() {
    let [at_eu, at_us] = directories();
    let (eu, us) = both(&at_eu, &at_us).await;
    eu.apply(SPEC).await.expect("applied");
    us.apply(&SPEC.replace("name: checkout", "name: cart"))
        .await
        .expect("applied");
    meet(&eu, &us).await;
    let names = |of: &Running| {
        let newest = of.app.snapshots.newest();
        newest
            .policy
            .rules()
            .iter()
            .map(|rule| rule.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (names(&eu), names(&us)),
        (vec!["cart".to_owned()], vec!["cart".to_owned()])
    );
    assert_eq!(state(&us), state(&eu), "the other one is known in both");

    eu.command(Command::Pause).await.expect("it can be acted on");
    let other_host = SPEC.replace("checkout.example.com", "shop.example.com");
    eu.apply(&other_host)
        .await
        .expect("it has requests of its own now");
    meet(&eu, &us).await;
    let both = vec!["cart".to_owned(), "checkout".to_owned()];
    assert_eq!((names(&eu), names(&us)), (both.clone(), both));
}

/// A region that was alone before has its rollouts and flags with it when others join.
#[tokio::test]
async fn what_is_from_before_there_were_other_regions_is_at_home_where_it_was() {
    let [at_eu, at_us] = directories();
    let text = format!("region: {EU}\ndata: {}", at_eu.path().display());
    let config = Config::parse(&text).expect("valid");
    let alone = Running::run(App::open(&config).await.expect("opens"));
    alone.apply(SPEC).await.expect("applied");
    alone.apply_flags(BETA).await.expect("applied");
    alone.end(at_eu.path(), super::Ending::Killed).await;

    let (eu, us) = both(&at_eu, &at_us).await;
    meet(&eu, &us).await;
    assert_eq!((state(&us), flags(&us)), (state(&eu), flags(&eu)));
    assert!(flags(&us).contains("beta"), "{}", flags(&us));
    assert_eq!(state(&us).expect("followed").3, EU);
    eu.command(Command::Pause).await.expect("the home's to pause");
    us.command(Command::Resume).await.expect_err("not the home");
}

/// A service that starts again tells what is recorded, which everybody has.
#[tokio::test]
async fn a_restart_is_no_news() {
    let [at_eu, at_us] = directories();
    let (eu, us) = both(&at_eu, &at_us).await;
    eu.apply(SPEC).await.expect("applied");
    eu.apply_flags(BETA).await.expect("applied");
    let cart = SPEC
        .replace("name: checkout", "name: cart")
        .replace("checkout.example.com", "cart.example.com");
    us.apply(&cart).await.expect("applied");
    us.app
        .rollouts
        .command("cart".into(), "someone".into(), Command::Abort)
        .await
        .expect("aborted");
    meet(&eu, &us).await;
    let entries = (eu.app.log.size(), us.app.log.size());
    eu.end(at_eu.path(), super::Ending::Killed).await;
    us.end(at_us.path(), super::Ending::Orderly).await;
    let (eu, us) = both(&at_eu, &at_us).await;
    meet(&eu, &us).await;
    assert_eq!(
        (eu.app.log.size(), us.app.log.size()),
        entries,
        "nothing is recorded anew"
    );
    assert_eq!(state(&eu), state(&us));
}
