//! What proxies and supervisors see of the service itself: Check's answer, health, and an orderly end.
#![allow(clippy::expect_used)]

use std::collections::{HashMap, HashSet};

use knhk_proto::envoy::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use knhk_proto::envoy::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use knhk_proto::envoy::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use knhk_proto::envoy::pb::envoy::service::auth::v3::check_response::HttpResponse;
use knhk_proto::envoy::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, OkHttpResponse,
};
use knhk_proto::envoy::pb::google::protobuf::value::Kind;
use knhk_tests::gate::{Worker, connect};
use knhk_tests::load::USER;
use knhk_tests::mesh::{HOST, NAME, RolloutFile};
use knhk_tests::service::{REGION, Service};
use knhk_tests::wait::SOON;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

async fn service_with_rollout(weight: f64) -> Service {
    let service = Service::start().await.expect("a service");
    let file = RolloutFile::at(weight).write(&service).expect("a rollout");
    let cli = service.cli().expect("a command line");
    let apply = [
        "rollout".as_ref(),
        "apply".as_ref(),
        "-f".as_ref(),
        file.as_os_str(),
    ];
    cli.json(&apply).await.expect("applied");
    service
}

/// As Envoy sends it with `encode_raw_headers`.
fn request(headers: &[(&str, &str)], options: &[(&str, &str)]) -> CheckRequest {
    let header = |(key, value): &(&str, &str)| HeaderValue {
        key: (*key).to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let http = HttpRequest {
        method: "GET".to_owned(),
        host: HOST.to_owned(),
        path: "/cart?item=1".to_owned(),
        header_map: Some(HeaderMap {
            headers: headers.iter().map(header).collect(),
        }),
        ..HttpRequest::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Request {
                http: Some(http),
                ..Request::default()
            }),
            context_extensions: options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..AttributeContext::default()
        }),
    }
}

async fn check(service: &Service, request: CheckRequest) -> CheckResponse {
    let channel = connect(service.addresses().grpc).await.expect("a connection");
    let answer = AuthorizationClient::new(channel).check(request).await;
    answer.expect("an answer").into_inner()
}

fn admitted(answer: CheckResponse) -> (HashMap<String, String>, HashSet<String>) {
    let Some(HttpResponse::OkResponse(OkHttpResponse {
        headers,
        headers_to_remove,
        ..
    })) = answer.http_response
    else {
        panic!("not admitted: {answer:?}")
    };
    let set = headers.into_iter().filter_map(|option| option.header);
    (
        set.map(|header| (header.key, header.value)).collect(),
        headers_to_remove.into_iter().collect(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_the_same_to_the_upstream_and_to_later_filters() {
    let service = service_with_rollout(100.0).await;
    let spoofed = [(USER, "u1"), ("x-knhk-class", "R1"), ("x-knhk-receipt", "mine/1")];
    let answer = check(&service, request(&spoofed, &[])).await;
    let metadata = answer.dynamic_metadata.clone().expect("metadata").fields;
    let (set, removed) = admitted(answer);
    assert_eq!(set["x-knhk-variant"], "canary");
    assert_eq!(set["x-knhk-rollout"], NAME);
    assert!(
        set["x-knhk-receipt"].starts_with(&format!("{REGION}/")),
        "{set:?}"
    );
    assert!(
        removed.contains("x-knhk-class") && removed.contains("x-knhk-flags"),
        "{removed:?}"
    );
    for (name, value) in &set {
        let key = name.trim_start_matches("x-knhk-");
        assert_eq!(
            metadata[key].kind,
            Some(Kind::StringValue(value.clone())),
            "{key}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_says_what_is_recorded() {
    let service = service_with_rollout(100.0).await;
    for (record, recorded) in [
        ("none", false),
        ("denials", false),
        ("all", true),
        ("sample:100", true),
    ] {
        let answer = check(&service, request(&[(USER, "u1")], &[("record", record)])).await;
        let (set, removed) = admitted(answer);
        assert_eq!(set.contains_key("x-knhk-receipt"), recorded, "{record}: {set:?}");
        assert_eq!(
            removed.contains("x-knhk-receipt"),
            !recorded,
            "{record}: {removed:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_with_a_wrong_option_is_refused_and_says_which() {
    let service = service_with_rollout(100.0).await;
    let answer = check(&service, request(&[], &[("on_eror", "open")])).await;
    let Some(HttpResponse::DeniedResponse(denied)) = answer.http_response else {
        panic!("admitted: {answer:?}")
    };
    assert_eq!(denied.status.expect("a status").code, 503);
    assert!(denied.body.contains("on_eror"), "{}", denied.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_streams_signs_what_is_durable_and_exits_with_0() {
    let mut service = service_with_rollout(50.0).await;
    let channel = connect(service.addresses().grpc).await.expect("a connection");
    let health = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .expect("health");
    assert_eq!(health.into_inner().status(), ServingStatus::Serving);

    let mut worker = Worker::greet(service.addresses().grpc, "edge-1", [7; 16])
        .await
        .expect("a worker");
    worker.snapshot().await.expect("the policy");
    let (set, _) = admitted(check(&service, request(&[(USER, "u1")], &[])).await);
    let receipt = set["x-knhk-receipt"].clone();

    let status = service.terminate(SOON).await.expect("it ends");
    assert!(status.success(), "{status}");
    assert!(worker.snapshot().await.is_err(), "the stream has ended");

    service.up().await.expect("it starts again");
    let list = service
        .cli()
        .expect("a command line")
        .json(&["receipt", "list", "--kind", "decision"])
        .await
        .expect("a list");
    let found = list["receipts"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|row| row["id"] == receipt.as_str());
    let found = found.expect("the receipt that was acknowledged is there");
    assert_eq!(found["signed"], true, "{found}");
}
