//! `ext_proc` as a proxy speaks it: streams that Envoy would not send, and proxies that vanish.
#![allow(clippy::expect_used)]

use std::collections::HashMap;

use knhk_proto::envoy::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::processing_request::Request;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::processing_response::Response;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProcessingResponse,
};
use knhk_proto::envoy::pb::google::protobuf::value::Kind;
use knhk_proto::envoy::pb::google::protobuf::{Struct, Value};
use knhk_tests::gate::connect;
use knhk_tests::load::USER;
use knhk_tests::mesh::HOST;
use knhk_tests::recorded::check;
use knhk_tests::service::Service;
use knhk_tests::wait::{self, SOON};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// One request's stream.
struct Exchange {
    messages: mpsc::Sender<ProcessingRequest>,
    answers: Streaming<ProcessingResponse>,
}

impl Exchange {
    async fn open(service: &Service) -> Self {
        let channel = connect(service.addresses().grpc).await.expect("a connection");
        let (messages, outbound) = mpsc::channel(8);
        let answers = ExternalProcessorClient::new(channel)
            .max_encoding_message_size(usize::MAX)
            .process(ReceiverStream::new(outbound))
            .await
            .expect("a stream")
            .into_inner();
        Self { messages, answers }
    }

    async fn send(&mut self, request: Option<Request>) -> Result<Option<Response>, Status> {
        self.send_whole(ProcessingRequest {
            request,
            ..ProcessingRequest::default()
        })
        .await
    }

    async fn send_whole(&mut self, message: ProcessingRequest) -> Result<Option<Response>, Status> {
        self.messages.send(message).await.expect("the stream is open");
        let answer = self.answers.message().await?;
        Ok(answer.expect("an answer").response)
    }
}

fn headers(pairs: &[(&str, &str)]) -> HttpHeaders {
    let headers = pairs.iter().map(|(key, value)| HeaderValue {
        key: (*key).to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    });
    HttpHeaders {
        headers: Some(HeaderMap {
            headers: headers.collect(),
        }),
        ..HttpHeaders::default()
    }
}

fn request() -> Request {
    Request::RequestHeaders(headers(&[
        (":method", "GET"),
        (":authority", HOST),
        (":path", "/"),
        (USER, "u1"),
    ]))
}

/// A request about which Envoy's metadata says that Check has given it this receipt.
fn said_to_be_checked(receipt: &str) -> ProcessingRequest {
    let value = Value {
        kind: Some(Kind::StringValue(receipt.to_owned())),
    };
    let said = Struct {
        fields: HashMap::from([("receipt".to_owned(), value)]),
    };
    ProcessingRequest {
        request: Some(request()),
        metadata_context: Some(Metadata {
            filter_metadata: HashMap::from([("envoy.filters.http.ext_authz".to_owned(), said)]),
            ..Metadata::default()
        }),
        ..ProcessingRequest::default()
    }
}

/// The receipt that the response gets of such a request.
async fn receipt_given(service: &Service, claimed: &str) -> String {
    let mut exchange = Exchange::open(service).await;
    let message = said_to_be_checked(claimed);
    exchange.send_whole(message).await.expect("decided");
    let answer = exchange.send(Some(response())).await.expect("an answer");
    receipt(answer)
}

fn receipt(response: Option<Response>) -> String {
    let Some(Response::ResponseHeaders(answer)) = response else {
        panic!("not to a response: {response:?}")
    };
    let mutation = answer.response.and_then(|common| common.header_mutation);
    let set = mutation.expect("a mutation").set_headers;
    let header = set
        .into_iter()
        .find_map(|option| option.header)
        .expect("a header");
    assert_eq!(header.key, "x-knhk-receipt");
    String::from_utf8(header.raw_value).expect("text")
}

fn response() -> Request {
    Request::ResponseHeaders(headers(&[(":status", "204")]))
}

/// Waits until a line of the metrics has this value.
async fn until_counted(service: &Service, line: &str, count: u64) {
    wait::until(&format!("{line} {count}"), SOON, || async {
        let metrics = service.metrics().await.map_err(|error| error.to_string())?;
        let wanted = format!("{line} {count}");
        if metrics.lines().any(|line| line == wanted) {
            Ok(())
        } else {
            let shown: Vec<_> = metrics
                .lines()
                .filter(|shown| shown.contains("exchange"))
                .collect();
            Err(shown.join(", "))
        }
    })
    .await
    .expect("it is counted");
}

