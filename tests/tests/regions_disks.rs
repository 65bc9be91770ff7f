//! Regions as real processes that come back without their disk, with an old copy of it, and with two histories.
#![allow(clippy::expect_used)]

use std::path::{Path, PathBuf};

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

/// All are equal, and the first region's data is kept as it is then.
async fn backed_up(regions: &mut Regions) -> PathBuf {
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.at_mut(0).terminate(wait::SOON).await.expect("it ends");
    let backup = regions.at(0).directory().join("backup");
    copy(&regions.at(0).data(), &backup).expect("copied");
    regions.at_mut(0).up().await.expect("it starts");
    backup
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
    let log = regions.at(0).process().expect("it runs").log();
    let restored = log
        .lines()
        .find(|line| line.contains(r#""event.name":"knhk.region.restored""#));
    let restored = restored.expect("the event of the registry");
    assert!(restored.contains(r#""name":"knhk.region.restore""#), "{restored}");
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
async fn a_region_that_rotated_its_key_and_lost_its_disk_before_anybody_saw_that_gets_its_log_back() {
    let mut regions = Regions::start(3).await.expect("three regions");
    regions.record(0, "before", SOME).await.expect("recorded");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    let claimed = regions.until_committed(0, SOME).await.expect("held");
    regions.lines_of(0, Line::cut());
    let cli = regions.at(0).cli().expect("the command line");
    cli.json(&["key", "rotate"]).await.expect("rotated");
    regions.record(0, "alone", SOME).await.expect("locally durable");
    regions.until_signed(0).await.expect("by the new key");

    regions.at_mut(0).kill();
    wipe(&regions.at(0).data()).expect("wiped");
    regions.every_line(Line::default());
    // What its peers hold is signed by the key before, and its key service has both.
    regions.at_mut(0).up().await.expect("it restores its log");
    cli.json(&["key", "rotate"]).await.expect("rotated again");
    regions.record(0, "after", SOME).await.expect("it goes on");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.judged(&[claimed]).await.expect("the judge finds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_comes_back_with_an_old_copy_is_restored_to_what_its_peers_hold() {
    let mut regions = Regions::start(3).await.expect("three regions");
    let backup = backed_up(&mut regions).await;
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
async fn an_old_copy_that_went_on_alone_stops_as_soon_as_it_reaches_a_peer() {
    let mut regions = Regions::start(3).await.expect("three regions");
    let backup = backed_up(&mut regions).await;
    regions.record(0, "one", SOME).await.expect("recorded");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    let claimed = regions.until_committed(0, SOME).await.expect("held");

    regions.at_mut(0).kill();
    put_back(&regions.at(0).data(), &backup);
    regions.lines_of(0, Line::cut());
    regions.at_mut(0).up().await.expect("it starts alone");
    regions.record(0, "other", SOME).await.expect("recorded");
    regions.every_line(Line::default());
    let stopped = regions.until(0, "a stop", |it| !it["stopped"].is_null()).await;
    stopped.expect("it signs nothing any more");
    let cli = regions.at(0).cli().expect("the command line");
    let said = cli.text(&["region", "status"]).await.expect("said");
    assert!(said.contains("SIGNS NOTHING"), "{said}");

    regions.at_mut(0).kill();
    // A peer that was told its checkpoints has an alarm, too.
    for at in [1, 2] {
        let cli = regions.at(at).cli().expect("the command line");
        cli.json(&["region", "clear", NAMES[0]]).await.expect("cleared");
    }
    wipe(&regions.at(0).data()).expect("wiped");
    regions
        .at_mut(0)
        .up()
        .await
        .expect("it restores what its peers hold");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.judged(&[claimed]).await.expect("the judge finds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_histories_of_a_log_are_kept_as_evidence_until_an_operator_clears_them() {
    let mut regions = Regions::start(3).await.expect("three regions");
    let backup = backed_up(&mut regions).await;
    // One peer is shown this, and the other one that.
    for line in [(0, 2), (2, 0)] {
        regions.line(line.0, line.1, Line::cut());
    }
    regions.record(0, "one", SOME).await.expect("recorded");
    regions.until_committed(0, SOME).await.expect("one peer holds it");
    regions.at_mut(0).kill();
    put_back(&regions.at(0).data(), &backup);
    regions.lines_of(0, Line::cut());
    for line in [(0, 2), (2, 0)] {
        regions.line(line.0, line.1, Line::default());
    }
    regions.at_mut(0).up().await.expect("it starts");
    regions.record(0, "other", 3 * SOME).await.expect("recorded");
    let alarmed = regions.until(2, "an alarm", |it| {
        Regions::peer(it, NAMES[0])["mirror"]["is_alarmed"] == true
    });
    alarmed
        .await
        .expect("the peers tell each other what they were shown");
    let log = regions.at(2).process().expect("it runs").log();
    assert!(
        log.contains(r#""event.name":"knhk.region.split_view""#),
        "the event of the registry"
    );

    let cli = regions.at(2).cli().expect("the command line");
    let said = cli.text(&["region", "status"]).await.expect("said");
    assert!(
        said.contains("TWO HISTORIES") && said.contains(NAMES[0]),
        "{said}"
    );
    let evidence = regions
        .at(2)
        .data()
        .join("mirrors")
        .join(NAMES[0])
        .join("mirror/evidence");
    let kept = || std::fs::read_dir(&evidence).expect("evidence").count();
    let found = kept();
    assert!(found > 0);
    // The false one ends, and somebody has looked.
    regions.at_mut(0).kill();
    regions.lines_of(1, Line::cut());
    cli.json(&["region", "clear", NAMES[0]]).await.expect("cleared");
    let cleared = regions.until(2, "no alarm", |it| {
        Regions::peer(it, NAMES[0])["mirror"]["is_alarmed"] == false
    });
    cleared.await.expect("cleared");
    assert_eq!(kept(), found, "the evidence stays");
}
