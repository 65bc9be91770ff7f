//! Who calls, and whether that may write.

use axum::extract::FromRequestParts;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::request::Parts;
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
