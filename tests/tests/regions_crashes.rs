//! Regions as real processes that are killed and restarted, and a disk that is full.
#![allow(clippy::expect_used)]

use knhk_tests::recorded::{Acknowledged, Recording};
use knhk_tests::regions::{NAMES, Regions, index_of, until_recorded};
use knhk_tests::small_disk::SmallDisk;
use knhk_tests::wait;

/// Decisions between two kills.
const SOME: u64 = 150;

/// Nothing that was acknowledged is behind the end of what everybody holds.
async fn all_are_held(regions: &Regions, at: usize, acknowledged: &[Acknowledged]) {
    let last = acknowledged
        .iter()
        .filter_map(|it| index_of(&it.id))
        .max()
        .expect("some");
    let committed = regions
        .until_committed(at, last + 1)
        .await
        .expect("a quorum holds them");
    assert!(committed > last);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_they_write_and_send_neither_sender_nor_peer_loses_anything() {
    let mut regions = Regions::start(3).await.expect("three regions");
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let grpc = regions.at(0).addresses().grpc;
        let recording = Recording::start(grpc, &round.to_string())
            .await
            .expect("connects");
        until_recorded(&recording, SOME).await.expect("traffic flows");
        // A peer in the midst of its writing; and the sender, which has written more than it has sent.
        regions.at_mut(1).kill();
        until_recorded(&recording, 2 * SOME).await.expect("traffic flows");
        regions.at_mut(0).kill();
        acknowledged.extend(recording.finish().await);
        regions.up_all().await.expect("they start");
    }
    all_are_held(&regions, 0, &acknowledged).await;
    let claimed = regions
        .until_committed(0, acknowledged.len() as u64)
        .await
        .expect("held");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.judged(&[claimed]).await.expect("the judge finds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_are_restarted_one_after_the_other_under_traffic() {
    let mut regions = Regions::start(3).await.expect("three regions");
    let mut acknowledged: [Vec<_>; 3] = Default::default();
    for at in 0..3 {
        let others = (0..3).filter(|other| *other != at);
        let mut recordings = Vec::new();
        for other in others {
            let grpc = regions.at(other).addresses().grpc;
            let recording = Recording::start(grpc, &format!("without-{at}"))
                .await
                .expect("connects");
            recordings.push((other, recording));
        }
        let status = regions.at_mut(at).terminate(wait::SOON).await.expect("it ends");
        assert!(status.success(), "{status}");
        for (_, recording) in &recordings {
            until_recorded(recording, recording.count() + SOME)
                .await
                .expect("traffic flows");
        }
        regions.at_mut(at).up().await.expect("it starts");
        for (other, recording) in recordings {
            until_recorded(&recording, recording.count() + SOME)
                .await
                .expect("traffic flows");
            acknowledged[other].extend(recording.finish().await);
        }
    }
    let mut claimed = [0; 3];
    for (at, acknowledged) in acknowledged.iter().enumerate() {
        all_are_held(&regions, at, acknowledged).await;
        claimed[at] = acknowledged.len() as u64;
    }
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.judged(&claimed).await.expect("the judge finds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_disk_is_full_says_so_and_catches_up_when_there_is_room() {
    let disk = SmallDisk::mount().expect("a small disk");
    let mut regions =
        Regions::start_in(&[std::env::temp_dir(), std::env::temp_dir(), disk.path().to_owned()])
            .await
            .expect("three regions");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    disk.fill().expect("filled");
    let acknowledged = regions.record(0, "full", SOME).await.expect("recorded");
    all_are_held(&regions, 0, &acknowledged).await;
    regions
        .until(0, "a full disk", |it| {
            Regions::peer(it, NAMES[2])["last_error"]["label"] == "disk_full"
        })
        .await
        .expect("its peer says so");
    let status = regions.status(0).await.expect("a status");
    let lag = Regions::peer(&status, NAMES[2])["lag_entries"].as_u64();
    assert!(lag.is_some_and(|lag| lag > 0), "{status}");
    disk.free().expect("freed");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions
        .judged(&[acknowledged.len() as u64])
        .await
        .expect("the judge finds nothing");
}
