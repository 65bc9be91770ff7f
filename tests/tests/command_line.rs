//! The command line as scripts use it: exit codes, one line of error, nothing half applied.
#![allow(clippy::expect_used)]

use knhk_tests::cli::{Cli, Output};
use knhk_tests::mesh::{Mesh, NAME, RolloutFile};
use serde_json::{Value, json};

fn one_line(output: &Output, parts: &[&str]) {
    assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{output:?}");
    for part in parts {
        assert!(
            output.stderr.contains(part),
            "{part} is not in: {}",
            output.stderr
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_exits_2_and_an_absent_service_1_with_what_to_do() {
    let offline = Cli::offline().expect("the command line");
    for usage in [
        &["rollout", "aply"][..],
        &["decide"],
        &["receipt", "verify", "x"],
        &["--no-such"],
    ] {
        assert_eq!(offline.run(usage).await.expect("it runs").code, 2, "{usage:?}");
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let absent = Cli::of(directory.path()).expect("the command line");
    one_line(
        &absent.run(&["rollout", "list"]).await.expect("it runs"),
        &["knhk.sock", "knhk serve"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_is_wrong_is_refused_by_field_and_changes_nothing() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    mesh.apply(&RolloutFile::at(10.0)).await.expect("it is applied");
    let before = mesh.rollouts().status(NAME).await.expect("a status");
    let cli = mesh.cli().expect("the command line");
    let steps = |weights: Value| json!([ { "name": "canary", "steps": weights } ]);
    let wrong: [(&str, Value, &str); 8] = [
        ("wieght", json!(5), "wieght"),
        ("stages", steps(json!([ { "setWeight": 101 } ])), "setWeight"),
        ("stages", steps(json!([ { "setWeight": 0.00001 } ])), "setWeight"),
        (
            "stages",
            steps(json!([ { "setWeight": 20 }, { "setWeight": 10 } ])),
            "steps[1].setWeight",
        ),
        (
            "stages",
            json!([ { "name": "staging", "match": { "headers": [ { "name": "x-tester" } ] } } ]),
            "spec.stages[0].match.headers[0]",
        ),
        ("match", json!({ "pathPrefix": "no-slash" }), "pathPrefix"),
        ("key", json!([]), "key"),
        ("stable", json!("v2"), "version"),
    ];
    for (field, value, part) in wrong {
        let file = RolloutFile::at(90.0)
            .with(field, value)
            .write(&mesh.service)
            .expect("a file");
        let output = cli
            .run(&[
                "rollout".as_ref(),
                "apply".as_ref(),
                "-f".as_ref(),
                file.as_os_str(),
            ])
            .await
            .expect("it runs");
        one_line(&output, &[part]);
        let after = mesh.rollouts().status(NAME).await.expect("a status");
        assert_eq!(
            (&after.policy, after.generation),
            (&before.policy, before.generation),
            "nothing changed"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_wrong_starts_nothing() {
    let cli = Cli::offline().expect("the command line");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("knhk.yaml");
    for (text, part) in [
        ("region: eu\nlistne: {}\n", "listne"),
        ("region: EU\n", "region"),
        ("region: eu\nlisten: { grpc: 0.0.0.0:9191 }\n", "listen.grpc"),
        ("region: eu\nkms: { provider: hsm }\n", "kms.provider"),
    ] {
        let data = directory.path().join("data");
        std::fs::write(&file, format!("{text}data: '{}'\n", data.display())).expect("it can be written");
        let path = file.as_os_str();
        one_line(
            &cli.run(&["config".as_ref(), "check".as_ref(), path])
                .await
                .expect("it runs"),
            &["knhk.yaml", part],
        );
        let served = cli
            .run(&["serve".as_ref(), "--config".as_ref(), path])
            .await
            .expect("it runs");
        assert_eq!(served.code, 1);
        assert!(served.stderr.contains(part), "{}", served.stderr);
        assert!(!data.exists(), "nothing was begun");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_at_a_time_decides_as_the_library_does() {
    let cli = Cli::offline().expect("the command line");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("rollout.yaml");
    std::fs::write(&file, RolloutFile::at(50.0).text()).expect("it can be written");
    for number in 0..50 {
        let key = format!("user {number} \u{e9}");
        let path = file.to_string_lossy();
        let answer = cli
            .json(&["decide", "--policy", &path, "--rollout", NAME, "--key", &key])
            .await
            .expect("it decides");
        let bucket = knhk_decision::bucket(NAME, key.as_bytes());
        let variant = if bucket < 500_000 { "canary" } else { "stable" };
        assert_eq!(
            (answer["bucket"].as_u64(), answer["variant"].as_str()),
            (Some(bucket.into()), Some(variant)),
            "{key}"
        );
    }
}

const FLAGS: &str = r#"{
  "metadata": { "owner": "shop" },
  "flags": {
    "checkout": {
      "state": "ENABLED",
      "variants": { "new": { "steps": 1 }, "old": { "steps": 3 } },
      "defaultVariant": "old",
      "targeting": { "if": [{ "ends_with": [{ "var": "email" }, "@example.com"] }, "new"] }
    },
    "late": {
      "state": "ENABLED",
      "variants": { "true": 1, "false": 0 },
      "targeting": { "if": [{ ">": [{ "var": "$flagd.timestamp" }, 1000] }, true] }
    },
    "lost": { "state": "ENABLED", "variants": { "on": true }, "targeting": { "cat": ["o", "ff"] } }
  }
}"#;

#[tokio::test(flavor = "multi_thread")]
async fn flags_evaluate_offline_with_value_variant_and_reason() {
    let cli = Cli::offline().expect("the command line");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("flags.json");
    std::fs::write(&file, FLAGS).expect("it can be written");
    let path = file.to_string_lossy();
    let eval = |flag: &'static str, more: &[&'static str]| {
        let arguments = ["flag", "eval", "--flags", &path, "--flag", flag].map(str::to_owned);
        arguments
            .into_iter()
            .chain(more.iter().map(|more| (*more).to_owned()))
            .collect::<Vec<_>>()
    };
    let staff = r#"{ "email": "a@example.com" }"#;
    for (arguments, shown) in [
        (
            eval("checkout", &["--context", staff]),
            "{\"steps\":1}\tnew\tTARGETING_MATCH\n",
        ),
        (
            eval("checkout", &["--type", "object"]),
            "{\"steps\":3}\told\tDEFAULT\n",
        ),
        (
            eval("late", &["--timestamp", "1001"]),
            "1\ttrue\tTARGETING_MATCH\n",
        ),
        (eval("late", &["--timestamp", "-1"]), "-\t-\tDEFAULT\n"),
        (eval("late", &[]), "1\ttrue\tTARGETING_MATCH\n"),
    ] {
        assert_eq!(
            cli.text(&arguments).await.expect("it evaluates"),
            shown,
            "{arguments:?}"
        );
    }
    let json = cli
        .json(&eval("checkout", &["--context", staff]))
        .await
        .expect("it evaluates");
    let expected = json!({
        "flag": "checkout", "value": { "steps": 1 }, "variant": "new", "reason": "TARGETING_MATCH", "metadata": { "owner": "shop" },
    });
    assert_eq!(json, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_that_give_nothing_and_files_that_are_wrong_are_one_line_of_error() {
    let cli = Cli::offline().expect("the command line");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("flags.json");
    let path = file.to_string_lossy();
    let wrong = FLAGS.replace("ends_with", "log");
    let both = ["--flags", "-", "--context", "-"];
    for (text, more, parts) in [
        (
            FLAGS,
            &["--flags", &path, "--flag", "absent"][..],
            &["flags.json", "FLAG_NOT_FOUND"][..],
        ),
        (
            FLAGS,
            &["--flags", &path, "--flag", "lost"],
            &["GENERAL", "\"off\""],
        ),
        (
            FLAGS,
            &["--flags", &path, "--flag", "checkout", "--type", "boolean"],
            &["TYPE_MISMATCH", "object"],
        ),
        (
            FLAGS,
            &["--flags", &path, "--flag", "lost", "--context", "[]"],
            &["--context", "write an object"],
        ),
        (
            FLAGS,
            &[&both[..], &["--flag", "lost"]].concat(),
            &["standard input"],
        ),
        (
            &wrong,
            &["--flags", &path, "--flag", "lost"],
            &["flags.checkout.targeting.if[0].log", "leave it out"],
        ),
    ] {
        std::fs::write(&file, text).expect("it can be written");
        one_line(
            &cli.run(&[&["flag", "eval"], more].concat())
                .await
                .expect("it runs"),
            parts,
        );
    }
}
