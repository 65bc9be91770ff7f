//! What a request gets: its headers, its answer, its place in the counts.

use knhk_decision::spec::{AdmitSpec, KeySpec};
use knhk_decision::{PolicyDoc, PolicyId, RolloutRule, bucket, headers};
use proptest::prelude::*;

use crate::fake::{Header, Worker, request_of, rule};

fn ours(headers: &[Header]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut ours: Vec<_> = headers
        .iter()
        .filter(|(name, _)| name.starts_with(headers::PREFIX.as_bytes()))
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    ours.sort();
    ours
}

fn expect(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// Header names and values as hostile as a client can make them, and many that look like ours.
fn hostile_headers() -> impl Strategy<Value = Vec<Header>> {
    let name = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..12),
        Just(b":path".to_vec()),
        Just(b":authority".to_vec()),
        Just(b":method".to_vec()),
        Just(b"x-user-id".to_vec()),
        "x-knhk-[a-z]{0,8}".prop_map(String::into_bytes),
        prop::sample::select(vec![
            headers::VARIANT,
            headers::ROLLOUT,
            headers::POLICY,
            headers::CLASS
        ])
        .prop_map(|name| name.as_bytes().to_vec()),
    ];
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        Just(b"checkout.example.com".to_vec()),
        Just(b"/cart".to_vec()),
        Just(b"canary".to_vec()),
    ];
    prop::collection::vec((name, value), 0..20)
}

proptest! {
    #[test]
    fn a_client_never_sets_our_headers(headers in hostile_headers(), weight in 0..=100_u32) {
        let (mut worker, plugin) = Worker::running(&[rule(weight, 1)]);
        let first = |name: &[u8]| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let routed = first(b":authority").as_deref() == Some(b"checkout.example.com");
        let canary = first(b"x-user-id").is_some_and(|user| {
            !user.is_empty() && bucket("checkout", &user) < weight * 10_000
        });

        let request = worker.request(plugin, headers.clone());
        let variant = if canary { "canary" } else { "stable" };
        let expected = if routed {
            expect(&[(headers::POLICY, "7.1"), (headers::ROLLOUT, "checkout"), (headers::VARIANT, variant)])
        } else {
            expect(&[(headers::POLICY, "7.1")])
        };
        prop_assert_eq!(ours(&worker.host.headers), expected);
        worker.finish(request, Some(200), 1);

        // Everything else is as it was.
        let theirs = |headers: &[Header]| -> Vec<Header> {
            headers.iter().filter(|(name, _)| !name.starts_with(b"x-knhk-")).cloned().collect()
        };
        prop_assert_eq!(theirs(&worker.host.headers), theirs(&headers));
    }

    #[test]
    fn nor_when_nothing_is_decided(headers in hostile_headers(), refused: bool) {
        let (mut worker, plugin) = Worker::new("");
        worker.host.refuse_headers = refused;
        worker.request(plugin, headers.clone());
        let known = [headers::VARIANT, headers::ROLLOUT, headers::POLICY, headers::CLASS];
        let left = ours(&worker.host.headers);
        let survives = |(name, _): &(String, String)| !refused || known.contains(&name.as_str());
        prop_assert!(!left.iter().any(survives), "{left:?}");
    }
}

#[test]
fn the_first_value_of_a_repeated_header_counts() {
    let (mut worker, plugin) = Worker::running(&[rule(50, 1)]);
    for user in 0..50 {
        let mut headers = request_of(&format!("user-{user}"));
        worker.request(plugin, headers.clone());
        let alone = worker.host.header(headers::VARIANT);
        headers.push((b"x-user-id".to_vec(), format!("user-{}", user + 1).into_bytes()));
        worker.request(plugin, headers);
        assert_eq!(worker.host.header(headers::VARIANT), alone);
    }
}

