//! What one proxy sees of a snapshot: the rollouts that touch its hosts.
//!
//! For a request to one of its hosts a proxy decides by its view as it would by the whole snapshot: a rollout that is left
//! out matches no such host. So the view has the snapshot's number, and only its bytes are others.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use knhk_decision::{PolicyDoc, RolloutRule};
use knhk_identity::{HostPattern, Hosts};
use sha2::{Digest, Sha256};

use super::Snapshot;

/// Views of one snapshot that are kept. Proxies with the same hosts share one; past it a view is made each time.
const MAX_KEPT: usize = 64;

/// A part of a snapshot.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) sha256: [u8; 32],
    pub(crate) bytes: Bytes,
    /// Names of its rollouts; none where it has all of them.
    rollouts: Option<HashSet<String>>,
}

impl View {
    /// Whether whoever has this view may speak about a rollout.
    pub(crate) fn has(&self, rollout: &str) -> bool {
        self.rollouts.as_ref().is_none_or(|names| names.contains(rollout))
    }

    fn whole(snapshot: &Snapshot) -> Self {
        Self {
            sha256: snapshot.sha256,
            bytes: snapshot.bytes.clone(),
            rollouts: None,
        }
    }

    fn part(snapshot: &Snapshot, hosts: &Hosts) -> Self {
        let seen = snapshot.policy.rules().iter().filter(|rule| sees(hosts, rule));
        let rules: Vec<_> = seen.cloned().collect();
        let names = rules.iter().map(|rule| rule.name.clone()).collect();
        let document = PolicyDoc::new(snapshot.id, rules);
        let document = match &snapshot.flags {
            Some(flags) => document.with_flags(flags),
            None => document,
        };
        let bytes = document.to_bytes();
        Self {
            sha256: Sha256::digest(&bytes).into(),
            bytes: bytes.into(),
            rollouts: Some(names),
        }
    }
}

fn sees(hosts: &Hosts, rule: &RolloutRule) -> bool {
    let wanted: Result<Vec<HostPattern>, _> = rule.r#match.hosts.iter().map(|host| host.parse()).collect();
    // A host that could not be read would be nobody's.
    wanted.is_ok_and(|wanted| hosts.overlap(&wanted))
}

/// The views of one snapshot that somebody asked for.
#[derive(Debug, Default)]
pub(super) struct Views(Mutex<Vec<(Arc<Hosts>, Arc<View>)>>);

impl Snapshot {
    /// What a proxy with these hosts sees of it.
    pub(crate) fn view(&self, hosts: &Arc<Hosts>) -> Arc<View> {
        let mut kept = self.views.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |other: &Arc<Hosts>| Arc::ptr_eq(other, hosts) || other == hosts;
        if let Some((_, view)) = kept.iter().find(|(other, _)| same(other)) {
            return Arc::clone(view);
        }
        // No hosts are every host.
        let view = Arc::new(if hosts.cover(&[]) {
            View::whole(self)
        } else {
            View::part(self, hosts)
        });
        if kept.len() < MAX_KEPT {
            kept.push((Arc::clone(hosts), Arc::clone(&view)));
        }
        view
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knhk_decision::{Evidence, Facts, Policy, PolicyError, PolicyId, decide, evidence};
    use knhk_identity::{FilterRule, Roles, SpiffeId};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const PATTERNS: [&str; 5] = [
        "a.example",
        "b.example",
        "*.example",
        "*.b.example",
        "x.b.example",
    ];

    fn hosts(patterns: &[&str]) -> Arc<Hosts> {
        let rule = FilterRule {
            id: "spiffe://example.org/proxy".parse().expect("a pattern"),
            hosts: patterns
                .iter()
                .map(|text| text.parse().expect("a host"))
                .collect(),
        };
        let id = SpiffeId::new("spiffe://example.org/proxy").expect("an ID");
        Arc::new(Roles::new(vec![rule], []).hosts(&id).expect("a filter"))
    }

    fn parse(rules: &[(Vec<&str>, &str)]) -> Result<Snapshot, PolicyError> {
        let rules: Vec<Value> = rules
            .iter()
            .enumerate()
            .map(|(n, (hosts, path))| {
                json!({
                    "name": format!("r{n}"), "generation": 1, "window": n + 1,
                    "match": { "hosts": hosts, "pathPrefix": path },
                    "key": [{ "header": "x-user" }], "weight": 50.0, "stable": "v1", "canary": "v2",
                })
            })
            .collect();
        let document =
            json!({ "apiVersion": "knhk.dev/v1", "kind": "Policy", "epoch": 1, "n": 2, "rollouts": rules });
        Snapshot::parse(document.to_string())
    }

    fn snapshot(rules: &[(Vec<&str>, &str)]) -> Snapshot {
        parse(rules).expect("valid")
    }

    struct Request<'a> {
        host: &'a str,
        path: &'a str,
    }

