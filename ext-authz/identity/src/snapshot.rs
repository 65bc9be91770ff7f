//! What the Workload API gave, checked whole. Whatever serves or connects uses one snapshot, never parts of two.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use spiffe::{SpiffeId, TrustDomain, X509Bundle, X509Context};

use crate::certificate::{Leaf, MAX_CERTIFICATE_BYTES, MAX_CHAIN, Serial, Validity, validity_of_chain};
use crate::peer::{Anchors, PeerError, Side};
use crate::refusal::Refusal;

/// Most SVIDs of one update.
pub const MAX_SVIDS: usize = 64;
/// Most trust domains of one update.
pub const MAX_TRUST_DOMAINS: usize = 256;
/// Most authorities of one trust domain.
pub const MAX_AUTHORITIES: usize = 64;

/// One SVID with its key, and the authorities of every trust domain that we accept.
pub struct Snapshot {
    leaf: Leaf,
    validity: Validity,
    key: Arc<CertifiedKey>,
    anchors: BTreeMap<TrustDomain, Anchors>,
    received: Duration,
    number: u64,
}

impl Snapshot {
    /// Checks an update at the moment `unix` (since 1970). `trust_domain` is the one our own SVID must be of, where that
    /// is decided. `number` tells snapshots of one process apart.
    ///
    /// The first SVID is ours (Workload API, section 5.3). What is checked: sizes; trust domain; the leaf; its chain to an
    /// authority of its own trust domain, as a client's and as a server's; its time; that the key is the certificate's.
    pub fn check(
        update: &X509Context,
        trust_domain: Option<&TrustDomain>,
        unix: Duration,
        number: u64,
    ) -> Result<Self, Refusal> {
        sizes(update)?;
        let svid = update.default_svid().ok_or(Refusal::Missing("an SVID"))?;
        let chain: Vec<CertificateDer<'static>> = svid
            .cert_chain()
            .iter()
            .map(|certificate| CertificateDer::from(certificate.as_bytes().to_vec()))
            .collect();
        let own = chain.first().ok_or(Refusal::Missing("a certificate"))?;
        let leaf = Leaf::parse(own).map_err(Refusal::NotSvid)?;
        if let Some(expected) = trust_domain.filter(|expected| *expected != leaf.id.trust_domain()) {
            return Err(Refusal::OtherTrustDomain {
                seen: leaf.id.clone(),
                expected: expected.clone(),
            });
        }
        let provider = Arc::new(default_provider());
        let anchors = anchors(update, &provider)?;
        let Some(own_anchors) = anchors.get(leaf.id.trust_domain()) else {
            return Err(Refusal::EmptyBundle(leaf.id.trust_domain().clone()));
        };
        for side in [Side::Client, Side::Server] {
            own_anchors
                .check(side, &chain, unix)
                .map_err(|error| match error {
                    PeerError::Expired { .. } => Refusal::Expired,
                    PeerError::NotYetValid { .. } => Refusal::NotYetValid,
                    other => Refusal::Untrusted(other.to_string()),
                })?;
        }
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.private_key().as_bytes()));
        let key =
            rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).map_err(|_| Refusal::UnusableKey)?;
        let validity = validity_of_chain(&chain).map_err(Refusal::NotSvid)?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|_| Refusal::OtherKey)?;
        Ok(Self {
            leaf,
            validity,
            key: Arc::new(key),
            anchors,
            received: unix,
            number,
        })
    }

    /// Our SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// Our certificate's number.
    pub fn serial(&self) -> &Serial {
        &self.leaf.serial
    }

    /// When our chain is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// When the update came, since 1970.
    pub fn received(&self) -> Duration {
        self.received
    }

    /// Tells snapshots of one process apart; a later one has a higher number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The trust domains whose workloads can be told, our own among them.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.anchors.keys()
    }

    pub(crate) fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }

    pub(crate) fn anchors(&self, trust_domain: &TrustDomain) -> Option<&Anchors> {
        self.anchors.get(trust_domain)
    }

    /// Whether an update says the same: nothing was rotated then.
    pub(crate) fn says_the_same_as(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert && self.anchors == other.anchors
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("id", &self.leaf.id)
            .field("serial", &self.leaf.serial)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

/// Before anything is parsed further.
fn sizes(update: &X509Context) -> Result<(), Refusal> {
    let over = |what, count, most| {
        if count > most {
            Err(Refusal::OverSized { what, count, most })
        } else {
            Ok(())
        }
    };
    over("SVIDs", update.svids().len(), MAX_SVIDS)?;
    over("trust domains", update.bundle_set().len(), MAX_TRUST_DOMAINS)?;
    if let Some(svid) = update.default_svid() {
        over("certificates of a chain", svid.cert_chain().len(), MAX_CHAIN)?;
        for certificate in svid.cert_chain() {
            over(
                "bytes of a certificate",
                certificate.as_bytes().len(),
                MAX_CERTIFICATE_BYTES,
            )?;
        }
    }
    for (_, bundle) in update.bundle_set().iter() {
        over(
            "authorities of a trust domain",
            bundle.authorities().len(),
            MAX_AUTHORITIES,
        )?;
        for certificate in bundle.authorities() {
            over(
                "bytes of a certificate",
                certificate.as_bytes().len(),
                MAX_CERTIFICATE_BYTES,
            )?;
        }
    }
    Ok(())
}

/// A foreign trust domain with no authority is one that is not accepted any longer (Workload API, section 4.4).
fn anchors(
    update: &X509Context,
    provider: &Arc<CryptoProvider>,
) -> Result<BTreeMap<TrustDomain, Anchors>, Refusal> {
    let with_authorities = update
        .bundle_set()
        .iter()
        .filter(|(_, bundle)| !bundle.authorities().is_empty());
    with_authorities
        .map(|(domain, bundle)| Ok((domain.clone(), anchors_of(domain, bundle, provider)?)))
        .collect()
}

fn anchors_of(
    domain: &TrustDomain,
    bundle: &X509Bundle,
    provider: &Arc<CryptoProvider>,
) -> Result<Anchors, Refusal> {
    let bad = || Refusal::MalformedBundle(domain.clone());
    let mut roots = RootCertStore::empty();
    for authority in bundle.authorities() {
        roots
            .add(CertificateDer::from(authority.as_bytes()))
            .map_err(|_| bad())?;
    }
    Anchors::new(roots, Arc::clone(provider)).ok_or_else(bad)
}
