//! Who gets in at the service's listeners, who does not, and what each is told.
#![allow(clippy::expect_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use knhk_identity::testing::{Authority, Svid};
use knhk_tests::cli::{Cli, Credentials};
use knhk_tests::gate::{connect, connect_as, connector};
use knhk_tests::peer::spire::{Minted, Spire};
use knhk_tests::service::Service;
use knhk_tests::spiffe::{AUDITOR, Cast, DEPLOYER, HOUR, PROXY};
use knhk_tests::{handshake, wait};
use rustls::AlertDescription;
use serde_json::Value;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// How long a test waits for what comes within seconds.
const LATEST: Duration = Duration::from_secs(60);
/// An ID of the right trust domain that `spiffe.allow` does not name.
const STRANGER: &str = "/ns/test/web";

async fn service_of(cast: &Cast) -> Service {
    let mut service = Service::stopped().expect("a service");
    service.identify_by(cast.identities());
    service.up().await.expect("it is ready");
    service
}

fn mint(spire: &Spire, path: &str) -> Svid {
    spire.mint(path, HOUR).expect("minted").svid().expect("an SVID")
}

/// Shows this certificate to both listeners, and gives the alert of both.
async fn alert_of_both(service: &Service, shown: Option<&Svid>) -> AlertDescription {
    let addresses = service.addresses();
    let mut alerts = Vec::new();
    for address in [addresses.grpc, addresses.http] {
        let asked = handshake::ask_with(shown, &address.to_string()).await;
        alerts.push(asked.expect("an answer or an alert").expect_err("it is refused"));
    }
    assert_eq!(alerts[0], alerts[1], "both listeners say the same");
    alerts[0]
}

/// Waits until so many handshakes have ended so: a client is told before the service counts it.
async fn until_counted(service: &Service, outcome: &str, wanted: u64) {
    let seen = wait::until(outcome, LATEST, || async {
        let labels = ["server", outcome];
        let counted = service.counted("knhk_tls_handshakes_total", &labels).await;
        match counted.map_err(|error| error.to_string())? {
            counted if counted == wanted => Ok(()),
            counted => Err(format!("{counted}")),
        }
    });
    seen.await.expect("each is counted once");
}

/// Refusals that the log has, newest first: who and what.
async fn refusals(auditor: &Cli) -> Result<Vec<Value>, String> {
    let list = auditor
        .json(&["receipt", "list", "--kind", "action", "--limit", "1000"])
        .await
        .map_err(|error| error.to_string())?;
    let rows = list["receipts"].as_array().cloned().unwrap_or_default();
    let is_refusal = |row: &Value| {
        row["summary"]
            .as_str()
            .is_some_and(|summary| summary.starts_with("access.refused"))
    };
    Ok(rows.into_iter().filter(is_refusal).collect())
}

async fn until_recorded(auditor: &Cli, parts: &[&str]) -> Value {
    let what = format!("a receipt with {parts:?}");
    let found = wait::until(&what, LATEST, || async {
        let rows = refusals(auditor).await?;
        let has = |row: &&Value| {
            let summary = row["summary"].as_str().unwrap_or_default();
            parts.iter().all(|part| summary.contains(part))
        };
        rows.iter().find(has).cloned().ok_or_else(|| format!("{rows:?}"))
    });
    found.await.expect("it is recorded")
}

