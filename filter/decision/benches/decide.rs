//! What a decision costs, by how many rollouts and rules there are: `cargo bench -p knhk-decision`.
//!
//! A rule is one place: a host with a path. The request's own place is the same in every case; the others lie beside
//! it, half of them on other hosts and half on other paths of its host.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use knhk_decision::limits::MAX_ROLLOUTS_PER_PLACE;
use knhk_decision::spec::{HeaderMatch, KeySpec, MatchSpec, Record, ValueMatch, Weight};
use knhk_decision::{Facts, Policy, PolicyDoc, PolicyId, RolloutRule, SpiffeId, Verdict, decide};

struct Request {
    authority: &'static [u8],
    path: &'static [u8],
    headers: [(&'static str, &'static [u8]); 4],
}

impl Facts for Request {
    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn authority(&self) -> &[u8] {
        self.authority
    }

    fn path(&self) -> &[u8] {
        self.path
    }

    fn header(&self, lower_case_name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|(name, _)| *name == lower_case_name)
            .map(|(_, value)| *value)
    }

    fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_bytes(), *value))
    }

    fn unix_seconds(&self) -> i64 {
        1_795_000_000
    }

    fn peer_spiffe_id(&self) -> Option<SpiffeId<'_>> {
        None
    }
}

const HEADERS: [(&str, &[u8]); 4] = [
    ("user-agent", b"Mozilla/5.0"),
    ("x-request-id", b"5f2e8c1a-9b3d-4c7e-8a1f-0d2b4c6e8f90"),
    ("cookie", b"theme=dark; session=5f2e8c1a9b3d4c7e; lang=en"),
    ("x-user-id", b"user-0001234"),
];

fn request() -> Request {
    Request {
        authority: b"shop.example.com:8443",
        path: b"/api/v1/carts/1234/items?page=2&sort=price",
        headers: HEADERS,
    }
}

fn rule(name: &str, hosts: Vec<String>, path: &str, methods: &[&str]) -> RolloutRule {
    RolloutRule {
        name: name.to_owned(),
        generation: 1,
        window: 1,
        salt: None,
        r#match: MatchSpec {
            hosts,
            path_prefix: Some(path.to_owned()),
            methods: methods.iter().map(|&method| method.to_owned()).collect(),
            ..MatchSpec::default()
        },
        admit: None,
        staging: None,
        key: vec![KeySpec::Header("x-user-id".to_owned()), KeySpec::RequestId {}],
        weight: Weight::from_ppm(50_000).expect("a weight"),
        stable: "v1".to_owned(),
        canary: "v2".to_owned(),
        flags: Vec::new(),
        record: Record::None,
        thresholds: Vec::new(),
        outcomes: Vec::new(),
    }
}

/// `rollouts` of which the first is the request's, with `rules` places in all.
fn policy(rollouts: usize, rules: usize) -> Policy {
    let place = |i: usize| match i {
        0 => vec!["shop.example.com".to_owned()],
        i if i % 2 == 0 => vec![],
        i => vec![format!("service-{i}.example.com")],
    };
    let mut spare = rules - rollouts;
    let rules = (0..rollouts).map(|i| {
        let mut hosts = place(i);
        // The first rollouts on other hosts get the places that are left over.
        let more = if i % 2 == 1 {
            spare.min(rules / rollouts * 4)
        } else {
            0
        };
        spare -= more;
        hosts.extend((0..more).map(|k| format!("service-{i}-{k}.example.com")));
        if hosts.is_empty() {
            hosts.push("shop.example.com".to_owned());
        }
        match i {
            0 => rule("carts", hosts, "/api/v1/carts", &["GET", "POST"]),
            i => rule(
                &format!("rollout-{i}"),
                hosts,
                &format!("/api/v1/resource-{i}"),
                &[],
            ),
        }
    });
    let rules: Vec<_> = rules.collect();
    assert_eq!(spare, 0, "all places are given away");
    Policy::compile(PolicyDoc::new(PolicyId::default(), rules)).expect("a policy")
}

fn decisions(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    for (rollouts, rules) in [(20, 50), (1, 1), (10, 10), (100, 100), (1000, 1000)] {
        let (policy, request) = (policy(rollouts, rules), request());
        assert!(
            matches!(decide(&policy, &request).verdict, Verdict::Routed(routed) if routed.rule.name == "carts")
        );
        group.bench_function(
            BenchmarkId::from_parameter(format!("{rollouts} rollouts, {rules} rules")),
            |b| {
                b.iter(|| decide(black_box(&policy), black_box(&request)));
            },
        );
    }
    group.finish();
}

/// The same policy, other requests.
fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide, 20 rollouts, 50 rules");
    let policy = policy(20, 50);
    for (name, request) in [
        (
            "host in upper case",
            Request {
                authority: b"Shop.Example.com",
                ..request()
            },
        ),
        (
            "no rollout",
            Request {
                authority: b"elsewhere.example.com",
                ..request()
            },
        ),
        (
            "key is the request ID",
            Request {
                headers: HEADERS.map(|(name, value)| (name, if name == "x-user-id" { b"" } else { value })),
                ..request()
            },
        ),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| decide(black_box(&policy), black_box(&request)));
        });
    }
    group.finish();
}

/// Where a decision has more to look at: suffixes of a deep host, and as many rollouts in one place as there may be.
fn crowded_places(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide, crowded places");
    let hosts = |i| vec![format!("*.s{i}.example.com")];
    let suffixes = (0..20).map(|i| rule(&format!("rollout-{i}"), hosts(i), "/api", &[]));
    let suffix = Request {
        authority: b"a.b.c.s7.example.com",
        ..request()
    };
    let tenants = (0..MAX_ROLLOUTS_PER_PLACE).map(|i| {
        let mut rule = rule(&format!("rollout-{i:02}"), Vec::new(), "/api", &[]);
        rule.r#match.headers = vec![HeaderMatch {
            name: "x-user-id".to_owned(),
            value: ValueMatch::Exact(format!("user-{i:07}")),
        }];
        rule
    });
    let last = Request {
        headers: HEADERS.map(|(name, value)| {
            (
                name,
                if name == "x-user-id" {
                    b"user-0000063"
                } else {
                    value
                },
            )
        }),
        ..request()
    };
    for (name, rules, request) in [
        ("host by suffix, 6 labels", suffixes.collect::<Vec<_>>(), suffix),
        ("the last of 64 rollouts in one place", tenants.collect(), last),
    ] {
        let policy = Policy::compile(PolicyDoc::new(PolicyId::default(), rules)).expect("a policy");
        assert!(matches!(decide(&policy, &request).verdict, Verdict::Routed(_)));
        group.bench_function(name, |b| {
            b.iter(|| decide(black_box(&policy), black_box(&request)));
        });
    }
    group.finish();
}

criterion_group!(benches, decisions, requests, crowded_places);
criterion_main!(benches);
