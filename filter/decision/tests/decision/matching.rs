//! Which rollout routes, case by case, and which key counts.

use knhk_decision::spec::{KeySpec, Weight};
use knhk_decision::{Admission, RolloutRule, Variant, Verdict, bucket, decide};

use crate::support::{Request, admit, policy, routed_by, rule, rule_for};

fn routed_to(rules: &[RolloutRule], request: &Request) -> Option<String> {
    routed_by(&decide(&policy(rules.to_vec()), request)).map(str::to_owned)
}

/// Which key of the chain was used, and the bucket.
fn keyed(key: &[KeySpec], request: &Request) -> (Option<u32>, Option<u32>) {
    let policy = policy(vec![RolloutRule {
        key: key.to_vec(),
        ..rule("shop")
    }]);
    let Verdict::Routed(routed) = decide(&policy, request).verdict else {
        panic!("the rule is for every request")
    };
    (routed.key, routed.bucket)
}

#[test]
fn an_empty_policy_routes_nothing() {
    let empty = knhk_decision::Policy::empty();
    assert_eq!(
        decide(&empty, &Request::get("a.com", "/")).verdict,
        Verdict::NoRollout
    );
    assert_eq!(empty.id().to_string(), "0.0");
}

#[test]
fn hosts_come_before_paths_paths_before_conditions_and_conditions_before_names() {
    let rules = [
        rule_for("any-long", "{pathPrefix: /a/b/c}"),
        rule_for("suffix", "{hosts: ['*.com'], pathPrefix: /a/b}"),
        rule_for("longer-suffix", "{hosts: ['*.shop.com']}"),
        rule_for("exact", "{hosts: [api.shop.com], pathPrefix: /a}"),
        rule_for(
            "exact-get",
            "{hosts: [api.shop.com], pathPrefix: /a, methods: [GET]}",
        ),
        rule_for(
            "exact-post",
            "{hosts: [api.shop.com], pathPrefix: /a, methods: [POST], headers: [{name: x-b, exact: y}]}",
        ),
    ];
    for (host, path, expected) in [
        ("api.shop.com", "/a/b/c", "exact-get"),
        ("api.shop.com", "/other", "longer-suffix"),
        ("www.shop.com", "/a/b/c", "longer-suffix"),
        ("shop.com", "/a/b/c", "suffix"),
        ("shop.com", "/a/b", "suffix"),
        ("shop.org", "/a/b/c/d", "any-long"),
    ] {
        assert_eq!(
            routed_to(&rules, &Request::get(host, path)).as_deref(),
            Some(expected),
            "{host}{path}"
        );
    }
    assert_eq!(routed_to(&rules, &Request::get("shop.com", "/a")), None);
    let post = Request {
        method: b"POST".to_vec(),
        ..Request::get("api.shop.com", "/a")
    };
    assert_eq!(routed_to(&rules, &post).as_deref(), Some("exact"));
    assert_eq!(
        routed_to(&rules, &post.with("x-b", "y")).as_deref(),
        Some("exact-post")
    );
}

#[test]
fn an_exact_path_comes_before_the_prefix_of_its_length() {
    let rules = [
        rule_for("a-prefix", "{pathPrefix: /api/}"),
        rule_for("b-exact", "{path: /api}"),
    ];
    for (path, expected) in [
        ("/api", "b-exact"),
        ("/api?x=1", "b-exact"),
        ("/api/", "a-prefix"),
        ("/api/x", "a-prefix"),
    ] {
        assert_eq!(
            routed_to(&rules, &Request::get("a.com", path)).as_deref(),
            Some(expected),
            "{path}"
        );
    }
    assert_eq!(routed_to(&rules, &Request::get("a.com", "/apix")), None);
}

#[test]
fn names_decide_between_matches_that_only_overlap() {
    let rules = [
        rule_for("b", "{headers: [{name: x-b, present: true}]}"),
        rule_for("a", "{headers: [{name: X-A, present: true}]}"),
    ];
    let request = Request::get("a.com", "/").with("x-b", "1");
    assert_eq!(routed_to(&rules, &request).as_deref(), Some("b"));
    assert_eq!(routed_to(&rules, &request.with("x-a", "1")).as_deref(), Some("a"));
}

