//! The long tests: `make soak`.
#![allow(clippy::expect_used)]

use std::time::Duration;

use knhk_tests::load::{Load, LoadOptions, Tally};
use knhk_tests::mesh::{FILTER, Mesh, NAME, RolloutFile};
use knhk_tests::rollout::Status;
use knhk_tests::wait;

const RESTARTS: u64 = 1_000;
/// Restarts after which Envoy and its VMs have taken what they need once: buffers, histograms, pools.
const SETTLED: u64 = 200;
/// What Envoy may grow by afterwards. A leaked stream holds some kilobytes at least, and there are three a restart.
const ALLOWED_GROWTH: u64 = 4 * 1024 * 1024;
const WAY: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half an hour: make soak"]
async fn a_thousand_restarts_under_open_streams_leak_nothing_and_fail_nothing() {
    let mut mesh = Mesh::start().await.expect("the mesh starts");
    let envoy = mesh.proxy(FILTER).await.expect("Envoy starts");
    mesh.apply(&RolloutFile::at(30.0)).await.expect("it is applied");
    mesh.rollouts()
        .until(NAME, "everywhere", wait::SOON, |status| {
            status.workers.connected > 0
        })
        .await
        .expect("streams");
    let load = Load::start(LoadOptions {
        rate: 200,
        users: 1_000,
        ..Mesh::load(&envoy)
    });
    let (mut settled, mut requests) = (None, 0);
    for restart in 1..=RESTARTS {
        mesh.service.kill();
        mesh.service.up().await.expect("it starts again on its data");
        mesh.rollouts()
            .until(NAME, "everywhere", WAY, Status::everywhere)
            .await
            .expect("the workers come back");
        let tally = load.take();
        requests += tally.answered();
        assert_eq!(
            (tally.failed(), tally.transport_errors),
            (0, 0),
            "restart {restart}: {:?}",
            tally.first_error
        );
        if restart == SETTLED {
            settled = Some(envoy.process().resident_bytes().expect("its memory"));
        }
    }
    let sticky = load.sticky();
    assert_eq!(
        (
            sticky.flips(),
            sticky.moved("v2", "v1") + sticky.moved("v1", "v2")
        ),
        (0, 0),
        "nobody moved"
    );
    assert!(requests > RESTARTS, "{requests} requests");
    let (settled, now) = (
        settled.expect("it was read"),
        envoy.process().resident_bytes().expect("its memory"),
    );
    let grown = now.saturating_sub(settled);
    let reconnects = envoy
        .stats()
        .await
        .expect("its stats")
        .filter("knhk_stream_reconnects");
    eprintln!(
        "{RESTARTS} restarts, {reconnects} streams opened again, {requests} requests: Envoy grew by {} kB after the first {SETTLED}, to {} kB",
        grown / 1024,
        now / 1024
    );
    assert!(
        reconnects >= RESTARTS,
        "streams were lost and opened again: {reconnects}"
    );
    assert!(grown <= ALLOWED_GROWTH, "Envoy grew by {grown} bytes");
    // And it still works: a change of the rollout reaches every worker.
    mesh.cli()
        .expect("the command line")
        .json(&["rollout", "abort", NAME])
        .await
        .expect("it is taken");
    let status = mesh
        .rollouts()
        .until(NAME, "everywhere", WAY, Status::everywhere)
        .await
        .expect("every worker has it");
    load.take();
    wait::until("traffic", WAY, || {
        let answered = load.peek(Tally::answered);
        async move {
            if answered > 100 {
                Ok(())
            } else {
                Err(format!("{answered}"))
            }
        }
    })
    .await
    .expect("traffic flows");
    let tally = load.finish().await;
    assert_eq!(
        tally.under(&status.policy),
        tally.version_under(&status.policy, "v1")
    );
}
