//! Regions as real processes, and a bad network between them.
#![allow(clippy::expect_used)]

use std::time::Duration;

use knhk_tests::regions::link::Line;
use knhk_tests::regions::{NAMES, Regions};

/// Decisions that are recorded in each phase.
const SOME: u64 = 200;

fn committed(status: &serde_json::Value) -> u64 {
    status["committed"].as_u64().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_cut_off_promises_nothing_and_catches_up_with_both_sides() {
    let mut regions = Regions::start(3).await.expect("three regions");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.lines_of(0, Line::cut());
    let alone = committed(&regions.status(0).await.expect("a status"));
    for at in 0..3 {
        regions
            .record(at, "parted", SOME)
            .await
            .expect("locally durable everywhere");
    }
    let others = [
        0,
        regions
            .until_committed(1, SOME)
            .await
            .expect("two of three hold it"),
    ];
    regions
        .until(0, "an open breaker", |it| {
            Regions::peer(it, NAMES[1])["breaker"] == "open"
        })
        .await
        .expect("it is seen");
    assert_eq!(
        committed(&regions.status(0).await.expect("a status")),
        alone,
        "it is alone"
    );
    regions
        .looked_at(&others, false)
        .expect("the judge finds nothing");

    regions.every_line(Line::default());
    regions
        .until_committed(0, SOME)
        .await
        .expect("it commits by itself");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions
        .judged(&[alone, others[1]])
        .await
        .expect("the judge finds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_break_and_change_what_they_carry_lose_and_forge_nothing() {
    let mut regions = Regions::start(3).await.expect("three regions");
    regions.every_line(Line {
        delay: Duration::from_millis(20),
        breaks_one_in: 20,
        changes_one_in: 20,
        ..Line::default()
    });
    let mut claimed = [0; 3];
    for (at, claimed) in claimed.iter_mut().enumerate() {
        regions.record(at, "bad", SOME).await.expect("recorded");
        *claimed = regions
            .until_committed(at, SOME)
            .await
            .expect("a quorum, in the end");
    }
    regions.every_line(Line::default());
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    for at in 0..3 {
        let status = regions.status(at).await.expect("a status");
        let peers = status["peers"].as_array().expect("peers");
        assert!(
            peers.iter().all(|peer| peer["mirror"]["is_alarmed"] == false),
            "{status}"
        );
    }
    regions.judged(&claimed).await.expect("the judge finds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_five_seconds_away_delays_nobody() {
    let mut regions = Regions::start(3).await.expect("three regions");
    regions.lines_of(2, Line::round_trip(Duration::from_secs(5)));
    let claimed = {
        regions.record(0, "fast", SOME).await.expect("recorded");
        regions
            .until_committed(0, SOME)
            .await
            .expect("the other one holds it")
    };
    regions.record(2, "slow", SOME).await.expect("recorded");
    let slow = regions
        .until_committed(2, SOME)
        .await
        .expect("a quorum, in the end");
    regions.until_equal(&[0, 1, 2]).await.expect("equal, in the end");
    regions
        .judged(&[claimed, 0, slow])
        .await
        .expect("the judge finds nothing");
}
