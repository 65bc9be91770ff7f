//! The stage `staging` from end to end: real Envoy, the real filter, the real service.
#![allow(clippy::expect_used, clippy::panic)]

use std::time::Duration;

use knhk_decision::bucket;
use knhk_tests::cli::{Cli, Output};
use knhk_tests::envoy::Envoy;
use knhk_tests::load::{Answer, Load, LoadOptions, ask_each};
use knhk_tests::mesh::{EXT_AUTHZ, EXT_PROC, FILTER, HOST, Mesh, NAME, RolloutFile, until_decided_by, user};
use knhk_tests::wait;
use serde_json::{Value, json};

/// A rollout's way takes seconds here; on a busy machine more.
const WAY: Duration = Duration::from_secs(60);
/// Users that are asked for.
const USERS: usize = 40;
/// The header by which testers are picked.
const TESTER: &str = "x-tester";

/// Picks requests with the header, for longer than any test.
fn testers() -> Value {
    json!({ "name": "staging", "match": { "headers": [ { "name": TESTER, "present": true } ] }, "pause": "1h" })
}

/// A canary of half of the users that is passed at once.
fn half() -> Value {
    json!({ "name": "canary", "steps": [ { "setWeight": 50, "skipAnalysis": { "reason": "a test" } } ] })
}

fn staged(stages: &[Value]) -> RolloutFile {
    RolloutFile::at(50.0).with("stages", json!(stages))
}

/// Users with a header, and what they are answered.
async fn ask(envoy: &Envoy, header: &str) -> Vec<Answer> {
    let asks = (0..USERS).map(|number| user(&format!("user-{number}")).header(header, "yes"));
    let answers = ask_each(envoy.address(), 4, asks.collect()).await;
    answers.expect("every request is answered")
}

async fn until_in(mesh: &Mesh, stage: &str) -> String {
    let wanted = |status: &knhk_tests::rollout::Status| status.stage() == stage;
    let status = mesh.rollouts().until(NAME, stage, WAY, wanted).await;
    status.expect("it comes there").policy
}

async fn run(mesh: &Mesh, verb: &[&str]) -> Output {
    mesh.cli()
        .expect("the command line")
        .run(verb)
        .await
        .expect("it runs")
}

