//! The connecting side.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::Uri;

use crate::accept::HANDSHAKE_WITHIN;
use crate::connection::TlsConnection;
use crate::identity::Identity;
use crate::peer::{Allow, Peer, PeerError, Side};
use crate::tls::error::HandshakeError;
use crate::tls::{Alpn, Moment, Proof, Seen, client_config};

/// Connects over mutual TLS to servers that [`Allow`] means. The address says where, the SPIFFE ID says who: a name in
/// the server's certificate is not looked at. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Connector {
    identity: Identity,
    allow: Arc<Allow>,
    alpn: Alpn,
}

impl Connector {
    /// Talks to whom `allow` means.
    pub fn new(identity: Identity, allow: Allow, alpn: Alpn) -> Self {
        Self {
            identity,
            allow: Arc::new(allow),
            alpn,
        }
    }

    /// Connects to `host:port`, within [`HANDSHAKE_WITHIN`] for connection and handshake together. It is counted.
    ///
    /// In TLS 1.3 a server says that it refuses us only after our handshake: the first read then fails, and
    /// [`HandshakeError::refused_later`] reads why.
    pub async fn connect(&self, address: &str) -> Result<TlsConnection, HandshakeError> {
        let ended = match timeout(HANDSHAKE_WITHIN, self.handshake(address)).await {
            Ok(ended) => ended,
            Err(_) => Err(HandshakeError::Timeout(HANDSHAKE_WITHIN)),
        };
        let outcome = ended.as_ref().map_or_else(HandshakeError::label, |_| "full");
        let observer = self.identity.observer();
        observer.handshake(Side::Client, outcome);
        if let Err(HandshakeError::Peer(refused)) = &ended {
            observer.peer_refused(Side::Client, refused);
        }
        let (stream, peer) = ended?;
        let remote = stream.get_ref().0.peer_addr().map_err(HandshakeError::Broken)?;
        Ok(TlsConnection::new(stream.into(), peer, remote))
    }

    async fn handshake(&self, address: &str) -> Result<Shaken, HandshakeError> {
        let snapshot = self.identity.current()?;
        let tcp = TcpStream::connect(address)
            .await
            .map_err(HandshakeError::Broken)?;
        let _ = tcp.set_nodelay(true);
        // An address is not sent as a name (RFC 6066, section 3), and nothing here depends on one.
        let remote = tcp.peer_addr().map_err(HandshakeError::Broken)?;
        let seen: Seen = Arc::new(OnceLock::new());
        let moment = Moment::Fixed(snapshot, Arc::clone(&seen));
        let proof = Proof::new(moment, Arc::clone(&self.allow), Side::Server);
        let config = client_config(proof, &[self.alpn], self.identity.env());
        let name = ServerName::IpAddress(remote.ip().into());
        let connected = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
        match (connected, seen.get()) {
            (Err(_), Some(Err(refused))) => Err(refused.clone().into()),
            (Err(error), _) => Err(HandshakeError::of(error)),
            (Ok(stream), Some(Ok(peer))) => Ok((stream, peer.clone())),
            // rustls asks about the certificate in every handshake that resumes nothing, and none resumes here.
            (Ok(_), _) => Err(HandshakeError::NoCertificate),
        }
    }
}

type Shaken = (tokio_rustls::client::TlsStream<TcpStream>, Peer);

impl Identity {
    /// For clients that want a configuration of rustls, such as reqwest's `tls_backend_preconfigured`. It may be kept: each
    /// handshake uses what is held at its moment. Whom `allow` does not mean is refused, logged and counted; good
    /// handshakes are not counted, because nobody says when they end.
    pub fn client_config(&self, allow: Allow, alpn: &[Alpn]) -> ClientConfig {
        let moment = Moment::Live(self.clone());
        let proof = Proof::new(moment, Arc::new(allow), Side::Server);
        client_config(proof, alpn, self.env())
    }
}

/// For tonic's `connect_with_connector`. The endpoint's scheme is `http`: TLS is made here.
impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TlsConnection>;
    type Error = HandshakeError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
                let missing =
                    io::Error::new(io::ErrorKind::InvalidInput, format!("{uri} has no host and port"));
                return Err(HandshakeError::Broken(missing));
            };
            connector
                .connect(&format!("{host}:{port}"))
                .await
                .map(TokioIo::new)
        })
    }
}

impl PeerError {
    /// The refusal that an error of a client or a transport carries somewhere within.
    pub fn within<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(HandshakeError::Peer(refused)) = error.downcast_ref() {
                return Some(refused);
            }
            next = error.source();
        }
        None
    }
}
