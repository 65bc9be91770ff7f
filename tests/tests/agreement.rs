//! One decision, wherever it is taken: the filter in Envoy, `ext_authz`, `knhk decide`, the library and the vectors.
#![allow(clippy::expect_used)]

use knhk_decision::bucket;
use knhk_tests::envoy::Envoy;
use knhk_tests::load::{Answer, ask_each};
use knhk_tests::mesh::{EXT_AUTHZ, FILTER, Mesh, NAME, RolloutFile, user};
use serde_json::{Value, json};

const KEYS: usize = 10_000;
const CONNECTIONS: usize = 32;
const WEIGHT: f64 = 33.3333;
/// The same in parts per million.
const WEIGHT_PPM: u32 = 333_333;
const SALT: &str = "checkout";

/// The vectors' own keys of this salt that fit into a header, then keys of many forms.
fn keys() -> (Vec<(String, u64)>, Vec<String>) {
    let text = std::fs::read_to_string(knhk_tests::artifacts::root().join("filter/decision/vectors.json"))
        .expect("the vectors are there");
    let vectors: Value = serde_json::from_str(&text).expect("they are JSON");
    let vectors: Vec<(String, u64)> = vectors["buckets"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|vector| vector["salt"] == SALT)
        .filter_map(|vector| Some((vector["key"].as_str()?.to_owned(), vector["bucket"].as_u64()?)))
        .filter(|(key, _)| !key.is_empty() && key.bytes().all(|byte| (b'!'..=b'~').contains(&byte)))
        .collect();
    assert!(vectors.len() >= 3, "vectors to compare with");
    let forms = (0..).map(|number: u64| match number % 5 {
        0 => format!("user-{number}"),
        1 => format!("{number}"),
        2 => format!("{number:032x}"),
        3 => format!("first.last+{number}@shop.example"),
        _ => format!(
            "eyJhbGciOiJFUzI1NiJ9.{number:x}=={}",
            "z".repeat(usize::try_from(number % 190).expect("small"))
        ),
    });
    let all = vectors
        .iter()
        .map(|(key, _)| key.clone())
        .chain(forms)
        .take(KEYS)
        .collect();
    (vectors, all)
}

async fn ask_all(envoy: &Envoy, keys: &[String]) -> Vec<Answer> {
    ask_each(
        envoy.address(),
        CONNECTIONS,
        keys.iter().map(|key| user(key)).collect(),
    )
    .await
    .expect("every key is answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_ext_authz_command_line_library_and_vectors_agree_on_10_000_keys() {
    let (vectors, keys) = keys();
    let mesh = Mesh::start().await.expect("the mesh starts");
    let filter = mesh.proxy(FILTER).await.expect("Envoy starts");
    let mut config = mesh.config(EXT_AUTHZ).expect("a configuration");
    config.make_check_patient().expect("the filter");
    *config.check_options().expect("the route's options") = json!({ "record": "none" });
    let ext_authz = Envoy::start(config, knhk_tests::envoy::EnvoyOptions::default())
        .await
        .expect("Envoy starts");
    let spec = RolloutFile::at(WEIGHT).with("salt", json!(SALT));
    mesh.apply(&spec).await.expect("it is applied");
    let status = mesh
        .until_current(&filter, NAME)
        .await
        .expect("the filter has it");

    let by_filter = ask_all(&filter, &keys).await;
    let by_check = ask_all(&ext_authz, &keys).await;

    // The command line, offline: from the rollout's file and from the snapshot.
    let file = mesh.service.directory().join("keys");
    std::fs::write(&file, keys.join("\n")).expect("it can be written");
    let snapshot = mesh.service.directory().join("snapshot.json");
    let bytes = mesh
        .rollouts()
        .policy(&status.policy)
        .await
        .expect("the snapshot");
    std::fs::write(&snapshot, bytes).expect("it can be written");
    let rollout = spec.write(&mesh.service).expect("a file");
    let mut by_command = Vec::new();
    for policy in [&rollout, &snapshot] {
        let lines = knhk_tests::cli::Cli::offline()
            .expect("the command line")
            .text(&[
                "decide".as_ref(),
                "--policy".as_ref(),
                policy.as_os_str(),
                "--rollout".as_ref(),
                NAME.as_ref(),
                "--keys".as_ref(),
                file.as_os_str(),
                "-o".as_ref(),
                "json".as_ref(),
            ])
            .await
            .expect("it decides");
        let decisions: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect();
        assert_eq!(decisions.len(), keys.len());
        by_command.push(decisions);
    }

    let mut canaries = 0;
    for (number, key) in keys.iter().enumerate() {
        let bucket = bucket(SALT, key.as_bytes());
        let canary = bucket < WEIGHT_PPM;
        let (variant, version) = if canary {
            ("canary", "v2")
        } else {
            ("stable", "v1")
        };
        for answer in [&by_filter[number], &by_check[number]] {
            assert_eq!(
                (answer.seen("variant"), answer.version()),
                (Some(variant), version),
                "{key}"
            );
            assert_eq!(answer.seen("policy"), Some(status.policy.as_str()), "{key}");
            assert_eq!(answer.seen("rollout"), Some(NAME), "{key}");
        }
        for decisions in &by_command {
            let decision = &decisions[number];
            assert_eq!(decision["key"], key.as_str());
            assert_eq!(
                (decision["bucket"].as_u64(), decision["variant"].as_str()),
                (Some(bucket.into()), Some(variant)),
                "{key}"
            );
        }
        if let Some((vector, expected)) = vectors.get(number) {
            assert_eq!((vector, *expected), (key, u64::from(bucket)));
        }
        canaries += usize::from(canary);
    }
    // Five standard deviations of 10,000 draws at a third.
    assert!((3_097..=3_569).contains(&canaries), "{canaries} of {KEYS}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_repeated_key_header_the_first_value_counts_everywhere() {
    let mesh = Mesh::start().await.expect("the mesh starts");
    let filter = mesh.proxy(FILTER).await.expect("Envoy starts");
    let ext_authz = mesh.patient_proxy(EXT_AUTHZ).await.expect("Envoy starts");
    mesh.apply(&RolloutFile::at(50.0)).await.expect("it is applied");
    mesh.until_current(&filter, NAME)
        .await
        .expect("the filter has it");
    let asks: Vec<_> = (0..200)
        .map(|number| user(&format!("first-{number}")).header(knhk_tests::load::USER, "second"))
        .collect();
    for envoy in [&filter, &ext_authz] {
        let answers = ask_each(envoy.address(), 4, asks.clone()).await.expect("answers");
        for (number, answer) in answers.iter().enumerate() {
            let canary = bucket(NAME, format!("first-{number}").as_bytes()) < 500_000;
            assert_eq!(
                answer.version(),
                if canary { "v2" } else { "v1" },
                "first-{number}"
            );
        }
    }
}
