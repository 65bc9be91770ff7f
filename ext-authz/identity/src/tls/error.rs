//! How a handshake can fail.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, Error};
use thiserror::Error as ThisError;

use crate::identity::NoSvid;
use crate::peer::PeerError;

/// Why there is no connection. Each text is one line.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer showed no certificate.
    #[error("the peer shows no certificate; give it an SVID")]
    NoCertificate,
    /// The peer showed a certificate that will not do.
    #[error("the peer was refused: {0}")]
    Peer(#[from] PeerError),
    /// We hold no valid SVID.
    #[error(transparent)]
    NoSvid(#[from] NoSvid),
    /// The peer refused us.
    #[error("the peer refused us with the TLS alert {0:?}; look at its log")]
    RefusedByPeer(AlertDescription),
    /// The peer does not speak TLS 1.3, or none of our algorithms.
    #[error("no common way of speaking TLS 1.3 ({0}); in Envoy, set tls_maximum_protocol_version to TLSv1_3")]
    Version(String),
    /// The peer does not speak TLS.
    #[error("the peer does not speak TLS; make it use TLS with an SVID")]
    NotTls,
    /// It took too long.
    #[error("no handshake within {0:?}")]
    Timeout(Duration),
    /// No connection, or it broke.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
}

impl HandshakeError {
    /// Stable, for metrics: one of [`OUTCOMES`](crate::OUTCOMES).
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Peer(error) => error.label(),
            Self::NoSvid(_) => "no_svid",
            Self::RefusedByPeer(_) => "refused_by_peer",
            Self::Version(_) => "tls_version",
            Self::NotTls => "not_tls",
            Self::Timeout(_) => "timeout",
            Self::Broken(_) => "broken",
        }
    }

    /// What the TLS stream says, where the peer's certificate is not the reason.
    pub(crate) fn of(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match tls {
            Some(Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(Error::AlertReceived(alert)) => Self::RefusedByPeer(*alert),
            Some(Error::PeerIncompatible(why)) => Self::Version(format!("{why:?}")),
            Some(Error::InvalidMessage(_)) => Self::NotTls,
            _ => Self::Broken(error),
        }
    }

    /// What a read or a write says after the handshake: in TLS 1.3 a client is refused only then.
    pub fn refused_later(error: &io::Error) -> Option<Self> {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match tls {
            Some(Error::AlertReceived(alert)) => Some(Self::RefusedByPeer(*alert)),
            _ => None,
        }
    }
}
