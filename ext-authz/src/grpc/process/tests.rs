//! Exchanges by sequences of messages, without a network.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use knhk_decision::{PolicyDoc, PolicyId};
use knhk_proto::envoy::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use knhk_proto::envoy::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::processing_request::Request;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::processing_response::Response;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::{
    CommonResponse, HttpBody, HttpHeaders, HttpTrailers, ImmediateResponse, ProcessingRequest,
    ProcessingResponse, ProtocolConfiguration,
};
use knhk_proto::envoy::pb::google::protobuf::value::Kind;
use knhk_proto::envoy::pb::google::protobuf::{Struct, Value};
use knhk_receipts::Via;
use knhk_telemetry::attribute::ExchangeOutcome as Outcome;
use proptest::prelude::*;
use serde_json::json;
use tonic::metadata::MetadataMap;

use super::exchange::{Effect, Event, Exchange, Step, Violation, World};
use crate::app::recorder::{OwnDecision, Seen};
use crate::app::snapshots::{Snapshot, Snapshots};
use crate::grpc::recording::NotRecorded;
use crate::grpc::route_options::RouteOptions;

const HOST: &str = "shop.test";
const REGION: &str = "eu-west-1";

/// Snapshots 1.1 and 1.2: everything of the host to stable, then everything to the canary, by user or by peer.
fn snapshots() -> Snapshots {
    let snapshot = |n: u64, weight: u32| {
        let document: PolicyDoc = serde_json::from_value(json!({
            "apiVersion": "knhk.dev/v1", "kind": "Policy", "epoch": 1, "n": n,
            "rollouts": [{
                "name": "shop", "generation": 1, "window": 1, "weight": weight, "stable": "v1", "canary": "v2",
                "match": { "hosts": [HOST], "pathPrefix": "/cart", "methods": ["GET"] },
                "key": [ { "header": "x-user-id" }, { "peerSpiffeId": {} } ],
            }],
        }))
        .expect("a policy");
        Arc::new(Snapshot::parse(document.to_bytes()).expect("it compiles"))
    };
    Snapshots::new(snapshot(2, 100), [snapshot(1, 0)])
}

/// An exchange, what it sent, and how it ended.
struct Run {
    snapshots: Snapshots,
    exchange: Exchange,
    now: Duration,
    outcomes: Vec<Outcome>,
}