#[tokio::test]
async fn bad_peers_are_refused_in_the_handshake_each_with_its_alert() {
    let (cast, abroad) = tokio::join!(Cast::start(HOUR), Spire::start("abroad.org"));
    let (cast, abroad) = (cast.expect("SPIRE"), abroad.expect("SPIRE"));
    let service = service_of(&cast).await;
    let http = service.addresses().http.to_string();
    let good = mint(&cast.spire, DEPLOYER);
    handshake::ask_with(Some(&good), &http)
        .await
        .expect("an answer")
        .expect("a good one gets in");

    let forged = Authority::new("example.org").forged(DEPLOYER);
    for (outcome, alert, shown) in [
        ("no_certificate", AlertDescription::CertificateRequired, None),
        (
            "unknown_trust_domain",
            AlertDescription::UnknownCA,
            Some(mint(&abroad, DEPLOYER)),
        ),
        (
            "not_allowed",
            AlertDescription::AccessDenied,
            Some(mint(&cast.spire, STRANGER)),
        ),
        ("untrusted", AlertDescription::UnknownCA, Some(forged)),
    ] {
        assert_eq!(alert_of_both(&service, shown.as_ref()).await, alert, "{outcome}");
        until_counted(&service, outcome, 2).await;
    }

    // Good for a second, and then not.
    let short = cast
        .spire
        .mint(DEPLOYER, Duration::from_secs(1))
        .expect("minted")
        .svid()
        .expect("an SVID");
    let expired = wait::until("it ends", LATEST, || async {
        let asked = handshake::ask_with(Some(&short), &http).await;
        match asked.map_err(|error| error.to_string())? {
            Err(alert) => Ok(alert),
            Ok(()) => Err("it is good".to_owned()),
        }
    });
    assert_eq!(
        expired.await.expect("in time"),
        AlertDescription::CertificateExpired
    );

    // Each of them is a receipt, with the ID that it showed; only a proven one stands there by itself.
    let auditor = cast.somebody(AUDITOR).expect("an auditor");
    let auditor = service.cli_as(&auditor).expect("a command line");
    let stranger = format!("by {}", cast.spire.id(STRANGER));
    for parts in [
        ["handshake (no_certificate)", "by unknown"],
        [
            "handshake (unknown_trust_domain)",
            "by unproven:spiffe://abroad.org/ops/deployer",
        ],
        ["handshake (not_allowed)", &stranger],
        [
            "handshake (untrusted)",
            "by unproven:spiffe://example.org/ops/deployer",
        ],
        [
            "handshake (expired)",
            "by unproven:spiffe://example.org/ops/deployer",
        ],
    ] {
        until_recorded(&auditor, &parts).await;
    }
    // Two listeners, and then two more of each: there is one receipt of each kind and ID all the same.
    let rows = refusals(&auditor).await.expect("a list");
    let strangers = rows.iter().filter(|row| {
        row["summary"]
            .as_str()
            .is_some_and(|summary| summary.contains(&stranger))
    });
    assert_eq!(strangers.count(), 1, "{rows:?}");
    let counted = service.counted("knhk_access_refused_total", &["handshake"]).await;
    assert!(counted.expect("its metrics") >= 9, "and each was counted");
}

#[tokio::test]
async fn grpc_is_for_whoever_has_a_role() {
    let cast = Cast::start(HOUR).await.expect("SPIRE");
    let service = service_of(&cast).await;
    let grpc = service.addresses().grpc;
    let proxy = connector(&cast.spire.mint(PROXY, HOUR).expect("minted")).expect("a connector");
    let channel = connect_as(proxy, grpc).expect("a channel");
    HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .expect("health, over mutual TLS");
    let plain = async {
        let channel = connect(grpc).await.ok()?;
        HealthClient::new(channel)
            .check(HealthCheckRequest::default())
            .await
            .ok()
    };
    assert!(plain.await.is_none(), "without TLS there is nothing");
    let stranger = connector(&cast.spire.mint(STRANGER, HOUR).expect("minted")).expect("a connector");
    let refused = HealthClient::new(connect_as(stranger, grpc).expect("a channel"))
        .check(HealthCheckRequest::default())
        .await;
    assert!(refused.is_err(), "a stranger gets nothing");
}

/// What the command line says, in one line, when it does not get through.
async fn refused(cli: &Cli) -> String {
    let output = cli.run(&["rollout", "list"]).await.expect("it runs");
    assert_eq!(output.code, 1, "{output:?}");
    assert!(!output.stderr.contains('\n'), "{}", output.stderr);
    assert!(output.stderr.starts_with("knhk: "), "{}", output.stderr);
    assert!(!output.stderr.contains("PRIVATE"), "{}", output.stderr);
    output.stderr
}

fn files(minted: &Minted) -> Credentials {
    Credentials::Files(minted.clone())
}

