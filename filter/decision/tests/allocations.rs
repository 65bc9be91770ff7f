//! A decision allocates nothing, whatever the request looks like: in a filter that is most of what it could cost.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use knhk_decision::spec::{AdmitSpec, KeySpec, MatchSpec, Record, Weight};
use knhk_decision::{Facts, Policy, PolicyDoc, PolicyId, RolloutRule, SpiffeId, Verdict, decide};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u32> = const { Cell::new(0) };
}

// SAFETY: all is passed on to the system's allocator; the count is a plain number of this thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Request {
    authority: &'static str,
    path: &'static str,
    header: (&'static str, String),
    peer: Option<&'static str>,
}

impl Facts for Request {
    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn authority(&self) -> &[u8] {
        self.authority.as_bytes()
    }

    fn path(&self) -> &[u8] {
        self.path.as_bytes()
    }

    fn header(&self, lower_case_name: &str) -> Option<&[u8]> {
        (lower_case_name == self.header.0).then_some(self.header.1.as_bytes())
    }

    fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        std::iter::once((self.header.0.as_bytes(), self.header.1.as_bytes()))
    }

    fn unix_seconds(&self) -> i64 {
        1_795_000_000
    }

    fn peer_spiffe_id(&self) -> Option<SpiffeId<'_>> {
        SpiffeId::parse(self.peer?)
    }
}

fn policy() -> Policy {
    let rule = |i: u32, host: &str| RolloutRule {
        name: format!("r{i}"),
        generation: 1,
        window: 1,
        salt: None,
        r#match: MatchSpec {
            hosts: vec![host.to_owned()],
            path_prefix: Some("/api/v1".to_owned()),
            methods: vec!["GET".to_owned()],
            ..MatchSpec::default()
        },
        admit: None,
        staging: None,
        key: vec![
            KeySpec::Header("x-user-id".to_owned()),
            KeySpec::Cookie("session".to_owned()),
            KeySpec::Query("u id".to_owned()),
            KeySpec::PeerSpiffeId {},
            KeySpec::RequestId {},
        ],
        weight: Weight::FULL,
        stable: "v1".to_owned(),
        canary: "v2".to_owned(),
        flags: Vec::new(),
        record: Record::None,
        thresholds: Vec::new(),
        outcomes: Vec::new(),
    };
    let peers = || vec!["spiffe://example.org/ns/shop/*".to_owned()];
    let mut guarded = rule(3, "guarded.com");
    guarded.r#match.peers = peers();
    guarded.admit = Some(AdmitSpec { peers: peers() });
    let rules = vec![rule(1, "shop.com"), rule(2, "*.shop.com"), guarded];
    Policy::compile(PolicyDoc::new(PolicyId::default(), rules)).expect("a policy")
}

#[test]
fn a_decision_allocates_nothing() {
    let policy = policy();
    let user = || ("x-user-id", "alice".to_owned());
    for (authority, path, header) in [
        ("shop.com", "/api/v1/users?a=b", user()),
        ("SHOP.com:8443", "/api/v1/users", user()),
        ("a.b.c.Shop.com", "/api/v1", user()),
        ("shop.com", "/api/v1", ("x-user-id", "long".repeat(5000))),
        (
            "shop.com",
            "/api/v1",
            ("cookie", "a=b; session=\"s1\"".to_owned()),
        ),
        ("shop.com", "/api/v1?u+id=%41+b", ("none", String::new())),
        (
            "shop.com",
            "/api/v1",
            ("x-request-id", "5f2e8c1a-9b3d-4c7e-8a1f-0d2b4c6e8f90".to_owned()),
        ),
        ("shop.com", "/elsewhere", user()),
        ("guarded.com", "/api/v1", user()),
    ] {
        let request = Request {
            authority,
            path,
            header,
            peer: Some("spiffe://example.org/ns/shop/sa/web"),
        };
        let before = ALLOCATIONS.get();
        let verdict = black_box(decide(&policy, &request));
        assert_eq!(ALLOCATIONS.get(), before, "{authority}{path}");
        let routed = matches!(verdict.verdict, Verdict::Routed(routed) if routed.bucket.is_some());
        assert_eq!(routed, path != "/elsewhere", "{authority}{path}");
    }
    let before = ALLOCATIONS.get();
    drop(black_box(vec![1, 2, 3]));
    assert_eq!(ALLOCATIONS.get(), before + 1, "the count counts");
}
