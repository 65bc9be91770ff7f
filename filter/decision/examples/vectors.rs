//! Writes the test vectors for other languages: `cargo run -p knhk-decision --example vectors > filter/decision/vectors.json`.
//!
//! The committed file is the contract; a test holds the crate to it. It is written anew only to add cases.

use std::io::{self, Write};

use knhk_decision::spec::{
    AdmitSpec, HeaderMatch, KeySpec, MatchSpec, Record, StagingSpec, ValueMatch, Weight,
};
use knhk_decision::{
    Facts, Policy, PolicyDoc, PolicyId, RolloutRule, SpiffeId, StagingRule, Variant, bucket, decide,
};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let policy = policy();
    let vectors = json!({
        "about": "hash = XXH3-64 over salt, one zero byte, key; bucket = (hash * 1000000) >> 64; canary when bucket < weight * 10000 (weight in percent). See the crate's documentation for matches and keys.",
        "buckets": buckets(),
        "requestIds": request_ids(),
        "weights": weights()?,
        "decisions": { "policy": policy, "requests": requests(&policy)? },
    });
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &vectors)?;
    Ok(writeln!(out)?)
}

fn hashed(salt: &str, key: &[u8]) -> String {
    format!("{:016x}", xxh3_64(&[salt.as_bytes(), &[0], key].concat()))
}

fn buckets() -> Vec<Value> {
    let texts = [
        "",
        "a",
        "alice",
        "bob",
        "user-000001",
        "J\u{fc}rgen M",
        "5f2e8c1a-9b3d-0c7e-8a1f-0d2b4c6e8f90",
    ];
    let mut keys: Vec<Vec<u8>> = texts.map(Into::into).into();
    keys.extend([vec![0], vec![0xff, 0x00, 0x80], (0..=255).collect()]);
    // Lengths around which XXH3 works differently, with salt and zero byte counted in.
    keys.extend([7, 119, 120, 121, 231, 232, 1014, 1015, 2000].map(|len: usize| b"k".repeat(len)));
    let vector = |salt: &str, key: &[u8]| {
        let hex: Vec<_> = key.iter().map(|byte| format!("{byte:02x}")).collect();
        json!({
            "salt": salt,
            "key": std::str::from_utf8(key).ok(),
            "keyHex": hex.concat(),
            "hash": hashed(salt, key),
            "bucket": bucket(salt, key),
        })
    };
    let salts = ["checkout", "search", "s\u{e4}lt"];
    salts
        .iter()
        .flat_map(|salt| keys.iter().map(move |key| vector(salt, key)))
        .collect()
}

fn request_ids() -> Vec<Value> {
    let vector = |id: &str, hashed_as: &str| json!({ "salt": "checkout", "id": id, "hashedAs": hashed_as, "bucket": bucket("checkout", hashed_as.as_bytes()) });
    let masked = "5f2e8c1a-9b3d-0c7e-8a1f-0d2b4c6e8f90";
    vec![
        vector("5f2e8c1a-9b3d-4c7e-8a1f-0d2b4c6e8f90", masked),
        vector("5f2e8c1a-9b3d-9c7e-8a1f-0d2b4c6e8f90", masked),
        vector("5f2e8c1a-9b3d-bc7e-8a1f-0d2b4c6e8f90", masked),
        vector(
            "not-a-uuid-but-36-characters-in-all!",
            "not-a-uuid-but036-characters-in-all!",
        ),
        vector(
            "35-characters-are-hashed-as-they-ar",
            "35-characters-are-hashed-as-they-ar",
        ),
    ]
}

fn weights() -> Result<Vec<Value>, Box<dyn std::error::Error>> {
    let mut vectors = Vec::new();
    for (ppm, bucket) in [
        (0, 0),
        (1, 0),
        (1, 1),
        (10_000, 9_999),
        (10_000, 10_000),
        (333_333, 333_332),
        (333_333, 333_333),
        (999_999, 999_998),
        (999_999, 999_999),
        (1_000_000, 999_999),
    ] {
        let weight = Weight::from_ppm(ppm)?;
        let variant = if weight.takes(bucket) {
            Variant::Canary
        } else {
            Variant::Stable
        };
        vectors.push(json!({ "weight": weight, "bucket": bucket, "variant": variant }));
    }
    Ok(vectors)
}

