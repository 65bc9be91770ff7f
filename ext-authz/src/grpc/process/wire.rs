//! What `ext_proc` sends and is sent: facts out of a message, and answers to it.

use std::iter;

use knhk_decision::headers::{CLASS, FLAGS, REASON, RECEIPT, ROLLOUT, VARIANT};
use knhk_decision::{Facts, SpiffeId, XFCC_HEADER, xfcc_peer};
use knhk_proto::envoy::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use knhk_proto::envoy::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use knhk_proto::envoy::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::processing_request::Request;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::processing_response::Response;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::{
    BodyResponse, CommonResponse, GrpcStatus, HeaderMutation, HeadersResponse, HttpHeaders,
    ImmediateResponse, ProcessingRequest, ProcessingResponse, ProtocolConfiguration, TrailersResponse,
};
use knhk_proto::envoy::pb::envoy::r#type::v3::HttpStatus;
use knhk_proto::envoy::pb::google::protobuf::Struct;
use knhk_proto::envoy::pb::google::protobuf::value::Kind;

use crate::grpc::decided::seconds;
use crate::grpc::headers::{HeaderList, Headers};
use crate::grpc::recording::Refusal;
use crate::grpc::route_options::PeerSource;

/// The headers of ours that routes may match on: the route is looked up again when one of them changed.
const ROUTED_BY: [&str; 4] = [VARIANT, ROLLOUT, FLAGS, CLASS];
/// Where Envoy has the peer's name, if the filter's `request_attributes` ask for it.
const PEER: &str = "connection.uri_san_peer_certificate";
/// Where `ext_authz` puts what Check says, if the filter's `forwarding_namespaces` name it.
const CHECK_METADATA: &str = "envoy.filters.http.ext_authz";

/// The headers of a message.
pub(super) fn list(headers: &HttpHeaders) -> HeaderList<'_> {
    HeaderList(headers.headers.as_ref().map_or(&[], |map| &map.headers))
}

/// A request as the first message describes it.
pub(super) struct ProcessFacts<'a> {
    pub(super) headers: HeaderList<'a>,
    /// What Envoy calls the owner of the certificate that it verified.
    pub(super) certified: &'a str,
    pub(super) peer_source: PeerSource,
    /// When it is decided, since the Unix epoch.
    pub(super) wall_ms: u64,
}

impl Facts for ProcessFacts<'_> {
    fn method(&self) -> &[u8] {
        self.headers.first(":method").unwrap_or_default()
    }

    fn authority(&self) -> &[u8] {
        authority(self.headers)
    }

    fn path(&self) -> &[u8] {
        self.headers.first(":path").unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.first(name)
    }

    fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers.iter()
    }

    fn unix_seconds(&self) -> i64 {
        seconds(self.wall_ms)
    }

    fn peer_spiffe_id(&self) -> Option<SpiffeId<'_>> {
        match self.peer_source {
            PeerSource::Certificate => SpiffeId::parse(self.certified),
            PeerSource::Xfcc => xfcc_peer(self.headers.last(XFCC_HEADER)?),
        }
    }
}

/// The host that a request is for, where the message has one.
pub(super) fn host(message: &ProcessingRequest) -> Option<&[u8]> {
    match &message.request {
        Some(Request::RequestHeaders(headers)) => Some(authority(list(headers))),
        _ => None,
    }
}

fn authority(headers: HeaderList<'_>) -> &[u8] {
    headers
        .first(":authority")
        .or_else(|| headers.first("host"))
        .unwrap_or_default()
}

/// What the peer's certificate calls it, empty where Envoy sends nothing of it.
pub(super) fn certified(message: &ProcessingRequest) -> &str {
    message
        .attributes
        .values()
        .find_map(|attributes| text(attributes, PEER))
        .unwrap_or_default()
}

/// The receipt that Check has given this request in this region, as the metadata of `ext_authz` claims, and the index of its
/// entry. Any filter of Envoy's may write metadata, so the log has to say whether that is so.
pub(super) fn claimed_of_check<'a>(message: &'a ProcessingRequest, region: &str) -> Option<(&'a str, u64)> {
    let Some(Request::RequestHeaders(_)) = message.request else {
        return None;
    };
    let metadata = &message.metadata_context.as_ref()?.filter_metadata;
    let receipt = text(metadata.get(CHECK_METADATA)?, "receipt")?;
    let digits = receipt.strip_prefix(region)?.strip_prefix('/')?;
    let index: u64 = digits.parse().ok()?;
    // A number has one form: `+4` and `04` are not ours.
    (index.to_string() == digits).then_some((receipt, index))
}

