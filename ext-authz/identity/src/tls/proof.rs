//! What rustls asks during a handshake: which certificate to show, and whether the peer's will do.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::identity::{Identity, NoSvid};
use crate::peer::{Allow, Peer, PeerError, Side};
use crate::snapshot::Snapshot;

/// Which snapshot a handshake uses.
#[derive(Clone)]
pub(crate) enum Moment {
    /// The one of the moment it began; the verdict on the peer is left beside it.
    Fixed(Arc<Snapshot>, Seen),
    /// For a configuration that outlives snapshots: the one that is held when it asks.
    Live(Identity),
}

impl Moment {
    fn snapshot(&self) -> Result<Arc<Snapshot>, NoSvid> {
        match self {
            Self::Fixed(snapshot, _) => Ok(Arc::clone(snapshot)),
            Self::Live(identity) => identity.current(),
        }
    }
}

/// Where the verdict on a peer is left. Empty where none was asked for, as in a resumed session.
pub(crate) type Seen = Arc<OnceLock<Result<Peer, PeerError>>>;

/// Looks at the peer's certificate.
pub(crate) struct Proof {
    moment: Moment,
    allow: Arc<Allow>,
    theirs: Side,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Proof {
    /// `theirs` is the part that the peer plays.
    pub(crate) fn new(moment: Moment, allow: Arc<Allow>, theirs: Side) -> Self {
        Self {
            moment,
            allow,
            theirs,
            algorithms: default_provider().signature_verification_algorithms,
        }
    }

    pub(crate) fn moment(&self) -> Moment {
        self.moment.clone()
    }

    pub(crate) fn theirs(&self) -> Side {
        self.theirs
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let snapshot = self
            .moment
            .snapshot()
            .map_err(|none| Error::General(none.to_string()))?;
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf)
            .chain(intermediates)
            .map(|each| CertificateDer::from(each.as_ref()))
            .collect();
        let unix = std::time::Duration::from_secs(now.as_secs());
        let verdict = snapshot.verify(self.theirs, &chain, &self.allow, unix);
        let answer = verdict.as_ref().map(|_| ()).map_err(PeerError::as_tls);
        match &self.moment {
            Moment::Fixed(_, seen) => {
                let _ = seen.set(verdict);
            }
            Moment::Live(identity) => {
                if let Err(error) = verdict {
                    tracing::warn!(reason = error.label(), "a peer was refused: {error}");
                    identity.observer().handshake(self.ours(), error.label());
                    identity.observer().peer_refused(self.ours(), &error);
                }
            }
        }
        answer
    }

    fn ours(&self) -> Side {
        match self.theirs {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }

    fn only_tls13() -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".to_owned()))
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof")
            .field("theirs", &self.theirs)
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Proof {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The name that was connected to says nothing: the SPIFFE ID does, and [`Allow`] says which.
impl ServerCertVerifier for Proof {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Shows our certificate.
pub(crate) struct Shown(Moment);

impl Shown {
    pub(crate) fn new(moment: Moment) -> Self {
        Self(moment)
    }

    fn key(&self) -> Option<Arc<CertifiedKey>> {
        self.0.snapshot().ok().map(|snapshot| snapshot.key())
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key()
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
