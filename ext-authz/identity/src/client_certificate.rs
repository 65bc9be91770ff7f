//! An identity from files, for a person or a pipeline that has no Workload API and shows a client certificate on purpose.
//!
//! It is a client's only: it never changes, and it ends with its certificate. A service takes its SVIDs from the Workload
//! API and from nowhere else.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use spiffe::{X509Bundle, X509BundleSet, X509Context, X509Svid};
use thiserror::Error;

use crate::certificate::{Leaf, MAX_CERTIFICATE_BYTES, MAX_CHAIN, NotSvid};
use crate::clock::Env;
use crate::identity::Identity;
use crate::observe::Observer;
use crate::refusal::Refusal;
use crate::snapshot::{MAX_AUTHORITIES, Snapshot};
use crate::view::View;

/// Largest file of the three, in bytes: as many authorities as a trust domain may have, in base64 with its line ends.
pub const MAX_PEM_BYTES: usize = MAX_AUTHORITIES * MAX_CERTIFICATE_BYTES * 3 / 2;

/// The texts of three files in PEM. What is not a certificate or a key in them is passed over.
#[derive(Clone, Copy)]
pub struct ClientCertificate<'p> {
    /// The X.509-SVID, its leaf first.
    pub chain: &'p [u8],
    /// Its private key, PKCS#8.
    pub key: &'p [u8],
    /// The authorities of its trust domain.
    pub authorities: &'p [u8],
}

impl fmt::Debug for ClientCertificate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate")
    }
}

/// Why the files make no identity. Each text is one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClientCertificateError {
    /// A file has nothing of what it is for, or it cannot be read.
    #[error("the file of the {what} has none in PEM; {remedy}")]
    Missing {
        /// Which file.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// There are more certificates than are taken.
    #[error("the file of the {what} has more than {most} of them; leave out those that are not needed")]
    TooMany {
        /// Which file.
        what: &'static str,
        /// How many are taken.
        most: usize,
    },
    /// The first certificate is not a workload's.
    #[error("the certificate is not an X.509-SVID: {0}; ask for one with a SPIFFE ID")]
    NotSvid(NotSvid),
    /// It has ended.
    #[error("the certificate of {id} has expired; get a new one")]
    Expired {
        /// Whose it is.
        id: spiffe::SpiffeId,
    },
    /// It has not begun.
    #[error("the certificate of {id} is not valid yet; look at this machine's clock")]
    NotYetValid {
        /// Whose it is.
        id: spiffe::SpiffeId,
    },
    /// The chain, the key and the authorities do not belong together, or cannot be used.
    #[error("{0}")]
    Unusable(String),
}

impl ClientCertificateError {
    /// Stable, for programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::TooMany { .. } => "too_many",
            Self::NotSvid(_) => "not_svid",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Unusable(_) => "unusable",
        }
    }
}

impl Identity {
    /// The identity of a client certificate: checked as an update of the Workload API is, and never renewed.
    pub fn of_client_certificate(
        pem: ClientCertificate<'_>,
        env: Env,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, ClientCertificateError> {
        let unix = env.clock.now().unix;
        let snapshot = snapshot(pem, unix)?;
        let (identity, publish) = Self::fixed("a client certificate", env, observer);
        publish.send_replace(View {
            snapshot: Some(Arc::new(snapshot)),
            ..View::default()
        });
        Ok(identity)
    }
}

fn snapshot(pem: ClientCertificate<'_>, unix: Duration) -> Result<Snapshot, ClientCertificateError> {
    let chain = certificates(
        pem.chain,
        "client certificate",
        MAX_CHAIN,
        "give the file of an X.509-SVID",
    )?;
    let authorities = certificates(
        pem.authorities,
        "authorities",
        MAX_AUTHORITIES,
        "give the trust domain's bundle, as `spire-server bundle show` writes it",
    )?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem.key).map_err(|_| ClientCertificateError::Missing {
        what: "private key",
        remedy: "give an unencrypted PKCS#8 key; `openssl pkcs8 -topk8 -nodes` makes one of other forms",
    })?;
    let leaf = chain
        .first()
        .map_or(Err(NotSvid::Malformed), |first| Leaf::parse(first))
        .map_err(ClientCertificateError::NotSvid)?;
    let domain = leaf.id.trust_domain().clone();
    let bundle = X509Bundle::parse_from_der(domain, &authorities.concat()).map_err(unusable)?;
    let mut bundles = X509BundleSet::new();
    bundles.add_bundle(bundle);
    let svid = X509Svid::parse_from_der(&chain.concat(), key.secret_pkcs8_der()).map_err(unusable)?;
    let update = X509Context::new([Arc::new(svid)], bundles);
    Snapshot::check(&update, None, unix, 1).map_err(|refusal| match refusal {
        Refusal::Expired => ClientCertificateError::Expired { id: leaf.id },
        Refusal::NotYetValid => ClientCertificateError::NotYetValid { id: leaf.id },
        Refusal::NotSvid(not) => ClientCertificateError::NotSvid(not),
        Refusal::Untrusted(_) => ClientCertificateError::Unusable(format!(
            "no authority of the file signed the certificate of {}; give the bundle of its trust domain",
            leaf.id
        )),
        Refusal::OtherKey => ClientCertificateError::Unusable(
            "the private key is not that of the certificate; give the key that belongs to it".to_owned(),
        ),
        Refusal::MalformedBundle(_) => ClientCertificateError::Unusable(
            "one of the authorities is not a certificate that can sign; give the trust domain's bundle"
                .to_owned(),
        ),
        Refusal::UnusableKey => ClientCertificateError::Unusable(refusal.to_string()),
        other => unusable(other),
    })
}

