//! Feature flags from end to end: defined through the command line, evaluated in Envoy's filter and by the service, told to the
//! upstream, recorded, replayed, and kept.
#![allow(clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use knhk_tests::cli::{Cli, Output};
use knhk_tests::envoy::Envoy;
use knhk_tests::load::{Answer, ask_each};
use knhk_tests::mesh::{EXT_AUTHZ, EXT_PROC, FILTER, HOST, Mesh, NAME, RolloutFile, user};
use knhk_tests::peer::flagd::{Ask as Question, Flagd, Questions};
use knhk_tests::wait;
use serde_json::{Map, Value, json};

/// Users of each plan that are asked for.
const USERS: usize = 40;

/// `beta` for those who pay, `checkout` split by the user, `banner` for everybody.
fn flags(banner: &str) -> Value {
    json!({ "flags": {
        "beta": {
            "state": "ENABLED", "variants": { "on": true, "off": false }, "defaultVariant": "off",
            "targeting": { "if": [{ "in": [{ "var": "headers.x-plan" }, ["pro", "team"]] }, "on"] },
        },
        "checkout": {
            "state": "ENABLED", "variants": { "old": 1, "new": 2, "newest": 3 }, "defaultVariant": "old",
            "targeting": { "fractional": [["old", 50], ["new", 30], ["newest", 20]] },
        },
        "banner": { "state": "ENABLED", "variants": { "blue sky": "b", "red": "r" }, "defaultVariant": banner },
    } })
}

/// The rollout for those with `beta`, which tells the other two.
fn gated() -> RolloutFile {
    RolloutFile::at(50.0)
        .with(
            "match",
            json!({ "hosts": [HOST], "pathPrefix": "/", "flags": { "beta": "on" } }),
        )
        .with("flags", json!(["checkout", "banner"]))
        .with("record", json!("all"))
}

fn write(mesh: &Mesh, definitions: &Value) -> PathBuf {
    let file = mesh.service.directory().join("flags.json");
    std::fs::write(&file, definitions.to_string()).expect("it can be written");
    file
}

async fn apply(mesh: &Mesh, definitions: &Value) -> Output {
    let file = write(mesh, definitions);
    let arguments = ["flag".as_ref(), "apply".as_ref(), "-f".as_ref(), file.as_os_str()];
    mesh.cli()
        .expect("the command line")
        .run(&arguments)
        .await
        .expect("it runs")
}

async fn applied(mesh: &Mesh, definitions: &Value) {
    let output = apply(mesh, definitions).await;
    assert_eq!(output.code, 0, "{output:?}");
}

async fn ask(envoy: &Envoy, plan: &str) -> Vec<Answer> {
    let asks = (0..USERS)
        .map(|number| user(&format!("user-{number}")).header("x-plan", plan))
        .collect();
    ask_each(envoy.address(), 4, asks)
        .await
        .expect("every request is answered")
}

/// What flagd's own evaluator gives each user for `checkout`.
fn by_flagd(definitions: &Value) -> Vec<String> {
    let asks = (0..USERS).map(|number| Question {
        flag: "checkout".to_owned(),
        asked: "integer",
        context: Map::from_iter([("targetingKey".to_owned(), json!(format!("user-{number}")))]),
    });
    let questions = Questions {
        flags: definitions.to_string(),
        timestamp: 0,
        asks: asks.collect(),
    };
    let mut flagd = Flagd::start().unwrap_or_else(|not_run| panic!("{not_run}"));
    let answers = flagd.ask(&questions).expect("it evaluates");
    answers
        .into_iter()
        .map(|answer| answer.variant.expect("a variant"))
        .collect()
}

async fn replayed(cli: &Cli, row: &Value, directory: &Path) -> Value {
    let id = row["id"].as_str().expect("an ID");
    let file = cli.fetch(id, directory).await.expect("a receipt");
    cli.replay(&file).await.expect("the same verdict")
}

/// Every receipt of a decision, newest first, as the command line lists them.
async fn decisions(cli: &Cli) -> Vec<Value> {
    let list = cli
        .json(&["receipt", "list", "--kind", "decision", "--limit", "1000"])
        .await
        .expect("a list");
    list["receipts"].as_array().expect("receipts").clone()
}

