//! Who calls, and whether that may write.

use std::net::IpAddr;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{FromRequestParts, Request};
use axum::http::header::{HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use tokio::net::{TcpListener, UnixListener};

use super::{Api, ApiError};

/// What a listener lets its callers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// The Unix socket: its mode lets only the service's own user in.
    Operators,
    /// Loopback TCP: anybody on the machine; reads only.
    Readers,
    /// Loopback TCP with `insecure_dev: true`.
    AnybodyWrites,
}

/// Who is at the other end, as far as the transport says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerIdentity(String);

impl Connected<IncomingStream<'_, UnixListener>> for PeerIdentity {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        match stream.io().peer_cred() {
            Ok(cred) => Self(format!("unix:uid={}", cred.uid())),
            Err(_) => Self("unix:uid=unknown".to_owned()),
        }
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for PeerIdentity {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(format!("insecure-dev:{}", stream.remote_addr().ip()))
    }
}

/// An operator who may write; receipts name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller(pub(crate) String);

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        if api.access == Access::Readers {
            return Err(ApiError::read_only());
        }
        let ConnectInfo(peer) = ConnectInfo::<PeerIdentity>::from_request_parts(parts, api)
            .await
            .map_err(|_| ApiError::read_only())?;
        Ok(Self(peer.0))
    }
}

/// Keeps web pages in a browser on this machine out of the loopback listener: one says so in `Origin`, and one whose
/// name was pointed at this machine to read the answers (DNS rebinding) says it in `Host`.
pub(super) async fn not_from_a_web_page(request: Request, next: Next) -> Response {
    if request.headers().contains_key(ORIGIN) || !is_asked_by_address(request.headers()) {
        let message =
            "web pages may not ask here, nor programs by another name: use an IP address or localhost";
        return ApiError::new(StatusCode::FORBIDDEN, "foreign_origin", message).into_response();
    }
    next.run(request).await
}

/// An address cannot be pointed elsewhere, and `localhost` is never looked up outside.
fn is_asked_by_address(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else {
        return true;
    };
    let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}
