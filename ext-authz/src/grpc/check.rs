//! Envoy's `ext_authz`: the filter's own decision, made durable before the upstream sees the request.

use std::collections::HashMap;
use std::iter;
use std::sync::Arc;

use knhk_decision::headers::{PREFIX, REASON, RECEIPT};
use knhk_decision::{Admission, Facts, SpiffeId, XFCC_HEADER, xfcc_peer};
use knhk_proto::envoy::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use knhk_proto::envoy::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use knhk_proto::envoy::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use knhk_proto::envoy::pb::envoy::service::auth::v3::authorization_server::Authorization;
use knhk_proto::envoy::pb::envoy::service::auth::v3::check_response::HttpResponse;
use knhk_proto::envoy::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use knhk_proto::envoy::pb::envoy::r#type::v3::HttpStatus;
use knhk_proto::envoy::pb::google::protobuf::value::Kind;
use knhk_proto::envoy::pb::google::protobuf::{Struct, Value};
use knhk_proto::envoy::pb::google::rpc;
use knhk_receipts::Via;
use knhk_telemetry::attribute::{AccessDoor, CheckOutcome};
use tonic::{Code, Request, Response, Status};

use super::decided::{Decided, seconds};
use super::headers::{HeaderList, Headers};
use super::recording::{Recording, Refusal};
use super::route_options::{OnError, PeerSource, RouteOptions};
use crate::app::clock::wall_ms;
use crate::app::proxies::Proxy;
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
                return Ok(Response::new(refused((&bad).into(), None)));
            }
        };
        let http = attributes
            .request
            .and_then(|request| request.http)
            .ok_or_else(|| Status::invalid_argument("attributes.request.http is missing"))?;
        app.proxies
            .admit_host(&proxy, AccessDoor::Check, http.host.as_bytes())?;
        let principal = attributes
            .source
            .map(|source| source.principal)
            .unwrap_or_default();
        let facts = CheckFacts {
            http: &http,
            principal: &principal,
            peer_source: options.peer,
            wall_ms: wall_ms(),
        };
        let (answer, outcome) = self.answer(&options, &facts, &proxy).await;
        counted(outcome);
        Ok(Response::new(answer))
    }
}

impl CheckService {
    async fn answer(
        &self,
        options: &RouteOptions,
        facts: &CheckFacts<'_>,
        proxy: &Proxy,
    ) -> (CheckResponse, CheckOutcome) {
        let app = self.recording.app();
        let Decided {
            mut headers,
            admission,
            record,
        } = Decided::of(
            &app.snapshots,
            &app.metrics,
            facts,
            options.record,
            facts.wall_ms,
            rand::random,
        );
        let mut outcome = CheckOutcome::NotRecorded;
        if let Some(decision) = record {
            let own = OwnDecision {
                decision,
                via: Via::ExtAuthz,
                seen: None,
            };
            match (
                self.recording
                    .record(own, proxy, options.wait, options.wait_timeout)
                    .await,
                options.on_error,
            ) {
                (Ok(receipt), _) => {
                    headers.push(RECEIPT, receipt);
                    outcome = CheckOutcome::Recorded;
                }
                (Err(_), OnError::Open) => outcome = CheckOutcome::FailedOpen,
                (Err(why), OnError::Closed) => {
                    return (refused(why.into(), None), CheckOutcome::FailedClosed);
                }
            }
        }
        match (admission, outcome) {
            (Admission::Admitted, outcome) => (admitted(&headers), outcome),
            (Admission::Denied, CheckOutcome::FailedOpen) => (denied(&headers), CheckOutcome::FailedOpen),
            (Admission::Denied, _) => (denied(&headers), CheckOutcome::Denied),
        }
    }
}

/// A request as Envoy describes it. With `encode_raw_headers` the first value of a repeated header counts, as
/// in the filter; without it Envoy has joined them.
struct CheckFacts<'a> {
    http: &'a HttpRequest,
    /// What Envoy calls the owner of the certificate that it verified.
    principal: &'a str,
    peer_source: PeerSource,
    /// When it is decided, since the Unix epoch.
    wall_ms: u64,
}

impl CheckFacts<'_> {
    fn xfcc(&self) -> Option<&[u8]> {
        match &self.http.header_map {
            Some(raw) => HeaderList(&raw.headers).last(XFCC_HEADER),
            None => self.http.headers.get(XFCC_HEADER).map(String::as_bytes),
        }
    }
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

    fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let raw = self.http.header_map.as_ref();
        let joined = raw.is_none().then_some(&self.http.headers);
        raw.into_iter()
            .flat_map(|raw| HeaderList(&raw.headers).iter())
            .chain(
                joined
                    .into_iter()
                    .flatten()
                    .map(|(name, value)| (name.as_bytes(), value.as_bytes())),
            )
    }

    fn unix_seconds(&self) -> i64 {
        seconds(self.wall_ms)
    }

    fn peer_spiffe_id(&self) -> Option<SpiffeId<'_>> {
        match self.peer_source {
            PeerSource::Certificate => SpiffeId::parse(self.principal),
            PeerSource::Xfcc => xfcc_peer(self.xfcc()?),
        }
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