#[test]
fn the_first_value_of_a_header_counts_and_an_empty_one_is_absent() {
    let rules = [
        rule_for("absent", "{headers: [{name: x-b, present: false}]}"),
        rule_for("beta", "{headers: [{name: x-b, exact: beta}]}"),
        rule_for("any", "{headers: [{name: x-b, prefix: g}]}"),
    ];
    let get = || Request::get("a.com", "/");
    assert_eq!(routed_to(&rules, &get()).as_deref(), Some("absent"));
    assert_eq!(
        routed_to(&rules, &get().with("x-b", "")).as_deref(),
        Some("absent")
    );
    assert_eq!(
        routed_to(&rules, &get().with("x-b", "beta").with("x-b", "g")).as_deref(),
        Some("beta")
    );
    assert_eq!(
        routed_to(&rules, &get().with("x-b", "gamma").with("x-b", "beta")).as_deref(),
        Some("any")
    );
    assert_eq!(routed_to(&rules, &get().with("x-b", "Beta")), None);
}

#[test]
fn the_first_key_that_is_present_counts() {
    let chain = [
        KeySpec::Header("X-User-Id".to_owned()),
        KeySpec::Cookie("session".to_owned()),
        KeySpec::Query("uid".to_owned()),
        KeySpec::PeerSpiffeId {},
        KeySpec::RequestId {},
    ];
    let id = "5f2e8c1a-9b3d-4c7e-8a1f-0d2b4c6e8f90";
    let request = Request::get("a.com", "/p").with("x-request-id", id);
    let masked = id.replacen("4c7e", "0c7e", 1);
    let keyed = |request: &Request| keyed(&chain, request);
    assert_eq!(
        keyed(&request),
        (Some(4), Some(bucket("shop", masked.as_bytes())))
    );
    let request = request.with_peer("spiffe://example.org/web");
    assert_eq!(
        keyed(&request),
        (Some(3), Some(bucket("shop", b"spiffe://example.org/web")))
    );
    let request = Request {
        path: b"/p?a=1&uid=J%C3%BCrgen+M".to_vec(),
        ..request
    };
    assert_eq!(
        keyed(&request),
        (Some(2), Some(bucket("shop", "J\u{fc}rgen M".as_bytes())))
    );
    let request = request.with("cookie", "theme=dark; session=s1");
    assert_eq!(keyed(&request), (Some(1), Some(bucket("shop", b"s1"))));
    let empty = request.clone().with("x-user-id", "");
    assert_eq!(keyed(&empty), keyed(&request));
    let request = request.with("x-user-id", "alice");
    assert_eq!(keyed(&request), (Some(0), Some(bucket("shop", b"alice"))));
}

#[test]
fn the_peer_is_asked_only_when_its_turn_comes() {
    let rules = vec![RolloutRule {
        key: vec![KeySpec::Header("x-user-id".to_owned()), KeySpec::PeerSpiffeId {}],
        ..rule("shop")
    }];
    let policy = policy(rules);
    assert!(policy.reads_peer());
    let named = Request::get("a.com", "/")
        .with("x-user-id", "alice")
        .with_peer("spiffe://example.org/web");
    decide(&policy, &named);
    assert_eq!(named.peer_asked.get(), 0);
    let nameless = Request::get("a.com", "/").with_peer("spiffe://example.org/web");
    decide(&policy, &nameless);
    assert_eq!(nameless.peer_asked.get(), 1);
}