#[tokio::test(flavor = "multi_thread")]
#[allow(
    clippy::too_many_lines,
    reason = "one story, from the definition to the receipt"
)]
async fn a_flag_gates_a_rollout_and_its_variants_reach_upstream_and_receipts() {
    let mut mesh = Mesh::start().await.expect("the mesh starts");
    let filter = mesh.proxy(FILTER).await.expect("Envoy starts");
    let (check, process) = (
        mesh.patient_proxy(EXT_AUTHZ).await.expect("Envoy starts"),
        mesh.patient_proxy(EXT_PROC).await.expect("Envoy starts"),
    );
    applied(&mesh, &flags("blue sky")).await;
    mesh.apply(&gated()).await.expect("it is applied");
    let status = mesh.rollouts().status(NAME).await.expect("a status");
    knhk_tests::mesh::until_decided_by(&filter, &status.policy)
        .await
        .expect("the filter has it");

    let expected = by_flagd(&flags("blue sky"));
    assert!(
        ["old", "new", "newest"]
            .iter()
            .all(|variant| expected.iter().any(|it| it == variant))
    );
    for envoy in [&filter, &check, &process] {
        for (answer, variant) in ask(envoy, "pro").await.iter().zip(&expected) {
            assert_eq!(answer.seen("rollout"), Some(NAME));
            let told = format!("checkout={variant},banner=blue%20sky");
            assert_eq!(answer.seen("flags"), Some(told.as_str()));
        }
        for answer in ask(envoy, "free").await {
            assert_eq!(
                (answer.seen("rollout"), answer.seen("flags"), answer.version()),
                (None, None, "v1")
            );
        }
    }

    // Other definitions reach every worker of the filter.
    applied(&mesh, &flags("red")).await;
    let policy = mesh.rollouts().status(NAME).await.expect("a status").policy;
    assert_ne!(policy, status.policy);
    knhk_tests::mesh::until_decided_by(&filter, &policy)
        .await
        .expect("the filter has it");
    for answer in ask(&filter, "team").await {
        assert!(
            answer
                .seen("flags")
                .is_some_and(|told| told.ends_with(",banner=red")),
            "{answer:?}"
        );
    }

    // Receipts of all three have them, and replay to the same, each by the definitions of its time.
    let cli = mesh.cli().expect("the command line");
    let directory = tempfile::tempdir().expect("a directory");
    wait::until(
        "the filter's decisions in the log",
        Duration::from_secs(30),
        || async {
            let rows = decisions(&cli).await;
            let of_filter = rows
                .iter()
                .filter(|row| row["summary"].as_str().is_some_and(|it| it.contains("by filter")));
            let count = of_filter.count();
            if count >= 2 * USERS {
                Ok(())
            } else {
                Err(format!("{count}"))
            }
        },
    )
    .await
    .expect("they are recorded");
    let rows = decisions(&cli).await;
    for via in ["filter", "ext_authz", "ext_proc"] {
        let by = format!("by {via}");
        let row = rows
            .iter()
            .find(|row| {
                row["summary"]
                    .as_str()
                    .is_some_and(|it| it.contains(&by) && it.contains("flag beta=on"))
            })
            .unwrap_or_else(|| panic!("a receipt {by}"));
        let answer = replayed(&cli, row, directory.path()).await;
        let banner = if via == "filter" { "red" } else { "blue sky" };
        assert_eq!(answer["flags"]["banner"], banner, "{answer}");
        assert!(answer["flags"]["checkout"].is_string(), "{answer}");
    }
    let denied = rows.iter().find(|row| {
        row["summary"]
            .as_str()
            .is_some_and(|it| it.contains("flag beta=off"))
    });
    let answer = replayed(&cli, denied.expect("one"), directory.path()).await;
    assert_eq!((&answer["rollout"], &answer["flags"]), (&Value::Null, &json!({})));

    // A restart keeps them.
    let before = cli.json(&["flag", "list"]).await.expect("definitions");
    assert_eq!(before, flags("red"));
    mesh.service.kill();
    mesh.service.up().await.expect("it starts");
    assert_eq!(cli.json(&["flag", "list"]).await.expect("definitions"), before);
    assert_eq!(
        mesh.rollouts().status(NAME).await.expect("a status").policy,
        policy
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_are_operators_actions_and_what_is_wrong_with_them_is_one_line() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let cli = mesh.cli().expect("the command line");
    assert_eq!(
        cli.json(&["flag", "list"]).await.expect("definitions"),
        json!({ "flags": {} })
    );
    applied(&mesh, &flags("red")).await;
    let shown = cli.text(&["flag", "list"]).await.expect("a table");
    for part in [
        "FLAG",
        "beta",
        "checkout",
        "new, newest, old",
        "blue sky, red",
        "rule",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    let actions = cli
        .json(&["receipt", "list", "--kind", "action"])
        .await
        .expect("a list");
    let action = actions["receipts"][0]["summary"].as_str().expect("a summary");
    assert!(
        action.starts_with("flags.applied flags by unix:uid=")
            && action.ends_with("added banner, beta, checkout"),
        "{action}"
    );

    mesh.apply(&gated()).await.expect("it is applied");
    let refused = |output: Output, parts: &[&str]| {
        assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{output:?}");
        assert!(
            parts.iter().all(|part| output.stderr.contains(part)),
            "{}",
            output.stderr
        );
    };
    let mut fewer = flags("red");
    fewer["flags"].as_object_mut().expect("flags").remove("banner");
    refused(
        apply(&mesh, &fewer).await,
        &["the flags were not changed", "rollout \"shop\"", "\"banner\""],
    );
    let mut unsupported = flags("red");
    unsupported["flags"]["beta"]["targeting"] = json!({ "log": "x" });
    refused(
        apply(&mesh, &unsupported).await,
        &["flags.json", "flags.beta.targeting.log", "leave it out"],
    );
    let other = gated()
        .with("match", json!({ "hosts": [HOST], "flags": { "beta": "maybe" } }))
        .named("other");
    let file = other.write(&mesh.service).expect("a file");
    let arguments = [
        "rollout".as_ref(),
        "apply".as_ref(),
        "-f".as_ref(),
        file.as_os_str(),
    ];
    refused(
        cli.run(&arguments).await.expect("it runs"),
        &["match.flags.beta", "\"maybe\" is no variant", "\"off\", \"on\""],
    );
    assert_eq!(
        cli.json(&["flag", "list"]).await.expect("definitions"),
        flags("red")
    );
}
