//! Envoy's `ext_authz`: the filter's own decision, made durable before the upstream sees the request.

use std::collections::HashMap;
use std::sync::Arc;

use knhk_decision::headers::{CLASS, FLAGS, POLICY, RECEIPT, ROLLOUT, VARIANT};
use knhk_decision::{Facts, PolicyId, Verdict, decide, evidence, is_sampled};
use knhk_proto::envoy::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use knhk_proto::envoy::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use knhk_proto::envoy::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use knhk_proto::envoy::pb::envoy::service::auth::v3::authorization_server::Authorization;
use knhk_proto::envoy::pb::envoy::service::auth::v3::check_response::HttpResponse;
use knhk_proto::envoy::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use knhk_proto::envoy::pb::envoy::r#type::v3::{HttpStatus, StatusCode};
use knhk_proto::envoy::pb::google::protobuf::value::Kind;
use knhk_proto::envoy::pb::google::protobuf::{Struct, Value};
use knhk_proto::envoy::pb::google::rpc;
use knhk_telemetry::attribute::CheckOutcome;
use tonic::{Code, Request, Response, Status};

use super::route_options::{BadOption, OnError, RecordWhen, RouteOptions};
use crate::app::App;
use crate::app::clock::wall_ms;
use crate::app::recorder::CheckedDecision;
use crate::app::snapshots::Snapshot;

/// Says why a request was refused; low-cardinality.
const REASON: &str = "x-knhk-reason";
/// Every header that this service sets; a copy that a client sent is deleted.
const OURS: [&str; 6] = [VARIANT, ROLLOUT, FLAGS, CLASS, POLICY, RECEIPT];

/// The gRPC service.
pub(crate) struct CheckService {
    app: Arc<App>,
}

impl CheckService {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl Authorization for CheckService {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let started = self.app.clock.mono();
        let request = request.into_inner();
        let attributes = request.attributes.unwrap_or_default();
        let options = match RouteOptions::parse(&attributes.context_extensions) {
            Ok(options) => options,
            Err(bad) => {
                let took = self.app.clock.mono().saturating_sub(started);
                self.app.metrics.check(CheckOutcome::FailedClosed, took);
                return Ok(Response::new(refuse_route(&bad)));
            }
        };
        let http = attributes
            .request
            .and_then(|request| request.http)
            .ok_or_else(|| Status::invalid_argument("attributes.request.http is missing"))?;
        let peer = attributes
            .source
            .map(|source| source.principal)
            .unwrap_or_default();
        let (answer, outcome) = self
            .answer(
                &options,
                &CheckFacts {
                    http: &http,
                    peer: &peer,
                },
            )
            .await;
        self.app
            .metrics
            .check(outcome, self.app.clock.mono().saturating_sub(started));
        Ok(Response::new(answer))
    }
}

impl CheckService {
    async fn answer(&self, options: &RouteOptions, facts: &CheckFacts<'_>) -> (CheckResponse, CheckOutcome) {
        let snapshot = self.snapshot_for(facts);
        let verdict = decide(&snapshot.policy, facts);
        let mut set = Headers::of(&snapshot, &verdict);
        if !is_recorded(options.record, facts, rand::random) {
            return (admitted(set), CheckOutcome::NotRecorded);
        }
        let decision = CheckedDecision {
            time_unix_ms: wall_ms(),
            policy: snapshot.id,
            policy_sha256: snapshot.sha256,
            evidence: evidence(&snapshot.policy, facts, &verdict),
        };
        let recorded =
            tokio::time::timeout(options.wait_timeout, self.app.recorder.record_check(decision)).await;
        let failure = match recorded {
            Ok(Ok(index)) => {
                set.push(RECEIPT, format!("{}/{index}", self.app.region));
                return (admitted(set), CheckOutcome::Recorded);
            }
            Ok(Err(error)) => error.label(),
            Err(_) => "wait_timeout",
        };
        tracing::warn!(failure, on_error = ?options.on_error, "a decision could not be recorded in time");
        match options.on_error {
            OnError::Open => (admitted(set), CheckOutcome::FailedOpen),
            OnError::Closed => {
                let answer = refused("not_recorded", "the decision could not be recorded\n");
                (answer, CheckOutcome::FailedClosed)
            }
        }
    }

    /// The snapshot by which the filter before us decided, else the newest.
    fn snapshot_for(&self, facts: &CheckFacts<'_>) -> Arc<Snapshot> {
        facts
            .header(POLICY)
            .and_then(|name| std::str::from_utf8(name).ok())
            .and_then(|name| name.parse::<PolicyId>().ok())
            .and_then(|id| self.app.snapshots.named(id))
            .unwrap_or_else(|| self.app.snapshots.newest())
    }
}

fn refuse_route(bad: &BadOption) -> CheckResponse {
    tracing::error!(%bad, "a route's options are refused; its requests are answered 503");
    refused("bad_route_option", &format!("{bad}\n"))
}

/// Only admitted requests reach this point, so `denials` records none of them. As in the filter, a request without an
/// ID is in a sample by chance: `draw` gives it one.
fn is_recorded(record: RecordWhen, facts: &CheckFacts<'_>, draw: impl FnOnce() -> [u8; 16]) -> bool {
    match record {
        RecordWhen::Always => true,
        RecordWhen::Never | RecordWhen::Denials => false,
        RecordWhen::Sample(share) => match facts.header("x-request-id").filter(|id| !id.is_empty()) {
            Some(id) => is_sampled(share, id),
            None => is_sampled(share, &draw()),
        },
    }
}