#[allow(clippy::too_many_lines, reason = "one rule after the other")]
fn policy() -> PolicyDoc {
    let rule = |name: &str, ppm, r#match, key| RolloutRule {
        name: name.to_owned(),
        generation: 1,
        window: 1,
        salt: None,
        r#match,
        admit: None,
        staging: None,
        key,
        weight: Weight::from_ppm(ppm).unwrap_or(Weight::ZERO),
        stable: "v1".to_owned(),
        canary: "v2".to_owned(),
        flags: Vec::new(),
        record: Record::None,
        thresholds: Vec::new(),
        outcomes: Vec::new(),
    };
    let on = |hosts: &[&str], path_prefix: Option<&str>, path: Option<&str>| MatchSpec {
        hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        path_prefix: path_prefix.map(str::to_owned),
        path: path.map(str::to_owned),
        ..MatchSpec::default()
    };
    let chain = vec![
        KeySpec::Header("x-user-id".to_owned()),
        KeySpec::Cookie("session".to_owned()),
        KeySpec::Query("uid".to_owned()),
        KeySpec::RequestId {},
    ];
    let user = vec![KeySpec::Header("x-user-id".to_owned())];
    let get = MatchSpec {
        methods: vec!["GET".to_owned()],
        ..on(&["shop.example.com"], Some("/api"), None)
    };
    let partners = RolloutRule {
        admit: Some(AdmitSpec {
            peers: vec![
                "spiffe://example.org/ns/shop/*".to_owned(),
                "spiffe://partner.example/ci".to_owned(),
            ],
        }),
        ..rule(
            "partners",
            500_000,
            MatchSpec {
                peers: vec![
                    "spiffe://example.org/*".to_owned(),
                    "spiffe://partner.example/*".to_owned(),
                ],
                ..on(&["partners.example.com"], None, None)
            },
            user.clone(),
        )
    };
    let tester = HeaderMatch {
        name: "X-Tester".to_owned(),
        value: ValueMatch::Prefix("qa-".to_owned()),
    };
    let staging = |active| StagingRule {
        active,
        r#match: StagingSpec {
            headers: vec![tester.clone()],
            peers: vec!["spiffe://example.org/ns/shop/*".to_owned()],
            ..StagingSpec::default()
        },
    };
    let staged = |host: &str, active| RolloutRule {
        staging: Some(staging(active)),
        ..rule(host, 250_000, on(&[host], None, None), user.clone())
    };
    PolicyDoc::new(
        PolicyId { epoch: 1, n: 1 },
        vec![
            rule("everything", 10_000, MatchSpec::default(), chain.clone()),
            rule(
                "example",
                250_000,
                on(&["*.example.com"], None, None),
                chain.clone(),
            ),
            rule(
                "shop-api",
                500_000,
                on(&["shop.example.com"], Some("/api"), None),
                user.clone(),
            ),
            rule("shop-api-get", 500_000, get, user.clone()),
            rule(
                "shop-api-root",
                1_000_000,
                on(&["shop.example.com"], None, Some("/api")),
                user.clone(),
            ),
            rule(
                "v6",
                500_000,
                on(&["[2001:db8::1]"], None, None),
                vec![KeySpec::PeerSpiffeId {}],
            ),
            partners,
            RolloutRule {
                name: "staged".to_owned(),
                ..staged("staged.example.com", true)
            },
            RolloutRule {
                name: "not-yet-staged".to_owned(),
                ..staged("soon.example.com", false)
            },
        ],
    )
}

struct Request<'a> {
    method: &'a str,
    authority: &'a str,
    path: &'a str,
    headers: &'a [(&'a str, &'a str)],
    peer: Option<&'a str>,
}

impl Facts for Request<'_> {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }

    fn authority(&self) -> &[u8] {
        self.authority.as_bytes()
    }

    fn path(&self) -> &[u8] {
        self.path.as_bytes()
    }

    fn header(&self, lower_case_name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|(name, _)| *name == lower_case_name)
            .map(|(_, value)| value.as_bytes())
    }

    fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
    }

    fn unix_seconds(&self) -> i64 {
        0
    }

    fn peer_spiffe_id(&self) -> Option<SpiffeId<'_>> {
        SpiffeId::parse(self.peer?)
    }
}

