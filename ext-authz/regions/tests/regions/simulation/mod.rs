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
        let seen = world.seen;
        all.promises += seen.promises;
        all.crashes += seen.crashes;
        all.wipes += seen.wipes;
        all.backups += seen.backups;
        all.stops += seen.stops;
        all.alarms += seen.alarms;
        all.rotations += seen.rotations;
    }
    all
}

#[test]
fn three_regions_keep_what_they_promise() {
    let seen = run_all(3, 120, 40);
    assert!(
        seen.promises > 0 && seen.crashes > 0 && seen.wipes > 0,
        "{seen:?}"
    );
}

#[test]
fn five_regions_keep_what_they_promise() {
    let seen = run_all(5, 40, 40);
    assert!(
        seen.promises > 0 && seen.crashes > 0 && seen.wipes > 0,
        "{seen:?}"
    );
}
