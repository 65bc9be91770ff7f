//! Regions as real processes that come back without their disk, with an old copy of it, and with two histories.
#![allow(clippy::expect_used)]

use std::path::Path;

use knhk_tests::regions::disks::{copy, wipe};
use knhk_tests::regions::link::Line;
use knhk_tests::regions::{NAMES, Regions};
use knhk_tests::wait;

/// Decisions in each phase.
const SOME: u64 = 200;

/// The region's data is what was copied.
fn put_back(data: &Path, backup: &Path) {
    std::fs::remove_dir_all(data).expect("removed");
    copy(backup, data).expect("copied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_lost_its_disk_gets_its_log_back_and_goes_on() {
    let mut regions = Regions::start(3).await.expect("three regions");
    let before = regions.record(0, "before", SOME).await.expect("recorded");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    let claimed = regions.until_committed(0, SOME).await.expect("held");
    let receipt = regions
        .at(0)
        .cli()
        .expect("it")
        .json(&["receipt", "get", &before[0].id])
        .await;
    let receipt = receipt.expect("a receipt");

    regions.at_mut(0).kill();
    wipe(&regions.at(0).data()).expect("wiped");
    regions.at_mut(0).up().await.expect("it restores its log");
    let again = regions
        .at(0)
        .cli()
        .expect("it")
        .json(&["receipt", "get", &before[0].id])
        .await;
    assert_eq!(again.expect("it is back")["payload"], receipt["payload"]);
    let after = regions.record(0, "after", SOME).await.expect("it goes on");
    let ids =
        |of: &[knhk_tests::recorded::Acknowledged]| of.iter().map(|it| it.id.clone()).collect::<Vec<_>>();
    let (before, after) = (ids(&before), ids(&after));
    assert!(
        after.iter().all(|id| !before.contains(id)),
        "no ID is given twice"
    );
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.judged(&[claimed]).await.expect("the judge finds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_comes_back_with_an_old_copy_is_restored_to_what_its_peers_hold() {
    let mut regions = Regions::start(3).await.expect("three regions");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.at_mut(0).terminate(wait::SOON).await.expect("it ends");
    let backup = regions.at(0).directory().join("backup");
    copy(&regions.at(0).data(), &backup).expect("copied");
    regions.at_mut(0).up().await.expect("it starts");
    regions.record(0, "newer", SOME).await.expect("recorded");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    let claimed = regions.until_committed(0, SOME).await.expect("held");

    regions.at_mut(0).kill();
    put_back(&regions.at(0).data(), &backup);
    regions.at_mut(0).up().await.expect("it restores what is missing");
    regions.record(0, "goes-on", SOME).await.expect("recorded");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.judged(&[claimed]).await.expect("the judge finds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_histories_of_a_log_are_kept_as_evidence_until_an_operator_clears_them() {
    let mut regions = Regions::start(3).await.expect("three regions");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.at_mut(0).terminate(wait::SOON).await.expect("it ends");
    let backup = regions.at(0).directory().join("backup");
    copy(&regions.at(0).data(), &backup).expect("copied");
    regions.at_mut(0).up().await.expect("it starts");
    regions.record(0, "one", SOME).await.expect("recorded");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    let claimed = regions.until_committed(0, SOME).await.expect("held");

    // An old copy that reaches nobody goes on by itself, further than its peers are.
    regions.at_mut(0).kill();
    put_back(&regions.at(0).data(), &backup);
    regions.lines_of(0, Line::cut());
    regions.at_mut(0).up().await.expect("it starts alone");
    regions.record(0, "other", 3 * claimed).await.expect("recorded");
    regions.every_line(Line::default());
    for at in [1, 2] {
        let alarmed = regions.until(at, "an alarm", |it| {
            Regions::peer(it, NAMES[0])["mirror"]["is_alarmed"] == true
        });
        alarmed.await.expect("it is found out");
    }
    let cli = regions.at(1).cli().expect("the command line");
    let said = cli.text(&["region", "status"]).await.expect("said");
    assert!(
        said.contains("TWO HISTORIES") && said.contains(NAMES[0]),
        "{said}"
    );
    let stopped = regions.until(0, "a stop", |it| !it["stopped"].is_null()).await;
    stopped.expect("it signs nothing any more");

    let evidence = regions
        .at(1)
        .data()
        .join("mirrors")
        .join(NAMES[0])
        .join("mirror/evidence");
    let kept = || std::fs::read_dir(&evidence).expect("evidence").count();
    assert!(kept() > 0);
    // The true log is the one that a quorum holds.
    regions.at_mut(0).kill();
    let found = kept();
    for at in [1, 2] {
        let cli = regions.at(at).cli().expect("the command line");
        cli.json(&["region", "clear", NAMES[0]]).await.expect("cleared");
        let cleared = regions.until(at, "no alarm", |it| {
            Regions::peer(it, NAMES[0])["mirror"]["is_alarmed"] == false
        });
        cleared.await.expect("cleared");
    }
    assert_eq!(kept(), found, "the evidence stays");
    wipe(&regions.at(0).data()).expect("wiped");
    regions
        .at_mut(0)
        .up()
        .await
        .expect("it restores what its peers hold");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.judged(&[claimed]).await.expect("the judge finds nothing");
}
