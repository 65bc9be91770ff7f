//! The service killed, restarted and asked to end, under traffic through a real Envoy.
#![allow(clippy::expect_used)]

use std::time::Duration;

use knhk_tests::envoy::{Envoy, EnvoyOptions};
use knhk_tests::load::{Answer, Ask, Load, LoadOptions, Tally, ask_each};
use knhk_tests::mesh::{BOTH, EXT_AUTHZ, FILTER, Mesh, NAME, RolloutFile, user};
use knhk_tests::rollout::Status;
use knhk_tests::wait;
use serde_json::{Value, json};

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

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_traffic_no_request_fails_nobody_moves_and_the_rollout_goes_on() {
    let mut mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    let load = Load::start(LoadOptions {
        users: 2_000,
        ..Mesh::load(&envoy)
    });
    // It waits at 20 % until the load of the last part has brought the evidence.
    let spec = RolloutFile::new(&[(20.0, "0s"), (60.0, "1h")]).analysed("minRequests", json!(50_000_000));
    mesh.apply(&spec).await.expect("it is applied");
    let before = mesh
        .rollouts()
        .until(NAME, "everywhere", WAY, Status::everywhere)
        .await
        .expect("every worker has it");
    for _ in 0..5 {
        mesh.service.kill();
        answers(&load, load.peek(Tally::answered) + 500).await;
        mesh.service.up().await.expect("it starts again on its data");
        let after = mesh.rollouts().status(NAME).await.expect("the rollout is there");
        assert_eq!(
            (after.generation, after.weight, after.phase.as_str()),
            (before.generation, before.weight, "Progressing"),
            "it is where it was"
        );
        mesh.rollouts()
            .until(NAME, "everywhere", WAY, Status::everywhere)
            .await
            .expect("the workers come back");
    }
    let (sticky, tally) = (load.sticky(), load.take());
    assert_eq!(
        (tally.failed(), tally.transport_errors),
        (0, 0),
        "{:?}",
        tally.first_error
    );
    assert_eq!((sticky.flips(), sticky.moved("v2", "v1")), (0, 0), "nobody moved");

    // The rollout goes on: the same spec with less evidence asked for is a change within the generation.
    mesh.apply(&spec.analysed("minRequests", json!(100)))
        .await
        .expect("it is applied");
    let after = mesh
        .rollouts()
        .until(NAME, "the next step", WAY, |status| status.weight > 20.0)
        .await
        .expect("it goes on");
    assert_eq!((after.generation, after.weight), (before.generation, 60.0));
    mesh.rollouts()
        .until(NAME, "everywhere", WAY, Status::everywhere)
        .await
        .expect("every worker has it");
    let history = mesh.rollouts().history(NAME).await.expect("a history");
    assert!(
        history.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq),
        "no gap: {history:?}"
    );
    load.take();
    answers(&load, 2_000).await;
    let (sticky, tally) = (load.sticky(), load.finish().await);
    assert!(tally.version_under(&after.policy, "v2").requests > 0);
    assert_eq!(
        (tally.failed(), tally.transport_errors, sticky.flips()),
        (0, 0, 0)
    );
    assert_eq!(sticky.moved("v2", "v1"), 0, "nobody went back");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_traffic_no_acknowledged_receipt_is_missing() {
    let mut mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = open(&mesh).await;
    mesh.apply(&RolloutFile::at(50.0)).await.expect("it is applied");
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        // Requests that are under way when it is killed get no receipt; those that got one keep it.
        let asks: Vec<Ask> = (0..2_000)
            .map(|number| user(&format!("user-{round}-{number}")))
            .collect();
        let address = envoy.address();
        let traffic = tokio::spawn(ask_each(address, 16, asks));
        let seen = mesh.stable.requests() + mesh.canary.requests();
        wait::until("some answers", WAY, || {
            let came = mesh.stable.requests() + mesh.canary.requests() - seen;
            async move {
                if came > 300 {
                    Ok(())
                } else {
                    Err(format!("{came}"))
                }
            }
        })
        .await
        .expect("traffic flows");
        mesh.service.kill();
        let answers = traffic
            .await
            .expect("it does not panic")
            .expect("every request is answered");
        assert!(
            answers.iter().all(|answer| answer.status == 200),
            "no request fails"
        );
        let receipts = answers.iter().filter_map(|answer| answer.seen("receipt"));
        acknowledged.extend(receipts.map(str::to_owned));
        mesh.service.up().await.expect("it starts again on its data");
    }
    assert!(acknowledged.len() > 1_000, "{} receipts", acknowledged.len());
    let listed = all_decisions(&mesh).await;
    let missing: Vec<_> = acknowledged.iter().filter(|id| !listed.contains(*id)).collect();
    assert!(missing.is_empty(), "acknowledged, but missing: {missing:?}");

    // The newest of them is under a signed checkpoint that verifies.
    let (cli, newest) = (
        mesh.cli().expect("the command line"),
        acknowledged.last().expect("receipts"),
    );
    let (file, key) = (
        mesh.service.directory().join("receipt"),
        mesh.service.directory().join("key.pem"),
    );
    cli.json(&[
        "receipt".as_ref(),
        "get".as_ref(),
        newest.as_ref(),
        "--out".as_ref(),
        file.as_os_str(),
    ])
    .await
    .expect("it is there");
    std::fs::write(&key, cli.text(&["key", "show"]).await.expect("a key")).expect("it can be written");
    let verified = knhk_tests::cli::Cli::offline()
        .expect("the command line")
        .json(&[
            "receipt".as_ref(),
            "verify".as_ref(),
            file.as_os_str(),
            "--key".as_ref(),
            key.as_os_str(),
        ])
        .await
        .expect("it verifies");
    assert_eq!(verified["id"].as_str(), Some(newest.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_end_it_answers_what_it_has_begun_and_exits_0() {
    let mut mesh = Mesh::start().await.expect("the mesh starts");
    let (filter, checked) = (mesh.proxy(FILTER).await.expect("Envoy starts"), open(&mesh).await);
    mesh.apply(&RolloutFile::at(50.0)).await.expect("it is applied");
    mesh.until_current(&filter, NAME)
        .await
        .expect("the filter has it");
    let decided = Load::start(Mesh::load(&filter));
    let recorded = Load::start(LoadOptions {
        rate: 300,
        ..Mesh::load(&checked)
    });
    for load in [&decided, &recorded] {
        answers(load, 300).await;
    }
    let status = mesh.service.terminate(wait::SOON).await.expect("it ends");
    assert!(status.success(), "{status}");
    for load in [&decided, &recorded] {
        answers(load, load.peek(Tally::answered) + 300).await;
    }
    let sticky = decided.sticky();
    for load in [decided, recorded] {
        let tally = load.finish().await;
        assert_eq!(
            (tally.failed(), tally.transport_errors),
            (0, 0),
            "{:?}",
            tally.first_error
        );
    }
    assert_eq!(
        (
            sticky.flips(),
            sticky.moved("v1", "v2") + sticky.moved("v2", "v1")
        ),
        (0, 0)
    );
    // What it left behind is whole.
    mesh.service.up().await.expect("it starts again on its data");
    let status = mesh.rollouts().status(NAME).await.expect("the rollout is there");
    assert_eq!((status.generation, status.weight), (1, 50.0));
}

/// `ext_authz` that lets requests through while the service is away, and is patient with a busy disk.
async fn open(mesh: &Mesh) -> Envoy {
    let mut config = mesh.config(EXT_AUTHZ).expect("a configuration");
    config.make_check_patient().expect("the filter");
    config
        .http_filter("envoy.filters.http.ext_authz")
        .expect("the filter")["typed_config"]["failure_mode_allow"] = json!(true);
    Envoy::start(config, EnvoyOptions::default())
        .await
        .expect("Envoy starts")
}

/// Every decision's receipt, page by page.
async fn all_decisions(mesh: &Mesh) -> std::collections::HashSet<String> {
    let cli = mesh.cli().expect("the command line");
    let mut ids = std::collections::HashSet::new();
    let mut before: Option<u64> = None;
    loop {
        let mut arguments = vec![
            "receipt".to_owned(),
            "list".into(),
            "--kind".into(),
            "decision".into(),
        ];
        arguments.extend(["--limit".into(), "1000".into()]);
        arguments.extend(
            before
                .into_iter()
                .flat_map(|before| ["--before".to_owned(), before.to_string()]),
        );
        let page: Value = cli.json(&arguments).await.expect("a list");
        let rows = page["receipts"].as_array().expect("receipts");
        ids.extend(
            rows.iter()
                .map(|row| row["id"].as_str().expect("an ID").to_owned()),
        );
        match page["next_before"].as_u64() {
            Some(next) => before = Some(next),
            None => return ids,
        }
    }
}

/// The counts of the canary in the present window, as `rollout status` shows them: requests and bad ones.
async fn canary(mesh: &Mesh) -> Result<(u64, u64), String> {
    let cli = mesh.cli().map_err(|error| error.to_string())?;
    let status = cli.json(&["rollout", "status", NAME]).await;
    let status = status.map_err(|error| error.to_string())?;
    let canary = &status["explanation"]["metrics"][0]["canary"];
    let count = |field: &str| canary[field].as_u64().ok_or(format!("no {field} in {canary}"));
    Ok((count("requests")?, count("bad")?))
}

async fn ask_users(envoy: &Envoy, users: usize) -> Vec<Answer> {
    let asks = (0..users).map(|number| user(&format!("user-{number}"))).collect();
    ask_each(envoy.address(), 8, asks)
        .await
        .expect("every request is answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ext_authz_refuses_while_the_service_is_away_is_not_the_versions_fault() {
    let mut mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.patient_proxy(BOTH).await.expect("Envoy starts");
    mesh.apply(&RolloutFile::at(100.0)).await.expect("it is applied");
    wait::until("the filters to count", WAY, || async {
        let answers = ask_users(&envoy, 20).await;
        assert!(answers.iter().all(|answer| answer.status == 200));
        let (requests, _) = canary(&mesh).await?;
        if requests >= 60 {
            Ok(())
        } else {
            Err(format!("{requests}"))
        }
    })
    .await
    .expect("reports arrive");

    mesh.service.kill();
    let away = ask_users(&envoy, 100).await;
    assert!(
        away.iter().all(|answer| answer.status != 200),
        "ext_authz fails closed"
    );
    mesh.service.up().await.expect("it starts again");
    let (requests, bad) = wait::until("the counts to be back", WAY, || async {
        let counted = canary(&mesh).await?;
        if counted.0 >= 60 {
            Ok(counted)
        } else {
            Err(format!("{counted:?}"))
        }
    })
    .await
    .expect("reports go on");
    assert_eq!(bad, 0, "of {requests}");
}
