//! The crate does what the committed vectors say, which other languages go by too.

use knhk_decision::spec::{KeySpec, Weight};
use knhk_decision::{Admission, Policy, RolloutRule, Variant, Verdict, bucket, decide};
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::support::{Request, policy, rule};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Vectors {
    about: String,
    buckets: Vec<BucketVector>,
    request_ids: Vec<RequestIdVector>,
    weights: Vec<WeightVector>,
    decisions: Decisions,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BucketVector {
    salt: String,
    key: Option<String>,
    key_hex: String,
    hash: String,
    bucket: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RequestIdVector {
    salt: String,
    id: String,
    hashed_as: String,
    bucket: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightVector {
    weight: Weight,
    bucket: u32,
    variant: Variant,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decisions {
    policy: serde_json::Value,
    requests: Vec<RequestVector>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RequestVector {
    method: String,
    authority: String,
    path: String,
    headers: std::collections::BTreeMap<String, String>,
    peer_spiffe_id: Option<String>,
    expect: Option<Expected>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    rollout: String,
    key: Option<u32>,
    bucket: Option<u32>,
    variant: Variant,
    admission: Admission,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../../vectors.json")).expect("vectors.json")
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digits = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).expect("hex"));
    digits
        .map(|pair| u8::from_str_radix(pair, 16).expect("hex"))
        .collect()
}

#[test]
fn hashes_and_buckets() {
    let vectors = vectors();
    assert!(vectors.about.contains("XXH3-64") && vectors.buckets.len() >= 50);
    for vector in vectors.buckets {
        let key = from_hex(&vector.key_hex);
        if let Some(text) = &vector.key {
            assert_eq!(text.as_bytes(), key);
        }
        let hash = xxh3_64(&[vector.salt.as_bytes(), &[0], &key].concat());
        assert_eq!(format!("{hash:016x}"), vector.hash);
        assert_eq!(bucket(&vector.salt, &key), vector.bucket, "{}", vector.key_hex);
    }
}

#[test]
fn request_ids() {
    let vectors = vectors().request_ids;
    assert!(vectors.iter().any(|vector| vector.id != vector.hashed_as));
    for vector in vectors {
        let by_id = RolloutRule {
            salt: Some(vector.salt.clone()),
            key: vec![KeySpec::RequestId {}],
            ..rule("any")
        };
        let policy = policy(vec![by_id]);
        let request = Request::get("a.com", "/").with("x-request-id", &vector.id);
        let Verdict::Routed(routed) = decide(&policy, &request).verdict else {
            panic!("routed")
        };
        assert_eq!(routed.bucket, Some(vector.bucket), "{}", vector.id);
        assert_eq!(
            bucket(&vector.salt, vector.hashed_as.as_bytes()),
            vector.bucket,
            "{}",
            vector.id
        );
    }
}

#[test]
fn weights() {
    let vectors = vectors().weights;
    assert!(vectors.len() >= 8);
    for vector in vectors {
        let canary = vector.variant == Variant::Canary;
        assert_eq!(
            vector.weight.takes(vector.bucket),
            canary,
            "{} of {}",
            vector.bucket,
            vector.weight
        );
    }
}

#[test]
fn decisions() {
    let decisions = vectors().decisions;
    let policy = Policy::parse(decisions.policy.to_string().as_bytes()).expect("a policy");
    assert!(decisions.requests.len() >= 15);
    for vector in decisions.requests {
        let request = Request {
            method: vector.method.into(),
            authority: vector.authority.into(),
            path: vector.path.into(),
            headers: vector
                .headers
                .into_iter()
                .map(|(name, value)| (name, value.into()))
                .collect(),
            peer: vector.peer_spiffe_id,
            ..Request::default()
        };
        let verdict = decide(&policy, &request);
        let found = verdict.routed().map(|routed| Expected {
            rollout: routed.rule.name.clone(),
            key: routed.key,
            bucket: routed.bucket,
            variant: routed.variant,
            admission: verdict.admission(),
        });
        assert_eq!(found, vector.expect, "{request:?}");
    }
}