    impl Facts for Request<'_> {
        fn method(&self) -> &[u8] {
            b"GET"
        }
        fn authority(&self) -> &[u8] {
            self.host.as_bytes()
        }
        fn path(&self) -> &[u8] {
            self.path.as_bytes()
        }
        fn header(&self, name: &str) -> Option<&[u8]> {
            (name == "x-user").then_some(b"carol")
        }
        fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
            std::iter::once((&b"x-user"[..], &b"carol"[..]))
        }
        fn unix_seconds(&self) -> i64 {
            1_795_000_000
        }
        fn peer_spiffe_id(&self) -> Option<knhk_decision::SpiffeId<'_>> {
            None
        }
    }

    fn decided(policy: &Policy, request: &Request<'_>) -> Evidence {
        evidence(policy, request, &decide(policy, request))
    }

    #[test]
    fn whoever_serves_every_host_sees_the_snapshot_itself() {
        let snapshot = snapshot(&[(vec!["a.example"], "/"), (vec![], "/x")]);
        let view = snapshot.view(&Arc::new(Hosts::every()));
        assert_eq!((&view.bytes, view.sha256), (&snapshot.bytes, snapshot.sha256));
        assert!(view.has("r0") && view.has("any"));
    }

    #[test]
    fn others_see_what_touches_their_hosts_and_share_it() {
        let snapshot = snapshot(&[(vec!["a.example"], "/"), (vec!["b.example"], "/"), (vec![], "/x")]);
        let view = snapshot.view(&hosts(&["a.example"]));
        assert!(view.has("r0") && !view.has("r1") && view.has("r2"), "{view:?}");
        let policy = Policy::parse(&view.bytes).expect("valid");
        assert_eq!(policy.id(), PolicyId { epoch: 1, n: 2 });
        assert!(Arc::ptr_eq(&view, &snapshot.view(&hosts(&["a.example"]))));
        assert!(!snapshot.view(&hosts(&["c.example"])).has("r0"));
    }

    #[test]
    fn a_view_has_the_flags_that_its_rollouts_ask_for_and_no_others() {
        let flag = |rule: Value| json!({ "state": "ENABLED", "variants": { "on": true, "off": false }, "defaultVariant": "off", "targeting": rule });
        let rule = |name: &str, host: &str, flag: &str| {
            json!({
                "name": name, "generation": 1, "window": 1, "match": { "hosts": [host], "flags": { flag: "on" } },
                "key": [{ "header": "x-user" }], "weight": 50.0, "stable": "v1", "canary": "v2",
            })
        };
        let document = json!({
            "apiVersion": "knhk.dev/v1", "kind": "Policy", "epoch": 1, "n": 2,
            "rollouts": [rule("a", "a.example", "mine"), rule("b", "b.example", "theirs")],
            "flags": {
                "flags": {
                    "mine": flag(json!({ "if": [{ "$ref": "carol" }, "on"] })),
                    "theirs": flag(json!({ "if": [{ "$ref": "staff" }, "on"] })),
                },
                "$evaluators": {
                    "carol": { "==": [{ "var": "headers.x-user" }, "carol"] },
                    "staff": { "in": [{ "var": "headers.x-user" }, ["dave"]] },
                },
            },
        });
        let snapshot = Snapshot::parse(document.to_string()).expect("valid");
        let view = snapshot.view(&hosts(&["a.example"]));
        let text = String::from_utf8_lossy(&view.bytes);
        assert!(text.contains("mine") && text.contains("carol"), "{text}");
        assert!(
            !text.contains("theirs") && !text.contains("staff") && !text.contains("dave"),
            "{text}"
        );
        let view = Policy::parse(&view.bytes).expect("valid");
        let request = Request {
            host: "a.example",
            path: "/",
        };
        let seen = decided(&view, &request);
        assert_eq!(seen, decided(&snapshot.policy, &request));
        assert_eq!(seen.flags.len(), 1);
        assert!(seen.rollout.is_some());
        let nobody = snapshot.view(&hosts(&["c.example"]));
        assert!(!String::from_utf8_lossy(&nobody.bytes).contains("flags"));
    }

    proptest! {
        /// For its hosts a proxy decides, and testifies, as if it had the whole snapshot.
        #[test]
        fn a_view_decides_as_the_whole(
            rules in prop::collection::btree_set((prop::sample::subsequence(PATTERNS.to_vec(), 0..3), prop::sample::select(vec!["/", "/p", "/p/q"])), 0..6),
            mine in prop::sample::subsequence(PATTERNS.to_vec(), 1..3),
            host in prop::sample::select(vec!["a.example", "b.example", "x.b.example", "y.b.example", "c.example"]),
            path in prop::sample::select(vec!["/", "/p/q/r", "/p", "/z"]),
        ) {
            let rules: Vec<_> = rules.into_iter().collect();
            let mine = hosts(&mine);
            prop_assume!(mine.holds(host));
            // Rules that shadow each other are refused.
            let parsed = parse(&rules);
            prop_assume!(parsed.is_ok());
            let snapshot = parsed.expect("valid");
            let view = Policy::parse(&snapshot.view(&mine).bytes).expect("valid");
            let request = Request { host, path };
            prop_assert_eq!(decided(&view, &request), decided(&snapshot.policy, &request));
        }
    }
}
