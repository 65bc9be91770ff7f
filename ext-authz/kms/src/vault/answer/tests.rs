use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYZ2Bn8KbX2jrnH3aut+dmwoCUatR\ncChZmes7kolxiNWh68Zu38m53+ZnULCdf327xlN+IXRlTssp4RaaOQLfpA==\n-----END PUBLIC KEY-----\n";

fn call() -> Call {
    Call::new("vault", "read", "transit/keys/knhk")
}

fn version(name: &str) -> KeyVersion {
    KeyVersion::new(name).expect("a good name")
}

/// read-key's answer, as Vault 1.21 gives it, with two versions.
fn key() -> Value {
    let entry = |time: &str| json!({ "name": "P-256", "public_key": PUBLIC, "creation_time": time, "certificate_chain": "" });
    json!({
        "request_id": "c660ed6f-df05-8c22-85b4-22272a414b00",
        "data": {
            "name": "knhk",
            "type": "ecdsa-p256",
            "latest_version": 10,
            "min_decryption_version": 9,
            "min_encryption_version": 0,
            "imported_key": false,
            "supports_signing": true,
            "keys": { "10": entry("2026-11-24T20:45:42.203792738Z"), "9": entry("2026-11-24T20:45:41Z") },
        },
        "warnings": null,
    })
}

fn parse(key: &Value) -> Result<Key, KmsError> {
    Key::parse(&call(), key.to_string().as_bytes())
}

#[test]
fn versions_are_in_the_order_of_their_numbers_not_of_their_names() {
    let key = parse(&key()).expect("a key");
    assert_eq!(key.latest, 10);
    let infos = key.infos();
    let names: Vec<_> = infos.iter().map(|info| info.version.as_str()).collect();
    assert_eq!(names, ["v9", "v10"]);
    assert_eq!(infos[1].created_unix_ms, Some(1_795_553_142_203));
    assert_eq!(key.created_unix_ms(), Some(1_795_553_141_000));
    assert_eq!(key.public(&version("v9")).expect("there").pem(), PUBLIC);
    for unknown in ["v8", "v11", "v09", "9", "arn:aws:kms:x"] {
        let error = key.public(&version(unknown)).expect_err(unknown);
        assert_eq!(error.label(), "unknown_version");
    }
}

#[test]
fn why_a_version_does_not_sign_and_a_key_does_not_rotate_is_read_from_the_key() {
    let mut answer = key();
    let reason = |answer: &Value, name: &str| {
        let key = parse(answer).expect("a key");
        key.why_not_sign(&call(), &version(name))
            .map(|error| error.label())
    };
    assert_eq!(reason(&answer, "v9"), None);
    assert_eq!(reason(&answer, "v8"), Some("unknown_version"));
    answer["data"]["min_encryption_version"] = json!(10);
    assert_eq!(reason(&answer, "v9"), Some("key_disabled"));
    assert_eq!(reason(&answer, "v10"), None);

    let rotates = |answer: &Value| {
        let reason = parse(answer).expect("a key").why_not_rotate(&call());
        reason.map(|error| error.label())
    };
    assert_eq!(rotates(&answer), None);
    answer["data"]["imported_key_allow_rotation"] = json!(true);
    assert_eq!(rotates(&answer), None);
    answer["data"]["imported_key_allow_rotation"] = json!(false);
    assert_eq!(rotates(&answer), Some("unsupported"));
}

#[test]
fn what_is_no_key_of_ours_is_told_apart_from_what_is_no_answer() {
    let label = |change: fn(&mut Value)| {
        let mut answer = key();
        change(&mut answer);
        parse(&answer).err().map(|error| error.label())
    };
    assert_eq!(label(|_| ()), None);
    // Symmetric keys have a time in the place of the version's object.
    let symmetric = |answer: &mut Value| {
        answer["data"]["type"] = json!("aes256-gcm96");
        answer["data"]["keys"] = json!({ "10": 1_764_000_000 });
    };
    assert_eq!(label(symmetric), Some("wrong_key_type"));
    assert_eq!(
        label(|a| a["data"]["type"] = json!("ecdsa-p384")),
        Some("wrong_key_type")
    );
    for change in [
        (|a: &mut Value| a["data"]["latest_version"] = json!(11)) as fn(&mut Value),
        |a| a["data"]["latest_version"] = json!(-1),
        |a| a["data"]["keys"] = json!({}),
        |a| a["data"]["keys"]["x"] = a["data"]["keys"]["9"].clone(),
        |a| a["data"]["keys"]["9"]["public_key"] = json!("no PEM"),
        |a| a["data"]["keys"]["9"] = json!(1),
        |a| *a = json!([]),
        |a| *a = json!({ "errors": [] }),
    ] {
        assert_eq!(label(change), Some("malformed_answer"));
    }
}

