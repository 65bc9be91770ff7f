//! Authorities and SVIDs made on the spot, for tests and benchmarks. Nothing here is for production: keys are kept in memory
//! that is not wiped.
#![allow(
    clippy::missing_panics_doc,
    reason = "each panics where rcgen or spiffe does not do what it says"
)]

mod client;

pub use client::{alert, client};

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use spiffe::{TrustDomain, X509Bundle, X509BundleSet, X509Context, X509Svid};

use crate::clock::Env;
use crate::identity::Identity;
use crate::observe::Observer;
use crate::snapshot::Snapshot;
use crate::view::View;

/// An authority of a trust domain, as a SPIRE server is one.
pub struct Authority {
    trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A chain and its key.
pub struct Svid {
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8, DER.
    pub key: Vec<u8>,
}

/// What can be wrong with a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only a DNS name.
    NoUri,
    /// Two SPIFFE IDs.
    TwoUris,
    /// A URI that is no SPIFFE ID.
    OtherUri,
    /// The trust domain itself.
    NoPath,
    /// It may be an authority.
    Authority,
    /// Its key usage has `keyCertSign`.
    SignsCertificates,
    /// It may serve, and not connect.
    ServerOnly,
}

/// The years 1970 to 4000 or so.
pub fn always() -> Range<Duration> {
    Duration::ZERO..Duration::from_secs(64_000_000_000)
}

impl Authority {
    /// A new one, with a new key.
    pub fn new(trust_domain: &str) -> Self {
        let mut params = CertificateParams::default();
        within(&mut params, always());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self {
            trust_domain: trust_domain.to_owned(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// An SVID of `path`, which begins with `/`, valid for `time` since 1970 in whole seconds, both ends included.
    pub fn svid(&self, path: &str, time: Range<Duration>) -> Svid {
        self.sign(&self.leaf(path, time))
    }

    /// One with `path` that is not signed by this authority, but by its own key.
    pub fn forged(&self, path: &str) -> Svid {
        let key = KeyPair::generate().expect("a key");
        let certificate = self
            .leaf(path, always())
            .self_signed(&key)
            .expect("a certificate");
        Svid {
            chain: vec![certificate.der().clone()],
            key: key.serialize_der(),
        }
    }

    /// One that is signed as it should be, and is no SVID.
    pub fn odd(&self, kind: Kind) -> Svid {
        let mut params = self.leaf("/web", always());
        let id = format!("spiffe://{}", self.trust_domain);
        match kind {
            Kind::NoUri => {
                params.subject_alt_names = vec![SanType::DnsName("web".try_into().expect("a name"))];
            }
            Kind::TwoUris => params.subject_alt_names.push(uri(&format!("{id}/other"))),
            Kind::OtherUri => params.subject_alt_names = vec![uri("https://example.org/web")],
            Kind::NoPath => params.subject_alt_names = vec![uri(&id)],
            Kind::Authority => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            Kind::SignsCertificates => params.key_usages.push(KeyUsagePurpose::KeyCertSign),
            Kind::ServerOnly => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
        }
        self.sign(&params)
    }

    fn leaf(&self, path: &str, time: Range<Duration>) -> CertificateParams {
        let mut params = CertificateParams::default();
        within(&mut params, time);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.distinguished_name.push(DnType::CommonName, "workload");
        params.subject_alt_names = vec![uri(&format!("spiffe://{}{path}", self.trust_domain))];
        params
    }

    fn sign(&self, params: &CertificateParams) -> Svid {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Svid {
            chain: vec![certificate.der().clone()],
            key: key.serialize_der(),
        }
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn within(params: &mut CertificateParams, time: Range<Duration>) {
    let moment = |since: Duration| rcgen::date_time_ymd(1970, 1, 1) + since;
    (params.not_before, params.not_after) = (moment(time.start), moment(time.end));
}

/// An update of the Workload API: `svid`, and the authorities of `trusted` under their trust domains.
pub fn update(svid: &Svid, trusted: &[&Authority]) -> X509Context {
    let mut by_domain: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for authority in trusted {
        by_domain
            .entry(&authority.trust_domain)
            .or_default()
            .extend_from_slice(&authority.certificate);
    }
    let mut bundles = X509BundleSet::new();
    for (name, der) in by_domain {
        let domain = TrustDomain::new(name).expect("a trust domain");
        bundles.add_bundle(X509Bundle::parse_from_der(domain, &der).expect("authorities"));
    }
    let chain: Vec<u8> = svid.chain.iter().flat_map(|each| each.iter().copied()).collect();
    let svid = X509Svid::parse_from_der(&chain, &svid.key).expect("an SVID");
    X509Context::new([Arc::new(svid)], bundles)
}

/// Holds what an identity shows.
#[derive(Debug)]
#[must_use = "the identity lives as long as this"]
pub struct Held {
    publish: tokio::sync::watch::Sender<View>,
    env: Env,
}

impl Held {
    /// The identity shows `svid` from now on, and trusts `trusted`.
    pub fn rotate(&self, svid: &Svid, trusted: &[&Authority]) {
        let unix = self.env.clock.now().unix;
        self.publish.send_modify(|view| {
            let number = view.snapshot.as_ref().map_or(1, |held| held.number() + 1);
            let snapshot = Snapshot::check(&update(svid, trusted), None, unix, number);
            view.take(snapshot.expect("a good update"));
        });
    }
}

/// An identity that shows `svid`, trusts `trusted`, and changes only by [`Held::rotate`].
pub fn identity(
    svid: &Svid,
    trusted: &[&Authority],
    env: Env,
    observer: Arc<dyn Observer>,
) -> (Identity, Held) {
    let (identity, publish) = Identity::fixed("none", env.clone(), observer);
    let held = Held { publish, env };
    held.rotate(svid, trusted);
    (identity, held)
}
