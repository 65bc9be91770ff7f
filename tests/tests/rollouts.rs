//! Rollouts from end to end: real traffic, a real Envoy with the filter, the real service and command line.
#![allow(clippy::expect_used)]

use std::time::Duration;

use knhk_proto::v1;
use knhk_tests::gate::Worker;
use knhk_tests::load::{Load, Tally};
use knhk_tests::mesh::{FILTER, Mesh, NAME, RolloutFile};
use knhk_tests::rollout::Status;
use knhk_tests::wait;
use serde_json::json;

/// A rollout's way takes seconds here; on a busy machine more.
const WAY: Duration = Duration::from_secs(60);

async fn answers(load: &Load, count: u64) {
    wait::until(&format!("{count} answers"), WAY, || {
        let answered = load.peek(Tally::answered);
        async move {
            if answered >= count {
                Ok(())
            } else {
                Err(format!("{answered}"))
            }
        }
    })
    .await
    .expect("traffic flows");
}

fn waits_for(status: &Status) -> String {
    status.explanation["waitsFor"].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_version_climbs_to_everyone_and_nobody_goes_back() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    let load = Load::start(Mesh::load(&envoy));
    let spec = RolloutFile::new(&[(10.0, "300ms"), (50.0, "300ms")]);
    let stages = json!([
        { "name": "canary", "steps": [ { "setWeight": 10, "pause": "300ms" }, { "setWeight": 50, "pause": "300ms" } ] },
        { "name": "production", "watch": "300ms" }
    ]);
    mesh.apply(&spec.clone().with("stages", stages))
        .await
        .expect("it is applied");
    let rollouts = mesh.rollouts();
    let status = rollouts
        .until(NAME, "success", WAY, |status| status.phase == "Succeeded")
        .await
        .expect("it succeeds");
    assert_eq!((status.weight, status.generation), (100.0, 1));
    rollouts
        .until(NAME, "everywhere", WAY, Status::everywhere)
        .await
        .expect("every worker has it");
    load.take();
    answers(&load, 1_000).await;
    let sticky = load.sticky();
    let tally = load.finish().await;
    assert_eq!(
        tally.under(&status.policy),
        tally.version_under(&status.policy, "v2"),
        "everyone is on v2"
    );
    assert_eq!((sticky.flips(), sticky.moved("v2", "v1")), (0, 0));
    assert_eq!(
        (tally.failed(), tally.transport_errors),
        (0, 0),
        "{:?}",
        tally.first_error
    );

    let history = rollouts.history(NAME).await.expect("a history");
    let what: Vec<&str> = history.iter().map(|entry| entry.what.as_str()).collect();
    assert_eq!(what, ["applied", "advanced", "advanced", "succeeded"]);
    assert!(
        history
            .iter()
            .all(|entry| !entry.why.is_empty() && !entry.why.contains('\n')),
        "{history:?}"
    );

    // The next version must start from the one that succeeded.
    let file = spec
        .with("version", json!("v3"))
        .write(&mesh.service)
        .expect("a file");
    let refused = mesh
        .cli()
        .expect("the command line")
        .run(&[
            "rollout".as_ref(),
            "apply".as_ref(),
            "-f".as_ref(),
            file.as_os_str(),
        ])
        .await
        .expect("it runs");
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("stable") && refused.stderr.contains("v2"),
        "{}",
        refused.stderr
    );
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    assert_eq!(
        rollouts.status(NAME).await.expect("a status").generation,
        1,
        "nothing is half applied"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_version_is_rolled_back_for_everyone() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    mesh.canary.fail(0.3);
    let load = Load::start(Mesh::load(&envoy));
    mesh.apply(&RolloutFile::at(20.0)).await.expect("it is applied");
    let rollouts = mesh.rollouts();
    let status = rollouts
        .until(NAME, "the rollback", WAY, |status| status.phase == "Failed")
        .await
        .expect("it is rolled back");
    assert_eq!(
        (status.reason.as_deref(), status.weight),
        (Some("slo-violated"), 0.0)
    );
    let status = rollouts
        .until(NAME, "everywhere", WAY, Status::everywhere)
        .await
        .expect("every worker has it");
    load.take();
    answers(&load, 1_000).await;
    let tally = load.finish().await;
    assert_eq!(
        tally.under(&status.policy),
        tally.version_under(&status.policy, "v1"),
        "everyone is on v1"
    );

    let history = rollouts.history(NAME).await.expect("a history");
    let last = history.last().expect("entries");
    assert_eq!((last.what.as_str(), last.who.as_str()), ("rolled_back", "knhk"));
    assert!(
        last.why.contains("success"),
        "the reason names the metric: {}",
        last.why
    );
    // Nobody retries on his own.
    mesh.cli()
        .expect("the command line")
        .json(&["rollout", "retry", NAME])
        .await
        .expect("retry is taken");
    let status = rollouts.status(NAME).await.expect("a status");
    assert_eq!((status.generation, status.weight), (2, 20.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_answers_alone_roll_back_too() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    mesh.canary.delay(Duration::from_millis(400));
    let _load = Load::start(Mesh::load(&envoy));
    let slos = json!([ { "metric": "request-duration", "quantile": 0.9, "max": "300ms" } ]);
    mesh.apply(&RolloutFile::at(5.0).analysed("slos", slos))
        .await
        .expect("it is applied");
    let status = mesh
        .rollouts()
        .until(NAME, "the rollback", WAY, |status| status.phase == "Failed")
        .await
        .expect("it is rolled back");
    assert_eq!(status.reason.as_deref(), Some("slo-violated"));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_stable_fails_as_well_the_rollout_pauses() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    mesh.stable.fail(0.3);
    mesh.canary.fail(0.3);
    let load = Load::start(Mesh::load(&envoy));
    mesh.apply(&RolloutFile::at(50.0)).await.expect("it is applied");
    let status = mesh
        .rollouts()
        .until(NAME, "the pause", WAY, |status| status.phase != "Progressing")
        .await
        .expect("it does not go on");
    let seen = (status.phase.as_str(), status.reason.as_deref(), status.weight);
    assert_eq!(
        seen,
        ("Paused", Some("stable-also-failing"), 50.0),
        "the weight stays"
    );
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn below_min_requests_a_step_waits_and_says_so() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    let load = Load::start(Mesh::load(&envoy));
    mesh.apply(&RolloutFile::new(&[(50.0, "0s"), (60.0, "1h")]).analysed("minRequests", json!(1_000_000)))
        .await
        .expect("it is applied");
    let rollouts = mesh.rollouts();
    let counted = |status: &Status| -> u64 {
        status.explanation["metrics"][0]["canary"]["requests"]
            .as_u64()
            .expect("the canary's requests")
    };
    let status = rollouts
        .until(NAME, "the evidence to grow", WAY, |status| counted(status) > 500)
        .await
        .expect("reports come in");
    // The pause is over, the canary is perfect, and yet it waits.
    assert_eq!((status.phase.as_str(), status.weight), ("Progressing", 50.0));
    let missing = 1_000_000 - counted(&status);
    assert!(
        waits_for(&status).contains(&format!("{missing} more requests")),
        "{}",
        waits_for(&status)
    );
    let text = mesh
        .cli()
        .expect("the command line")
        .text(&["rollout", "status", NAME])
        .await
        .expect("a status");
    assert!(text.contains("more requests"), "{text}");
    assert_eq!(
        rollouts.history(NAME).await.expect("a history").len(),
        1,
        "nothing happened but the apply"
    );

    // Without any traffic it waits as well.
    load.finish().await;
    let silent = RolloutFile::new(&[(50.0, "0s"), (60.0, "1h")])
        .named("silent")
        .with("match", json!({ "hosts": ["nobody.test"] }));
    mesh.apply(&silent).await.expect("it is applied");
    let status = rollouts.status("silent").await.expect("a status");
    assert_eq!((status.phase.as_str(), status.weight), ("Progressing", 50.0));
    assert!(
        waits_for(&status).contains("50 more requests"),
        "{}",
        waits_for(&status)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_pauses_resumes_promotes_and_aborts() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    let load = Load::start(Mesh::load(&envoy));
    let (cli, rollouts) = (mesh.cli().expect("the command line"), mesh.rollouts());
    mesh.apply(&RolloutFile::new(&[(10.0, "1h"), (40.0, "1h")]))
        .await
        .expect("it is applied");
    for (verb, phase, weight) in [
        ("pause", "Paused", 10.0),
        ("resume", "Progressing", 10.0),
        ("promote", "Progressing", 40.0),
        ("abort", "Failed", 0.0),
    ] {
        let answer = cli.json(&["rollout", verb, NAME]).await.expect("it is taken");
        assert_eq!(
            (answer["phase"].as_str(), answer["weight"].as_f64()),
            (Some(phase), Some(weight)),
            "{verb}"
        );
        let status = rollouts
            .until(NAME, "everywhere", WAY, Status::everywhere)
            .await
            .expect("every worker has it");
        load.take();
        answers(&load, 300).await;
        let tally = load.take();
        let canary = tally.version_under(&status.policy, "v2").requests;
        assert_eq!(canary > 0, weight > 0.0, "{verb}: {canary} requests went to v2");
    }
    let refused = cli.run(&["rollout", "resume", NAME]).await.expect("it runs");
    assert_eq!(
        (refused.code, refused.stderr.lines().count()),
        (1, 1),
        "{}",
        refused.stderr
    );
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_snapshot_shows_in_the_status() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    mesh.apply(&RolloutFile::at(10.0)).await.expect("it is applied");
    let mut worker = Worker::greet(mesh.service.addresses().grpc, "edge-7", [7; 16])
        .await
        .expect("a stream");
    let snapshot = worker.snapshot().await.expect("a snapshot");
    let refusal = v1::Nack {
        id: snapshot.id,
        reason: "invalid".to_owned(),
        detail: "rollout shop: made up".to_owned(),
    };
    worker.say(v1::up::Message::Nack(refusal)).expect("it is heard");
    let status = mesh
        .rollouts()
        .until(NAME, "the refusal", wait::SOON, |status| {
            !status.workers.refusals.is_empty()
        })
        .await
        .expect("it shows");
    let refusal = &status.workers.refusals[0];
    assert_eq!(
        (
            refusal.node.as_str(),
            refusal.policy.as_str(),
            refusal.reason.as_str(),
            refusal.detail.as_str()
        ),
        (
            "edge-7",
            status.policy.as_str(),
            "invalid",
            "rollout shop: made up"
        )
    );
    let text = mesh
        .cli()
        .expect("the command line")
        .text(&["rollout", "status", NAME])
        .await
        .expect("a status");
    assert!(text.contains("edge-7") && text.contains("made up"), "{text}");
    let metrics = mesh.service.metrics().await.expect("metrics");
    assert!(
        metrics
            .lines()
            .any(|line| line.contains("nack") && line.ends_with(" 1")),
        "counted: {metrics}"
    );
}
