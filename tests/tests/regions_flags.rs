//! Regions as real processes that share flags: a change anywhere is in force everywhere, and operators who act at once end in one
//! state, with what a rollout asks for.
#![allow(clippy::expect_used)]

use knhk_tests::gate::Worker;
use knhk_tests::mesh::{HOST, NAME, RolloutFile};
use knhk_tests::regions::link::Line;
use knhk_tests::regions::{NAMES, Regions};
use serde_json::{Value, json};

fn flags(chosen: &str) -> Value {
    json!({ "flags": { "beta": {
        "state": "ENABLED", "variants": { "on": true, "off": false }, "defaultVariant": chosen
    } } })
}

/// A rollout that asks for the flag.
fn gated() -> RolloutFile {
    RolloutFile::at(20.0).with(
        "match",
        json!({ "hosts": [HOST], "pathPrefix": "/", "flags": { "beta": "on" } }),
    )
}

/// The flags in the next snapshot that a filter gets.
async fn in_a_filter(worker: &mut Worker) -> Value {
    worker.policy().await.expect("a snapshot")["flags"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_of_one_region_reach_filters_in_another_before_the_rollout_that_asks_for_them() {
    let regions = Regions::start(3).await.expect("three regions");
    regions.apply_flags(0, &flags("off")).await.expect("applied");
    regions.apply(0, &gated()).await.expect("applied");
    for at in [1, 2] {
        regions.until_flags(at, &flags("off")).await.expect("followed");
        regions
            .until_rollout(at, "the rollout of another region", |it| it.weight > 0.0)
            .await
            .expect("followed");
    }
    let mut worker = Worker::greet(regions.at(1).addresses().grpc, "edge", [7; 16])
        .await
        .expect("a stream");
    assert_eq!(in_a_filter(&mut worker).await, flags("off"));
    regions
        .apply_flags(2, &flags("on"))
        .await
        .expect("any region may");
    assert_eq!(in_a_filter(&mut worker).await, flags("on"));

    let refused = regions
        .apply_flags(1, &json!({ "flags": {} }))
        .await
        .expect_err("it is in use")
        .to_string();
    assert!(refused.contains(NAME) && refused.contains("beta"), "{refused}");
    regions.until_flags(0, &flags("on")).await.expect("followed");
    let shown = regions.at(0).cli().expect("it").text(&["receipt", "list"]).await;
    let shown = shown.expect("a table");
    assert!(
        shown.contains("flags.followed flags by region:"),
        "the receipt says who was followed: {shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_of_two_operators_who_act_at_once_end_in_one_state_that_outlives_its_processes() {
    let mut regions = Regions::start(3).await.expect("three regions");
    regions.apply_flags(0, &flags("off")).await.expect("applied");
    for at in [1, 2] {
        regions.until_flags(at, &flags("off")).await.expect("followed");
    }
    // Neither knows of the other.
    regions.every_line(Line::cut());
    let theirs = json!({ "flags": {} });
    regions.apply_flags(1, &flags("on")).await.expect("applied");
    regions.apply_flags(2, &theirs).await.expect("applied");
    regions
        .until(1, "somebody who was not told", |it| {
            Regions::peer(it, NAMES[0])["flags_behind"] == true
        })
        .await
        .expect("shown");
    regions.every_line(Line::default());
    for at in [0, 1, 2] {
        // Of one revision: eu-west-1 is the larger name.
        regions.until_flags(at, &flags("on")).await.expect("one state");
    }

    for at in 0..3 {
        regions.at_mut(at).kill();
    }
    regions.up_all().await.expect("up again");
    regions.apply_flags(2, &theirs).await.expect("applied");
    for at in [0, 1, 2] {
        regions.until_flags(at, &theirs).await.expect("what came last");
        regions
            .until(at, "peers that know", |it| {
                let peers = it["peers"].as_array().map_or(&[][..], Vec::as_slice);
                peers.iter().all(|peer| peer["flags_behind"] == false)
            })
            .await
            .expect("told");
    }
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.judged(&[]).await.expect("the judge finds nothing");
}