#[test]
fn a_signature_is_of_the_version_asked_for_and_whole() {
    let raw = [vec![1; 32], vec![2; 32]].concat();
    let parse = |text: &str| {
        let body = json!({ "data": { "signature": text, "key_version": 3 } }).to_string();
        signature(&call(), &version("v3"), body.as_bytes())
    };
    let label = |text: &str| parse(text).err().map(|error| error.label());
    let encoded = URL_SAFE_NO_PAD.encode(&raw);
    let good = parse(&format!("vault:v3:{encoded}")).expect("good");
    assert_eq!(good.to_raw().to_vec(), raw);
    for other in ["v1", "v03", "v33", "3", ""] {
        let text = format!("vault:{other}:{encoded}");
        assert_eq!(label(&text), Some("other_version"), "{text}");
    }
    let short = URL_SAFE_NO_PAD.encode(&raw[..63]);
    let padded = STANDARD.encode(&raw);
    for bad in [
        encoded.clone(),
        format!("transit:v3:{encoded}"),
        format!("vault:v3:{short}"),
        format!("vault:v3:{padded}"),
        "vault:v3:".to_owned(),
        String::new(),
    ] {
        assert_eq!(label(&bad), Some("malformed_answer"), "{bad}");
    }
    let zeros = URL_SAFE_NO_PAD.encode([0; 64]);
    assert_eq!(label(&format!("vault:v3:{zeros}")), Some("malformed_signature"));
}

#[test]
fn every_status_has_a_label_and_only_what_passes_is_tried_again() {
    let refuse = |status: u16, words: &str| {
        let body = json!({ "errors": [words] }).to_string();
        let status = StatusCode::from_u16(status).expect("a status");
        refusal(&call(), status, body.as_bytes())
    };
    for (status, words, label, transient) in [
        (400, "bad request", "refused", false),
        (400, "missing client token", "unauthenticated", false),
        (401, "", "unauthenticated", false),
        (
            403,
            "1 error occurred:\n\t* permission denied\n\n",
            "forbidden",
            false,
        ),
        (
            403,
            "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n",
            "unauthenticated",
            false,
        ),
        (404, "no handler for route", "key_missing", false),
        (405, "unsupported operation", "refused", false),
        (307, "", "provider", true),
        (412, "required index state not present", "provider", true),
        (429, "rate limit quota exceeded", "throttled", true),
        (500, "internal error", "provider", true),
        (502, "", "provider", true),
        (503, "Vault is sealed", "provider", true),
    ] {
        let error = refuse(status, words);
        assert_eq!(
            (error.label(), error.is_transient()),
            (label, transient),
            "{status} {words}"
        );
        let text = error.to_string();
        assert!(
            text.contains(&status.to_string()) && !text.contains('\n'),
            "{text}"
        );
    }
}

proptest! {
    /// Whatever comes, an answer is a value or an error in one line of bounded length.
    #[test]
    fn any_bytes_are_an_answer_or_an_error(body in prop::collection::vec(any::<u8>(), 0..512), status in 100_u16..600) {
        let status = StatusCode::from_u16(status).expect("a status");
        let errors = [
            Key::parse(&call(), &body).err(),
            signature(&call(), &version("v1"), &body).err(),
            Some(refusal(&call(), status, &body)),
        ];
        for error in errors.into_iter().flatten() {
            let text = error.to_string();
            prop_assert!(!text.contains('\n') && text.len() < 2_000, "{text}");
        }
    }
}
