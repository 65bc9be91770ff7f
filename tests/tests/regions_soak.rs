//! Regions on hosts of their own, with a network that the kernel cuts: `make soak`.
#![allow(clippy::expect_used)]

use std::time::Duration;

use knhk_tests::mesh::{NAME, RolloutFile};
use knhk_tests::namespace::Network;
use knhk_tests::regions::{NAMES, Regions};
use knhk_tests::spiffe::{Cast, HOUR};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// How often the network changes, or a region dies.
const ROUNDS: usize = 60;

/// Operators' actions in each region in one round.
const ACTIONS: u64 = 3;

/// How long a state of the network is left alone: longer than a breaker's first pauses, so that all states of it are met.
const FOR: Duration = Duration::from_millis(1500);

/// What happens in a round.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// One cable.
    Cut(usize, usize),
    /// All cables of a host.
    Alone(usize),
    /// What one sends to the other.
    Deaf(usize, usize),
    /// Everything is mended.
    Mended,
    /// A region is killed, and started again.
    Killed(usize),
}

fn change(random: &mut StdRng) -> Change {
    let one = random.random_range(0..3);
    let other = (one + random.random_range(1..3)) % 3;
    match random.random_range(0..6) {
        0 => Change::Cut(one, other),
        1 => Change::Alone(one),
        2 => Change::Deaf(one, other),
        3 => Change::Killed(one),
        _ => Change::Mended,
    }
}

async fn make(change: Change, network: &Network, regions: &mut Regions) {
    match change {
        Change::Cut(one, other) => network.cut(one, other).expect("cut"),
        Change::Alone(one) => {
            for other in (0..3).filter(|other| *other != one) {
                network.cut(one, other).expect("cut");
            }
        }
        Change::Deaf(from, to) => network.lose(from, to).expect("lost"),
        Change::Mended => mend(network),
        Change::Killed(one) => {
            regions.at_mut(one).kill();
            regions
                .at_mut(one)
                .up()
                .await
                .expect("it goes on with what is on its disk");
        }
    }
}

fn mend(network: &Network) {
    for (near, far) in [(0, 1), (0, 2), (1, 2)] {
        network.mend(near, far).expect("mended");
    }
}

/// Each region has a rollout of its own, which its operator pauses and resumes. Each action is a receipt that is durable there.
async fn act(regions: &Regions, at: usize) {
    let cli = regions.at(at).cli().expect("the command line");
    let name = format!("{NAME}-{at}");
    for _ in 0..ACTIONS {
        for verb in ["pause", "resume"] {
            cli.json(&["rollout", verb, &name])
                .await
                .expect("done, whatever the network does");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and needs root: make soak"]
async fn a_network_that_is_cut_by_the_kernel_loses_and_forks_nothing() {
    let network = Network::of(3).await.expect("a network");
    let cast = Cast::start(HOUR).await.expect("SPIRE");
    let mut regions = Regions::start_on(&network, &cast.identities_of_regions())
        .await
        .expect("three regions");
    for at in 0..3 {
        let rollout = RolloutFile::at(20.0).named(&format!("{NAME}-{at}"));
        let rollout = rollout.with(
            "match",
            serde_json::json!({ "hosts": [format!("{at}.shop.test")] }),
        );
        regions.apply(at, &rollout).await.expect("applied");
    }
    let mut random = StdRng::seed_from_u64(77);
    let (mut claimed, mut committed_apart, mut is_whole) = ([0; 3], 0_u64, true);
    for round in 0..ROUNDS {
        let change = change(&mut random);
        is_whole = match change {
            Change::Mended => true,
            Change::Cut(..) | Change::Alone(_) | Change::Deaf(..) => false,
            Change::Killed(_) => is_whole,
        };
        make(change, &network, &mut regions).await;
        tokio::join!(act(&regions, 0), act(&regions, 1), act(&regions, 2));
        // Nothing tells when a cut has been lived through: it has to last, see `FOR`.
        tokio::time::sleep(FOR).await;
        for (at, claimed) in claimed.iter_mut().enumerate() {
            let status = regions.status(at).await.expect("a status");
            let now = status["committed"].as_u64().expect("a size");
            // A region that starts counts anew what its peers tell it.
            committed_apart += u64::from(now > *claimed && !is_whole);
            *claimed = now.max(*claimed);
        }
        regions
            .looked_at(&claimed, false)
            .unwrap_or_else(|found| panic!("round {round}, {change:?}: {found}"));
    }
    assert!(
        committed_apart > 0,
        "a quorum was reached while parts of the network were cut"
    );
    mend(&network);
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    eprintln!(
        "{ROUNDS} changes of the network: {}",
        NAMES
            .iter()
            .zip(claimed)
            .map(|(name, size)| format!("{name} {size} committed"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    regions.judged(&claimed).await.expect("the judge finds nothing");
}
