//! The server's certificate, made on the spot, and the authority that vouches for it.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use crate::Error;

/// The names and addresses that the certificate is for.
const NAMES: [&str; 2] = ["127.0.0.1", "localhost"];

/// Gives what accepts TLS, and the authority's certificate in PEM.
pub(super) fn acceptor() -> Result<(TlsAcceptor, String), Error> {
    let (authority, pem) = authority().map_err(broken)?;
    let key = KeyPair::generate().map_err(broken)?;
    let names = NAMES.map(str::to_owned).to_vec();
    let certificate = CertificateParams::new(names)
        .and_then(|params| params.signed_by(&key, &authority))
        .map_err(broken)?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(broken)?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .map_err(broken)?;
    Ok((TlsAcceptor::from(Arc::new(config)), pem))
}

fn authority() -> Result<(Issuer<'static, KeyPair>, String), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "authority of the tests");
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    Ok((Issuer::new(params, key), pem))
}

fn broken(error: impl std::fmt::Display) -> Error {
    Error::Contract {
        what: "the key vault's certificate".to_owned(),
        reason: error.to_string(),
    }
}
