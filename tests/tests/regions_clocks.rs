//! Regions as real processes whose clocks disagree by hours.
#![allow(clippy::expect_used)]

use std::time::SystemTime;

use knhk_tests::clock::WrongClock;
use knhk_tests::mesh::{NAME, RolloutFile};
use knhk_tests::regions::Regions;
use knhk_tests::wait;

const HOUR_S: i64 = 3600;
/// How long a receipt may lie there before it is looked at: far less than a clock is off by.
const OLD_S: i64 = 600;
/// Decisions that are recorded in each region.
const SOME: u64 = 100;

/// How far ahead of ours the clock is that a region writes on its receipts, in seconds.
async fn ahead(regions: &Regions, at: usize) -> i64 {
    let list = regions
        .at(at)
        .reads("/v1/receipts?limit=1")
        .await
        .expect("its newest receipt");
    let time = list["receipts"][0]["time"].as_str().expect("a time");
    let since_1970 = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        i64::try_from(since.as_secs()).expect("seconds")
    };
    let shown = humantime::parse_rfc3339(time).expect("a time in UTC");
    since_1970(shown) - since_1970(SystemTime::now())
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_are_an_hour_off_change_no_promise_and_no_order() {
    let mut regions = Regions::start(3).await.expect("three regions");
    let clocks = [0, HOUR_S, -HOUR_S].map(|by| WrongClock::ahead(by).expect("a clock"));
    for (at, clock) in clocks.iter().enumerate() {
        let service = regions.at_mut(at);
        service.terminate(wait::SOON).await.expect("it ends");
        service.go_by(clock);
    }
    regions.up_all().await.expect("all start");
    let mut claimed = [0; 3];
    for (at, claimed) in claimed.iter_mut().enumerate() {
        regions.record(at, "late", SOME).await.expect("recorded");
        *claimed = regions.until_committed(at, SOME).await.expect("a quorum");
        let by = ahead(&regions, at).await - [0, HOUR_S, -HOUR_S][at];
        assert!(
            by.abs() < OLD_S,
            "region {at} is {by} s off what it should be off by"
        );
    }
    // The one that is behind acts last, and its abort wins. Then the home begins anew, which wins over that.
    regions.apply(1, &RolloutFile::at(20.0)).await.expect("applied");
    regions
        .until_rollout(2, "the rollout from an hour ahead", |it| it.weight > 0.0)
        .await
        .expect("it is followed");
    let late = regions.at(2).cli().expect("the command line");
    late.json(&["rollout", "abort", NAME])
        .await
        .expect("any region may");
    let aborted = regions
        .until_rollout(1, "the abort from an hour ago", |it| it.phase == "Failed")
        .await
        .expect("it is told");
    let home = regions.at(1).cli().expect("the command line");
    home.json(&["rollout", "retry", NAME])
        .await
        .expect("a new generation");
    for at in 0..3 {
        regions
            .until_rollout(at, "the new generation", |it| {
                it.generation > aborted.generation && it.weight > 0.0
            })
            .await
            .expect("it is everywhere");
    }
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.judged(&claimed).await.expect("the judge finds nothing");
}