fn text<'a>(fields: &'a Struct, name: &str) -> Option<&'a str> {
    match fields.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Whether a body sent this way can be left untouched by an empty answer. In the other two ways the service would have
/// to send the body back.
pub(super) fn leaves_bodies_alone(config: &ProtocolConfiguration) -> bool {
    let untouched = |mode: i32| {
        !matches!(
            BodySendMode::try_from(mode),
            Ok(BodySendMode::FullDuplexStreamed | BodySendMode::Grpc)
        )
    };
    untouched(config.request_body_mode) && untouched(config.response_body_mode)
}

/// The status of a response, if it is one.
pub(super) fn status(headers: HeaderList<'_>) -> Option<u16> {
    let digits = headers.first(":status").filter(|digits| digits.len() == 3)?;
    let status = digits.iter().try_fold(0, |status, digit| {
        digit
            .is_ascii_digit()
            .then(|| status * 10 + u16::from(digit - b'0'))
    })?;
    Some(status).filter(|status| (100..=599).contains(status))
}

/// The answer to a request's headers: ours are set, and every other copy of them is removed.
pub(super) fn to_request(headers: &Headers, received: HeaderList<'_>) -> ProcessingResponse {
    let is_news = |name: &str, value: &str| !received.is_only(name, value.as_bytes());
    let set_headers = headers
        .iter()
        .filter(|(name, value)| is_news(name, value))
        .map(|(name, value)| overwrite(name, value))
        .collect();
    let changes_route = headers
        .iter()
        .any(|(name, value)| ROUTED_BY.contains(&name) && is_news(name, value))
        || headers
            .unset()
            .any(|name| ROUTED_BY.contains(&name) && received.first(name).is_some());
    answer(Response::RequestHeaders(HeadersResponse {
        response: Some(CommonResponse {
            header_mutation: Some(HeaderMutation {
                set_headers,
                // Always: `forward_rules` may hide a header from us that is there.
                remove_headers: headers.unset().map(str::to_owned).collect(),
            }),
            clear_route_cache: changes_route,
            ..CommonResponse::default()
        }),
    }))
}

/// The answer to a response's headers: it has our receipt, or none.
pub(super) fn to_response(receipt: Option<&str>) -> ProcessingResponse {
    let header_mutation = match receipt {
        Some(receipt) => HeaderMutation {
            set_headers: vec![overwrite(RECEIPT, receipt)],
            remove_headers: Vec::new(),
        },
        None => HeaderMutation {
            set_headers: Vec::new(),
            remove_headers: vec![RECEIPT.to_owned()],
        },
    };
    answer(Response::ResponseHeaders(HeadersResponse {
        response: Some(CommonResponse {
            header_mutation: Some(header_mutation),
            ..CommonResponse::default()
        }),
    }))
}

/// The answer to a message that changes nothing. One that this version does not know has an answer that says nothing.
pub(super) fn to_other(message: Option<&Request>) -> ProcessingResponse {
    let body = BodyResponse::default;
    let trailers = TrailersResponse::default;
    ProcessingResponse {
        response: match message {
            Some(Request::RequestBody(_)) => Some(Response::RequestBody(body())),
            Some(Request::ResponseBody(_)) => Some(Response::ResponseBody(body())),
            Some(Request::RequestTrailers(_)) => Some(Response::RequestTrailers(trailers())),
            Some(Request::ResponseTrailers(_)) => Some(Response::ResponseTrailers(trailers())),
            Some(Request::RequestHeaders(_) | Request::ResponseHeaders(_)) | None => None,
        },
        ..ProcessingResponse::default()
    }
}

/// An answer to the client in the upstream's place.
pub(super) fn refused(refusal: Refusal, receipt: Option<&str>) -> ProcessingResponse {
    let reason = overwrite(REASON, refusal.reason);
    answer(Response::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus {
            code: refusal.status.into(),
        }),
        headers: Some(HeaderMutation {
            set_headers: iter::once(reason)
                .chain(receipt.map(|receipt| overwrite(RECEIPT, receipt)))
                .collect(),
            remove_headers: Vec::new(),
        }),
        body: refusal.body.into_bytes(),
        grpc_status: Some(GrpcStatus {
            status: i32::from(refusal.code).unsigned_abs(),
        }),
        details: format!("knhk_{}", refusal.reason),
    }))
}

fn answer(response: Response) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(response),
        ..ProcessingResponse::default()
    }
}

fn overwrite(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}
