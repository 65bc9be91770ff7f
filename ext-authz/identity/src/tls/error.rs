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
    #[error("the peer refused us with the TLS alert {alert:?}: {meaning}", alert = .0, meaning = meaning(.0))]
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
        Self::of_tls(&error).unwrap_or(Self::Broken(error))
    }

    /// What a read or a write says after the handshake: in TLS 1.3 a client is refused only then.
    pub fn refused_later(error: &io::Error) -> Option<Self> {
        Self::of_tls(error).filter(|error| matches!(error, Self::RefusedByPeer(_)))
    }

    /// What TLS says somewhere within an error of a client or a transport, where the peer's certificate is not the reason:
    /// for that see [`PeerError::within`] and [`Observer::peer_refused`](crate::Observer::peer_refused).
    pub fn within(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let found = error.downcast_ref().and_then(Self::of_tls);
            if found.is_some() {
                return found;
            }
            next = error.source();
        }
        None
    }

    fn of_tls(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref()?;
        // Some clients wrap one error of the system in another, and `source` passes over what is within.
        if let Some(nested) = inner.downcast_ref::<io::Error>() {
            return Self::of_tls(nested);
        }
        match inner.downcast_ref::<Error>()? {
            Error::NoCertificatesPresented => Some(Self::NoCertificate),
            Error::AlertReceived(alert) => Some(Self::RefusedByPeer(*alert)),
            Error::PeerIncompatible(why) => Some(Self::Version(format!("{why:?}"))),
            Error::InvalidMessage(_) => Some(Self::NotTls),
            _ => None,
        }
    }
}

/// What an alert says of us (RFC 8446, section 6.2), where the peer is a listener of this crate's.
#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "a text of thiserror has its fields by reference"
)]
fn meaning(alert: &AlertDescription) -> &'static str {
    match *alert {
        AlertDescription::AccessDenied => {
            "our SPIFFE ID is not wanted there; a service names those that are in spiffe.allow"
        }
        AlertDescription::UnknownCA => {
            "it has no authority for our certificate; is its trust domain ours, or federated with it?"
        }
        AlertDescription::CertificateExpired => {
            "our certificate is not valid now by its clock; renew it, and compare the clocks"
        }
        AlertDescription::CertificateRequired => "we showed no certificate",
        AlertDescription::BadCertificate => "our certificate is not an X.509-SVID",
        _ => "look at its log",
    }
}
