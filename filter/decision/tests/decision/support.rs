//! Requests and rules for tests, and strategies that draw them from so few words that they often meet.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use knhk_decision::spec::{
    AdmitSpec, HeaderMatch, KeySpec, MatchSpec, Record, StagingSpec, ValueMatch, Weight,
};
use knhk_decision::{Decision, Facts, Policy, PolicyDoc, PolicyId, RolloutRule, SpiffeId, StagingRule};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// When everything is decided, in seconds.
pub(crate) const NOW: i64 = 1_795_000_000;

/// A request, as facts.
#[derive(Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: Vec<u8>,
    pub(crate) authority: Vec<u8>,
    pub(crate) path: Vec<u8>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) peer: Option<String>,
    /// How often the peer was asked for.
    pub(crate) peer_asked: Cell<u32>,
    /// How often the time was asked for.
    pub(crate) time_asked: Cell<u32>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [method, authority, path] =
            [&self.method, &self.authority, &self.path].map(|bytes| bytes.escape_ascii().to_string());
        write!(f, "{method} {authority} {path} peer={:?}", self.peer)?;
        self.headers
            .iter()
            .try_for_each(|(name, value)| write!(f, " {name}={:?}", value.escape_ascii().to_string()))
    }
}

impl Request {
    pub(crate) fn get(authority: &str, path: &str) -> Self {
        Self {
            method: b"GET".to_vec(),
            authority: authority.into(),
            path: path.into(),
            ..Self::default()
        }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn with_peer(mut self, id: &str) -> Self {
        self.peer = Some(id.to_owned());
        self
    }
}

impl Facts for Request {
    fn method(&self) -> &[u8] {
        &self.method
    }

    fn authority(&self) -> &[u8] {
        &self.authority
    }

    fn path(&self) -> &[u8] {
        &self.path
    }

    fn header(&self, lower_case_name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|(name, _)| name == lower_case_name)
            .map(|(_, value)| &**value)
    }

    fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let pseudo = [(&b":method"[..], &*self.method), (b":path", &*self.path)];
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), &**value));
        pseudo.into_iter().chain(headers)
    }

    fn unix_seconds(&self) -> i64 {
        self.time_asked.set(self.time_asked.get() + 1);
        NOW
    }

    fn peer_spiffe_id(&self) -> Option<SpiffeId<'_>> {
        self.peer_asked.set(self.peer_asked.get() + 1);
        SpiffeId::parse(self.peer.as_deref()?)
    }
}

/// A rollout of half of the users, for every request.
pub(crate) fn rule(name: &str) -> RolloutRule {
    RolloutRule {
        name: name.to_owned(),
        generation: 1,
        window: 1,
        salt: None,
        r#match: MatchSpec::default(),
        admit: None,
        staging: None,
        key: vec![KeySpec::Header("x-user-id".to_owned())],
        weight: Weight::from_ppm(500_000).expect("a weight"),
        stable: "v1".to_owned(),
        canary: "v2".to_owned(),
        flags: Vec::new(),
        record: Record::None,
        thresholds: Vec::new(),
        outcomes: Vec::new(),
    }
}

/// The same with a match, written as in a rollout file.
pub(crate) fn rule_for(name: &str, r#match: &str) -> RolloutRule {
    RolloutRule {
        r#match: serde_saphyr::from_str(r#match).expect("a match"),
        ..rule(name)
    }
}

/// A rule in its staging stage, which picks what is written as in a rollout file.
pub(crate) fn staged(rule: RolloutRule, picked: &str) -> RolloutRule {
    RolloutRule {
        staging: Some(StagingRule {
            active: true,
            r#match: serde_saphyr::from_str(picked).expect("a match"),
        }),
        ..rule
    }
}

pub(crate) fn doc(rollouts: Vec<RolloutRule>) -> PolicyDoc {
    PolicyDoc::new(PolicyId { epoch: 3, n: 7 }, rollouts)
}

pub(crate) fn policy(rollouts: Vec<RolloutRule>) -> Policy {
    Policy::compile(doc(rollouts)).expect("a policy")
}

/// The name of the rollout that routes.
pub(crate) fn routed_by<'p>(decision: &Decision<'p>) -> Option<&'p str> {
    decision.routed().map(|routed| routed.rule.name.as_str())
}

