//! Logs replicated between regions, so that a receipt outlives the region that wrote it.
//!
//! - [`wire`]: what regions send each other.
//! - [`Mirror`]: another region's log, verified before it is written, acknowledged once it is durable.
//! - [`Sender`]: what is sent to whom and when, and which entries a quorum of regions holds.
//! - [`source`]: the batches that are sent, from the region's own log or from a mirror that gives it back.
//! - [`Start`]: what a region asks before it signs anything, and [`Restore`], how it gets its log back from its peers.
//! - [`announce`]: what a log says of itself to those who copy it.
//! - [`Rollouts`]: rollout states of all regions, joined without clocks.
//! - [`Transport`]: how a peer is reached, and [`HttpPeer`], which does so over HTTP.
//!
//! Mirror and sender are state machines without clock, randomness or network; those come in as arguments.

mod acks;
pub mod announce;
pub mod config;
mod fields;
pub mod mirror;
mod restore;
pub mod rollouts;
pub mod sender;
pub mod source;
pub mod start;
pub mod transport;
mod tree;
pub mod wire;

pub use acks::AckSigner;
pub use config::{ConfigError, PeerConfig, RegionsConfig, RegionsSection};
pub use mirror::{Fork, Mirror, Mirrored, Refusal};
pub use restore::{Restore, RestoreError, Restored};
pub use rollouts::Rollouts;
pub use sender::{Event, Progress, QuorumError, SavedAcks, Sender, SenderOptions, Stop};
pub use start::{Decision, OwnLog, Start};
pub use transport::{HttpPeer, Transport, TransportError};