fn unusable(reason: impl fmt::Display) -> ClientCertificateError {
    ClientCertificateError::Unusable(format!(
        "the client certificate cannot be used: {reason}; get a new one"
    ))
}

/// In DER, as they follow each other.
fn certificates(
    pem: &[u8],
    what: &'static str,
    most: usize,
    remedy: &'static str,
) -> Result<Vec<Vec<u8>>, ClientCertificateError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem)
        .take(most + 1)
        .map(|each| each.map(|der| der.to_vec()))
        .collect();
    match found {
        Ok(found) if found.len() > most => Err(ClientCertificateError::TooMany { what, most }),
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(ClientCertificateError::Missing { what, remedy }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Authority, Kind, Svid, always};
    use pem_rfc7468::LineEnding;
    use proptest::prelude::*;

    fn pem(label: &str, der: &[u8]) -> String {
        pem_rfc7468::encode_string(label, LineEnding::LF, der).expect("PEM")
    }

    fn certificate(der: &[u8]) -> String {
        pem("CERTIFICATE", der)
    }

    /// The identity of these files, or why there is none.
    fn read(chain: &str, key: &str, authorities: &str) -> Result<Identity, ClientCertificateError> {
        let pem = ClientCertificate {
            chain: chain.as_bytes(),
            key: key.as_bytes(),
            authorities: authorities.as_bytes(),
        };
        Identity::of_client_certificate(pem, Env::system(), Arc::new(()))
    }

    fn read_svid(svid: &Svid, authority: &Authority) -> Result<Identity, ClientCertificateError> {
        read(
            &certificate(&svid.chain[0]),
            &pem("PRIVATE KEY", &svid.key),
            &certificate(authority.certificate()),
        )
    }

    #[test]
    fn good_files_are_an_identity_that_stays() {
        let authority = Authority::new("example.org");
        let identity = read_svid(&authority.svid("/user/alice", always()), &authority).expect("good files");
        let held = identity.current().expect("it is valid");
        assert_eq!(held.id().to_string(), "spiffe://example.org/user/alice");
        assert_eq!(identity.status().trust_domains, ["example.org"]);
    }

    #[test]
    fn a_chain_and_its_key_may_be_one_file_with_other_things_in_it() {
        let authority = Authority::new("example.org");
        let svid = authority.svid("/ci", always());
        let both = format!(
            "of the pipeline\n{}{}",
            pem("PRIVATE KEY", &svid.key),
            certificate(&svid.chain[0])
        );
        read(&both, &both, &certificate(authority.certificate())).expect("good files");
    }

    #[test]
    fn files_that_are_no_identity_are_refused_in_one_line() {
        let (authority, other) = (Authority::new("example.org"), Authority::new("example.org"));
        let good = authority.svid("/web", always());
        let (chain, key) = (certificate(&good.chain[0]), pem("PRIVATE KEY", &good.key));
        let ca = certificate(authority.certificate());
        let second = Duration::from_secs(1);
        let late = Duration::from_secs(60_000_000_000)..Duration::from_secs(64_000_000_000);
        let foreign_key = Svid {
            key: other.svid("/web", always()).key,
            chain: good.chain.clone(),
        };
        for (label, part, read) in [
            ("missing", "client certificate", read("", &key, &ca)),
            ("missing", "authorities", read(&chain, &key, "nothing")),
            (
                "missing",
                "openssl pkcs8",
                read(&chain, &pem("EC PRIVATE KEY", &good.key), &ca),
            ),
            (
                "too_many",
                "64",
                read(&chain, &key, &ca.repeat(MAX_AUTHORITIES + 1)),
            ),
            ("too_many", "8", read(&chain.repeat(MAX_CHAIN + 1), &key, &ca)),
            (
                "not_svid",
                "not an X.509-SVID",
                read_svid(&authority.odd(Kind::NoUri), &authority),
            ),
            (
                "not_svid",
                "not an X.509-SVID",
                read(&certificate(b"?"), &key, &ca),
            ),
            (
                "expired",
                "/web has expired",
                read_svid(&authority.svid("/web", second..second * 9), &authority),
            ),
            (
                "not_yet_valid",
                "/web is not valid yet",
                read_svid(&authority.svid("/web", late), &authority),
            ),
            ("unusable", "no authority of the file", read_svid(&good, &other)),
            (
                "unusable",
                "not that of the certificate",
                read_svid(&foreign_key, &authority),
            ),
            (
                "unusable",
                "no authority of the file",
                read(&chain, &key, &chain.repeat(2)),
            ),
            (
                "unusable",
                "cannot be used",
                read(&chain, &key, &certificate(b"?")),
            ),
            (
                "unusable",
                "cannot be used",
                read(&chain, &pem("PRIVATE KEY", b"?"), &ca),
            ),
        ] {
            let error = read.expect_err(part);
            let said = error.to_string();
            assert_eq!(error.label(), label, "{said}");
            assert!(said.contains(part) && !said.contains('\n'), "{part}: {said}");
            assert!(!said.contains("PRIVATE"), "{said}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(chain in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let authority = Authority::new("example.org");
            let svid = authority.svid("/web", always());
            let key = pem("PRIVATE KEY", &svid.key);
            let ca = certificate(authority.certificate());
            let mut broken = certificate(&svid.chain[0]).into_bytes();
            *at.get_mut(&mut broken) ^= flip;
            for chain in [&chain, &broken] {
                let pem = ClientCertificate { chain, key: key.as_bytes(), authorities: ca.as_bytes() };
                let _ = Identity::of_client_certificate(pem, Env::system(), Arc::new(()));
            }
        }
    }
}