async fn until_outcome(service: &Service, outcome: &str, count: u64) {
    until_counted(
        service,
        &format!("knhk_exchanges_total{{outcome=\"{outcome}\"}}"),
        count,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_has_its_own_kind_of_answer() {
    let service = Service::start().await.expect("a service");
    let mut exchange = Exchange::open(&service).await;
    let body = HttpBody {
        body: vec![1; 100_000],
        ..HttpBody::default()
    };
    let mut kinds = Vec::new();
    for message in [
        Some(request()),
        Some(Request::RequestBody(body.clone())),
        Some(Request::RequestTrailers(HttpTrailers::default())),
        None,
        Some(response()),
        Some(Request::ResponseBody(body)),
        Some(Request::ResponseTrailers(HttpTrailers::default())),
    ] {
        kinds.push(match exchange.send(message).await.expect("an answer") {
            None => "nothing",
            Some(Response::RequestHeaders(_)) => "request headers",
            Some(Response::ResponseHeaders(_)) => "response headers",
            Some(Response::RequestBody(body)) if body.response.is_none() => "request body",
            Some(Response::ResponseBody(body)) if body.response.is_none() => "response body",
            Some(Response::RequestTrailers(trailers)) if trailers.header_mutation.is_none() => {
                "request trailers"
            }
            Some(Response::ResponseTrailers(trailers)) if trailers.header_mutation.is_none() => {
                "response trailers"
            }
            Some(other) => panic!("it changes something: {other:?}"),
        });
    }
    assert_eq!(
        kinds,
        [
            "request headers",
            "request body",
            "request trailers",
            "nothing",
            "response headers",
            "response body",
            "response trailers"
        ]
    );
    until_counted(&service, "knhk_exchanges_open", 1).await;
    drop(exchange);
    until_counted(&service, "knhk_exchanges_open", 0).await;
    until_outcome(&service, "recorded", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_out_of_order_ends_the_stream_and_what_was_decided_is_recorded() {
    let service = Service::start().await.expect("a service");
    let mut exchange = Exchange::open(&service).await;
    exchange.send(Some(request())).await.expect("decided");
    let status = exchange.send(Some(request())).await.expect_err("once only");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("request_headers came"), "{status}");
    until_outcome(&service, "recorded_unfinished", 1).await;
    until_counted(&service, "knhk_exchange_violations_total", 1).await;

    let mut exchange = Exchange::open(&service).await;
    exchange.send(Some(request())).await.expect("decided");
    exchange.send(Some(response())).await.expect("recorded");
    let status = exchange.send(Some(response())).await.expect_err("once only");
    assert_eq!(status.code(), Code::InvalidArgument);
    until_outcome(&service, "recorded", 1).await;
    until_counted(&service, "knhk_exchange_violations_total", 2).await;
    until_counted(&service, "knhk_exchanges_open", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_may_have_half_a_mebibyte_and_a_larger_one_ends_the_stream() {
    let service = Service::start().await.expect("a service");
    let mut exchange = Exchange::open(&service).await;
    exchange.send(Some(request())).await.expect("decided");
    let body = |bytes: usize| {
        Some(Request::RequestBody(HttpBody {
            body: vec![1; bytes],
            ..HttpBody::default()
        }))
    };
    // The message has a few bytes more than its body.
    let largest = 512 * 1024;
    exchange.send(body(largest - 100)).await.expect("it fits");
    let refused = exchange.send(body(largest)).await;
    assert_eq!(refused.expect_err("too large").code(), Code::OutOfRange);
    until_outcome(&service, "recorded_unfinished", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_keeps_a_decision_from_being_recorded_only_when_the_log_has_what_check_recorded() {
    let service = Service::start().await.expect("a service");
    let channel = connect(service.addresses().grpc).await.expect("a connection");
    let checked = check(channel, "/checked").await.expect("Check gives a receipt");
    let (region, index) = checked.rsplit_once('/').expect("REGION/INDEX");
    let index: u64 = index.parse().expect("an index");

    let known = receipt_given(&service, &checked).await;
    assert_eq!(known, checked, "it has the one of Check");
    until_outcome(&service, "not_recorded", 1).await;

    // Entry 0 begins the log, the last possible one is not there, and one is another log's.
    let mut recorded = Vec::new();
    for claimed in [
        format!("{region}/0"),
        format!("{region}/{}", u64::MAX),
        format!("elsewhere/{index}"),
    ] {
        recorded.push(receipt_given(&service, &claimed).await);
        assert_ne!(recorded.last(), Some(&claimed));
    }
    // A decision, and not one of Check.
    let own = recorded.last().expect("recorded").clone();
    recorded.push(receipt_given(&service, &own).await);
    recorded.sort_unstable();
    recorded.dedup();
    assert_eq!(recorded.len(), 4, "each has a receipt of its own: {recorded:?}");
    until_outcome(&service, "recorded", 4).await;
    until_outcome(&service, "not_recorded", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_proxy_that_vanishes_are_recorded() {
    let service = Service::start().await.expect("a service");
    let mut exchanges = Vec::new();
    for _ in 0..20 {
        let mut exchange = Exchange::open(&service).await;
        exchange.send(Some(request())).await.expect("decided");
        exchanges.push(exchange);
    }
    until_counted(&service, "knhk_exchanges_open", 20).await;
    // Their connections close with them.
    drop(exchanges);
    until_outcome(&service, "recorded_unfinished", 20).await;
    until_counted(&service, "knhk_exchanges_open", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for as long as the service does at its end: make soak"]
async fn a_request_without_a_response_does_not_keep_the_service_from_ending_and_is_recorded() {
    let mut service = Service::start().await.expect("a service");
    let mut exchange = Exchange::open(&service).await;
    exchange.send(Some(request())).await.expect("decided");
    let status = service.terminate(SOON).await.expect("it ends");
    assert!(status.success(), "{status}");
    let ended = exchange.answers.message().await.expect_err("cut off");
    assert_eq!(ended.code(), Code::Unavailable);
    service.up().await.expect("it starts again");
    let list = service
        .cli()
        .expect("a command line")
        .json(&["receipt", "list", "--kind", "decision"])
        .await
        .expect("a list");
    assert_eq!(list["receipts"].as_array().expect("receipts").len(), 1, "{list}");
}
