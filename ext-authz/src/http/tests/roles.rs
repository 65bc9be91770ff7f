//! What each role may do, where callers show who they are.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::MockConnectInfo;
use knhk_identity::{FilterRule, Role, Roles, SpiffeId};
use knhk_receipts::Payload;
use reqwest::header::ORIGIN;
use reqwest::{Client, Method, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::refusal;
use crate::app::{App, Opened};
use crate::config::Config;
use crate::http::{Access, PeerIdentity, api_routes};

/// One request of each kind, and who may make it.
const CALLS: [(&str, &str, &[Role]); 11] = [
    ("GET", "/v1/rollouts", OPERATORS),
    ("GET", "/v1/rollouts/a/history", OPERATORS),
    ("GET", "/v1/keys", OPERATORS),
    ("GET", "/v1/identity", OPERATORS),
    ("PUT", "/v1/rollouts/a", &[Role::Deployer]),
    ("DELETE", "/v1/rollouts/a", &[Role::Deployer]),
    ("POST", "/v1/rollouts/a/abort", &[Role::Deployer]),
    ("POST", "/v1/keys/rotate", &[Role::KeyAdmin]),
    ("GET", "/v1/receipts", &[Role::Auditor]),
    ("GET", "/v1/policies/1.1", &[Role::Auditor]),
    ("GET", "/v1/log/eu/checkpoint", &[Role::Auditor, Role::Peer]),
];
const OPERATORS: &[Role] = &[Role::Deployer, Role::KeyAdmin, Role::Custodian, Role::Auditor];

fn id(role: Role) -> SpiffeId {
    SpiffeId::new(format!("spiffe://example.org/{role}")).expect("an ID")
}

/// One workload for each role.
fn roles() -> Arc<Roles> {
    let pattern = |role| id(role).to_string().parse().expect("a pattern");
    let filter = FilterRule {
        id: pattern(Role::Filter),
        hosts: vec!["*".parse().expect("a host")],
    };
    Arc::new(Roles::new(
        vec![filter],
        Role::ALL.map(|role| (role, pattern(role))),
    ))
}

/// The API as a workload finds it that has proven this ID with a certificate that is valid until then.
async fn served_to(id: SpiffeId, until: Duration, opened: Opened) -> (Arc<App>, String, CancellationToken) {
    let stop = CancellationToken::new();
    tokio::spawn(opened.driver.run(stop.clone()));
    tokio::spawn(opened.clerk.run(stop.clone()));
    tokio::spawn(opened.rotator.run(stop.clone()));
    let routes = api_routes(&opened.app, &Access::Workloads(roles()))
        .layer(MockConnectInfo(PeerIdentity::Workload { id, until }));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (opened.app, url, stop)
}

async fn open(data: &tempfile::TempDir) -> Opened {
    let text = format!("region: eu\ndata: {}", data.path().join("data").display());
    App::open(&Config::parse(&text).expect("valid"))
        .await
        .expect("opens")
}

fn call(url: &str, method: &str, path: &str) -> reqwest::RequestBuilder {
    let method = method.parse::<Method>().expect("a method");
    Client::new().request(method, format!("{url}{path}"))
}

#[tokio::test]
async fn each_role_may_do_what_is_its_own_and_nothing_else() {
    let data = tempfile::tempdir().expect("a directory");
    let mut opened = Some(open(&data).await);
    for role in Role::ALL {
        let this = match opened.take() {
            Some(opened) => opened,
            None => open(&tempfile::tempdir().expect("a directory")).await,
        };
        let (_app, url, stop) = served_to(id(role), Duration::MAX, this).await;
        for (method, path, allowed) in CALLS {
            let request = call(&url, method, path);
            if allowed.contains(&role) {
                let status = request.send().await.expect("answered").status();
                assert_ne!(status, StatusCode::FORBIDDEN, "{role} {method} {path}");
                continue;
            }
            let (status, body) = refusal(request).await;
            assert_eq!(
                (status, body.error.as_str()),
                (403, "not_allowed"),
                "{role} {method} {path}"
            );
            assert!(body.message.contains(id(role).path()), "{}", body.message);
            assert!(body.message.contains(allowed[0].label()), "{}", body.message);
        }
        stop.cancel();
    }
}

#[tokio::test]
async fn a_refusal_is_a_receipt() {
    let data = tempfile::tempdir().expect("a directory");
    let (app, url, stop) = served_to(id(Role::Auditor), Duration::MAX, open(&data).await).await;
    let before = app.log.size();
    refusal(call(&url, "PUT", "/v1/rollouts/a")).await;
    app.log.covered(before).await.expect("it is recorded and signed");
    let (_, payload) = app.log.scan(before).next().expect("an entry").expect("readable");
    let Payload::Action(action) = payload else {
        panic!("{payload:?}")
    };
    assert_eq!(action.who, "spiffe://example.org/auditors");
    assert_eq!(action.what, "access.refused");
    assert_eq!(action.target, "PUT /v1/rollouts/{name}");
    assert!(
        action.reason.contains("spiffe.allow.deployers"),
        "{}",
        action.reason
    );
    stop.cancel();
}

#[tokio::test]
async fn a_connection_does_not_outlive_the_certificate_that_opened_it() {
    for (until, closes) in [(Duration::MAX, false), (Duration::from_secs(1), true)] {
        let data = tempfile::tempdir().expect("a directory");
        let (_app, url, stop) = served_to(id(Role::Deployer), until, open(&data).await).await;
        let answer = call(&url, "GET", "/v1/rollouts").send().await.expect("answered");
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers().contains_key("connection"), closes, "{until:?}");
        stop.cancel();
    }
}

#[tokio::test]
async fn a_web_page_may_not_ask_though_its_browser_has_a_certificate() {
    let data = tempfile::tempdir().expect("a directory");
    let (_app, url, stop) = served_to(id(Role::Deployer), Duration::MAX, open(&data).await).await;
    let abort = call(&url, "POST", "/v1/rollouts/a/abort").header(ORIGIN, "https://evil.example");
    let (status, body) = refusal(abort).await;
    assert_eq!((status, body.error.as_str()), (403, "foreign_origin"));
    stop.cancel();
}