#[test]
fn without_a_key_stable_serves_even_at_full_weight() {
    let policy = policy(vec![RolloutRule {
        weight: Weight::FULL,
        ..rule("shop")
    }]);
    let Verdict::Routed(routed) = decide(&policy, &Request::get("a.com", "/")).verdict else {
        panic!("routed")
    };
    assert_eq!(
        (routed.variant, routed.bucket, routed.key),
        (Variant::Stable, None, None)
    );
    let named = Request::get("a.com", "/").with("x-user-id", "alice");
    let Verdict::Routed(routed) = decide(&policy, &named).verdict else {
        panic!("routed")
    };
    assert_eq!((routed.variant, routed.key), (Variant::Canary, Some(0)));
}

#[test]
fn the_salt_is_the_name_unless_it_is_given() {
    let salted = |salt: Option<&str>| {
        let policy = policy(vec![RolloutRule {
            salt: salt.map(str::to_owned),
            ..rule("shop")
        }]);
        let request = Request::get("a.com", "/").with("x-user-id", "alice");
        let verdict = decide(&policy, &request);
        verdict.routed().and_then(|routed| routed.bucket)
    };
    assert_eq!(salted(None), Some(bucket("shop", b"alice")));
    assert_eq!(salted(Some("pepper")), Some(bucket("pepper", b"alice")));
}

#[test]
fn a_caller_is_matched_by_its_id_or_by_whole_segments_of_its_path() {
    let rules = [
        rule_for(
            "shop",
            "{peers: ['spiffe://example.org/ns/shop/*', 'spiffe://example.org/ci']}",
        ),
        rule_for("domain", "{pathPrefix: /api, peers: ['spiffe://Example.org/*']}"),
        rule_for("everybody", "{pathPrefix: /api}"),
    ];
    let by = |path: &str, peer: &str| routed_to(&rules, &Request::get("a.com", path).with_peer(peer));
    for (path, peer, expected) in [
        ("/", "spiffe://example.org/ns/shop/sa/web", Some("shop")),
        ("/", "spiffe://example.org/ci", Some("shop")),
        ("/", "spiffe://example.org/ci/sub", None),
        ("/", "spiffe://example.org/ns/shop", None),
        ("/", "spiffe://example.org/ns/shopping/web", None),
        ("/", "spiffe://example.org/ns/shop/../admin", None),
        ("/", "spiffe://example.org.evil/ns/shop/web", None),
        ("/", "CN=spiffe://example.org/ci", None),
        // The path comes before the conditions.
        ("/api", "spiffe://example.org/ci", Some("domain")),
        ("/api", "spiffe://other.org/ci", Some("everybody")),
    ] {
        assert_eq!(by(path, peer).as_deref(), expected, "{path} {peer}");
    }
    assert_eq!(
        routed_to(&rules, &Request::get("a.com", "/api")).as_deref(),
        Some("everybody")
    );
    assert_eq!(routed_to(&rules, &Request::get("a.com", "/")), None);
}

#[test]
fn whom_a_rollout_does_not_admit_no_other_one_takes() {
    let policy = policy(vec![
        RolloutRule {
            admit: Some(admit(&["spiffe://example.org/ns/shop/*"])),
            ..rule_for("inner", "{pathPrefix: /api}")
        },
        rule("outer"),
    ]);
    let request = || Request::get("a.com", "/api").with("x-user-id", "alice");
    let of = |request: &Request| {
        let verdict = decide(&policy, request);
        let routed = verdict.routed().copied().expect("a rollout");
        (
            routed.rule.name.as_str(),
            verdict.admission(),
            routed.bucket.is_some(),
        )
    };
    let shop = request().with_peer("spiffe://example.org/ns/shop/web");
    assert_eq!(of(&shop), ("inner", Admission::Admitted, true));
    let other = request().with_peer("spiffe://example.org/ns/other/web");
    assert_eq!(of(&other), ("inner", Admission::Denied, true));
    assert_eq!(of(&request()), ("inner", Admission::Denied, true));
    let elsewhere = Request {
        path: b"/".to_vec(),
        ..request()
    };
    assert_eq!(of(&elsewhere), ("outer", Admission::Admitted, true));
    assert_eq!(elsewhere.peer_asked.get(), 0);
    assert!(policy.reads_peer());
}
