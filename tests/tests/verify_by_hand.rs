//! A receipt is verified and a log audited without any of our code: `docs/verify/knhk_verify.py` and the commands of
//! docs/audit.md, which need Python's standard library and OpenSSL alone.
#![allow(clippy::expect_used)]

use std::path::Path;
use std::process::Command;

use knhk_tests::artifacts;
use knhk_tests::recorded::Recording;
use knhk_tests::service::{REGION, Service};
use knhk_tests::wait;
use serde_json::Value;

/// Exit code, standard output and standard error.
fn run(program: &str, arguments: &[&str], directory: &Path) -> (i32, String, String) {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn script(arguments: &[&str], directory: &Path) -> (i32, String, String) {
    let script = artifacts::root().join("docs/verify/knhk_verify.py");
    let script = script.to_str().expect("a path").to_owned();
    run("python3", &[&[script.as_str()], arguments].concat(), directory)
}

#[test]
fn what_is_no_receipt_is_refused_in_one_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let write =
        |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).expect("written");
    write(
        "key.pem",
        b"-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n",
    );
    let arrays = [0x81; 5_000];
    let maps = [0xa1, 0x00].repeat(5_000);
    let tags = [0xc1; 5_000];
    for bytes in [&arrays[..], &maps, &tags, &[], &[0x00], &[0x9f, 0xff], &[0xff; 9]] {
        write("file", bytes);
        let (code, out, error) = script(&["receipt", "file", "key.pem"], directory.path());
        assert_eq!((code, out.as_str(), error.lines().count()), (1, "", 1), "{error}");
        assert!(error.starts_with("NOT VERIFIED: "), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_and_a_log_are_verified_without_our_code() {
    let service = Service::start().await.expect("the service starts");
    let (cli, directory) = (
        service.cli().expect("the command line"),
        tempfile::tempdir().expect("a directory"),
    );
    let write =
        |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).expect("written");
    write(
        "first.pem",
        cli.text(&["key", "show"]).await.expect("a key").as_bytes(),
    );
    let recording = Recording::start(service.addresses().grpc, "hand")
        .await
        .expect("it connects");
    wait::until("receipts", wait::SOON, || async {
        let count = recording.count();
        if count > 400 {
            Ok(())
        } else {
            Err(format!("{count}"))
        }
    })
    .await
    .expect("traffic flows");
    // With nothing in between: the first tree of a key has the entry that announces the next one.
    for _ in 0..2 {
        cli.json(&["key", "rotate"]).await.expect("it rotates");
    }
    let acknowledged = recording.finish().await;
    let url = format!("http://{}/v1/log/{REGION}", service.addresses().http);
    let get = async |path: &str| {
        let answer = reqwest::get(format!("http://{}{path}", service.addresses().http))
            .await
            .expect("answers");
        assert!(answer.status().is_success(), "{path}");
        answer.bytes().await.expect("a body").to_vec()
    };

    let set: Value = serde_json::from_slice(&get("/v1/keys").await).expect("JSON");
    let pems: Vec<_> = set["keys"]
        .as_array()
        .expect("keys")
        .iter()
        .map(|it| it["pem"].as_str().expect("PEM"))
        .collect();
    assert_eq!(pems.len(), 3, "it rotated twice");
    write("keys.pem", pems.concat().as_bytes());
    write("second.pem", pems[1].as_bytes());
    write("last.pem", pems[2].as_bytes());

    for (number, it) in acknowledged.iter().step_by(151).enumerate() {
        let bytes = get(&format!("/v1/receipts/{}", it.id)).await;
        write("receipt", &bytes);
        let (code, out, error) = script(&["receipt", "receipt", "keys.pem"], directory.path());
        assert_eq!((code, error.as_str()), (0, ""), "{out}");
        assert!(out.ends_with(&format!("verified: {}\n", it.id)), "{out}");
        // A process each is slow: of one receipt that is enough.
        for at in (0..bytes.len()).step_by(31).filter(|_| number == 0) {
            let mut forged = bytes.clone();
            forged[at] ^= 1 << (at % 8);
            write("forged", &forged);
            let (code, out, error) = script(&["receipt", "forged", "keys.pem"], directory.path());
            assert!(
                code == 1 && error.starts_with("NOT VERIFIED"),
                "byte {at}: {out}{error}"
            );
        }
    }

    let (code, out, error) = script(&["audit", &url, "first.pem"], directory.path());
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    assert!(out.contains("3 keys in a chain"), "{out}");
    let (code, _, error) = script(&["audit", &url, "second.pem"], directory.path());
    assert!(
        code == 1 && error.contains("does not begin with a given key"),
        "{error}"
    );

    // The four lines of docs/audit.md.
    write("note", &get(&format!("/v1/log/{REGION}/checkpoint")).await);
    let by_hand = "head -n 3 note > text && tail -n 1 note | cut -d ' ' -f 3 | base64 -d | tail -c +5 > signature && \
                   openssl dgst -sha256 -verify last.pem -signature signature text";
    let (code, out, error) = run("sh", &["-c", by_hand], directory.path());
    assert_eq!((code, out.trim()), (0, "Verified OK"), "{error}");
}
