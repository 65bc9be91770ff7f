//! Mutual TLS with SVIDs. TLS 1.3 only, and both sides always show a certificate.

mod proof;

pub(crate) mod error;

pub(crate) use proof::{Moment, Proof, Seen, Shown};

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::StoresServerSessions;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use crate::clock::{Env, TlsClock};
use crate::peer::Side;

/// What is spoken over a connection (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/2, for gRPC.
    Http2,
    /// HTTP/1.1.
    Http1,
}

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        vec![match self {
            Self::Http2 => b"h2".to_vec(),
            Self::Http1 => b"http/1.1".to_vec(),
        }]
    }
}

/// For one handshake of a listener. Sessions are kept in `sessions`, and nothing of them leaves this process: no tickets.
pub(crate) fn server_config(
    proof: Proof,
    alpn: Alpn,
    sessions: Arc<dyn StoresServerSessions>,
    env: &Env,
) -> ServerConfig {
    let shown = Arc::new(Shown::new(proof.moment()));
    let mut config = ServerConfig::builder_with_details(
        Arc::new(default_provider()),
        Arc::new(TlsClock(Arc::clone(&env.clock))),
    )
    .with_protocol_versions(&[&TLS13])
    .expect("the provider speaks TLS 1.3")
    .with_client_cert_verifier(Arc::new(proof))
    .with_cert_resolver(shown);
    config.alpn_protocols = alpn.protocols();
    config.session_storage = sessions;
    config
}

/// For one connection, or for all of a client's: see [`Moment`]. No session is resumed: a client of ours keeps its
/// connections, and a full handshake proves the server anew.
pub(crate) fn client_config(proof: Proof, alpn: &[Alpn], env: &Env) -> ClientConfig {
    debug_assert_eq!(proof.theirs(), Side::Server, "a client looks at a server");
    let shown = Arc::new(Shown::new(proof.moment()));
    let mut config = ClientConfig::builder_with_details(
        Arc::new(default_provider()),
        Arc::new(TlsClock(Arc::clone(&env.clock))),
    )
    .with_protocol_versions(&[&TLS13])
    .expect("the provider speaks TLS 1.3")
    .dangerous()
    .with_custom_certificate_verifier(Arc::new(proof))
    .with_client_cert_resolver(shown);
    config.alpn_protocols = alpn.iter().flat_map(|each| each.protocols()).collect();
    config.resumption = rustls::client::Resumption::disabled();
    config
}
