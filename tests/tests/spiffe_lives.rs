//! A service and its SPIRE: which of them comes first, what happens while the agent is away, and when its authority changes.
#![allow(clippy::expect_used)]

use std::time::Duration;

use knhk_tests::cli::{Cli, Credentials};
use knhk_tests::service::Service;
use knhk_tests::spiffe::{Cast, DEPLOYER, HOUR, SERVICE};
use knhk_tests::{artifacts, wait};
use serde_json::Value;

/// How long a test waits for what SPIRE does within seconds.
const LATEST: Duration = Duration::from_secs(60);

/// A service that has not been started, and knows everyone of this cast.
fn service_of(cast: &Cast) -> Service {
    let mut service = Service::stopped().expect("a service");
    service.identify_by(cast.identities());
    service
}

/// Waits until its probe says that it is ready, or not, with this in its words.
async fn until_ready(service: &Service, ready: bool, part: &str) -> String {
    let what = format!("ready: {ready}, `{part}`");
    let seen = wait::until(&what, LATEST, || async {
        match service.readiness().await {
            Ok((is, said)) if is == ready && said.contains(part) => Ok(said),
            Ok((is, said)) => Err(format!("ready: {is}, {said}")),
            Err(error) => Err(error.to_string()),
        }
    });
    seen.await.expect("it comes")
}

async fn identity(cli: &Cli) -> Value {
    cli.json(&["identity", "show"]).await.expect("its identity")
}