impl Run {
    fn with(options: &[(&'static str, &str)]) -> Self {
        let mut metadata = MetadataMap::new();
        for (option, value) in options {
            metadata.insert(*option, value.parse().expect("a value"));
        }
        Self {
            snapshots: snapshots(),
            exchange: Exchange::new(RouteOptions::from_metadata(&metadata)),
            now: Duration::from_secs(1),
            outcomes: Vec::new(),
        }
    }

    fn step(&mut self, event: Event) -> Result<Effect, Violation> {
        let world = World {
            snapshots: &self.snapshots,
            region: REGION,
            wall_ms: 1_700_000_000_000,
            mono: self.now,
            draw: || [0; 16],
        };
        let Step { effect, outcome } = self.exchange.step(event, world)?;
        self.outcomes.extend(outcome);
        Ok(effect)
    }

    fn send(&mut self, message: ProcessingRequest) -> Result<Effect, Violation> {
        self.step(Event::Message(Box::new(message)))
    }

    fn replied(&mut self, message: ProcessingRequest) -> Response {
        reply_of(self.send(message).expect("it may come"))
    }

    fn recording(&mut self, message: ProcessingRequest) -> OwnDecision {
        record_of(self.send(message).expect("it may come"))
    }

    fn durable(&mut self, index: u64) -> Effect {
        self.step(Event::Recorded(Ok(format!("{REGION}/{index}"))))
            .expect("it may come")
    }

    fn fails(&mut self, label: &'static str) -> Effect {
        self.step(Event::Recorded(Err(NotRecorded(label))))
            .expect("it may come")
    }

    fn ends(&mut self) -> Effect {
        self.step(Event::Ended).expect("every stream may end")
    }
}

fn reply_of(effect: Effect) -> Response {
    match effect {
        Effect::Reply(reply) => reply.response.expect("an answer that says something"),
        other => panic!("not answered: {other:?}"),
    }
}

fn record_of(effect: Effect) -> OwnDecision {
    match effect {
        Effect::Record(own) => *own,
        other => panic!("not recorded: {other:?}"),
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

fn message(request: Request) -> ProcessingRequest {
    ProcessingRequest {
        request: Some(request),
        ..ProcessingRequest::default()
    }
}

fn request(more: &[(&str, &str)]) -> ProcessingRequest {
    let mut all = vec![
        (":method", "GET"),
        (":authority", HOST),
        (":path", "/cart?item=1"),
    ];
    all.extend_from_slice(more);
    message(Request::RequestHeaders(headers(&all)))
}

fn response(status: &str) -> ProcessingRequest {
    message(Request::ResponseHeaders(headers(&[(":status", status)])))
}

fn strings(fields: &[(&str, &str)]) -> Struct {
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

fn with_peer(mut message: ProcessingRequest, peer: &str) -> ProcessingRequest {
    message.attributes = HashMap::from([(
        "envoy.filters.http.ext_proc".to_owned(),
        strings(&[("connection.uri_san_peer_certificate", peer)]),
    )]);
    message
}

fn after_check(mut message: ProcessingRequest, namespace: &str, receipt: &str) -> ProcessingRequest {
    message.metadata_context = Some(Metadata {
        filter_metadata: HashMap::from([(namespace.to_owned(), strings(&[("receipt", receipt)]))]),
        ..Metadata::default()
    });
    message
}

fn observed(mut message: ProcessingRequest) -> ProcessingRequest {
    message.observability_mode = true;
    message
}

/// What an answer sets and removes, and whether the route is looked up again.
fn mutation(common: Option<CommonResponse>) -> (HashMap<String, String>, Vec<String>, bool) {
    let common = common.expect("a common answer");
    let mutation = common.header_mutation.expect("a mutation");
    let set = mutation.set_headers.into_iter().map(|option| {
        let header = option.header.expect("a header");
        let value = String::from_utf8(header.raw_value).expect("text");
        (header.key, value)
    });
    (set.collect(), mutation.remove_headers, common.clear_route_cache)
}

fn to_request(reply: Response) -> (HashMap<String, String>, Vec<String>, bool) {
    match reply {
        Response::RequestHeaders(reply) => mutation(reply.response),
        other => panic!("not to a request: {other:?}"),
    }
}

fn to_response(effect: Effect) -> (HashMap<String, String>, Vec<String>, bool) {
    match reply_of(effect) {
        Response::ResponseHeaders(reply) => mutation(reply.response),
        other => panic!("not to a response: {other:?}"),
    }
}

fn refused(reply: Response) -> (String, String, ImmediateResponse) {
    let Response::ImmediateResponse(refusal) = reply else {
        panic!("not refused: {reply:?}")
    };
    assert_eq!(refusal.status.expect("a status").code, 503);
    let set = &refusal.headers.as_ref().expect("headers").set_headers;
    let reason = set[0].header.clone().expect("a header");
    assert_eq!(reason.key, "x-knhk-reason");
    let body = String::from_utf8(refusal.body.clone()).expect("text");
    (String::from_utf8(reason.raw_value).expect("text"), body, refusal)
}

#[test]
fn a_request_is_decided_and_its_receipt_has_the_outcome() {
    let mut run = Run::with(&[]);
    let (set, removed, rerouted) = to_request(run.replied(request(&[("x-user-id", "u1")])));
    assert_eq!(
        (
            set["x-knhk-variant"].as_str(),
            set["x-knhk-rollout"].as_str(),
            set["x-knhk-policy"].as_str()
        ),
        ("canary", "shop", "1.2")
    );
    assert_eq!(removed, ["x-knhk-flags", "x-knhk-class", "x-knhk-receipt"]);
    assert!(rerouted);
    assert_eq!(run.outcomes, []);

    run.now += Duration::from_micros(1_234);
    let own = run.recording(response("418"));
    assert_eq!(
        (own.via, own.seen),
        (
            Via::ExtProc,
            Some(Seen {
                status: Some(418),
                duration_us: 1_234
            })
        )
    );
    assert_eq!(own.decision.policy, PolicyId { epoch: 1, n: 2 });
    let evidence = &own.decision.evidence;
    assert_eq!((evidence.method.as_str(), evidence.host.as_str()), ("GET", HOST));
    assert_eq!(evidence.rollout.as_ref().expect("routed").key, Some(0));

    let (set, removed, _) = to_response(run.durable(7));
    assert_eq!(
        set,
        HashMap::from([("x-knhk-receipt".to_owned(), format!("{REGION}/7"))])
    );
    assert_eq!(removed, [""; 0]);
    assert_eq!(run.outcomes, [Outcome::Recorded]);
    assert_eq!(run.ends(), Effect::Wait);
    assert_eq!(
        run.outcomes.len(),
        1,
        "an end after the response is no second outcome"
    );
}

#[test]
fn the_snapshot_that_the_filter_named_decides_and_an_unknown_one_does_not() {
    for (named, variant, policy) in [
        ("1.1", "stable", "1.1"),
        ("9.9", "canary", "1.2"),
        ("x", "canary", "1.2"),
    ] {
        let mut run = Run::with(&[]);
        let reply = run.replied(request(&[("x-user-id", "u1"), ("x-knhk-policy", named)]));
        let Response::RequestHeaders(reply) = reply else {
            panic!("not decided")
        };
        let (set, ..) = mutation(reply.response);
        assert_eq!(set["x-knhk-variant"], variant, "{named}");
        assert_eq!(run.recording(response("200")).decision.policy.to_string(), policy);
    }
}

#[test]
fn the_route_is_looked_up_again_only_when_a_header_that_routes_changed() {
    let as_decided = [
        ("x-user-id", "u1"),
        ("x-knhk-variant", "canary"),
        ("x-knhk-rollout", "shop"),
        ("x-knhk-policy", "1.2"),
    ];
    let of = |more: &[(&str, &str)]| to_request(Run::with(&[]).replied(request(more)));
    let (set, removed, rerouted) = of(&as_decided);
    assert_eq!(
        (set.len(), rerouted),
        (0, false),
        "the filter before us has said the same"
    );
    assert_eq!(removed.len(), 3);

    let changed: [&[(&str, &str)]; 4] = [
        &[("x-knhk-variant", "stable")],
        // A second copy is deleted with the first.
        &[("x-knhk-variant", "canary"), ("x-knhk-variant", "stable")],
        &[("x-knhk-class", "R1")],
        &[("x-knhk-flags", "a=b")],
    ];
    for more in changed {
        let mut all = vec![
            ("x-user-id", "u1"),
            ("x-knhk-rollout", "shop"),
            ("x-knhk-policy", "1.2"),
        ];
        all.extend_from_slice(more);
        assert!(of(&all).2, "{more:?}");
    }

    // No rollout: nothing of ours routes, unless a client forged it.
    let other = |more: &[(&str, &str)]| {
        let mut all = vec![(":method", "GET"), (":authority", "other.test"), (":path", "/")];
        all.extend_from_slice(more);
        to_request(Run::with(&[]).replied(message(Request::RequestHeaders(headers(&all)))))
    };
    assert!(!other(&[("x-knhk-receipt", "mine/1"), ("x-knhk-policy", "9.9")]).2);
    let (set, removed, rerouted) = other(&[("x-knhk-variant", "canary")]);
    assert_eq!(set.keys().collect::<Vec<_>>(), ["x-knhk-policy"]);
    assert!(removed.contains(&"x-knhk-variant".to_owned()) && rerouted);
}

#[test]
fn the_peer_is_read_where_envoy_sends_it() {
    let key = |message| {
        let mut run = Run::with(&[]);
        run.replied(message);
        let evidence = run.recording(response("200")).decision.evidence;
        (evidence.subject.clone(), evidence.rollout.expect("routed").key)
    };
    let peer = "spiffe://example.org/ns/a/sa/web";
    assert_eq!(
        key(with_peer(request(&[]), peer)),
        (Some(peer.to_owned()), Some(1))
    );
    assert_eq!(key(with_peer(request(&[]), "https://example.org")), (None, None));
    assert_eq!(key(request(&[])), (None, None));
}

#[test]
fn a_plain_value_and_host_are_read_as_well() {
    let plain = |key: &str, value: &str| HeaderValue {
        key: key.to_owned(),
        value: value.to_owned(),
        ..HeaderValue::default()
    };
    let mut run = Run::with(&[]);
    let list = [
        plain(":method", "GET"),
        plain("host", HOST),
        plain(":path", "/cart"),
        plain("x-user-id", "u1"),
    ];
    let headers = HttpHeaders {
        headers: Some(HeaderMap { headers: list.into() }),
        ..HttpHeaders::default()
    };
    let (set, ..) = to_request(run.replied(message(Request::RequestHeaders(headers))));
    assert_eq!(set["x-knhk-rollout"], "shop");
}

#[test]
fn a_stream_that_ends_before_the_response_is_recorded_without_a_status() {
    let mut run = Run::with(&[]);
    run.replied(request(&[]));
    let own = record_of(run.ends());
    assert_eq!(own.seen, None);
    assert_eq!(run.durable(1), Effect::Wait);
    assert_eq!(run.outcomes, [Outcome::RecordedUnfinished]);

    let mut run = Run::with(&[("on_error", "open")]);
    run.replied(request(&[]));
    record_of(run.ends());
    assert_eq!(run.fails("disk_full"), Effect::Wait);
    assert_eq!(run.outcomes, [Outcome::Lost]);
}

#[test]
fn what_cannot_be_recorded_is_refused_or_goes_on_without_a_receipt_as_the_route_says() {
    for (label, reason, grpc) in [
        ("disk_full", "not_recorded", 14),
        ("wait_timeout", "not_recorded", 14),
        ("resource_exhausted", "resource_exhausted", 8),
    ] {
        let mut run = Run::with(&[]);
        run.replied(request(&[]));
        run.recording(response("200"));
        let (said, _, refusal) = refused(reply_of(run.fails(label)));
        assert_eq!(
            (said.as_str(), refusal.grpc_status.expect("a status").status),
            (reason, grpc)
        );
        assert_eq!(refusal.details, format!("knhk_{reason}"));
        assert_eq!(run.outcomes, [Outcome::FailedClosed]);

        let mut run = Run::with(&[("on_error", "open")]);
        run.replied(request(&[]));
        run.recording(response("200"));
        let (set, removed, _) = to_response(run.fails(label));
        assert_eq!((set.len(), removed), (0, vec!["x-knhk-receipt".to_owned()]));
        assert_eq!(run.outcomes, [Outcome::FailedOpen]);
    }
}

#[test]
fn a_route_says_what_is_recorded() {
    for record in ["none", "denials", "sample:0"] {
        let mut run = Run::with(&[("record", record)]);
        let (set, ..) = to_request(run.replied(request(&[])));
        assert_eq!(set["x-knhk-rollout"], "shop", "it is decided all the same");
        let effect = run.send(response("200")).expect("it may come");
        let (set, removed, _) = to_response(effect);
        assert_eq!(
            (set.len(), removed.len()),
            (0, 1),
            "an upstream's own receipt is none"
        );
        assert_eq!(run.outcomes, [Outcome::NotRecorded]);

        let mut run = Run::with(&[("record", record)]);
        run.replied(request(&[]));
        assert_eq!(run.ends(), Effect::Wait);
        assert_eq!(run.outcomes, [Outcome::NotRecorded]);
    }
    let mut run = Run::with(&[("record", "sample:100")]);
    run.replied(request(&[]));
    run.recording(response("200"));
}

#[test]
fn wrong_options_are_refused_by_name_and_nothing_is_decided() {
    let mut run = Run::with(&[("wait_timeout", "soon")]);
    let (reason, body, _) = refused(run.replied(request(&[])));
    assert_eq!(reason, "bad_route_option");
    assert!(
        body.starts_with("grpc_initial_metadata.wait_timeout: ") && body.ends_with('\n'),
        "{body}"
    );
    assert_eq!(run.ends(), Effect::Wait);
    assert_eq!(run.outcomes, [Outcome::FailedClosed]);

    let mut run = Run::with(&[("record", "some")]);
    assert_eq!(run.send(observed(request(&[]))), Ok(Effect::Wait));
    assert_eq!(run.send(observed(response("200"))), Ok(Effect::Wait));
    assert_eq!(run.outcomes, [Outcome::FailedOpen], "nobody reads a refusal");
}

#[test]
fn what_check_recorded_is_not_recorded_again_and_keeps_its_receipt() {
    let receipt = format!("{REGION}/41");
    let ext_authz = "envoy.filters.http.ext_authz";
    let mut run = Run::with(&[]);
    let checked = after_check(request(&[("x-knhk-receipt", &receipt)]), ext_authz, &receipt);
    let (set, removed, _) = to_request(run.replied(checked));
    assert!(!set.contains_key("x-knhk-receipt") && !removed.contains(&"x-knhk-receipt".to_owned()));
    let (set, ..) = to_response(run.send(response("200")).expect("it may come"));
    assert_eq!(set["x-knhk-receipt"], receipt);
    assert_eq!(run.outcomes, [Outcome::NotRecorded]);

    // A header alone proves nothing, nor does metadata of others.
    for message in [
        request(&[("x-knhk-receipt", &receipt)]),
        after_check(request(&[]), "envoy.filters.http.lua", &receipt),
        after_check(request(&[]), ext_authz, "us-east-1/41"),
        after_check(request(&[]), ext_authz, &format!("{REGION}/")),
        after_check(request(&[]), ext_authz, &format!("{REGION}/4x")),
        after_check(request(&[]), ext_authz, ""),
    ] {
        let mut run = Run::with(&[]);
        let (_, removed, _) = to_request(run.replied(message));
        assert!(removed.contains(&"x-knhk-receipt".to_owned()));
        run.recording(response("200"));
    }
}

#[test]
fn an_answer_of_another_filter_that_never_got_here_as_a_request_passes() {
    let mut run = Run::with(&[]);
    let (set, removed, _) = to_response(run.send(response("401")).expect("it may come"));
    assert_eq!((set.len(), removed), (0, vec!["x-knhk-receipt".to_owned()]));
    assert_eq!(run.outcomes, [Outcome::NotDecided]);
    assert_eq!(run.send(request(&[])), Err(Violation::RequestHeaders));
    assert_eq!(run.ends(), Effect::Wait);
    assert_eq!(run.outcomes.len(), 1);
}

#[test]
fn a_message_that_cannot_come_ends_the_stream_and_the_decision_is_kept() {
    let mut run = Run::with(&[]);
    run.replied(request(&[]));
    assert_eq!(run.send(request(&[])), Err(Violation::RequestHeaders));
    assert_eq!(record_of(run.ends()).seen, None);
    run.durable(1);
    assert_eq!(run.outcomes, [Outcome::RecordedUnfinished]);

    let mut run = Run::with(&[]);
    run.replied(request(&[]));
    run.recording(response("200"));
    run.durable(1);
    assert_eq!(run.send(response("200")), Err(Violation::ResponseHeaders));
    assert_eq!(run.ends(), Effect::Wait);
    assert_eq!(run.outcomes, [Outcome::Recorded]);
}

#[test]
fn bodies_that_would_have_to_be_sent_back_are_refused() {
    let asked = |request_body_mode: BodySendMode, response_body_mode: BodySendMode| {
        let mut message = request(&[]);
        message.protocol_config = Some(ProtocolConfiguration {
            request_body_mode: request_body_mode.into(),
            response_body_mode: response_body_mode.into(),
            ..ProtocolConfiguration::default()
        });
        Run::with(&[]).send(message).map(|_| ())
    };
    use BodySendMode::{Buffered, BufferedPartial, FullDuplexStreamed, Grpc, None, Streamed};
    for mode in [None, Buffered, BufferedPartial, Streamed] {
        assert_eq!(asked(mode, mode), Ok(()), "{mode:?}");
    }
    for mode in [FullDuplexStreamed, Grpc] {
        assert_eq!(asked(mode, None), Err(Violation::BodyMode), "{mode:?}");
        assert_eq!(asked(None, mode), Err(Violation::BodyMode), "{mode:?}");
    }
}

#[test]
fn a_status_that_is_none_is_recorded_as_none() {
    for status in ["", "20", "600", "99999", "+200", "2x0"] {
        let mut run = Run::with(&[]);
        run.replied(request(&[]));
        let seen = run.recording(response(status)).seen.expect("seen");
        assert_eq!(seen.status, None, "{status:?}");
    }
}

/// What a proxy may send, in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    Unknown,
}

impl Sent {
    fn message(self) -> ProcessingRequest {
        match self {
            Self::RequestHeaders => request(&[("x-user-id", "u")]),
            Self::RequestBody => message(Request::RequestBody(HttpBody::default())),
            Self::RequestTrailers => message(Request::RequestTrailers(HttpTrailers::default())),
            Self::ResponseHeaders => response("200"),
            Self::ResponseBody => message(Request::ResponseBody(HttpBody::default())),
            Self::ResponseTrailers => message(Request::ResponseTrailers(HttpTrailers::default())),
            Self::Unknown => ProcessingRequest::default(),
        }
    }

    /// Whether this is the kind of answer that the protocol asks for.
    fn is_answered_by(self, reply: &ProcessingResponse) -> bool {
        match (&reply.response, self) {
            (Some(Response::ImmediateResponse(_)), Self::RequestHeaders | Self::ResponseHeaders)
            | (Some(Response::RequestHeaders(_)), Self::RequestHeaders)
            | (Some(Response::ResponseHeaders(_)), Self::ResponseHeaders) => true,
            (Some(Response::RequestBody(reply)), Self::RequestBody)
            | (Some(Response::ResponseBody(reply)), Self::ResponseBody) => reply.response.is_none(),
            (Some(Response::RequestTrailers(reply)), Self::RequestTrailers)
            | (Some(Response::ResponseTrailers(reply)), Self::ResponseTrailers) => {
                reply.header_mutation.is_none()
            }
            (None, Self::Unknown) => true,
            _ => false,
        }
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        4 => Just(Sent::RequestHeaders),
        4 => Just(Sent::ResponseHeaders),
        1 => Just(Sent::RequestBody),
        1 => Just(Sent::RequestTrailers),
        1 => Just(Sent::ResponseBody),
        1 => Just(Sent::ResponseTrailers),
        1 => Just(Sent::Unknown),
    ]
}

proptest! {
    /// Whatever comes in whatever order: each message has exactly its own kind of answer or none where nobody reads one;
    /// a decision is recorded exactly once if the route wants it; and there is one outcome, at most.
    #[test]
    fn every_message_is_answered_in_order_and_every_decision_is_recorded_once(
        messages in prop::collection::vec((sent(), any::<bool>()), 0..8),
        record in prop::sample::select(vec!["all", "none", "bad"]),
        on_error in prop::sample::select(vec!["open", "closed"]),
        durable in any::<bool>(),
    ) {
        let mut run = Run::with(&[("record", record), ("on_error", on_error)]);
        let (mut decided, mut responded, mut records, mut violated) = (false, false, 0, false);
        for (sent, observability_mode) in messages {
            let mut message = sent.message();
            message.observability_mode = observability_mode;
            let may_come = match sent {
                Sent::RequestHeaders => !decided && !responded,
                Sent::ResponseHeaders => !responded,
                _ => true,
            };
            let effect = match run.send(message) {
                Err(_) => {
                    prop_assert!(!may_come);
                    violated = true;
                    break;
                }
                Ok(effect) => effect,
            };
            prop_assert!(may_come);
            decided |= sent == Sent::RequestHeaders;
            responded |= sent == Sent::ResponseHeaders;
            let effect = match effect {
                Effect::Record(own) => {
                    prop_assert!(sent == Sent::ResponseHeaders && own.seen.is_some());
                    records += 1;
                    if durable { run.durable(records) } else { run.fails("io") }
                }
                other => other,
            };
            match effect {
                Effect::Reply(reply) => prop_assert!(!observability_mode && sent.is_answered_by(&reply), "{sent:?}: {reply:?}"),
                Effect::Wait => prop_assert!(observability_mode),
                Effect::Record(_) => prop_assert!(false, "recorded twice"),
            }
        }
        if let Effect::Record(own) = run.ends() {
            prop_assert!(own.seen.is_none() && !responded);
            records += 1;
            let effect = if durable { run.durable(records) } else { run.fails("io") };
            prop_assert_eq!(effect, Effect::Wait);
        }
        prop_assert_eq!(run.ends(), Effect::Wait, "the end comes once");
        prop_assert_eq!(records, u64::from(decided && record == "all"));
        prop_assert_eq!(run.outcomes.len(), usize::from(decided || responded));
        prop_assert!(!violated || decided || responded);
    }
}
