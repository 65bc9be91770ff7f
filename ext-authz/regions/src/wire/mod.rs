//! What regions send each other, byte by byte: deterministic CBOR, bounded before it is parsed, one form each.
//!
//! - [`Batch`]: a contiguous range of a log's entries, and the checkpoint that they lead to (`POST /v1/receipts`).
//! - [`Answer`]: what the receiver holds, and its acknowledgement or refusal.
//! - [`Ack`]: `knhk-ack/v1`, a region's word that it durably holds another one's log up to a checkpoint.
//! - [`Message`]: rollouts and flags, ahead of all receipts (`POST /v1/replicate`).
//!
//! Every format is one map with integer keys in ascending order, key 0 its version; an absent optional value has no key. What
//! was read is encoded again and must give the same bytes.

mod answer;
mod batch;
mod flags;
mod message;

pub use answer::{Answer, MAX_ANSWER_BYTES, MAX_DETAIL_BYTES, Refused};
pub use batch::{Batch, MAX_BATCH_BYTES, MAX_BATCH_ITEMS, MAX_ITEMS_BYTES, MAX_KEPT, RootAt};
pub use flags::FlagsState;
pub use knhk_receipts::acknowledgement::{Ack, MAX_ACK_BYTES};
pub use message::{
    MAX_DOCUMENT_BYTES, MAX_MESSAGE_BYTES, MAX_REPORT_BYTES, MAX_REPORTS, MAX_STATES, Message, Relayed,
    RolloutState,
};

/// SHA-256 of a public key's DER.
pub type KeyId = [u8; 32];

/// A node of a log's tree.
pub type Hash = [u8; 32];

/// The longest name of a region or a rollout, in bytes.
pub const MAX_NAME_BYTES: usize = knhk_receipts::acknowledgement::MAX_REGION_BYTES;