#[tokio::test]
async fn the_command_line_says_in_one_line_why_it_does_not_get_through() {
    let cast = Cast::start(HOUR).await.expect("SPIRE");
    let service = service_of(&cast).await;
    let http = service.addresses().http;
    let good = cast.spire.mint(DEPLOYER, HOUR).expect("minted");
    let cli = |credentials: &Credentials| Cli::over_tls(http, credentials).expect("a command line");
    cli(&files(&good))
        .json(&["rollout", "list"])
        .await
        .expect("a good one gets through");

    let stranger = cast.spire.mint(STRANGER, HOUR).expect("minted");
    let said = refused(&cli(&files(&stranger))).await;
    assert!(
        said.contains(&cast.spire.id(STRANGER)) && said.contains("spiffe.allow"),
        "{said}"
    );

    let another = cli(&files(&good)).with("--server-id", "spiffe://example.org/another");
    let said = refused(&another).await;
    assert!(
        said.contains("spiffe://example.org/knhk is not allowed here")
            && said.contains("spiffe://example.org/another"),
        "{said}"
    );
    let wrong = cli(&files(&good)).with("--server-id", "example.org/another");
    assert!(
        refused(&wrong)
            .await
            .contains("--server-id: `example.org/another` is not a SPIFFE ID")
    );

    let mixed = Minted {
        key: stranger.key.clone(),
        ..good.clone()
    };
    let said = refused(&cli(&files(&mixed))).await;
    assert!(
        said.contains("the private key is not that of the certificate"),
        "{said}"
    );
    let missing = Minted {
        key: service.directory().join("no-such.pem"),
        ..good.clone()
    };
    assert!(
        refused(&cli(&files(&missing)))
            .await
            .contains("no-such.pem: cannot be read")
    );

    for (address, part) in [
        (
            format!("unix://{}/none.sock", service.directory().display()),
            "there is no socket",
        ),
        (format!("unix://{}", good.chain.display()), "is not a socket"),
        (
            "tcp://127.0.0.1:1".to_owned(),
            "carries private keys in the clear",
        ),
    ] {
        let credentials = Credentials::WorkloadApi {
            program: knhk_tests::artifacts::knhk().expect("knhk"),
            address,
        };
        let said = refused(&cli(&credentials)).await;
        assert!(said.contains(part) && said.contains("--workload-api"), "{said}");
    }
}

/// A command line with this `--server` and nothing of who it is.
async fn nobody(server: &str, arguments: &[&str], service: &Service) -> String {
    let cli = Cli::offline().expect("a command line").with("--server", server);
    let output = cli.run(arguments).await.expect("it runs");
    assert_eq!(output.code, 1, "{output:?}");
    assert!(service.process().is_some());
    output.stderr
}

#[tokio::test]
async fn the_command_line_says_what_it_lacks_and_what_the_service_does_not_speak() {
    let cast = Cast::start(HOUR).await.expect("SPIRE");
    let (secured, plain) = (
        service_of(&cast).await,
        Service::start().await.expect("a service"),
    );
    let https = |address: SocketAddr| format!("https://{address}");
    let said = nobody(&https(secured.addresses().http), &["rollout", "list"], &secured).await;
    assert!(
        said.contains("SPIFFE_ENDPOINT_SOCKET") && said.contains("--client-cert"),
        "{said}"
    );
    let half = nobody(
        &https(secured.addresses().http),
        &["rollout", "list", "--ca", "ca.pem"],
        &secured,
    )
    .await;
    assert!(
        half.contains("--client-cert, --client-key and --ca belong together"),
        "{half}"
    );
    let said = nobody("ftp://here", &["rollout", "list"], &secured).await;
    assert!(said.contains("https://HOST:PORT"), "{said}");

    let cli = Cli::over_tls(
        plain.addresses().http,
        &cast.somebody(DEPLOYER).expect("an operator"),
    );
    let said = refused(&cli.expect("a command line")).await;
    assert!(said.contains("does not speak TLS"), "{said}");
    let none = plain
        .cli()
        .expect("a command line")
        .run(&["identity", "show"])
        .await;
    let none = none.expect("it runs");
    assert!(
        none.code == 1 && none.stderr.contains("no `spiffe`"),
        "{}",
        none.stderr
    );
}

#[tokio::test]
async fn the_log_is_audited_over_mutual_tls() {
    let cast = Cast::start(HOUR).await.expect("SPIRE");
    let service = service_of(&cast).await;
    let auditor = cast.spire.mint(AUDITOR, HOUR).expect("minted");
    let address = format!("https://{}", service.addresses().http);
    let path = |path: &Path| path.display().to_string();
    let report = Cli::offline()
        .expect("a command line")
        .with("--client-cert", &path(&auditor.chain))
        .with("--client-key", &path(&auditor.key))
        .with("--ca", &path(&auditor.authorities))
        .json(&["receipt", "audit", &address])
        .await
        .expect("an audit");
    assert_eq!(report["clean"], true, "{report}");
}
