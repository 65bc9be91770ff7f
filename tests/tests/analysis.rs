//! What a rollout does about its evidence, from end to end: real Envoy, the real filter, the real service.
#![allow(clippy::expect_used)]

use std::time::Duration;

use knhk_tests::load::{Load, LoadOptions};
use knhk_tests::mesh::{FILTER, HOST, Mesh, NAME, RolloutFile};
use knhk_tests::rollout::Status;
use knhk_tests::upstream::RESULT;
use serde_json::json;

/// A rollout's way takes seconds here; on a busy machine more.
const WAY: Duration = Duration::from_secs(60);

fn counted(status: &Status) -> u64 {
    status.explanation["metrics"][0]["canary"]["requests"]
        .as_u64()
        .unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_in_a_header_rolls_back_and_promotes() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    let _load = Load::start(Mesh::load(&envoy));
    let slos = json!([ { "metric": "request-outcome", "outcome": { "header": RESULT, "good": ["ok"] }, "min": 95 } ]);
    // Every status is 200: only the header says that something is wrong.
    mesh.canary.spoil(0.3);
    let file = RolloutFile::at(20.0).analysed("slos", slos.clone());
    mesh.apply(&file).await.expect("it is applied");
    let rollouts = mesh.rollouts();
    let status = rollouts
        .until(NAME, "the rollback", WAY, |status| status.phase == "Failed")
        .await
        .expect("it is rolled back");
    assert_eq!(status.reason.as_deref(), Some("slo-violated"));

    mesh.canary.spoil(0.0);
    let good = RolloutFile::new(&[(20.0, "300ms"), (60.0, "300ms")])
        .analysed("slos", slos)
        .with("version", json!("v3"));
    mesh.apply(&good).await.expect("it is applied");
    rollouts
        .until(NAME, "success", WAY, |status| status.phase == "Succeeded")
        .await
        .expect("it succeeds");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_header_no_answer_is_good() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    let _load = Load::start(Mesh::load(&envoy));
    let slos = json!([ { "metric": "request-outcome", "outcome": { "header": "x-nowhere", "good": ["ok"] }, "min": 99 } ]);
    mesh.apply(&RolloutFile::at(30.0).analysed("slos", slos))
        .await
        .expect("it is applied");
    let status = mesh
        .rollouts()
        .until(NAME, "the pause", WAY, |status| status.phase != "Progressing")
        .await
        .expect("it does not go on");
    assert_eq!(
        (status.phase.as_str(), status.reason.as_deref()),
        ("Paused", Some("stable-also-failing")),
        "stable has no such header either"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_decides_as_if_it_had_not_been() {
    let mut mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    let _load = Load::start(Mesh::load(&envoy));
    mesh.apply(&RolloutFile::at(20.0)).await.expect("it is applied");
    let rollouts = mesh.rollouts();
    for _ in 0..3 {
        let before = rollouts
            .until(NAME, "evidence", WAY, |status| counted(status) > 100)
            .await
            .expect("reports come in");
        mesh.service.kill();
        mesh.service.up().await.expect("it starts again");
        // Counts are cumulative: the reports that follow bring back what was counted before.
        let after = rollouts
            .until(NAME, "the evidence again", WAY, |status| {
                counted(status) >= counted(&before)
            })
            .await
            .expect("nothing is lost");
        assert_eq!((after.phase.as_str(), after.weight), ("Progressing", 20.0));
    }
    assert_eq!(rollouts.history(NAME).await.expect("a history").len(), 1);

    // It is killed while the canary fails, as soon as that shows.
    mesh.canary.fail(0.3);
    mesh.service.kill();
    mesh.service.up().await.expect("it starts again");
    let status = rollouts
        .until(NAME, "the rollback", WAY, |status| status.phase == "Failed")
        .await
        .expect("it is rolled back");
    assert_eq!(
        (status.reason.as_deref(), status.weight),
        (Some("slo-violated"), 0.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn too_little_traffic_is_inconclusive_and_nothing_is_decided() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    let slow = LoadOptions {
        rate: 5,
        connections: 2,
        ..LoadOptions::to(envoy.address(), HOST)
    };
    let _load = Load::start(slow);
    let steps = [(50.0, "100ms"), (60.0, "1s")];
    let file = RolloutFile::new(&steps)
        .analysed("minRequests", json!(100_000))
        .analysed("deadline", json!("2s"));
    mesh.apply(&file).await.expect("it is applied");
    let status = mesh
        .rollouts()
        .until(NAME, "the end of the deadline", WAY, |status| {
            status.phase != "Progressing"
        })
        .await
        .expect("it does not go on");
    assert_eq!(
        (status.phase.as_str(), status.reason.as_deref(), status.weight),
        ("Paused", Some("inconclusive"), 50.0)
    );
}

/// One user, whose requests are a fifth of the canary's and all fail, says nothing of the version.
#[tokio::test(flavor = "multi_thread")]
async fn one_heavy_user_does_not_roll_a_version_back() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    let weight = 20.0;
    let heavy = (0..10_000)
        .map(|number| format!("heavy-{number}"))
        .find(|user| knhk_decision::bucket(NAME, user.as_bytes()) < 200_000)
        .expect("a fifth of them are the canary's");
    mesh.canary.fail_for(&heavy).expect("a header's value");
    let _load = Load::start(Mesh::load(&envoy));
    let _heavy = Load::start(LoadOptions {
        rate: 50,
        connections: 4,
        ..Mesh::load(&envoy).only(&heavy)
    });
    mesh.apply(&RolloutFile::at(weight)).await.expect("it is applied");
    let status = mesh
        .rollouts()
        .until(NAME, "evidence enough", WAY, |status| {
            counted(status) > 3_000 || status.phase != "Progressing"
        })
        .await
        .expect("reports come in");
    assert_eq!((status.phase.as_str(), status.weight), ("Progressing", weight));
}
