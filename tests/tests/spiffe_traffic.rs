//! Traffic through a real Envoy with the filter and `ext_authz`, all of it over mutual TLS, while every certificate is renewed.
#![allow(clippy::expect_used)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use knhk_tests::envoy::{Envoy, EnvoyOptions};
use knhk_tests::load::{Load, LoadOptions};
use knhk_tests::mesh::{BOTH, Mesh, NAME, RolloutFile};
use knhk_tests::spiffe::{Cast, PROXY};
use knhk_tests::wait;
use serde_json::json;
use tokio::time::Instant;

/// How long one rotation is waited for. SPIRE renews at half of a life.
const A_ROTATION: Duration = Duration::from_secs(60);
/// Requests of one connection of Envoy's to the service, so that there are handshakes at all times, before a rotation, in it
/// and after.
const REQUESTS_OF_A_CONNECTION: u32 = 50;

/// What was seen over the rotations.
struct Seen {
    requests: u64,
    service: BTreeSet<String>,
    proxy: BTreeSet<String>,
    handshakes: u64,
}

/// Runs traffic until the certificates of the service and of Envoy were renewed so often, and for so long at least. No request
/// may fail, no Check and no handshake.
async fn traffic_over_rotations(ttl: Duration, rotations: usize, at_least: Duration) -> Seen {
    let cast = Cast::start(ttl).await.expect("SPIRE");
    let mut mesh = Mesh::without_service().await.expect("the mesh");
    mesh.service.identify_by(cast.identities());
    mesh.service.up().await.expect("it is ready");
    mesh.apply(&RolloutFile::at(30.0)).await.expect("it is applied");
    let mut config = mesh.config(BOTH).expect("a configuration");
    config.make_patient().expect("it has ext_authz");
    let options = &mut config.cluster("knhk").expect("the service")["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    options["common_http_protocol_options"] =
        json!({ "max_requests_per_connection": REQUESTS_OF_A_CONNECTION });
    let envoy = Envoy::start(config, EnvoyOptions::default())
        .await
        .expect("Envoy takes its certificate from SPIRE");
    mesh.until_current(&envoy, NAME)
        .await
        .expect("the policy is everywhere");

    let load = Load::start(LoadOptions {
        rate: 200,
        users: 1_000,
        ..Mesh::load(&envoy)
    });
    let (service, proxy) = (
        RefCell::<BTreeSet<String>>::default(),
        RefCell::<BTreeSet<String>>::default(),
    );
    let began = Instant::now();
    let patience = at_least + A_ROTATION * u32::try_from(rotations).expect("few");
    wait::until("the rotations", patience, || async {
        let status = mesh.service.identity().await.map_err(|error| error.to_string())?;
        let held = envoy.certificates().await.map_err(|error| error.to_string())?;
        let (mut service, mut proxy) = (service.borrow_mut(), proxy.borrow_mut());
        service.extend(status["svid"]["serial"].as_str().map(str::to_owned));
        proxy.extend(held.into_iter().map(|each| each.serial));
        if service.len() > rotations && proxy.len() > rotations && began.elapsed() >= at_least {
            Ok(())
        } else {
            Err(format!("{service:?} and {proxy:?}"))
        }
    })
    .await
    .expect("both are renewed");

    let tally = load.finish().await;
    assert_eq!(
        (tally.failed(), tally.transport_errors),
        (0, 0),
        "no request fails: {:?}",
        tally.first_error
    );
    let stats = envoy.stats().await.expect("its stats");
    assert_eq!(stats.get("cluster.knhk.upstream_cx_connect_fail"), 0);
    assert_eq!(stats.get("cluster.knhk.ssl.fail_verify_error"), 0);
    assert_eq!(stats.get("cluster.knhk.ssl.fail_verify_san"), 0);
    let mut handshakes = 0;
    for outcome in ["full", "resumed"] {
        let counted = mesh
            .service
            .counted("knhk_tls_handshakes_total", &["server", outcome])
            .await;
        handshakes += counted.expect("its metrics");
    }
    let all = mesh
        .service
        .counted("knhk_tls_handshakes_total", &["server"])
        .await;
    assert_eq!(all.expect("its metrics"), handshakes, "no handshake fails");
    let refused = mesh.service.counted("knhk_svid_updates_refused_total", &[]).await;
    assert_eq!(refused.expect("its metrics"), 0);
    let held = envoy.certificates().await.expect("its certificates");
    assert!(
        held.iter().all(|each| each.spiffe_id == cast.spire.id(PROXY)),
        "{held:?}"
    );
    Seen {
        requests: tally.answered(),
        service: service.into_inner(),
        proxy: proxy.into_inner(),
        handshakes,
    }
}

fn judge(seen: &Seen, rotations: usize) {
    let Seen {
        requests,
        service,
        proxy,
        handshakes,
    } = seen;
    assert!(service.len() > rotations && proxy.len() > rotations);
    assert!(
        *handshakes > u64::try_from(rotations).expect("few"),
        "{handshakes} handshakes"
    );
    eprintln!(
        "{requests} requests and {handshakes} handshakes over {} certificates of the service and {} of Envoy",
        service.len(),
        proxy.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_rotation_under_traffic_fails_no_request_and_no_check() {
    let seen = traffic_over_rotations(Duration::from_secs(20), 1, Duration::ZERO).await;
    judge(&seen, 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "two minutes: make soak"]
async fn rotations_under_two_minutes_of_traffic_fail_no_request_and_no_check() {
    let seen = traffic_over_rotations(Duration::from_secs(30), 3, Duration::from_secs(125)).await;
    judge(&seen, 3);
}