pub(crate) fn admit(peers: &[&str]) -> AdmitSpec {
    AdmitSpec {
        peers: peers.iter().map(|&peer| peer.to_owned()).collect(),
    }
}

/// Rules that are fine each for itself, in random order and with random names.
pub(crate) fn any_rules() -> impl Strategy<Value = Vec<RolloutRule>> {
    let names = Just((10..22).map(|i| format!("r{i}")).collect::<Vec<_>>()).prop_shuffle();
    (names, vec(any_rule(), 1..12)).prop_map(|(names, rules)| {
        rules
            .into_iter()
            .zip(names)
            .map(|(rule, name)| RolloutRule { name, ..rule })
            .collect()
    })
}

/// Of random rules those that also stand beside each other.
pub(crate) fn any_policy() -> impl Strategy<Value = Policy> {
    any_rules().prop_map(|rules| {
        let mut kept = Vec::new();
        for rule in rules {
            kept.push(rule);
            if Policy::compile(doc(kept.clone())).is_err() {
                kept.pop();
            }
        }
        policy(kept)
    })
}

fn any_rule() -> impl Strategy<Value = RolloutRule> {
    let salt = option::of(select(vec!["salt".to_owned(), "pepper".to_owned()]));
    let admit = option::weighted(0.3, any_peers().prop_map(|peers| AdmitSpec { peers }));
    let staging = option::weighted(0.5, any_staging());
    (
        any_match(),
        admit,
        staging,
        any_keys(),
        any_weight(),
        salt,
        1..5_u64,
    )
        .prop_map(
            |(r#match, admit, staging, key, weight, salt, generation)| RolloutRule {
                r#match,
                admit,
                staging,
                key,
                weight,
                salt,
                generation,
                ..rule("r")
            },
        )
        .prop_filter("a rule that makes sense", |rule| rule.check().is_ok())
}

fn any_staging() -> impl Strategy<Value = StagingRule> {
    let headers = subsequence(vec!["x-a", "X-B", "x-c"], 0..3)
        .prop_flat_map(|names| names.into_iter().map(any_header).collect::<Vec<_>>());
    let peers = prop_oneof![2 => Just(Vec::new()), 1 => any_peers()];
    (headers, peers, prop::bool::weighted(0.8)).prop_map(|(headers, peers, active)| StagingRule {
        active,
        r#match: StagingSpec {
            headers,
            peers,
            flags: BTreeMap::new(),
        },
    })
}

fn any_match() -> impl Strategy<Value = MatchSpec> {
    let hosts = [
        "a.com",
        "B.a.com",
        "c.b.a.com",
        "*.a.com",
        "*.b.A.com",
        "*.com",
        "[2001:DB8::1]",
        "10.0.0.1",
    ];
    let hosts = prop_oneof![
        Just(Vec::new()),
        subsequence(hosts.map(str::to_owned).to_vec(), 1..3),
        subsequence(hosts[..5].iter().map(|&h| h.to_owned()).collect::<Vec<_>>(), 1..2),
    ];
    let methods = subsequence(vec!["GET".to_owned(), "POST".to_owned(), "PUT".to_owned()], 0..3);
    let headers = subsequence(vec!["x-a", "X-B", "x-c"], 0..3)
        .prop_flat_map(|names| names.into_iter().map(any_header).collect::<Vec<_>>());
    (
        hosts,
        option::of(any_path()),
        option::weighted(0.3, any_path()),
        methods,
        headers,
        prop_oneof![3 => Just(Vec::new()), 1 => any_peers()],
    )
        .prop_map(|(hosts, path_prefix, path, methods, headers, peers)| MatchSpec {
            hosts,
            path_prefix,
            path,
            methods,
            headers,
            peers,
            flags: BTreeMap::new(),
        })
}

fn any_peers() -> impl Strategy<Value = Vec<String>> {
    let patterns = [
        "spiffe://example.org/web",
        "spiffe://EXAMPLE.org/ns/shop/web",
        "spiffe://example.org/ns/shop/*",
        "spiffe://example.org/ns/*",
        "spiffe://example.org/*",
        "spiffe://other.org/ns/*",
    ];
    subsequence(patterns.map(str::to_owned).to_vec(), 1..3)
}

