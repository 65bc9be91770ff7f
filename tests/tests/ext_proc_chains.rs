//! `ext_proc` behind the filter and behind Check: one decision, one record, and no blame on a version for what the service
//! did.
#![allow(clippy::expect_used)]

use knhk_tests::envoy::{EXT_PROC as PROCESS_FILTER, EnvoyConfig};
use knhk_tests::ext_proc::{
    ask, counter, decisions, filter, patient, payload, receipt, start, until_outcomes, until_recorded,
    until_refused,
};
use knhk_tests::mesh::{BOTH, Mesh, NAME, RolloutFile, user};
use knhk_tests::service::Service;
use knhk_tests::small_disk::SmallDisk;
use knhk_tests::wait::{self, SOON};
use serde_json::json;

/// The counts of the canary in the present window, as `rollout status` shows them: requests and bad ones.
async fn canary(mesh: &Mesh) -> Result<(u64, u64), String> {
    let status = mesh
        .cli()
        .expect("the command line")
        .json(&["rollout", "status", NAME])
        .await
        .map_err(|error| error.to_string())?;
    let canary = &status["explanation"]["metrics"][0]["canary"];
    let count = |field: &str| canary[field].as_u64().ok_or(format!("no {field} in {canary}"));
    Ok((count("requests")?, count("bad")?))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_refuses_or_is_not_there_to_allow_is_not_the_versions_fault() {
    let disk = SmallDisk::mount().expect("a small disk");
    let mut mesh = Mesh::without_service().await.expect("the mesh starts");
    mesh.service = Service::stopped_in(disk.path()).expect("a directory");
    mesh.service.up().await.expect("the service starts");
    let mut config = all_three(&mesh);
    config
        .http_filters()
        .expect("the filters")
        .retain(|filter| filter["name"] != "envoy.filters.http.ext_authz");
    filter(&mut config)["message_timeout"] = json!("2s");
    let envoy = start(config).await;
    mesh.apply(&RolloutFile::at(100.0)).await.expect("it is applied");
    // Process sets the headers of the newest snapshot also while the filter has none: only the counts tell.
    let (served, _) = wait::until("the filters to count", SOON, || async {
        for _ in 0..20 {
            assert_eq!(ask(&envoy, user("u1")).await.status, 200);
        }
        match canary(&mesh).await? {
            counted if counted.0 >= 60 => Ok(counted),
            counted => Err(format!("{counted:?}")),
        }
    })
    .await
    .expect("reports arrive");

    disk.fill().expect("it is full");
    until_refused(&envoy).await;
    for _ in 0..20 {
        assert_eq!(ask(&envoy, user("u1")).await.status, 503);
    }
    disk.free().expect("there is room");

    let frozen = mesh
        .service
        .process()
        .expect("it runs")
        .freeze()
        .await
        .expect("it stops");
    assert_eq!(ask(&envoy, user("u1")).await.status, 504);
    drop(frozen);

    mesh.service.kill();
    for _ in 0..20 {
        assert_eq!(ask(&envoy, user("u1")).await.status, 503);
    }
    mesh.service.up().await.expect("it starts again");
    until_recorded(&envoy).await;
    let (requests, bad) = wait::until("the counts to be back", SOON, || async {
        match canary(&mesh).await? {
            counted if counted.0 > served => Ok(counted),
            counted => Err(format!("{counted:?}")),
        }
    })
    .await
    .expect("reports go on");
    assert_eq!(bad, 0, "of {requests}");
}

/// The filter, Check and Process in one chain, in this order.
fn all_three(mesh: &Mesh) -> EnvoyConfig {
    let mut config = mesh.config(BOTH).expect("the operators' configuration");
    let process = patient(mesh)
        .http_filter(PROCESS_FILTER)
        .expect("the filter")
        .clone();
    config.make_patient().expect("the filters");
    let filters = config.http_filters().expect("the filters");
    filters.insert(filters.len() - 1, process);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_the_filter_and_check_nothing_is_recorded_twice() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = start(all_three(&mesh)).await;
    mesh.apply(&RolloutFile::at(50.0).with("record", json!("all")))
        .await
        .expect("it is applied");
    mesh.until_current(&envoy, NAME).await.expect("the filter has it");
    let cli = mesh.cli().expect("the command line");
    let before = decisions(&cli).await.len();
    for number in 0..20 {
        let answer = ask(&envoy, user(&format!("user-{number}"))).await;
        let id = receipt(&answer).expect("a receipt");
        assert_eq!(
            answer.seen("receipt"),
            Some(id.as_str()),
            "Check's, which the upstream saw"
        );
        assert_eq!(payload(&cli, &id).await["via"], "ext_authz");
    }
    assert_eq!(decisions(&cli).await.len(), before + 20, "one a request");

    // Without Check's metadata each of the two records what its own options say.
    let mut config = all_three(&mesh);
    filter(&mut config)
        .as_object_mut()
        .expect("an object")
        .remove("metadata_options")
        .expect("it is there");
    let envoy = start(config).await;
    mesh.until_current(&envoy, NAME).await.expect("the filter has it");
    let before = decisions(&cli).await.len();
    let id = receipt(&ask(&envoy, user("u1")).await).expect("a receipt");
    assert_eq!(payload(&cli, &id).await["via"], "ext_proc");
    assert_eq!(decisions(&cli).await.len(), before + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_an_earlier_filter_reaches_the_client() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let mut config = all_three(&mesh);
    // Check refuses every request of a route whose options are wrong.
    config.check_options().expect("the options")["record"] = json!("some");
    let envoy = start(config).await;
    let answer = ask(&envoy, user("u1")).await;
    assert_eq!(
        (answer.status, answer.header("x-knhk-reason"), receipt(&answer)),
        (503, Some("bad_route_option"), None)
    );
    until_outcomes(&mesh, "not_decided", 1).await;
    assert_eq!(counter(&mesh, "knhk_exchange_violations_total").await, 0);
}
