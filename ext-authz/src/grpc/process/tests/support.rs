//! Messages, and an exchange that they are sent to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use knhk_decision::PolicyDoc;
use knhk_proto::envoy::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::processing_request::Request;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::processing_response::Response;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::{
    CommonResponse, HttpHeaders, ImmediateResponse, ProcessingRequest,
};
use knhk_proto::envoy::pb::google::protobuf::value::Kind;
use knhk_proto::envoy::pb::google::protobuf::{Struct, Value};
use knhk_telemetry::ServiceMetrics;
use knhk_telemetry::attribute::ExchangeOutcome as Outcome;
use serde_json::json;
use tonic::metadata::MetadataMap;

use super::super::exchange::{Effect, Event, Exchange, Step, Violation, World};
use super::super::wire;
use crate::app::recorder::OwnDecision;
use crate::app::snapshots::{Snapshot, Snapshots};
use crate::grpc::recording::NotRecorded;
use crate::grpc::route_options::RouteOptions;

pub(super) const HOST: &str = "shop.test";
/// A host whose rollout admits callers of the shop alone.
pub(super) const GUARDED: &str = "guarded.test";
pub(super) const REGION: &str = "eu-west-1";

/// Snapshots 1.1 and 1.2: everything of the host to stable, then everything to the canary, by user or by peer.
pub(super) fn snapshots() -> Snapshots {
    let snapshot = |n: u64, weight: u32| {
        let document: PolicyDoc = serde_json::from_value(json!({
            "apiVersion": "knhk.dev/v1", "kind": "Policy", "epoch": 1, "n": n,
            "rollouts": [{
                "name": "shop", "generation": 1, "window": 1, "weight": weight, "stable": "v1", "canary": "v2",
                "match": { "hosts": [HOST], "pathPrefix": "/cart", "methods": ["GET"] },
                "key": [ { "header": "x-user-id" }, { "peerSpiffeId": {} } ],
            }, {
                "name": "guarded", "generation": 1, "window": 1, "weight": weight, "stable": "v1", "canary": "v2",
                "match": { "hosts": [GUARDED] }, "admit": { "peers": ["spiffe://example.org/ns/shop/*"] },
                "key": [ { "header": "x-user-id" } ],
            }],
        }))
        .expect("a policy");
        Arc::new(Snapshot::parse(document.to_bytes()).expect("it compiles"))
    };
    Snapshots::new(snapshot(2, 100), [snapshot(1, 0)])
}

/// An exchange, what it sent, and how it ended.
pub(super) struct Run {
    pub(super) snapshots: Snapshots,
    metrics: ServiceMetrics,
    pub(super) exchange: Exchange,
    pub(super) now: Duration,
    pub(super) outcomes: Vec<Outcome>,
}

