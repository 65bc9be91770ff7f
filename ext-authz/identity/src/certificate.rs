//! What an X.509-SVID says (X509-SVID, sections 2 to 4), read from its leaf.

use std::fmt;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use spiffe::SpiffeId;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Most certificates of one chain, the leaf included.
pub const MAX_CHAIN: usize = 8;
/// Largest certificate, in bytes of DER.
pub const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
/// Longest serial number, in bytes (RFC 5280, section 4.1.2.2, has 20), with room for an issuer's leading zero.
const MAX_SERIAL_BYTES: usize = 21;

/// A certificate's serial number. It is written as hexadecimal digits, two a byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

/// From when until when something is valid, both inclusive, in whole seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: Duration,
    /// The last moment.
    pub not_after: Duration,
}

impl Validity {
    /// How long it is valid in all.
    pub fn life(&self) -> Duration {
        self.not_after.saturating_sub(self.not_before)
    }

    /// How long it is still valid at `unix`; zero once it is not.
    pub fn left(&self, unix: Duration) -> Duration {
        self.not_after.saturating_sub(unix)
    }

    /// Whether `unix` is after the last moment.
    pub fn is_over(&self, unix: Duration) -> bool {
        unix > self.not_after
    }
}

/// What a leaf says of itself. Nothing here says that somebody signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The workload. Its path is never empty.
    pub id: SpiffeId,
    /// The certificate's number at its issuer.
    pub serial: Serial,
    /// When it is valid.
    pub validity: Validity,
}

/// Why a certificate is no leaf of an X.509-SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSvid {
    /// It is over [`MAX_CERTIFICATE_BYTES`], or the chain is over [`MAX_CHAIN`].
    #[error("it is larger than an SVID may be")]
    TooLarge,
    /// It is not X.509, or a field of it is not what it should be.
    #[error("it cannot be parsed")]
    Malformed,
    /// There is no URI, or more than one, among its subject's names.
    #[error("it does not have exactly one URI name")]
    NotOneUri,
    /// The URI is no SPIFFE ID, or has no path.
    #[error("its URI name is not the SPIFFE ID of a workload")]
    NotAnId,
    /// It may sign certificates or revocation lists, or may not sign a handshake.
    #[error("its key usage is an authority's, not a workload's")]
    WrongUse,
}

impl Leaf {
    /// Reads the leaf of a chain.
    pub fn parse(der: &[u8]) -> Result<Self, NotSvid> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(NotSvid::TooLarge);
        }
        let certificate = parse(der)?;
        may_only_sign_handshakes(&certificate)?;
        Ok(Self {
            id: only_id(&certificate)?,
            serial: serial(&certificate)?,
            validity: validity(&certificate)?,
        })
    }
}

/// When every certificate of a chain is valid: a chain is no better than its first one to end.
pub(crate) fn validity_of_chain(chain: &[CertificateDer<'_>]) -> Result<Validity, NotSvid> {
    if chain.is_empty() || chain.len() > MAX_CHAIN {
        return Err(NotSvid::TooLarge);
    }
    let mut all = Validity {
        not_before: Duration::ZERO,
        not_after: Duration::MAX,
    };
    for certificate in chain {
        if certificate.len() > MAX_CERTIFICATE_BYTES {
            return Err(NotSvid::TooLarge);
        }
        let one = validity(&parse(certificate)?)?;
        all.not_before = all.not_before.max(one.not_before);
        all.not_after = all.not_after.min(one.not_after);
    }
    Ok(all)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, NotSvid> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(NotSvid::Malformed),
    }
}

/// X509-SVID, sections 4.1 and 4.3.
fn may_only_sign_handshakes(certificate: &X509Certificate<'_>) -> Result<(), NotSvid> {
    let constraints = certificate.basic_constraints().map_err(|_| NotSvid::Malformed)?;
    if constraints.is_some_and(|extension| extension.value.ca) {
        return Err(NotSvid::WrongUse);
    }
    let usage = certificate.key_usage().map_err(|_| NotSvid::Malformed)?;
    match usage.map(|extension| extension.value) {
        Some(usage) if usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign() => Ok(()),
        _ => Err(NotSvid::WrongUse),
    }
}

/// X509-SVID, section 2: one URI, and no other one beside it.
fn only_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, NotSvid> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| NotSvid::Malformed)?;
    let mut uris = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(NotSvid::NotOneUri);
    };
    match SpiffeId::new(uri) {
        Ok(id) if !id.path().is_empty() => Ok(id),
        _ => Err(NotSvid::NotAnId),
    }
}

fn serial(certificate: &X509Certificate<'_>) -> Result<Serial, NotSvid> {
    let bytes = certificate.raw_serial();
    if bytes.is_empty() || bytes.len() > MAX_SERIAL_BYTES {
        return Err(NotSvid::Malformed);
    }
    let digits = bytes
        .strip_prefix(&[0])
        .filter(|rest| !rest.is_empty())
        .unwrap_or(bytes);
    Ok(Serial(digits.to_vec()))
}

fn validity(certificate: &X509Certificate<'_>) -> Result<Validity, NotSvid> {
    let seconds = |timestamp: i64| {
        u64::try_from(timestamp)
            .map(Duration::from_secs)
            .map_err(|_| NotSvid::Malformed)
    };
    let validity = certificate.validity();
    Ok(Validity {
        not_before: seconds(validity.not_before.timestamp())?,
        not_after: seconds(validity.not_after.timestamp())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Authority, Kind};
    use proptest::prelude::*;

    #[test]
    fn a_leaf_says_who_and_when() {
        let authority = Authority::new("example.org");
        let svid = authority.svid(
            "/ns/prod/web",
            Duration::from_secs(1000)..Duration::from_secs(2000),
        );
        let leaf = Leaf::parse(&svid.chain[0]).expect("an SVID");
        assert_eq!(leaf.id.to_string(), "spiffe://example.org/ns/prod/web");
        assert_eq!(leaf.validity.life(), Duration::from_secs(1000));
        assert_eq!(
            leaf.validity.left(Duration::from_secs(1500)),
            Duration::from_secs(500)
        );
        assert!(
            !leaf.validity.is_over(Duration::from_secs(2000))
                && leaf.validity.is_over(Duration::from_secs(2001))
        );
        let other = authority.svid(
            "/ns/prod/web",
            Duration::from_secs(1000)..Duration::from_secs(2000),
        );
        assert_ne!(Leaf::parse(&other.chain[0]).expect("an SVID").serial, leaf.serial);
    }

    #[test]
    fn what_is_no_svid_is_refused() {
        let authority = Authority::new("example.org");
        for (kind, expected) in [
            (Kind::NoUri, NotSvid::NotOneUri),
            (Kind::TwoUris, NotSvid::NotOneUri),
            (Kind::OtherUri, NotSvid::NotAnId),
            (Kind::NoPath, NotSvid::NotAnId),
            (Kind::Authority, NotSvid::WrongUse),
            (Kind::SignsCertificates, NotSvid::WrongUse),
        ] {
            assert_eq!(
                Leaf::parse(&authority.odd(kind).chain[0]),
                Err(expected),
                "{kind:?}"
            );
        }
        assert_eq!(
            Leaf::parse(&vec![0; MAX_CERTIFICATE_BYTES + 1]),
            Err(NotSvid::TooLarge)
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let _ = Leaf::parse(&bytes);
            let authority = Authority::new("example.org");
            let mut leaf = authority.svid("/web", Duration::ZERO..Duration::from_secs(9)).chain[0].to_vec();
            *at.get_mut(&mut leaf) ^= flip;
            let _ = Leaf::parse(&leaf);
        }
    }
}
