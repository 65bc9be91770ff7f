//! Envoy's `ext_authz`: the filter's own decision, made durable before the upstream sees the request.

use std::collections::HashMap;
use std::sync::Arc;

use knhk_decision::Facts;
use knhk_decision::headers::{PREFIX, RECEIPT};
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
use knhk_receipts::Via;
use knhk_telemetry::attribute::{AccessDoor, CheckOutcome};
use tonic::{Code, Request, Response, Status};

use super::decided::{Decided, spiffe_id};
use super::headers::{HeaderList, Headers, REASON};
use super::recording::{Recording, Refusal};
use super::route_options::{OnError, RouteOptions};
use crate::app::clock::wall_ms;
use crate::app::recorder::OwnDecision;

/// The gRPC service.
pub(crate) struct CheckService {
    recording: Arc<Recording>,
}

impl CheckService {
    pub(crate) fn new(recording: Arc<Recording>) -> Self {
        Self { recording }
    }
}

#[tonic::async_trait]
impl Authorization for CheckService {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let app = self.recording.app();
        let started = app.clock.mono();
        let proxy = app.proxies.admit(request.extensions(), AccessDoor::Check)?;
        let request = request.into_inner();
        let attributes = request.attributes.unwrap_or_default();
        let counted = |outcome| {
            let took = app.clock.mono().saturating_sub(started);
            app.metrics.check(outcome, took);
        };
        let options = match RouteOptions::from_context_extensions(&attributes.context_extensions) {
            Ok(options) => options,
            Err(bad) => {
                self.recording.route_refused(&bad);
                counted(CheckOutcome::FailedClosed);
                return Ok(Response::new(refused((&bad).into())));
            }
        };
        let http = attributes
            .request
            .and_then(|request| request.http)
            .ok_or_else(|| Status::invalid_argument("attributes.request.http is missing"))?;
        app.proxies
            .admit_host(&proxy, AccessDoor::Check, http.host.as_bytes())?;
        let peer = attributes
            .source
            .map(|source| source.principal)
            .unwrap_or_default();
        let facts = CheckFacts {
            http: &http,
            peer: &peer,
        };
        let (answer, outcome) = self.answer(&options, &facts).await;
        counted(outcome);
        Ok(Response::new(answer))
    }
}

impl CheckService {
    async fn answer(&self, options: &RouteOptions, facts: &CheckFacts<'_>) -> (CheckResponse, CheckOutcome) {
        let snapshots = &self.recording.app().snapshots;
        let Decided { mut headers, record } =
            Decided::of(snapshots, facts, options.record, wall_ms(), rand::random);
        let Some(decision) = record else {
            return (admitted(&headers), CheckOutcome::NotRecorded);
        };
        let own = OwnDecision {
            decision,
            via: Via::ExtAuthz,
            seen: None,
        };
        match self.recording.record(own, options.wait_timeout).await {
            Ok(receipt) => {
                headers.push(RECEIPT, receipt);
                (admitted(&headers), CheckOutcome::Recorded)
            }
            Err(why) => match options.on_error {
                OnError::Open => (admitted(&headers), CheckOutcome::FailedOpen),
                OnError::Closed => (refused(why.into()), CheckOutcome::FailedClosed),
            },
        }
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
            Some(raw) => HeaderList(&raw.headers).first(name),
            None => self.http.headers.get(name).map(String::as_bytes),
        }
    }

    fn peer_spiffe_id(&self) -> Option<&str> {
        spiffe_id(self.peer)
    }
}

fn admitted(headers: &Headers) -> CheckResponse {
    CheckResponse {
        status: Some(rpc::Status {
            code: Code::Ok.into(),
            ..rpc::Status::default()
        }),
        dynamic_metadata: Some(metadata(headers)),
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: headers
                .iter()
                .map(|(name, value)| overwrite(name, value))
                .collect(),
            headers_to_remove: headers.unset().map(str::to_owned).collect(),
            ..OkHttpResponse::default()
        })),
    }
}

/// The headers without their prefix, for access logs and later filters.
fn metadata(headers: &Headers) -> Struct {
    let fields = headers.iter().map(|(name, value)| {
        let value = Value {
            kind: Some(Kind::StringValue(value.to_owned())),
        };
        (name.trim_start_matches(PREFIX).to_owned(), value)
    });
    Struct {
        fields: fields.collect::<HashMap<_, _>>(),
    }
}

fn refused(refusal: Refusal) -> CheckResponse {
    CheckResponse {
        status: Some(rpc::Status {
            code: refusal.code.into(),
            ..rpc::Status::default()
        }),
        dynamic_metadata: None,
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus {
                code: StatusCode::ServiceUnavailable.into(),
            }),
            headers: vec![overwrite(REASON, refusal.reason)],
            body: refusal.body,
        })),
    }
}

fn overwrite(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::recording::NotRecorded;

    #[test]
    fn a_refusal_says_why_in_a_header_and_in_the_status() {
        let answer = refused(NotRecorded("resource_exhausted").into());
        assert_eq!(
            answer.status.expect("a status").code,
            i32::from(Code::ResourceExhausted)
        );
        let Some(HttpResponse::DeniedResponse(denied)) = answer.http_response else {
            panic!("admitted")
        };
        let reason = denied.headers[0].header.as_ref().expect("a header");
        assert_eq!(
            (reason.key.as_str(), reason.value.as_str()),
            (REASON, "resource_exhausted")
        );
    }
}
