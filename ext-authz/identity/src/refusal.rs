//! Why an update of the Workload API is not used.

use spiffe::{SpiffeId, TrustDomain};
use thiserror::Error;

use crate::certificate::NotSvid;

/// Why an update is not used. The last good one stays.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A field that must be there is not.
    #[error("the update lacks {0}; ask whoever runs the Workload API")]
    Missing(&'static str),
    /// The message, a certificate or a key in it could not be read.
    #[error("the update cannot be read: {0}; ask whoever runs the Workload API")]
    Malformed(String),
    /// There is more than we take.
    #[error(
        "the update has {count} {what}, and at most {most} are taken; give this workload fewer registration entries or federations"
    )]
    OverSized {
        /// Of what there is too much.
        what: &'static str,
        /// How much there is.
        count: usize,
        /// How much is taken.
        most: usize,
    },
    /// The message as a whole is larger than gRPC takes, 4 MiB.
    #[error("the update is larger than 4 MiB; give this workload fewer registration entries or federations")]
    MessageTooLarge,
    /// The SVID is of another trust domain than it must be.
    #[error(
        "the SVID is {seen}, and it must be of the trust domain {expected}; look at `spiffe.trust_domain` and at which agent listens on the socket"
    )]
    OtherTrustDomain {
        /// What came.
        seen: SpiffeId,
        /// What was to come.
        expected: TrustDomain,
    },
    /// There is no authority for our own trust domain.
    #[error("the update has no authority for our own trust domain {0}; look at the agent's log")]
    EmptyBundle(TrustDomain),
    /// An authority is not a certificate that can sign.
    #[error(
        "an authority of the trust domain {0} is not a certificate that can be used as one; look at that trust domain's bundle"
    )]
    MalformedBundle(TrustDomain),
    /// The leaf is not an SVID's.
    #[error("the certificate is not an X.509-SVID: {0}; ask whoever runs the Workload API")]
    NotSvid(NotSvid),
    /// The leaf or one of its intermediates has ended.
    #[error(
        "the SVID has expired; compare the clocks of this machine and of the SPIRE server, and look at the agent's log"
    )]
    Expired,
    /// The leaf or one of its intermediates has not begun.
    #[error("the SVID is not valid yet; compare the clocks of this machine and of the SPIRE server")]
    NotYetValid,
    /// The chain does not lead to an authority of its trust domain, or may not serve both sides of a connection.
    #[error("the SVID does not stand under its own trust domain's authorities: {0}; look at the agent's log")]
    Untrusted(String),
    /// The key is of no kind that TLS signs with.
    #[error("the private key is of no kind that TLS can use; issue P-256, P-384 or RSA keys")]
    UnusableKey,
    /// The private key is not the certificate's.
    #[error("the private key is not that of the certificate; ask whoever runs the Workload API")]
    OtherKey,
}

impl Refusal {
    /// Every label, for metrics.
    pub const LABELS: [&'static str; 12] = [
        "missing_field",
        "malformed",
        "over_sized",
        "other_trust_domain",
        "empty_bundle",
        "malformed_bundle",
        "not_svid",
        "expired",
        "not_yet_valid",
        "untrusted",
        "unusable_key",
        "other_key",
    ];

    /// Stable, one of [`Refusal::LABELS`].
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing(_) => "missing_field",
            Self::Malformed(_) => "malformed",
            Self::OverSized { .. } | Self::MessageTooLarge => "over_sized",
            Self::OtherTrustDomain { .. } => "other_trust_domain",
            Self::EmptyBundle(_) => "empty_bundle",
            Self::MalformedBundle(_) => "malformed_bundle",
            Self::NotSvid(_) => "not_svid",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Untrusted(_) => "untrusted",
            Self::UnusableKey => "unusable_key",
            Self::OtherKey => "other_key",
        }
    }
}
