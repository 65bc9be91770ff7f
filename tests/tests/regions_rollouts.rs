//! Regions as real processes that share rollouts: an abort anywhere reaches filters everywhere, and operators who act at once end in one
//! state.
#![allow(clippy::expect_used)]

use knhk_tests::gate::Worker;
use knhk_tests::mesh::{NAME, RolloutFile};
use knhk_tests::regions::Regions;
use knhk_tests::regions::link::Line;
use knhk_tests::rollout::Status;

async fn until(regions: &Regions, at: usize, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
    regions.until_rollout(at, what, holds).await.expect(what)
}

fn state(status: &Status) -> (u64, String, Option<String>, u64) {
    let weight = status.weight.to_bits();
    (
        status.generation,
        status.phase.clone(),
        status.reason.clone(),
        weight,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_in_one_region_reaches_a_filter_in_another() {
    let mut regions = Regions::start(3).await.expect("three regions");
    regions.apply(0, &RolloutFile::at(20.0)).await.expect("applied");
    for at in [1, 2] {
        until(&regions, at, "the rollout of another region", |it| {
            it.weight > 0.0
        })
        .await;
    }
    let mut worker = Worker::greet(regions.at(1).addresses().grpc, "edge", [7; 16])
        .await
        .expect("a stream");
    worker.until_weight(20.0).await.expect("it is followed");
    let cli = regions.at(2).cli().expect("the command line");
    cli.json(&["rollout", "abort", NAME])
        .await
        .expect("any region may");
    worker.until_weight(0.0).await.expect("it is followed");
    let aborted = until(&regions, 0, "the abort at home", |it| it.phase == "Failed").await;
    for at in [1, 2] {
        let same = until(&regions, at, "one state", |it| state(it) == state(&aborted)).await;
        assert_eq!(same.reason.as_deref(), Some("aborted"));
    }
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.judged(&[]).await.expect("the judge finds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_who_act_at_once_in_two_regions_end_in_one_state() {
    let regions = Regions::start(3).await.expect("three regions");
    regions.apply(0, &RolloutFile::at(20.0)).await.expect("applied");
    for at in [1, 2] {
        until(&regions, at, "the rollout of another region", |it| {
            it.weight > 0.0
        })
        .await;
    }
    // Neither knows of the other.
    regions.every_line(Line::cut());
    let (home, away) = (regions.at(0).cli().expect("it"), regions.at(2).cli().expect("it"));
    let promote = ["rollout", "promote", "--full", NAME];
    let abort = ["rollout", "abort", NAME];
    let (promoted, aborted) = tokio::join!(home.json(&promote), away.json(&abort));
    promoted.expect("promoted");
    aborted.expect("aborted");
    regions.every_line(Line::default());
    let end = until(&regions, 0, "the abort", |it| {
        it.reason.as_deref() == Some("aborted")
    })
    .await;
    assert!(end.weight.abs() < f64::EPSILON, "{}", end.shown());
    for at in [1, 2] {
        until(&regions, at, "one state", |it| state(it) == state(&end)).await;
    }

    // A new generation at home, and an abort of the one before elsewhere: the new one is.
    regions.every_line(Line::cut());
    let retry = ["rollout", "retry", NAME];
    home.json(&retry).await.expect("a new generation");
    let again = until(&regions, 0, "a new generation", |it| {
        it.generation > end.generation
    })
    .await;
    regions.every_line(Line::default());
    for at in [1, 2] {
        let same = until(&regions, at, "the new generation", |it| {
            it.generation == again.generation
        })
        .await;
        assert_ne!(same.reason.as_deref(), Some("aborted"));
    }
}