/// IDs of receipts of decisions for staging by this way of deciding.
async fn receipts(mesh: &Mesh, via: &str) -> Vec<String> {
    let cli = mesh.cli().expect("the command line");
    let list = ["receipt", "list", "--kind", "decision", "--limit", "1000"];
    let list = cli.json(&list).await.expect("a list");
    let rows = list["receipts"].as_array().expect("receipts").iter();
    let summary = |row: &Value| row["summary"].as_str().unwrap_or_default().to_owned();
    rows.filter(|row| summary(row).contains("staging") && summary(row).contains(&format!("by {via}")))
        .filter_map(|row| Some(row["id"].as_str()?.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_picked_by_a_header_goes_to_the_version_and_the_rest_stays() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let proxies = [
        ("filter", mesh.proxy(FILTER).await.expect("Envoy starts")),
        (
            "ext_authz",
            mesh.patient_proxy(EXT_AUTHZ).await.expect("Envoy starts"),
        ),
        (
            "ext_proc",
            mesh.patient_proxy(EXT_PROC).await.expect("Envoy starts"),
        ),
    ];
    let file = staged(&[half(), testers()]).with("record", json!("all"));
    mesh.apply(&file).await.expect("it is applied");
    let policy = until_in(&mesh, "staging").await;
    until_decided_by(&proxies[0].1, &policy)
        .await
        .expect("the filter has it");
    for (_, envoy) in &proxies {
        for answer in ask(envoy, TESTER).await {
            assert_eq!(
                (answer.seen("variant"), answer.version()),
                (Some("staging"), "v2")
            );
        }
        for (number, answer) in ask(envoy, "x-other").await.iter().enumerate() {
            let canary = bucket(NAME, format!("user-{number}").as_bytes()) < 500_000;
            let expected = if canary {
                (Some("canary"), "v2")
            } else {
                (Some("stable"), "v1")
            };
            assert_eq!(
                (answer.seen("variant"), answer.version()),
                expected,
                "user-{number}"
            );
        }
        // Nobody names the variant himself.
        for answer in ask(envoy, "x-knhk-variant").await {
            assert_ne!(answer.seen("variant"), Some("yes"));
        }
    }

    // Its receipts are decided again, wherever they come from.
    let directory = tempfile::tempdir().expect("a directory");
    for (via, _) in &proxies {
        let ids = wait::until("receipts of staging", WAY, || async {
            let ids = receipts(&mesh, via).await;
            if ids.len() >= USERS {
                Ok(ids)
            } else {
                Err(format!("{} by {via}", ids.len()))
            }
        });
        let ids = ids.await.expect("they are recorded");
        let cli = mesh.cli().expect("the command line");
        let file = cli.fetch(&ids[0], directory.path()).await.expect("a receipt");
        let answer = cli.replay(&file).await.expect("the same verdict");
        assert_eq!(answer["variant"], "staging", "{answer}");
    }

    // Operators see whom it picks, and the same offline.
    let shown = run(&mesh, &["rollout", "status", NAME]).await.stdout;
    assert!(
        shown.contains("staging: all with header x-tester; the others at 50 %")
            && shown.contains("more requests of staging for request-success-rate"),
        "{shown}"
    );
    let path = file.write(&mesh.service).expect("a file");
    let path = path.to_string_lossy();
    let decide = |more: &[&str]| {
        let all = [
            "decide",
            "--policy",
            &*path,
            "--rollout",
            NAME,
            "--key",
            "user-0",
            "--stage",
            "staging",
        ];
        let all: Vec<String> = all.iter().chain(more).map(|text| (*text).to_owned()).collect();
        let cli = Cli::offline().expect("the command line");
        async move { cli.json(&all).await.expect("it decides") }
    };
    let offline = decide(&["--header", "X-Tester=1"]).await;
    assert_eq!(
        (&offline["variant"], &offline["version"]),
        (&json!("staging"), &json!("v2"))
    );
    let offline = decide(&[]).await;
    assert_ne!(offline["variant"], "staging");
    assert_eq!(offline["weight"], 50.0);
}

fn plans(variants: &Value) -> Value {
    json!({ "flags": { "beta": {
        "state": "ENABLED", "variants": variants, "defaultVariant": "off",
        "targeting": { "if": [{ "==": [{ "var": "headers.x-plan" }, "yes"] }, "on"] },
    } } })
}

async fn flags(mesh: &Mesh, definitions: &Value) -> Output {
    let file = mesh.service.directory().join("flags.json");
    std::fs::write(&file, definitions.to_string()).expect("it can be written");
    run(mesh, &["flag", "apply", "-f", &file.to_string_lossy()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_picks_and_has_to_be_there_before_its_stage_begins() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    let by_flag = json!({ "name": "staging", "match": { "flags": { "beta": "on" } }, "pause": "1h" });
    let slow = json!({ "name": "canary", "steps": [ { "setWeight": 1, "pause": "1h" } ] });
    let file = staged(&[slow, by_flag]);
    let refused = mesh.apply(&file).await.expect_err("there is no flag").to_string();
    assert!(
        refused.contains("staging.match.flags.beta: there is no flag"),
        "{refused}"
    );

    let both = plans(&json!({ "on": true, "off": false }));
    assert_eq!(flags(&mesh, &both).await.code, 0);
    mesh.apply(&file).await.expect("it is applied");
    let lost = flags(&mesh, &json!({ "flags": {} })).await;
    assert_eq!(lost.code, 1, "the rollout will ask for it");
    assert!(
        lost.stderr.contains("rollout \"shop\"") && lost.stderr.lines().count() == 1,
        "{}",
        lost.stderr
    );

    mesh.until_current(&envoy, NAME).await.expect("the filter has it");
    for answer in ask(&envoy, "x-plan").await {
        assert_ne!(answer.seen("variant"), Some("staging"), "its stage has not begun");
    }
    assert_eq!(run(&mesh, &["rollout", "promote", NAME]).await.code, 0);
    let policy = until_in(&mesh, "staging").await;
    until_decided_by(&envoy, &policy)
        .await
        .expect("the filter has it");
    for answer in ask(&envoy, "x-plan").await {
        assert_eq!(
            (answer.seen("variant"), answer.version()),
            (Some("staging"), "v2")
        );
    }
    for answer in ask(&envoy, "x-other").await {
        assert_ne!(answer.seen("variant"), Some("staging"));
    }
}

/// 200 requests a second of testers beside the 1,000 of everybody.
fn tested(envoy: &Envoy) -> LoadOptions {
    LoadOptions {
        rate: 200,
        connections: 16,
        ..Mesh::load(envoy).with(TESTER, "yes")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_violation_in_staging_rolls_back_before_anybody_else_sees_the_version() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    let everybody = Load::start(Mesh::load(&envoy));
    let _testers = Load::start(tested(&envoy));
    mesh.canary.fail(0.3);
    let steps = json!({ "name": "canary", "steps": [ { "setWeight": 50, "pause": "1h" } ] });
    mesh.apply(&staged(&[testers(), steps]))
        .await
        .expect("it is applied");
    let rollouts = mesh.rollouts();
    let status = rollouts
        .until(NAME, "the rollback", WAY, |status| status.phase == "Failed")
        .await;
    let status = status.expect("it is rolled back");
    assert_eq!(
        (status.reason.as_deref(), status.weight),
        (Some("slo-violated"), 0.0)
    );
    let history = rollouts.history(NAME).await.expect("a history");
    let why = &history.last().expect("an entry").why;
    assert!(
        why.contains("staging's own") && !why.contains("worse by more than"),
        "{why}"
    );
    until_decided_by(&envoy, &status.policy)
        .await
        .expect("the filter has it");
    for answer in ask(&envoy, TESTER).await {
        assert_eq!((answer.seen("variant"), answer.version()), (Some("stable"), "v1"));
    }
    let tally = everybody.finish().await;
    assert_eq!(tally.version("v2").requests, 0, "who is not picked never saw it");
}

#[tokio::test(flavor = "multi_thread")]
async fn staging_is_passed_by_its_own_requests_and_lets_go_of_them() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    let _everybody = Load::start(Mesh::load(&envoy));
    let picked = json!({ "name": "staging", "match": { "headers": [ { "name": TESTER, "present": true } ] }, "deadline": "2s" });
    let production = json!({ "name": "production", "watch": "1h" });
    mesh.apply(&staged(&[half(), picked, production]))
        .await
        .expect("it is applied");
    let rollouts = mesh.rollouts();
    // The canary's requests are many and good, and say nothing about staging.
    let held = rollouts
        .until(NAME, "a pause", WAY, |status| status.phase == "Paused")
        .await;
    let held = held.expect("it does not go on");
    assert_eq!(
        (held.reason.as_deref(), held.weight),
        (Some("inconclusive"), 50.0)
    );
    assert_eq!(held.stage(), "staging");

    let _testers = Load::start(tested(&envoy));
    let passed = wait::until("production", WAY, || async {
        let status = rollouts.status(NAME).await.map_err(|error| error.to_string())?;
        if status.stage() == "production" {
            return Ok(status);
        }
        if status.phase == "Paused" {
            run(&mesh, &["rollout", "resume", NAME]).await;
        }
        Err(status.shown())
    });
    let passed = passed.await.expect("it is passed");
    assert!((passed.weight - 100.0).abs() < f64::EPSILON);
    until_decided_by(&envoy, &passed.policy)
        .await
        .expect("the filter has it");
    for header in [TESTER, "x-other"] {
        for answer in ask(&envoy, header).await {
            assert_eq!((answer.seen("variant"), answer.version()), (Some("canary"), "v2"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_staging_stage_is_one_line_that_names_the_field() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let with = |more: &[(&str, Value)]| {
        let mut stage = testers();
        for (field, value) in more {
            stage[*field] = value.clone();
        }
        stage
    };
    for (stage, parts) in [
        (
            json!({ "name": "staging", "pause": "1m" }),
            ["spec.stages[0].match", "headers, peers and flags"],
        ),
        (
            with(&[("match", json!({ "hosts": [HOST] }))]),
            ["spec.stages[0].match.hosts", "headers"],
        ),
        (with(&[("watch", json!("1m"))]), ["spec.stages[0].watch", "pause"]),
        (
            with(&[("match", json!({ "peers": ["web"] }))]),
            ["spec.stages[0].match.peers[0]", "spiffe://"],
        ),
    ] {
        let file = staged(&[stage]).write(&mesh.service).expect("a file");
        let output = run(&mesh, &["rollout", "apply", "-f", &file.to_string_lossy()]).await;
        assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{output:?}");
        assert!(
            parts.iter().all(|part| output.stderr.contains(part)),
            "{}",
            output.stderr
        );
    }
}
