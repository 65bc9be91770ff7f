//! What a proxy reports is taken for its own hosts only, and names the whole policy.

use std::sync::Arc;

use knhk_decision::PolicyId;
use knhk_identity::{FilterRule, Roles, SpiffeId};
use knhk_proto::v1;
use knhk_receipts::Payload;

use super::{Running, SPEC};
use crate::app::proxies::Proxy;
use crate::app::recorder::{Batch, Reporter};

const ID: &str = "spiffe://example.org/ns/shop/sa/web";

fn shop() -> Reporter {
    let rule = FilterRule {
        id: ID.parse().expect("a pattern"),
        hosts: vec!["shop.example.com".parse().expect("a host")],
    };
    let id = SpiffeId::new(ID).expect("an ID");
    Reporter {
        node: "web-1".into(),
        nonce: [7; 16],
        proxy: Arc::new(Proxy {
            identity: Some(ID.into()),
            hosts: Arc::new(Roles::new(vec![rule], []).hosts(&id).expect("a filter")),
        }),
    }
}

fn decision(host: &str, policy: PolicyId, sha256: [u8; 32]) -> v1::Decision {
    v1::Decision {
        policy: Some(v1::SnapshotId {
            epoch: policy.epoch,
            n: policy.n,
        }),
        method: "GET".into(),
        host: host.into(),
        path_sha256: vec![0; 32],
        status: 200,
        policy_sha256: sha256.into(),
        ..v1::Decision::default()
    }
}

#[tokio::test]
async fn decisions_for_its_hosts_name_the_whole_policy_and_those_for_others_are_left_out() {
    let data = tempfile::tempdir().expect("a directory");
    let running = Running::start(data.path()).await;
    running.apply(SPEC).await.expect("applied");
    let app = &running.app;
    let (reporter, newest) = (shop(), app.snapshots.newest());
    let view = newest.view(&reporter.proxy.hosts);
    assert_ne!(
        view.sha256, newest.sha256,
        "it does not see the rollout of another host"
    );

    let from = app.log.size();
    let batch = Batch::try_from(v1::DecisionBatch {
        first: 1,
        decisions: vec![
            decision("shop.example.com", newest.id, view.sha256),
            decision("checkout.example.com", newest.id, view.sha256),
            decision("shop.example.com", newest.id, [9; 32]),
        ],
    });
    let through = app
        .recorder
        .record_batch(&reporter, batch.expect("in range"))
        .await
        .expect("recorded");
    assert_eq!(through, 3, "what is left out is not sent again");
    let recorded: Vec<_> = app
        .log
        .scan(from)
        .filter_map(|entry| match entry.expect("readable").1 {
            Payload::Decision(decision) => Some(decision),
            _ => None,
        })
        .collect();
    let seen: Vec<_> = recorded
        .iter()
        .map(|decision| (decision.reporter.seq, decision.policy_sha256))
        .collect();
    assert_eq!(seen, [(Some(1), newest.sha256), (Some(3), [9; 32])]);
    assert!(
        recorded
            .iter()
            .all(|decision| decision.reporter.identity.as_deref() == Some(ID))
    );
    assert!(
        app.expose_metrics()
            .contains("knhk_decisions_of_others_total 1\n"),
        "it is counted"
    );
}