fn any_header(name: &'static str) -> impl Strategy<Value = HeaderMatch> {
    let value = prop_oneof![
        select(vec!["1", "12", "2"]).prop_map(|value| ValueMatch::Exact(value.to_owned())),
        select(vec!["1", "12"]).prop_map(|value| ValueMatch::Prefix(value.to_owned())),
        any::<bool>().prop_map(ValueMatch::Present),
    ];
    value.prop_map(move |value| HeaderMatch {
        name: name.to_owned(),
        value,
    })
}

fn any_path() -> impl Strategy<Value = String> {
    (vec(select(vec!["a", "b", "ab"]), 0..4), any::<bool>()).prop_map(|(segments, slash)| {
        let path = segments
            .iter()
            .fold(String::new(), |path, segment| format!("{path}/{segment}"));
        if slash || path.is_empty() {
            path + "/"
        } else {
            path
        }
    })
}

fn any_keys() -> impl Strategy<Value = Vec<KeySpec>> {
    let keys = vec![
        KeySpec::Header("X-User-Id".to_owned()),
        KeySpec::Cookie("session".to_owned()),
        KeySpec::Query("u id".to_owned()),
        KeySpec::PeerSpiffeId {},
        KeySpec::RequestId {},
    ];
    subsequence(keys, 1..=3).prop_shuffle()
}

pub(crate) fn any_weight() -> impl Strategy<Value = Weight> {
    prop_oneof![0..=1_000_000_u32, select(vec![0, 1, 999_999, 1_000_000])]
        .prop_map(|ppm| Weight::from_ppm(ppm).expect("a weight"))
}

pub(crate) fn any_request() -> impl Strategy<Value = Request> {
    let hosts = [
        "a.com",
        "b.a.com",
        "c.b.a.com",
        "d.b.a.com",
        "x.a.com",
        "x.com",
        ".com",
        "org",
        "[2001:db8::1]",
        "10.0.0.1",
        "",
        "\u{e9}.a.com",
    ];
    let authority = (
        select(hosts.to_vec()),
        select(vec!["", ":", ":80", ":8443"]),
        any::<bool>(),
    )
        .prop_map(|(host, port, upper)| {
            let host = if upper {
                host.to_ascii_uppercase()
            } else {
                host.to_owned()
            };
            format!("{host}{port}").into_bytes()
        });
    let query = select(vec![
        "",
        "?",
        "?u+id=7&x=1",
        "?x=/a&u%20id=%41+b",
        "?u%20id=&u%20id=2",
        "#u+id=3",
        "?x#?u+id=1",
    ]);
    let path = prop_oneof![9 => any_path(), 1 => select(vec!["*", "", "/a//b"]).prop_map(str::to_owned)];
    let path = (path, query).prop_map(|(path, query)| (path + query).into_bytes());
    let value = || option::of(select(vec!["", "1", "12", "123", "2"]));
    let cookie = option::of(select(vec![
        "session=9",
        "a=b; session=\"9\"; session=8",
        "xsession=1",
        "session=",
    ]));
    let id = option::of(select(vec![
        "",
        "5",
        "5f2e8c1a-9b3d-4c7e-8a1f-0d2b4c6e8f90",
        "5f2e8c1a-9b3d-9c7e-8a1f-0d2b4c6e8f90",
    ]));
    let headers = (value(), value(), value(), value(), cookie, id).prop_map(|(a, b, c, user, cookie, id)| {
        let named = [
            ("x-a", a),
            ("x-b", b),
            ("x-c", c),
            ("x-user-id", user),
            ("cookie", cookie),
            ("x-request-id", id),
        ];
        let given = named
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.into())));
        given.collect::<Vec<(String, Vec<u8>)>>()
    });
    let peers = [
        "",
        "CN=web",
        "spiffe://example.org",
        "spiffe://example.org/web",
        "spiffe://example.org/ns/shop",
        "spiffe://example.org/ns/shop/web",
        "spiffe://example.org/ns/shopping/web",
        "spiffe://example.org/ns/shop/../admin",
        "spiffe://other.org/ns/shop/web",
    ];
    let peer = option::of(select(peers.to_vec()).prop_map(str::to_owned));
    let method = select(vec!["GET", "POST", "PUT", "get", ""]).prop_map(Into::into);
    (method, authority, path, headers, peer).prop_map(|(method, authority, path, headers, peer)| Request {
        method,
        authority,
        path,
        headers,
        peer,
        ..Request::default()
    })
}