#[allow(clippy::too_many_lines, reason = "one request after the other")]
fn requests(doc: &PolicyDoc) -> Result<Vec<Value>, Box<dyn std::error::Error>> {
    let policy = Policy::compile(doc.clone())?;
    let get = Request {
        method: "GET",
        authority: "shop.example.com",
        path: "/",
        headers: &[("x-user-id", "alice")],
        peer: None,
    };
    let test = |authority, headers, peer| Request {
        authority,
        headers,
        peer,
        ..get
    };
    let by = |peer| Request {
        authority: "partners.example.com",
        peer,
        ..get
    };
    let testers = [("x-user-id", "alice"), ("x-tester", "qa-7")];
    let others = [("x-user-id", "alice"), ("x-tester", "7")];
    let id = [("x-request-id", "5f2e8c1a-9b3d-9c7e-8a1f-0d2b4c6e8f90")];
    let cookies = [("x-user-id", ""), ("cookie", "a=b; session=\"s1\"; session=s2")];
    let requests = [
        Request {
            path: "/api?x=1",
            ..get
        },
        Request { path: "/api/", ..get },
        Request {
            path: "/api/users",
            ..get
        },
        Request {
            path: "/api/users",
            method: "POST",
            ..get
        },
        Request { path: "/apix", ..get },
        Request { path: "/API", ..get },
        Request {
            authority: "Shop.Example.COM:8443",
            path: "/api/users",
            ..get
        },
        Request {
            authority: "a.b.example.com",
            ..get
        },
        Request {
            authority: "example.com",
            ..get
        },
        Request {
            authority: "shop.example.com.",
            ..get
        },
        Request {
            headers: &cookies,
            ..get
        },
        Request {
            headers: &id,
            path: "/?x=2&uid=J%C3%BCrgen+M&uid=3",
            ..get
        },
        Request {
            headers: &id,
            path: "/?uid=&uid=3",
            ..get
        },
        Request { headers: &[], ..get },
        Request {
            headers: &[],
            path: "/api",
            ..get
        },
        Request {
            authority: "[2001:DB8::1]:80",
            peer: Some("spiffe://example.org/web"),
            ..get
        },
        Request {
            authority: "",
            path: "*",
            method: "OPTIONS",
            ..get
        },
        by(Some("spiffe://example.org/ns/shop/sa/web")),
        by(Some("spiffe://example.org/ns/shopping/sa/web")),
        by(Some("spiffe://partner.example/ci")),
        by(Some("spiffe://partner.example/ci/sub")),
        by(Some("spiffe://other.example/ci")),
        by(Some("spiffe://example.org")),
        by(None),
        test(
            "staged.example.com",
            &testers,
            Some("spiffe://example.org/ns/shop/sa/web"),
        ),
        test(
            "staged.example.com",
            &testers[1..],
            Some("spiffe://example.org/ns/shop/sa/web"),
        ),
        test(
            "staged.example.com",
            &testers,
            Some("spiffe://example.org/ns/other/sa/web"),
        ),
        test(
            "staged.example.com",
            &others,
            Some("spiffe://example.org/ns/shop/sa/web"),
        ),
        test(
            "soon.example.com",
            &testers,
            Some("spiffe://example.org/ns/shop/sa/web"),
        ),
    ];
    Ok(requests.iter().map(|request| vector(&policy, request)).collect())
}

fn vector(policy: &Policy, request: &Request<'_>) -> Value {
    let headers: serde_json::Map<_, _> = request
        .headers
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.into()))
        .collect();
    let verdict = decide(policy, request);
    let expect = verdict.routed().map_or(Value::Null, |routed| {
        json!({
            "rollout": routed.rule.name,
            "key": routed.key,
            "bucket": routed.bucket,
            "variant": routed.variant,
            "admission": verdict.admission(),
        })
    });
    json!({
        "method": request.method,
        "authority": request.authority,
        "path": request.path,
        "headers": headers,
        "peerSpiffeId": request.peer,
        "expect": expect,
    })
}
