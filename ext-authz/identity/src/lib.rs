//! Workload identity: SVIDs from the SPIFFE Workload API, mutual TLS, and roles by SPIFFE ID.
//!
//! [`Identity::new`] gives a handle and a [`Keeper`]. The keeper follows the Workload API and swaps one checked
//! [`Snapshot`]; whoever serves ([`TlsIncoming`]) or connects ([`Connector`]) uses the snapshot of the moment of its
//! handshake. [`Roles`] say what a SPIFFE ID may do; who is not named may do nothing.
//!
//! No file stands in for the Workload API: without SPIFFE there is no identity, and no TLS. A [`ClientCertificate`] is for
//! the command line of somebody who asks for it.

mod accept;
mod certificate;
mod client_certificate;
mod clock;
mod config;
mod connect;
mod connection;
mod identity;
mod observe;
mod pattern;
mod peer;
mod refusal;
mod roles;
mod snapshot;
mod source;
mod status;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
mod view;
mod watch;

pub use accept::{Acceptor, HANDSHAKE_WITHIN, MAX_HANDSHAKES, MAX_SESSIONS, TlsIncoming};
pub use certificate::{Leaf, MAX_CERTIFICATE_BYTES, MAX_CHAIN, NotSvid, Serial, Validity};
pub use client_certificate::{ClientCertificate, ClientCertificateError, MAX_PEM_BYTES};
pub use clock::{Clock, Env, Now, Random, SystemClock};
pub use config::{
    ConfigError, ENDPOINT_VARIABLE, MAX_HOSTS, MAX_PATTERNS, REFRESH_RANGE, Refresh, SpiffeConfig,
    SpiffeSection, WorkloadApi,
};
pub use connect::Connector;
pub use connection::{PeerInfo, TlsConnection};
pub use identity::{Identity, Keeper, NoSvid};
pub use observe::{OUTCOMES, Observer};
pub use pattern::{HostPattern, IdPattern, MAX_HOST_BYTES, MAX_ID_BYTES, PatternError};
pub use peer::{Allow, NotAllowed, Peer, PeerError, Side};
pub use refusal::Refusal;
pub use roles::{Denied, FilterRule, Hosts, Role, Roles};
pub use snapshot::{MAX_AUTHORITIES, MAX_SVIDS, MAX_TRUST_DOMAINS, Snapshot};
pub use source::{FIRST_UPDATE_WITHIN, SourceError};
pub use spiffe::{SpiffeId, TrustDomain};
pub use status::{Readiness, SourceStatus, Status, SvidStatus};
pub use tls::Alpn;
pub use tls::error::HandshakeError;
pub use watch::{DENIALS_THAT_COUNT, DENIED_FOR, RETRY_BASE, RETRY_CAP};
