//! Regions as real processes that know each other by identities of a real SPIRE.
#![allow(clippy::expect_used)]

use knhk_tests::mesh::{NAME, RolloutFile};
use knhk_tests::regions::{NAMES, Regions};
use knhk_tests::spiffe::{Cast, HOUR};
use knhk_tests::wait;

#[tokio::test(flavor = "multi_thread")]
async fn regions_hold_each_other_s_receipts_over_mutual_tls_and_follow_one_rollout() {
    let cast = Cast::start(HOUR).await.expect("SPIRE");
    let mut regions = Regions::start_as(3, &cast.identities_of_regions())
        .await
        .expect("three regions");
    let rollout = RolloutFile::at(20.0);
    regions.apply(0, &rollout).await.expect("applied");
    for at in [1, 2] {
        regions
            .until_rollout(at, "the rollout of another region", |it| it.weight > 0.0)
            .await
            .expect("it is followed");
    }
    let abort = ["rollout", "abort", NAME];
    let elsewhere = regions.at(2).cli().expect("the command line");
    elsewhere.json(&abort).await.expect("any region may");
    regions
        .until_rollout(0, "the abort at home", |it| {
            it.reason.as_deref() == Some("aborted")
        })
        .await
        .expect("it is told");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    let mut claimed = Vec::new();
    for at in 0..3 {
        claimed.push(regions.until_committed(at, 1).await.expect("a quorum"));
    }
    regions.judged(&claimed).await.expect("the judge finds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_takes_nothing_from_an_id_that_is_no_peer_of_it() {
    let cast = Cast::start(HOUR).await.expect("SPIRE");
    let mut regions = Regions::start_as(3, &cast.identities_of_regions())
        .await
        .expect("three regions");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");

    let strict = regions.at_mut(1);
    strict.terminate(wait::SOON).await.expect("it ends");
    strict.identify_by(cast.identities_with_peers(&["/another-service"]));
    strict
        .up()
        .await
        .expect("it has its own log, and goes on alone after a while");
    regions
        .apply(0, &RolloutFile::at(20.0))
        .await
        .expect("applied, and to be told");
    // It refuses who calls, and it does not send to whoever answers.
    regions
        .until(0, "a refusal", |it| {
            Regions::peer(it, NAMES[1])["last_error"]["label"] == "not_allowed"
        })
        .await
        .expect("it is refused in the handshake");
    regions
        .until(1, "nobody to send to", |it| {
            Regions::peer(it, NAMES[0])["last_error"]["label"] == "stranger"
        })
        .await
        .expect("it believes nobody else's certificate");
    // Two of three are a quorum.
    let signed = regions.status(0).await.expect("a status")["signed"].clone();
    let signed = signed.as_u64().expect("a size");
    let claimed = regions.until_committed(0, signed).await.expect("the other one");
    let followed = regions.at(1).rollouts().status(NAME).await;
    followed.expect_err("it follows nobody whom it does not know");

    let again = regions.at_mut(1);
    again.terminate(wait::SOON).await.expect("it ends");
    again.identify_by(cast.identities_of_regions());
    again.up().await.expect("it starts");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.judged(&[claimed]).await.expect("the judge finds nothing");
}
