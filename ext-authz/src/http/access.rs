//! Who calls, and what they may do.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::header::{CONNECTION, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use knhk_identity::{Role, Roles, SpiffeId, TlsIncoming};
use knhk_telemetry::attribute::AccessDoor;
use tokio::net::{TcpListener, UnixListener};

use super::{Api, ApiError};
use crate::app::clock::wall_ms;
use crate::app::refusals::{Refusals, Refused, Who};

/// What a listener lets its callers do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Access {
    /// The Unix socket: its mode lets only the service's own user in.
    Operators,
    /// The Unix socket where operators show a SPIFFE ID elsewhere: reads only.
    LocalReaders,
    /// Loopback TCP: anybody on the machine; reads only.
    Readers,
    /// Loopback TCP with `insecure_dev: true`.
    AnybodyWrites,
    /// Mutual TLS: each as their roles say.
    Workloads(Arc<Roles>),
}

/// What a route needs, where callers show who they are. Elsewhere it matters only whether it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// To see how things are.
    Look,
    /// To change rollouts.
    Deploy,
    /// To rotate keys.
    RotateKeys,
    /// To read receipts, and what they are replayed against.
    ReadReceipts,
    /// To read the log: its tree, and the payloads in it.
    ReadLog,
    /// To hand over another region's log and rollouts, and to ask for one's own. Without roles whoever reaches the listener: what
    /// is handed over is proven by its signatures.
    Replicate,
    /// To clear the alarm of a region that showed two histories.
    ClearRegion,
}

impl Need {
    /// Any of these roles will do.
    fn roles(self) -> &'static [Role] {
        match self {
            Self::Look => &[Role::Deployer, Role::KeyAdmin, Role::Custodian, Role::Auditor],
            Self::Deploy => &[Role::Deployer],
            Self::RotateKeys => &[Role::KeyAdmin],
            Self::ReadReceipts => &[Role::Auditor],
            Self::ReadLog => &[Role::Auditor, Role::Peer],
            Self::Replicate => &[Role::Peer],
            Self::ClearRegion => &[Role::KeyAdmin, Role::Custodian],
        }
    }

    fn writes(self) -> bool {
        match self {
            Self::Deploy | Self::RotateKeys | Self::ClearRegion => true,
            Self::Look | Self::ReadReceipts | Self::ReadLog | Self::Replicate => false,
        }
    }
}

/// Who is at the other end, as far as the transport says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PeerIdentity {
    /// A user or an address of this machine.
    Local(String),
    /// A workload that proved its ID with a certificate that is valid until this Unix time.
    Workload { id: SpiffeId, until: Duration },
}

impl Connected<IncomingStream<'_, UnixListener>> for PeerIdentity {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self::Local(match stream.io().peer_cred() {
            Ok(cred) => format!("unix:uid={}", cred.uid()),
            Err(_) => "unix:uid=unknown".to_owned(),
        })
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for PeerIdentity {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self::Local(format!("insecure-dev:{}", stream.remote_addr().ip()))
    }
}

impl Connected<IncomingStream<'_, TlsIncoming>> for PeerIdentity {
    fn connect_info(stream: IncomingStream<'_, TlsIncoming>) -> Self {
        let peer = &stream.io().info().peer;
        Self::Workload {
            id: peer.id.clone(),
            until: peer.validity.not_after,
        }
    }
}

impl std::fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local(name) => f.write_str(name),
            Self::Workload { id, .. } => write!(f, "{id}"),
        }
    }
}

/// A route's guard: what it needs, on a listener of this access.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) refusals: Refusals,
    pub(super) access: Access,
    pub(super) need: Need,
}

/// Lets in who may. Everybody else is told what it takes, and a workload's refusal is recorded.
pub(super) async fn guard(
    State(guard): State<Guard>,
    ConnectInfo(peer): ConnectInfo<PeerIdentity>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let route = route.as_ref().map_or("unknown", MatchedPath::as_str);
    let target = format!("{} {route}", request.method());
    if let Err(refusal) = guard.check(&peer, target) {
        return refusal.into_response();
    }
    let mut response = next.run(request).await;
    if peer.has_ended(wall_ms()) {
        // Whoever goes on has to prove again who it is, with a certificate that is valid.
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

impl Guard {
    fn check(&self, peer: &PeerIdentity, target: String) -> Result<(), ApiError> {
        match (&self.access, peer) {
            (Access::Operators | Access::AnybodyWrites, _) => Ok(()),
            (Access::LocalReaders | Access::Readers, _) if !self.need.writes() => Ok(()),
            (Access::Readers, _) => Err(ApiError::read_only()),
            (Access::Workloads(roles), PeerIdentity::Workload { id, .. }) => {
                roles.require(id, self.need.roles()).map_err(|denied| {
                    let reason = denied.to_string();
                    self.refusals.tell(Refused {
                        door: AccessDoor::Http,
                        who: Who::Proven(id.clone()),
                        target,
                        reason: reason.clone(),
                    });
                    ApiError::new(StatusCode::FORBIDDEN, "not_allowed", reason)
                })
            }
            (Access::LocalReaders, _) | (Access::Workloads(_), PeerIdentity::Local(_)) => {
                Err(ApiError::identity_needed())
            }
        }
    }
}

impl PeerIdentity {
    fn has_ended(&self, wall_ms: u64) -> bool {
        match self {
            Self::Local(_) => false,
            Self::Workload { until, .. } => *until < Duration::from_millis(wall_ms),
        }
    }
}

/// Who acts; receipts name it. The route's guard has let it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller(pub(crate) String);

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let ConnectInfo(peer) = ConnectInfo::<PeerIdentity>::from_request_parts(parts, api)
            .await
            .map_err(|_| ApiError::read_only())?;
        Ok(Self(peer.to_string()))
    }
}

/// Keeps web pages out: a browser that has a certificate to show would show it for any page. One says so in `Origin`.
pub(super) async fn not_from_a_web_page(request: Request, next: Next) -> Response {
    if request.headers().contains_key(ORIGIN) {
        return foreign_origin();
    }
    next.run(request).await
}

/// Keeps web pages in a browser on this machine out of the loopback listener as well where their name was pointed at this
/// machine to read the answers (DNS rebinding), which `Host` says.
pub(super) async fn not_by_another_name(request: Request, next: Next) -> Response {
    if !is_asked_by_address(request.headers()) {
        return foreign_origin();
    }
    next.run(request).await
}

fn foreign_origin() -> Response {
    let message = "web pages may not ask here, nor programs by another name: use an IP address or localhost";
    ApiError::new(StatusCode::FORBIDDEN, "foreign_origin", message).into_response()
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