async fn until_identity(cli: &Cli, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let holds = &holds;
    let seen = wait::until(what, LATEST, || async move {
        let status = cli
            .json(&["identity", "show"])
            .await
            .map_err(|error| error.to_string())?;
        if holds(&status) {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    });
    seen.await.expect("it comes")
}

#[tokio::test]
async fn a_service_that_starts_before_its_entry_waits_for_it_and_goes_on() {
    let cast = Cast::without_entries().await.expect("SPIRE");
    let mut service = service_of(&cast);
    service.launch().expect("it starts");
    let said = until_ready(&service, false, "create a registration entry").await;
    assert!(said.contains("no valid SVID"), "{said}");

    // On its own machine it says so too, and takes nothing but questions.
    let local = service.local_cli().expect("a command line");
    let status = identity(&local).await;
    assert_eq!(status["svid"], Value::Null);
    assert_eq!(status["readiness"]["state"], "fails");
    let shown = local.text(&["identity", "show"]).await.expect("its identity");
    assert!(
        shown.starts_with("no SVID\n") && shown.contains("NOT READY: no valid SVID"),
        "{shown}"
    );
    let written = local.run(&["rollout", "abort", "shop"]).await.expect("it runs");
    assert_eq!(written.code, 1);
    assert!(
        written.stderr.contains("SPIFFE") && !written.stderr.contains('\n'),
        "{}",
        written.stderr
    );

    cast.register(HOUR).expect("entries");
    until_ready(&service, true, "").await;
    let status = identity(&local).await;
    assert_eq!(status["svid"]["spiffe_id"], cast.spire.id(SERVICE));
    let operator = service.cli().expect("a command line");
    assert_eq!(
        identity(&operator).await["svid"]["serial"],
        status["svid"]["serial"],
        "over mutual TLS as over the socket"
    );
    let shown = operator.text(&["identity", "show"]).await.expect("its identity");
    let serial = status["svid"]["serial"].as_str().expect("a serial number");
    for part in [serial, "example.org", "connected", "left", "ready"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[tokio::test]
async fn an_agent_that_restarts_costs_nothing() {
    let mut cast = Cast::start(HOUR).await.expect("SPIRE");
    let mut service = service_of(&cast);
    service.up().await.expect("it is ready");
    let operator = service.cli().expect("a command line");
    let serial = identity(&operator).await["svid"]["serial"].clone();
    cast.spire.kill_agent();
    let away = until_identity(&operator, "the stream breaks", |status| {
        status["source"]["connected"] == false
    })
    .await;
    assert_eq!(away["svid"]["serial"], serial);
    assert!(
        service.readiness().await.expect("an answer").0,
        "it is ready all the same"
    );
    cast.spire.start_agent().await.expect("it starts again");
    until_identity(&operator, "the stream is back", |status| {
        status["source"]["connected"] == true
    })
    .await;
    let (ready, said) = service.readiness().await.expect("an answer");
    assert!(ready, "{said}");
}

#[tokio::test]
async fn an_agent_that_is_gone_for_longer_than_the_svid_lives() {
    let mut cast = Cast::start(Duration::from_secs(12)).await.expect("SPIRE");
    let mut service = service_of(&cast);
    service.up().await.expect("it is ready");
    let (operator, local) = (
        service.cli().expect("a command line"),
        service.local_cli().expect("a command line"),
    );
    identity(&operator).await;
    cast.spire.kill_agent();
    let said = until_ready(&service, false, "has expired").await;
    assert!(
        said.contains(&cast.spire.id(SERVICE)) && said.contains("start the SPIRE agent"),
        "{said}"
    );

    let shown = local
        .text(&["identity", "show"])
        .await
        .expect("the socket answers");
    assert!(
        shown.contains("expired") && shown.contains("NOT READY"),
        "{shown}"
    );
    let refused = operator.run(&["identity", "show"]).await.expect("it runs");
    assert_eq!(refused.code, 1, "nobody is served without an SVID");
    assert!(!refused.stderr.contains('\n'), "{}", refused.stderr);

    cast.spire.start_agent().await.expect("it starts again");
    until_ready(&service, true, "").await;
    identity(&operator).await;
}

#[tokio::test]
async fn the_servers_authority_is_rotated() {
    let cast = Cast::start(HOUR).await.expect("SPIRE");
    let mut service = service_of(&cast);
    service.up().await.expect("it is ready");
    let (local, before) = (
        service.local_cli().expect("a command line"),
        service.cli().expect("a command line"),
    );
    let first = identity(&before).await;
    let old = cast.spire.rotate_authority().expect("a new authority");
    let other = |status: &Value| status["svid"]["serial"] != first["svid"]["serial"];
    until_identity(&local, "an SVID of the new authority", other).await;

    // The operator's own bundle is a file of before: it does not know the new authority, and says so.
    let refused = before.run(&["identity", "show"]).await.expect("it runs");
    assert!(
        refused.code == 1
            && refused
                .stderr
                .contains("is not signed by an authority of its trust domain"),
        "{}",
        refused.stderr
    );
    let fresh = cast.somebody(DEPLOYER).expect("an SVID of the new authority");
    let after = service.cli_as(&fresh).expect("a command line");
    let rotations = identity(&after).await["rotations"].as_u64().expect("a count");

    cast.spire.revoke_authority(&old).expect("it was tainted");
    until_identity(&local, "the old authority is forgotten", |status| {
        status["rotations"].as_u64() > Some(rotations)
    })
    .await;
    identity(&after).await;
    let (ready, said) = service.readiness().await.expect("an answer");
    assert!(ready, "{said}");
}

#[tokio::test]
async fn an_operator_may_have_an_svid_of_the_workload_api() {
    let cast = Cast::start(HOUR).await.expect("SPIRE");
    let mut service = service_of(&cast);
    service.up().await.expect("it is ready");
    let program = service.directory().join("knhk-operator");
    std::fs::copy(artifacts::knhk().expect("knhk"), &program).expect("a copy");
    cast.enroll(DEPLOYER, &program, HOUR).expect("an entry");
    let operator = Credentials::WorkloadApi {
        program: program.clone(),
        address: cast.spire.endpoint(),
    };
    // The entry is new, so the first answer may be that there is none: it is waited for.
    let operator = service.cli_as(&operator).expect("a command line");
    assert_eq!(
        identity(&operator).await["svid"]["spiffe_id"],
        cast.spire.id(SERVICE)
    );
    let named = operator.clone().with("--server-id", &cast.spire.id(SERVICE));
    identity(&named).await;

    // The very program of the service has the service's identity, which has no role.
    let service_itself = Credentials::WorkloadApi {
        program: artifacts::knhk().expect("knhk"),
        address: cast.spire.endpoint(),
    };
    for (cli, parts) in [
        (
            operator.with("--server-id", "spiffe://example.org/somebody-else"),
            ["spiffe://example.org/knhk is not allowed here", "--server-id"],
        ),
        (
            service.cli_as(&service_itself).expect("a command line"),
            ["as spiffe://example.org/knhk", "spiffe.allow"],
        ),
    ] {
        let refused = cli.run(&["identity", "show"]).await.expect("it runs");
        assert_eq!(refused.code, 1);
        for part in parts {
            assert!(
                refused.stderr.contains(part) && !refused.stderr.contains('\n'),
                "{}",
                refused.stderr
            );
        }
    }
}
