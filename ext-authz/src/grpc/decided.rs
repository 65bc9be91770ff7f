//! The decision over one request, as `ext_authz` and `ext_proc` both make it: by the filter's own code.

use std::sync::Arc;

use knhk_decision::headers::POLICY;
use knhk_decision::{Admission, Facts, PolicyId, decide, evidence, is_sampled};
use knhk_telemetry::ServiceMetrics;

use super::headers::Headers;
use super::route_options::RecordWhen;
use crate::app::recorder::CheckedDecision;
use crate::app::snapshots::{Snapshot, Snapshots};

/// What was decided about a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Decided {
    pub(super) headers: Headers,
    pub(super) admission: Admission,
    /// None where the route asks for no record of it.
    pub(super) record: Option<CheckedDecision>,
}

impl Decided {
    /// Decides a request that has these facts at `wall_ms`. `draw` is asked when chance picks a sample.
    pub(super) fn of(
        snapshots: &Snapshots,
        metrics: &ServiceMetrics,
        facts: &impl Facts,
        record: RecordWhen,
        wall_ms: u64,
        draw: impl FnOnce() -> [u8; 16],
    ) -> Self {
        let snapshot = snapshot_for(snapshots, facts);
        let decision = decide(&snapshot.policy, facts);
        metrics.flags_failed(decision.flags_failed());
        let admission = decision.admission();
        let record = is_recorded(record, admission, facts, draw).then(|| CheckedDecision {
            time_unix_ms: wall_ms,
            policy: snapshot.id,
            policy_sha256: snapshot.sha256,
            evidence: evidence(&snapshot.policy, facts, &decision),
        });
        Self {
            headers: Headers::of(&snapshot, &decision),
            admission,
            record,
        }
    }
}

/// Milliseconds since the Unix epoch in whole seconds, as flags have the time.
pub(super) fn seconds(wall_ms: u64) -> i64 {
    i64::try_from(wall_ms / 1000).unwrap_or(i64::MAX)
}

/// The snapshot by which the filter before us decided, else the newest.
fn snapshot_for(snapshots: &Snapshots, facts: &impl Facts) -> Arc<Snapshot> {
    facts
        .header(POLICY)
        .and_then(|name| std::str::from_utf8(name).ok())
        .and_then(|name| name.parse::<PolicyId>().ok())
        .and_then(|id| snapshots.named(id))
        .unwrap_or_else(|| snapshots.newest())
}

/// As in the filter, a request without an ID is in a sample by chance: `draw` gives it one.
fn is_recorded(
    record: RecordWhen,
    admission: Admission,
    facts: &impl Facts,
    draw: impl FnOnce() -> [u8; 16],
) -> bool {
    match record {
        RecordWhen::Always => true,
        RecordWhen::Never => false,
        RecordWhen::Denials => admission == Admission::Denied,
        RecordWhen::Sample(share) => match facts.header("x-request-id").filter(|id| !id.is_empty()) {
            Some(id) => is_sampled(share, id),
            None => is_sampled(share, &draw()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knhk_decision::PolicyDoc;
    use knhk_decision::SpiffeId;
    use knhk_decision::spec::Weight;
    use serde_json::json;

    struct Nothing;

    impl Facts for Nothing {
        fn method(&self) -> &[u8] {
            b""
        }
        fn authority(&self) -> &[u8] {
            b""
        }
        fn path(&self) -> &[u8] {
            b""
        }
        fn header(&self, _: &str) -> Option<&[u8]> {
            None
        }
        fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
            std::iter::empty()
        }
        fn unix_seconds(&self) -> i64 {
            0
        }
        fn peer_spiffe_id(&self) -> Option<SpiffeId<'_>> {
            None
        }
    }

    #[test]
    fn a_request_without_an_id_is_in_a_sample_by_chance() {
        let sampled = |share, draw| {
            let record = RecordWhen::Sample(share);
            is_recorded(record, Admission::Admitted, &Nothing, move || draw)
        };
        let half = Weight::from_percent(50.0).expect("in range");
        assert!(sampled(Weight::FULL, [0; 16]) && !sampled(Weight::ZERO, [0; 16]));
        let drawn = (0..=255).filter(|byte| sampled(half, [*byte; 16])).count();
        assert!((90..=166).contains(&drawn), "{drawn}");
    }

    #[test]
    fn of_denials_and_nothing_else_there_is_a_record_where_the_route_says_so() {
        let recorded = |record, admission| is_recorded(record, admission, &Nothing, || [0; 16]);
        assert!(recorded(RecordWhen::Denials, Admission::Denied));
        assert!(!recorded(RecordWhen::Denials, Admission::Admitted));
        assert!(!recorded(RecordWhen::Never, Admission::Denied));
        assert!(recorded(RecordWhen::Always, Admission::Denied));
    }

    #[test]
    fn flags_that_fail_are_counted() {
        let failing = json!({ "state": "ENABLED", "variants": { "on": true }, "targeting": { "if": [{ "/": [1, 0] }, "on"] } });
        let document: PolicyDoc = serde_json::from_value(json!({
            "apiVersion": "knhk.dev/v1", "kind": "Policy", "epoch": 1, "n": 1,
            "rollouts": [{
                "name": "shop", "generation": 1, "window": 1, "weight": 5, "stable": "v1", "canary": "v2",
                "match": {}, "key": [ { "requestId": {} } ], "flags": ["broken"],
            }],
            "flags": { "flags": { "broken": failing } },
        }))
        .expect("a policy");
        let snapshot = Arc::new(Snapshot::parse(document.to_bytes()).expect("it compiles"));
        let (snapshots, metrics) = (Snapshots::new(snapshot, []), ServiceMetrics::new("test"));
        for _ in 0..2 {
            Decided::of(&snapshots, &metrics, &Nothing, RecordWhen::Never, 0, || [0; 16]);
        }
        let exposed = metrics.expose();
        assert!(
            exposed.contains("knhk_decisions_flags_failed_total 2\n"),
            "{exposed}"
        );
    }
}
