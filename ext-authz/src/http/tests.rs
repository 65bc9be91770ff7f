//! The API over real connections.

mod roles;

use std::net::SocketAddr;

use reqwest::header::{CONTENT_TYPE, HOST, ORIGIN};
use reqwest::{Client, Method, RequestBuilder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Access, MAX_SPEC_BYTES, PeerIdentity, api_routes};
use crate::api::ErrorBody;
use crate::app::{App, Opened};
use crate::config::Config;

/// A service's API on a free port. Its driver runs for as long as the runtime of the test.
struct Api {
    address: SocketAddr,
    _data: tempfile::TempDir,
}

impl Api {
    async fn start(access: Access) -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let text = format!("region: eu-west-1\ndata: {}", data.path().join("data").display());
        let config = Config::parse(&text).expect("valid");
        let Opened { app, driver, .. } = App::open(&config).await.expect("opens");
        tokio::spawn(driver.run(CancellationToken::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let routes = api_routes(&app, &access).into_make_service_with_connect_info::<PeerIdentity>();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { address, _data: data }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        Client::new().request(method, format!("http://{}{path}", self.address))
    }
}

async fn refusal(request: RequestBuilder) -> (u16, ErrorBody) {
    let response = request.send().await.expect("answered");
    let status = response.status().as_u16();
    let kind = response.headers().get(CONTENT_TYPE).expect("a type").clone();
    assert_eq!(kind, "application/json");
    let body: ErrorBody = response.json().await.expect("a refusal");
    assert!(
        !body.message.is_empty() && !body.message.contains('\n'),
        "{}",
        body.message
    );
    (status, body)
}

#[tokio::test]
async fn every_refusal_of_a_read_is_json_with_a_label_and_one_line() {
    let api = Api::start(Access::AnybodyWrites).await;
    for (path, status, label) in [
        ("/v1/rollouts/none", 404, "not_found"),
        ("/v1/nothing", 404, "not_found"),
        ("/v1/receipts?limit=many", 400, "invalid"),
        ("/v1/receipts?limit=0", 400, "invalid"),
        ("/v1/receipts?kind=actions", 400, "invalid"),
        ("/v1/receipts?kinds=action", 400, "invalid"),
        ("/v1/receipts/eu-west-1/first", 400, "invalid"),
        ("/v1/receipts/eu-west-1/99", 404, "not_found"),
        ("/v1/policies/1", 400, "invalid"),
        ("/v1/policies/1.1", 404, "not_found"),
        ("/v1/log/us/checkpoint", 404, "not_found"),
        ("/v1/log/eu-west-1/tile/x", 404, "no_tile"),
        ("/v1/log/us/payloads/000", 404, "not_found"),
        ("/v1/log/eu-west-1/payloads/x001/000", 404, "no_tile"),
        ("/v1/log/eu-west-1/checkpoints/7", 404, "no_tile"),
        ("/v1/log/eu-west-1/consistency/0", 400, "invalid"),
        ("/v1/log/eu-west-1/consistency/99", 503, "not_covered"),
        ("/v1/log/us/consistency/1", 404, "not_found"),
        ("/v1/rollouts/a/promote", 405, "method_not_allowed"),
        ("/v1/keys/rotate", 405, "method_not_allowed"),
    ] {
        is_refused(api.request(Method::GET, path), status, label).await;
    }
}

#[tokio::test]
async fn every_refusal_of_a_write_is_json_with_a_label_and_one_line() {
    let api = Api::start(Access::AnybodyWrites).await;
    let put = || api.request(Method::PUT, "/v1/rollouts/a");
    is_refused(put().body("- {"), 400, "invalid").await;
    is_refused(put().body(vec![255, 254]), 400, "invalid").await;
    is_refused(put().body("x".repeat(MAX_SPEC_BYTES + 1)), 413, "too_large").await;
    let promote = || api.request(Method::POST, "/v1/rollouts/a/promote");
    is_refused(promote().body("full"), 400, "invalid").await;
    is_refused(promote().body("{\"fast\":true}"), 400, "invalid").await;
    is_refused(promote().body("{\"full\":true}"), 404, "not_found").await;
    is_refused(promote(), 404, "not_found").await;
}

async fn is_refused(request: RequestBuilder, status: u16, label: &str) {
    let shown = format!("{request:?}");
    let (found, body) = refusal(request).await;
    assert_eq!(
        (found, body.error.as_str()),
        (status, label),
        "{shown}: {}",
        body.message
    );
}

#[tokio::test]
async fn a_readers_listener_writes_nothing() {
    for (access, label) in [
        (Access::Readers, "read_only"),
        (Access::LocalReaders, "identity_needed"),
    ] {
        let api = Api::start(access).await;
        for (method, path) in [
            (Method::PUT, "/v1/rollouts/a"),
            (Method::DELETE, "/v1/rollouts/a"),
            (Method::POST, "/v1/rollouts/a/abort"),
            (Method::POST, "/v1/rollouts/a/promote"),
            (Method::POST, "/v1/keys/rotate"),
        ] {
            is_refused(api.request(method, path), 403, label).await;
        }
        let read = api.request(Method::GET, "/v1/rollouts").send().await;
        assert_eq!(read.expect("answered").status(), 200);
        is_refused(api.request(Method::GET, "/v1/identity"), 404, "no_identity").await;
    }
}

#[tokio::test]
async fn web_pages_neither_read_nor_write_over_loopback() {
    let api = Api::start(Access::AnybodyWrites).await;
    let abort = || api.request(Method::POST, "/v1/rollouts/a/abort");
    let list = || api.request(Method::GET, "/v1/rollouts");
    for foreign in [
        abort().header(ORIGIN, "https://evil.example"),
        list().header(ORIGIN, "null"),
        list().header(HOST, "evil.example"),
        list().header(HOST, "evil.example:9192"),
        list().header(HOST, "127.0.0.1.evil.example"),
    ] {
        let (status, body) = refusal(foreign).await;
        assert_eq!((status, body.error.as_str()), (403, "foreign_origin"));
    }
    for own in ["localhost:9192", "127.0.0.1", "[::1]:9192"] {
        let answer = list().header(HOST, own).send().await.expect("answered");
        assert_eq!(answer.status(), 200, "{own}");
    }
}