impl Run {
    pub(super) fn with(options: &[(&'static str, &str)]) -> Self {
        let mut metadata = MetadataMap::new();
        for (option, value) in options {
            metadata.insert(*option, value.parse().expect("a value"));
        }
        Self {
            snapshots: snapshots(),
            metrics: ServiceMetrics::new("test"),
            exchange: Exchange::new(RouteOptions::from_metadata(&metadata)),
            now: Duration::from_secs(1),
            outcomes: Vec::new(),
        }
    }

    pub(super) fn step(&mut self, event: Event) -> Result<Effect, Violation> {
        let world = World {
            snapshots: &self.snapshots,
            metrics: &self.metrics,
            wall_ms: 1_700_000_000_000,
            mono: self.now,
            draw: || [0; 16],
        };
        let Step { effect, outcome } = self.exchange.step(event, world)?;
        self.outcomes.extend(outcome);
        Ok(effect)
    }

    /// With a log that has whatever metadata claims.
    pub(super) fn send(&mut self, message: ProcessingRequest) -> Result<Effect, Violation> {
        let by_check = wire::claimed_of_check(&message, REGION).map(|(receipt, _)| receipt.to_owned());
        let message = Box::new(message);
        self.step(Event::Message { message, by_check })
    }

    pub(super) fn replied(&mut self, message: ProcessingRequest) -> Response {
        reply_of(self.send(message).expect("it may come"))
    }

    pub(super) fn recording(&mut self, message: ProcessingRequest) -> OwnDecision {
        record_of(self.send(message).expect("it may come"))
    }

    pub(super) fn durable(&mut self, index: u64) -> Effect {
        self.step(Event::Recorded(Ok(format!("{REGION}/{index}"))))
            .expect("it may come")
    }

    pub(super) fn fails(&mut self, label: &'static str) -> Effect {
        self.step(Event::Recorded(Err(NotRecorded::by(label))))
            .expect("it may come")
    }

    pub(super) fn ends(&mut self) -> Effect {
        self.step(Event::Ended).expect("every stream may end")
    }
}

pub(super) fn reply_of(effect: Effect) -> Response {
    match effect {
        Effect::Reply(reply) => reply.response.expect("an answer that says something"),
        other => panic!("not answered: {other:?}"),
    }
}

pub(super) fn record_of(effect: Effect) -> OwnDecision {
    match effect {
        Effect::Record(own) => *own,
        other => panic!("not recorded: {other:?}"),
    }
}

pub(super) fn headers(pairs: &[(&str, &str)]) -> HttpHeaders {
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

pub(super) fn message(request: Request) -> ProcessingRequest {
    ProcessingRequest {
        request: Some(request),
        ..ProcessingRequest::default()
    }
}

pub(super) fn request(more: &[(&str, &str)]) -> ProcessingRequest {
    let mut all = vec![
        (":method", "GET"),
        (":authority", HOST),
        (":path", "/cart?item=1"),
    ];
    all.extend_from_slice(more);
    message(Request::RequestHeaders(headers(&all)))
}

pub(super) fn to_guarded(more: &[(&str, &str)]) -> ProcessingRequest {
    let mut all = vec![(":method", "GET"), (":authority", GUARDED), (":path", "/")];
    all.extend_from_slice(more);
    message(Request::RequestHeaders(headers(&all)))
}

pub(super) fn response(status: &str) -> ProcessingRequest {
    message(Request::ResponseHeaders(headers(&[(":status", status)])))
}

pub(super) fn strings(fields: &[(&str, &str)]) -> Struct {
    let fields = fields.iter().map(|(key, value)| {
        let value = Value {
            kind: Some(Kind::StringValue((*value).to_owned())),
        };
        ((*key).to_owned(), value)
    });
    Struct {
        fields: fields.collect(),
    }
}

pub(super) fn with_peer(mut message: ProcessingRequest, peer: &str) -> ProcessingRequest {
    message.attributes = HashMap::from([(
        "envoy.filters.http.ext_proc".to_owned(),
        strings(&[("connection.uri_san_peer_certificate", peer)]),
    )]);
    message
}

pub(super) fn after_check(
    mut message: ProcessingRequest,
    namespace: &str,
    receipt: &str,
) -> ProcessingRequest {
    message.metadata_context = Some(Metadata {
        filter_metadata: HashMap::from([(namespace.to_owned(), strings(&[("receipt", receipt)]))]),
        ..Metadata::default()
    });
    message
}

pub(super) fn observed(mut message: ProcessingRequest) -> ProcessingRequest {
    message.observability_mode = true;
    message
}

/// What an answer sets and removes, and whether the route is looked up again.
pub(super) fn mutation(common: Option<CommonResponse>) -> (HashMap<String, String>, Vec<String>, bool) {
    let common = common.expect("a common answer");
    let mutation = common.header_mutation.expect("a mutation");
    let set = mutation.set_headers.into_iter().map(|option| {
        let header = option.header.expect("a header");
        let value = String::from_utf8(header.raw_value).expect("text");
        (header.key, value)
    });
    (set.collect(), mutation.remove_headers, common.clear_route_cache)
}

pub(super) fn to_request(reply: Response) -> (HashMap<String, String>, Vec<String>, bool) {
    match reply {
        Response::RequestHeaders(reply) => mutation(reply.response),
        other => panic!("not to a request: {other:?}"),
    }
}

pub(super) fn to_response(effect: Effect) -> (HashMap<String, String>, Vec<String>, bool) {
    match reply_of(effect) {
        Response::ResponseHeaders(reply) => mutation(reply.response),
        other => panic!("not to a response: {other:?}"),
    }
}

pub(super) fn refused(reply: Response) -> (String, String, ImmediateResponse) {
    let Response::ImmediateResponse(refusal) = reply else {
        panic!("not refused: {reply:?}")
    };
    assert!([403, 503].contains(&refusal.status.expect("a status").code));
    let set = &refusal.headers.as_ref().expect("headers").set_headers;
    let reason = set[0].header.clone().expect("a header");
    assert_eq!(reason.key, "x-knhk-reason");
    let body = String::from_utf8(refusal.body.clone()).expect("text");
    (String::from_utf8(reason.raw_value).expect("text"), body, refusal)
}
