//! Thousands of schedules of three and five regions over a storage that loses what was not synced and a network that loses, delays,
//! doubles, reorders, cuts, changes and forges; with crashes at any write, lost disks, old copies, full disks, rotated keys and wrong
//! clocks. After each one an independent checker reads what is on the disks.
//!
//! `KNHK_SIMULATIONS=N` runs N schedules instead of the usual ones, from `KNHK_FIRST_SEED` on.

mod checker;
mod lying;
mod network;
mod node;
mod world;

use knhk_receipts::storage::ModelStorage;
use node::Setup;
use world::{Seen, World};

fn setup(regions: usize) -> Setup {
    let names = ["us-east-1", "eu-west-1", "ap-south-1", "sa-east-1", "af-south-1"];
    let quorum = regions / 2 + 1;
    Setup {
        names: names[..regions].iter().map(|name| (*name).to_owned()).collect(),
        quorum,
        believed_quorum: quorum,
        lying: None,
    }
}

/// Runs schedules until the checker finds something, and says what. A region that ends by itself over what it finds is no finding.
fn first_finding(setup: impl Fn() -> Setup) -> Option<String> {
    (0..60).find_map(|seed| {
        let run = std::panic::AssertUnwindSafe(|| World::new(seed, setup()).run(40));
        std::panic::catch_unwind(run).ok()?.err()
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// Runs schedules, and says what they came to together.
fn run_all(regions: usize, usual: u64, steps: usize) -> Seen {
    let schedules = number("KNHK_SIMULATIONS").unwrap_or(usual);
    let first = number("KNHK_FIRST_SEED").unwrap_or(0);
    let mut all = Seen::default();
    for seed in first..first + schedules {
        let mut world = World::new(seed, setup(regions));
        if let Err(what) = world.run(steps) {
            panic!("seed {seed} of {regions} regions: {what}");
        }
        all = all.and(world.seen);
    }
    all
}

#[test]
fn three_regions_keep_what_they_promise() {
    let seen = run_all(3, 120, 40);
    assert!(seen.is_worth_something(), "{seen:?}");
}

#[test]
fn five_regions_keep_what_they_promise() {
    let seen = run_all(5, 40, 40);
    assert!(seen.is_worth_something(), "{seen:?}");
}

#[test]
#[ignore = "long: make soak"]
fn three_regions_over_thousands_of_schedules() {
    let seen = run_all(3, 5_000, 60);
    assert!(seen.is_worth_something(), "{seen:?}");
}

#[test]
#[ignore = "long: make soak"]
fn five_regions_over_thousands_of_schedules() {
    let seen = run_all(5, 2_000, 60);
    assert!(seen.is_worth_something(), "{seen:?}");
}

/// A mirror that acknowledges before it has synced. The machine's next crash takes what it acknowledged.
#[test]
fn the_checker_finds_an_acknowledgement_of_what_is_not_durable() {
    let found = first_finding(|| Setup {
        lying: Some(1),
        ..setup(3)
    });
    assert!(
        found.as_ref().is_some_and(|it| it.contains("were promised")),
        "{found:?}"
    );
}

/// Regions that count one holder too few.
#[test]
fn the_checker_finds_a_quorum_that_is_claimed_without_its_holders() {
    let found = first_finding(|| Setup {
        believed_quorum: 1,
        ..setup(3)
    });
    assert!(
        found.as_ref().is_some_and(|it| it.contains("were promised")),
        "{found:?}"
    );
}

#[test]
fn the_checker_finds_a_changed_bit_and_another_history() {
    let mut world = World::new(1, setup(3));
    world.run(0).expect("nothing goes wrong");
    world.checked().expect("nothing is wrong");
    let sound = world.nodes[1].disk.each(ModelStorage::copy);
    world.damage(1, "us-east-1");
    world.checked().expect_err("a changed bit");

    let mut other = World::new(2, setup(3));
    other.run(0).expect("nothing goes wrong");
    world.nodes[1].disk = sound;
    world.checked().expect("as before");
    world.nodes[1].disk.mirrors = other.nodes[1].disk.mirrors.clone();
    let found = world.checked().expect_err("a log of another world");
    assert!(found.contains("another history"), "{found}");
}