/// The rollout does not admit the caller. He gets the receipt, access logs all of it.
fn denied(headers: &Headers) -> CheckResponse {
    let receipt = headers
        .iter()
        .find_map(|(name, value)| (name == RECEIPT).then_some(value));
    CheckResponse {
        dynamic_metadata: Some(metadata(headers)),
        ..refused(Refusal::peer_not_allowed(), receipt)
    }
}

fn refused(refusal: Refusal, receipt: Option<&str>) -> CheckResponse {
    let reason = overwrite(REASON, refusal.reason);
    CheckResponse {
        status: Some(rpc::Status {
            code: refusal.code.into(),
            ..rpc::Status::default()
        }),
        dynamic_metadata: None,
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus {
                code: refusal.status.into(),
            }),
            headers: iter::once(reason)
                .chain(receipt.map(|receipt| overwrite(RECEIPT, receipt)))
                .collect(),
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
    use crate::app::snapshots::Snapshot;
    use crate::grpc::recording::NotRecorded;
    use knhk_proto::envoy::pb::envoy::config::core::v3::HeaderMap;

    #[test]
    fn a_refusal_says_why_in_a_header_and_in_the_status() {
        let answer = refused(NotRecorded::by("resource_exhausted").into(), None);
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

    const SHOP: &str = "spiffe://example.org/ns/shop/sa/web";
    const OTHER: &str = "spiffe://example.org/ns/other/sa/web";

    fn xfcc(id: &str) -> String {
        format!("By=spiffe://example.org/gw;Hash=00;Subject=\"\";URI={id}")
    }

    #[test]
    fn the_caller_is_the_certificates_owner_unless_the_route_says_otherwise() {
        let raw = |values: &[String]| HttpRequest {
            header_map: Some(HeaderMap {
                headers: values
                    .iter()
                    .map(|value| HeaderValue {
                        key: XFCC_HEADER.to_owned(),
                        raw_value: value.clone().into_bytes(),
                        ..HeaderValue::default()
                    })
                    .collect(),
            }),
            ..HttpRequest::default()
        };
        let joined = HttpRequest {
            headers: HashMap::from([(XFCC_HEADER.to_owned(), format!("{},{}", xfcc(OTHER), xfcc(SHOP)))]),
            ..HttpRequest::default()
        };
        let of = |http: &HttpRequest, principal, peer_source| {
            let facts = CheckFacts {
                http,
                principal,
                peer_source,
                wall_ms: 0,
            };
            facts.peer_spiffe_id().map(|id| id.as_str().to_owned())
        };
        let twice = raw(&[xfcc(OTHER), xfcc(SHOP)]);
        for http in [&twice, &joined] {
            assert_eq!(of(http, OTHER, PeerSource::Xfcc).as_deref(), Some(SHOP));
            assert_eq!(of(http, OTHER, PeerSource::Certificate).as_deref(), Some(OTHER));
            assert_eq!(of(http, "CN=web", PeerSource::Certificate), None);
        }
        assert_eq!(of(&raw(&[]), OTHER, PeerSource::Xfcc), None);
    }

    #[test]
    fn a_denial_has_reason_receipt_and_metadata_and_no_header_for_the_upstream() {
        let policy = serde_json::json!({
            "apiVersion": "knhk.dev/v1", "kind": "Policy", "epoch": 1, "n": 2,
            "rollouts": [{
                "name": "shop", "generation": 1, "window": 1, "weight": 50, "stable": "v1", "canary": "v2",
                "match": {}, "admit": { "peers": [SHOP] }, "key": [ { "header": "x-user-id" } ],
            }],
        });
        let snapshot = Snapshot::parse(policy.to_string().into_bytes()).expect("a policy");
        let http = HttpRequest::default();
        let facts = CheckFacts {
            http: &http,
            principal: OTHER,
            peer_source: PeerSource::Certificate,
            wall_ms: 0,
        };
        let verdict = knhk_decision::decide(&snapshot.policy, &facts);
        let mut headers = Headers::of(&snapshot, &verdict);
        headers.push(RECEIPT, "eu/7".to_owned());
        let answer = denied(&headers);
        assert_eq!(
            answer.status.expect("a status").code,
            i32::from(Code::PermissionDenied)
        );
        let metadata = answer.dynamic_metadata.expect("metadata").fields;
        let mut told: Vec<_> = metadata.keys().map(String::as_str).collect();
        told.sort_unstable();
        assert_eq!(told, ["policy", "receipt", "rollout"]);
        let Some(HttpResponse::DeniedResponse(denied)) = answer.http_response else {
            panic!("admitted")
        };
        assert_eq!(denied.status.expect("a status").code, 403);
        let headers: Vec<_> = denied
            .headers
            .iter()
            .filter_map(|option| option.header.as_ref())
            .map(|header| (header.key.as_str(), header.value.as_str()))
            .collect();
        assert_eq!(headers, [(REASON, "peer_not_allowed"), (RECEIPT, "eu/7")]);
    }
}