/// A request as Envoy describes it. With `encode_raw_headers` the first value of a repeated header counts, as
/// in the filter; without it Envoy has joined them.
struct CheckFacts<'a> {
    http: &'a HttpRequest,
    peer: &'a str,
}

impl Facts for CheckFacts<'_> {
    fn method(&self) -> &[u8] {
        self.http.method.as_bytes()
    }

    fn authority(&self) -> &[u8] {
        self.http.host.as_bytes()
    }

    fn path(&self) -> &[u8] {
        self.http.path.as_bytes()
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        match &self.http.header_map {
            Some(raw) => raw
                .headers
                .iter()
                .find(|header| header.key == name)
                .map(raw_value),
            None => self.http.headers.get(name).map(String::as_bytes),
        }
    }

    fn peer_spiffe_id(&self) -> Option<&str> {
        self.peer.starts_with("spiffe://").then_some(self.peer)
    }
}

fn raw_value(header: &HeaderValue) -> &[u8] {
    if header.raw_value.is_empty() {
        header.value.as_bytes()
    } else {
        &header.raw_value
    }
}

/// What the upstream and later filters are told.
struct Headers(Vec<(&'static str, String)>);

impl Headers {
    fn of(snapshot: &Snapshot, verdict: &Verdict<'_>) -> Self {
        let mut headers = Self(vec![(POLICY, snapshot.id.to_string())]);
        if let Verdict::Routed(routed) = verdict {
            headers.push(VARIANT, routed.variant.as_str().to_owned());
            headers.push(ROLLOUT, routed.rule.name.clone());
        }
        headers
    }

    fn push(&mut self, name: &'static str, value: String) {
        self.0.push((name, value));
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(set, _)| *set == name)
    }

    /// The same without the prefix, for access logs and later filters.
    fn to_metadata(&self) -> Struct {
        let fields = self.0.iter().map(|(name, value)| {
            let key = name.trim_start_matches(knhk_decision::headers::PREFIX).to_owned();
            (
                key,
                Value {
                    kind: Some(Kind::StringValue(value.clone())),
                },
            )
        });
        Struct {
            fields: fields.collect::<HashMap<_, _>>(),
        }
    }
}

fn admitted(headers: Headers) -> CheckResponse {
    // Envoy removes after it sets: what we set must not be in the list.
    let headers_to_remove = OURS
        .iter()
        .filter(|name| !headers.has(name))
        .map(|name| (*name).to_owned())
        .collect();
    let dynamic_metadata = Some(headers.to_metadata());
    let headers = headers
        .0
        .into_iter()
        .map(|(name, value)| overwrite(name, value))
        .collect();
    CheckResponse {
        status: Some(rpc::Status {
            code: Code::Ok.into(),
            ..rpc::Status::default()
        }),
        dynamic_metadata,
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
            headers,
            headers_to_remove,
            ..OkHttpResponse::default()
        })),
    }
}

fn refused(reason: &str, body: &str) -> CheckResponse {
    CheckResponse {
        status: Some(rpc::Status {
            code: Code::Unavailable.into(),
            ..rpc::Status::default()
        }),
        dynamic_metadata: None,
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus {
                code: StatusCode::ServiceUnavailable.into(),
            }),
            headers: vec![overwrite(REASON, reason.to_owned())],
            body: body.to_owned(),
        })),
    }
}

fn overwrite(key: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value,
            ..HeaderValue::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knhk_proto::envoy::pb::envoy::config::core::v3::HeaderMap;

    #[test]
    fn what_is_set_is_not_removed_and_the_rest_of_ours_is() {
        let mut headers = Headers(vec![(POLICY, "1.2".into())]);
        headers.push(VARIANT, "canary".into());
        let Some(HttpResponse::OkResponse(ok)) = admitted(headers).http_response else {
            panic!("admitted")
        };
        let set: Vec<_> = ok
            .headers
            .iter()
            .filter_map(|option| option.header.as_ref())
            .map(|h| h.key.as_str())
            .collect();
        assert_eq!(set, [POLICY, VARIANT]);
        assert_eq!(ok.headers_to_remove, [ROLLOUT, FLAGS, CLASS, RECEIPT]);
    }

    #[test]
    fn the_first_value_of_a_repeated_raw_header_counts() {
        let header = |value: &str| HeaderValue {
            key: "x-user-id".into(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        };
        let http = HttpRequest {
            header_map: Some(HeaderMap {
                headers: vec![header("one"), header("two")],
            }),
            ..HttpRequest::default()
        };
        let facts = CheckFacts {
            http: &http,
            peer: "spiffe://d/w",
        };
        assert_eq!(facts.header("x-user-id"), Some(b"one".as_slice()));
        assert_eq!(facts.header("x-other"), None);
        assert_eq!(facts.peer_spiffe_id(), Some("spiffe://d/w"));
        assert_eq!(
            CheckFacts {
                http: &http,
                peer: "CN=x"
            }
            .peer_spiffe_id(),
            None
        );
    }

    #[test]
    fn a_request_without_an_id_is_in_a_sample_by_chance() {
        use knhk_decision::spec::Weight;

        let http = HttpRequest::default();
        let facts = CheckFacts {
            http: &http,
            peer: "",
        };
        let sampled = |share, draw| is_recorded(RecordWhen::Sample(share), &facts, move || draw);
        let half = Weight::from_percent(50.0).expect("in range");
        assert!(sampled(Weight::FULL, [0; 16]) && !sampled(Weight::ZERO, [0; 16]));
        let drawn = (0..=255).filter(|byte| sampled(half, [*byte; 16])).count();
        assert!((90..=166).contains(&drawn), "{drawn}");
    }
}
