//! What a decision costs, by how many rollouts and rules there are: `cargo bench -p knhk-decision`.
//!
//! A rule is one place: a host with a path. The request's own place is the same in every case; the others lie beside
//! it, half of them on other hosts and half on other paths of its host.

use std::hint::black_box;

use knhk_decision::spec::{KeySpec, MatchSpec, Record, Weight};
use knhk_decision::{Facts, Policy, PolicyDoc, PolicyId, RolloutRule, Verdict, decide};

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

    fn peer_spiffe_id(&self) -> Option<&str> {
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
        key: vec![KeySpec::Header("x-user-id".to_owned()), KeySpec::RequestId {}],
        weight: Weight::from_ppm(50_000).expect("a weight"),
        stable: "v1".to_owned(),
        canary: "v2".to_owned(),
        record: Record::None,
        thresholds: Vec::new(),
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


fn main() {
    let n: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let (policy, request) = (policy(20, 50), request());
    let t = std::time::Instant::now();
    for _ in 0..n { black_box(decide(black_box(&policy), black_box(&request))); }
    let e = t.elapsed();
    let upper = Request { authority: b"Shop.Example.com", ..request };
    for _ in 0..n { black_box(decide(black_box(&policy), black_box(&upper))); }
    eprintln!("{} ns", e.as_nanos() / u128::from(n.max(1)));
}
