//! Who is at the other end, proven or refused.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, RootCertStore};
use spiffe::SpiffeId;
use thiserror::Error;

use crate::certificate::{
    Leaf, MAX_CERTIFICATE_BYTES, MAX_CHAIN, NotSvid, Serial, Validity, validity_of_chain,
};
use crate::pattern::IdPattern;
use crate::roles::{Denied, Role, Roles};
use crate::snapshot::Snapshot;

/// The part that a certificate's holder plays in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// It connected.
    Client,
    /// It was connected to.
    Server,
}

/// A peer that proved its identity and was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub id: SpiffeId,
    /// Its certificate's number.
    pub serial: Serial,
    /// When its chain is valid.
    pub validity: Validity,
}

/// Why a peer is not let in.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PeerError {
    /// It shows something that is not an X.509-SVID.
    #[error("its certificate is not an X.509-SVID: {0}")]
    NotSvid(NotSvid),
    /// It is of a trust domain that we hold no authorities of.
    #[error("{id} is of a trust domain that is not federated with ours")]
    UnknownTrustDomain {
        /// Who it says it is; not proven.
        id: SpiffeId,
    },
    /// No authority of its trust domain signed its certificate.
    #[error("{id} is not signed by an authority of its trust domain")]
    Untrusted {
        /// Who it says it is; not proven.
        id: SpiffeId,
    },
    /// Its certificate, or one of its chain, has ended.
    #[error("the certificate of {id} has expired")]
    Expired {
        /// Who it says it is.
        id: SpiffeId,
    },
    /// Its certificate, or one of its chain, has not begun.
    #[error("the certificate of {id} is not valid yet")]
    NotYetValid {
        /// Who it says it is.
        id: SpiffeId,
    },
    /// It is who it says, and is not wanted here.
    #[error("{0}")]
    NotAllowed(NotAllowed),
}

/// A proven identity that is not wanted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{id} is not allowed here: {why}")]
pub struct NotAllowed {
    /// Who it is, proven.
    pub id: SpiffeId,
    /// What it would have to be.
    pub why: String,
}

impl PeerError {
    /// Stable, for metrics: the labels of refused handshakes.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotSvid(_) => "not_svid",
            Self::UnknownTrustDomain { .. } => "unknown_trust_domain",
            Self::Untrusted { .. } => "untrusted",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::NotAllowed(_) => "not_allowed",
        }
    }

    /// The SPIFFE ID that was seen. Only that of [`PeerError::NotAllowed`] is proven.
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::NotSvid(_) => None,
            Self::UnknownTrustDomain { id }
            | Self::Untrusted { id }
            | Self::Expired { id }
            | Self::NotYetValid { id } => Some(id),
            Self::NotAllowed(denied) => Some(&denied.id),
        }
    }

    /// As rustls knows it, so that the peer receives the alert of RFC 8446, section 6.2: `bad_certificate`, `unknown_ca`,
    /// `certificate_expired` or `access_denied`.
    pub(crate) fn as_tls(&self) -> rustls::Error {
        rustls::Error::InvalidCertificate(match self {
            Self::NotSvid(_) => CertificateError::BadEncoding,
            Self::UnknownTrustDomain { .. } | Self::Untrusted { .. } => CertificateError::UnknownIssuer,
            Self::Expired { .. } => CertificateError::Expired,
            Self::NotYetValid { .. } => CertificateError::NotValidYet,
            Self::NotAllowed(_) => CertificateError::ApplicationVerificationFailure,
        })
    }
}

/// Whom a listener or a client talks to, once it knows who that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    /// Whoever has one of these roles. With [`Role::ALL`] a listener refuses only strangers, and each call is then
    /// refused or not by its own role.
    Roles {
        /// Who has which role.
        roles: Arc<Roles>,
        /// Any of these is enough.
        any_of: Vec<Role>,
    },
    /// Whoever one of these patterns names.
    Ids(Vec<IdPattern>),
}

impl Allow {
    /// Refuses `id` unless it is meant.
    pub fn check(&self, id: &SpiffeId) -> Result<(), NotAllowed> {
        match self {
            Self::Roles { roles, any_of } => roles.require(id, any_of).map_err(|denied: Denied| NotAllowed {
                id: denied.id,
                why: format!("it has none of the roles {}", shown(&denied.needed)),
            }),
            Self::Ids(patterns) if patterns.iter().any(|pattern| pattern.holds(id)) => Ok(()),
            Self::Ids(patterns) => Err(NotAllowed {
                id: id.clone(),
                why: format!("expected is {}", shown(patterns)),
            }),
        }
    }
}