#[test]
fn without_a_snapshot_the_fail_mode_decides() {
    let (mut worker, open) = Worker::new(r#"{"failMode":"open"}"#);
    worker.request(open, request_of("ann"));
    assert_eq!(
        (ours(&worker.host.headers), &worker.host.answered),
        (vec![], &None)
    );

    let closed = worker.configure(r#"{"failMode":"closed"}"#).expect("valid");
    worker.request(closed, request_of("ann"));
    let (status, headers) = worker.host.answered.clone().expect("an answer");
    assert_eq!(status, 503);
    assert!(
        headers.contains(&("x-knhk-reason".to_owned(), "no_snapshot".to_owned())),
        "{headers:?}"
    );
    worker.tick(closed);
    assert_eq!(
        (
            worker.host.metric("knhk_requests"),
            worker.host.metric("knhk_requests_denied")
        ),
        (2, 1)
    );

    // The first snapshot ends it, for every plugin of the worker.
    worker.deliver_snapshot(closed, &crate::fake::snapshot(1, &[]));
    worker.request(closed, request_of("ann"));
    assert_eq!(worker.host.answered, None);
}

#[test]
fn an_inline_policy_decides_until_the_first_snapshot() {
    let doc = PolicyDoc::new(PolicyId { epoch: 1, n: 1 }, vec![rule(100, 1)]).to_bytes();
    let config = format!(
        r#"{{"failMode":"closed","policy":{}}}"#,
        String::from_utf8(doc).unwrap()
    );
    let (mut worker, plugin) = Worker::new(&config);
    let request = worker.request(plugin, request_of("ann"));
    let expected = expect(&[(headers::ROLLOUT, "checkout"), (headers::VARIANT, "canary")]);
    assert_eq!(
        ours(&worker.host.headers),
        expected,
        "no x-knhk-policy: the service could not find it"
    );
    worker.finish(request, Some(200), 1);

    worker.tick(plugin);
    worker.deliver_snapshot(plugin, &crate::fake::snapshot(2, &[rule(0, 2)]));
    worker.request(plugin, request_of("ann"));
    assert_eq!(worker.host.header(headers::VARIANT).as_deref(), Some("stable"));
    assert_eq!(worker.host.header(headers::POLICY).as_deref(), Some("7.2"));
}

#[test]
fn the_peer_is_read_only_when_a_rule_comes_to_it() {
    let mut with_peer = rule(100, 1);
    with_peer.key.push(KeySpec::PeerSpiffeId {});
    let (mut worker, plugin) = Worker::running(&[with_peer]);
    worker.host.peer = Some("spiffe://example.com/ns/a/sa/b".to_owned());

    worker.request(plugin, request_of("ann"));
    assert_eq!(worker.host.peer_reads, 0, "the first key was there");

    let mut keyless = request_of("ann");
    keyless.retain(|(name, _)| name != b"x-user-id");
    worker.request(plugin, keyless);
    assert_eq!(worker.host.peer_reads, 1);
    assert_eq!(worker.host.header(headers::VARIANT).as_deref(), Some("canary"));
}

const SHOP: &str = "spiffe://example.org/ns/shop/sa/web";

/// Everything to the canary, for callers of the shop.
fn guarded() -> RolloutRule {
    RolloutRule {
        admit: Some(AdmitSpec {
            peers: vec!["spiffe://example.org/ns/shop/*".to_owned()],
        }),
        ..rule(100, 1)
    }
}

#[test]
fn whom_the_rollout_does_not_admit_gets_403_and_no_version() {
    let (mut worker, plugin) = Worker::running(&[guarded()]);
    for (peer, admitted) in [
        (Some(SHOP), true),
        (Some("spiffe://example.org/ns/other/sa/web"), false),
        (Some("https://example.org/ns/shop/sa/web"), false),
        (None, false),
    ] {
        worker.host.peer = peer.map(str::to_owned);
        worker.host.peer_reads = 0;
        worker.request(plugin, request_of("ann"));
        assert_eq!(worker.host.peer_reads, 1, "{peer:?}");
        let variant = worker.host.header(headers::VARIANT);
        assert_eq!(variant.as_deref(), admitted.then_some("canary"), "{peer:?}");
        let answer = worker.host.answered.take();
        let reason = (headers::REASON.to_owned(), "peer_not_allowed".to_owned());
        let expected = (!admitted).then(|| (403, vec![reason]));
        assert_eq!(answer, expected, "{peer:?}");
    }
    worker.tick(plugin);
    assert_eq!(worker.host.metric("knhk_requests_peer_not_allowed"), 3);
    assert_eq!(worker.host.metric("knhk_requests_denied"), 0);
}

#[test]
fn the_peer_is_not_read_where_no_rule_that_is_met_asks_for_it() {
    let elsewhere = RolloutRule {
        name: "elsewhere".to_owned(),
        r#match: knhk_decision::spec::MatchSpec {
            hosts: vec!["other.example.com".to_owned()],
            peers: vec![SHOP.to_owned()],
            ..Default::default()
        },
        ..guarded()
    };
    let (mut worker, plugin) = Worker::running(&[rule(100, 1), elsewhere]);
    worker.host.peer = Some(SHOP.to_owned());
    worker.request(plugin, request_of("ann"));
    assert_eq!(worker.host.peer_reads, 0);
}

#[test]
fn behind_a_proxy_the_peer_is_the_last_one_that_was_forwarded() {
    const XFCC: &str = "x-forwarded-client-cert";
    let (mut worker, _) = Worker::running(&[guarded()]);
    let plugin = worker.configure(r#"{"peer":"xfcc"}"#).expect("valid");
    // The proxy before us is no caller of the shop, and is not asked about.
    worker.host.peer = Some("spiffe://example.org/ns/gateway/sa/gateway".to_owned());
    let other = "By=spiffe://d/gw;URI=spiffe://example.org/ns/other/sa/web";
    let shop = "By=spiffe://d/gw;Subject=\"CN=a, b\";URI=spiffe://example.org/ns/shop/sa/web";
    let both = |first: &str, last: &str| format!("{first},{last}");
    for (values, admitted) in [
        (vec![shop.to_owned()], true),
        (vec![other.to_owned()], false),
        (vec![both(other, shop)], true),
        (vec![both(shop, other)], false),
        // A header that comes twice is one that was added to.
        (vec![other.to_owned(), shop.to_owned()], true),
        (vec![shop.to_owned(), other.to_owned()], false),
        (vec![format!("By=\"open,{shop}")], false),
        (vec![], false),
    ] {
        let mut headers = request_of("ann");
        headers.extend(
            values
                .iter()
                .map(|value| (XFCC.into(), value.clone().into_bytes())),
        );
        worker.request(plugin, headers);
        assert_eq!(worker.host.answered.is_none(), admitted, "{values:?}");
    }
    assert_eq!(worker.host.peer_reads, 0);
}

#[test]
fn a_bad_configuration_is_refused_in_one_line() {
    let (mut worker, _) = Worker::new("");
    assert!(worker.configure(r#"{"fail_mode":"open"}"#).is_none());
    let (_, line) = worker.host.lines.last().expect("a line");
    assert!(line.contains("unknown field `fail_mode`"), "{line}");
}