fn shown(items: &[impl fmt::Display]) -> String {
    if items.is_empty() {
        return "nobody".to_owned();
    }
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

impl Snapshot {
    /// Proves who shows `chain`, leaf first, by the authorities of its own trust domain and of no other, at `unix`
    /// (since 1970), and lets it in or not. That it holds the key is the handshake's to prove.
    pub fn verify(
        &self,
        side: Side,
        chain: &[CertificateDer<'_>],
        allow: &Allow,
        unix: Duration,
    ) -> Result<Peer, PeerError> {
        let peer = read(chain)?;
        let Some(anchors) = self.anchors(peer.id.trust_domain()) else {
            return Err(PeerError::UnknownTrustDomain { id: peer.id });
        };
        anchors.check(side, chain, unix)?;
        allow.check(&peer.id).map_err(PeerError::NotAllowed)?;
        Ok(peer)
    }
}

/// The same for a resumed session. Its chain was verified when the session began, by the very snapshot that is in use:
/// sessions are forgotten with their snapshot. What can have changed since is the time.
pub(crate) fn verify_resumed(
    chain: &[CertificateDer<'_>],
    allow: &Allow,
    unix: Duration,
) -> Result<Peer, PeerError> {
    let peer = read(chain)?;
    if peer.validity.is_over(unix) {
        return Err(PeerError::Expired { id: peer.id });
    }
    allow.check(&peer.id).map_err(PeerError::NotAllowed)?;
    Ok(peer)
}

fn read(chain: &[CertificateDer<'_>]) -> Result<Peer, PeerError> {
    // Sizes come first: what is over them is not parsed.
    let fits = chain.len() <= MAX_CHAIN && chain.iter().all(|each| each.len() <= MAX_CERTIFICATE_BYTES);
    let (true, Some(first)) = (fits, chain.first()) else {
        return Err(PeerError::NotSvid(NotSvid::TooLarge));
    };
    let leaf = Leaf::parse(first).map_err(PeerError::NotSvid)?;
    let validity = validity_of_chain(chain).map_err(PeerError::NotSvid)?;
    Ok(Peer {
        id: leaf.id,
        serial: leaf.serial,
        validity,
    })
}

/// The authorities of one trust domain.
#[derive(Debug)]
pub(crate) struct Anchors {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl PartialEq for Anchors {
    fn eq(&self, other: &Self) -> bool {
        let both: [&Vec<TrustAnchor<'_>>; 2] = [&self.roots.roots, &other.roots.roots];
        both[0] == both[1]
    }
}

impl Anchors {
    /// None where there is no authority.
    pub(crate) fn new(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Option<Self> {
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .ok()?;
        Some(Self {
            roots,
            provider,
            clients,
        })
    }

    /// Whether one of these authorities stands behind a chain, for this part in a handshake.
    pub(crate) fn check(
        &self,
        side: Side,
        chain: &[CertificateDer<'_>],
        unix: Duration,
    ) -> Result<(), PeerError> {
        let (leaf, intermediates) = chain
            .split_first()
            .ok_or(PeerError::NotSvid(NotSvid::Malformed))?;
        let now = UnixTime::since_unix_epoch(unix);
        let checked = match side {
            Side::Client => self
                .clients
                .verify_client_cert(leaf, intermediates, now)
                .map(|_| ()),
            Side::Server => ParsedCertificate::try_from(leaf).and_then(|leaf| {
                let algorithms = self.provider.signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, intermediates, now, algorithms)
            }),
        };
        checked.map_err(|error| refusal(leaf, &error))
    }
}

fn refusal(leaf: &CertificateDer<'_>, error: &rustls::Error) -> PeerError {
    let id = match Leaf::parse(leaf) {
        Ok(leaf) => leaf.id,
        Err(not) => return PeerError::NotSvid(not),
    };
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => PeerError::Expired { id },
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => PeerError::NotYetValid { id },
        _ => PeerError::Untrusted { id },
    }
}
