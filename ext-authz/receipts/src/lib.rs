//! Receipts: what was decided and done, in a transparency log that anyone can verify.
//!
//! - [`Payload`]: what a receipt says, in deterministic CBOR ([`payload`]).
//! - [`entry`]: the salted commitment that stands in the log for a payload.
//! - [`Log`]: an append-only log of one region on local disk: durable appends, C2SP tiles, signed
//!   [`checkpoint`]s, [`cose`] receipts, keys that follow each other.
//! - [`audit`]: the whole log against itself, from its directory or from what it publishes, [`bundle`]s of payloads included.
//! - [`Ack`]: another region's word that it holds the log ([`acknowledgement`]).
//! - [`ReceiptFile`]: one entry with its proof and checkpoint, verified offline with public keys alone ([`receipt`]).
//!
//! The log's files sit behind [`storage::Storage`], signatures behind [`Signer`], time and randomness in [`Env`].

pub mod acknowledgement;
pub mod audit;
pub mod bundle;
pub mod cbor;
pub mod checkpoint;
pub mod cose;
pub mod entry;
mod env;
pub mod kept;
mod key;
mod log;
pub mod payload;
pub mod receipt;
pub mod root;
mod segment;
mod signer;
pub mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tree;

pub use acknowledgement::{Ack, Acknowledged};
pub use checkpoint::{CheckpointError, SignedCheckpoint};
pub use cose::{CoseReceipt, RootSignature};
pub use env::{Env, FillRandom};
pub use key::{KeyError, MAX_KEYS, MAX_PEM_BYTES, PublicKey};
pub use log::{
    AtRest, DEFAULT_FLUSH_ENTRIES, KeyState, Log, LogError, LogKey, LogOptions, LogStatus, MAX_APPEND_BYTES,
    MAX_FLUSH, MAX_WAITING_BYTES, MAX_WHO_BYTES, MIN_FLUSH, Payloads, Replica, RotateError, SIGN_TIMEOUT,
    Scan, SignError, take_lock,
};
pub use payload::{
    ActionReceipt, DecisionReceipt, DecodeError, Genesis, KeyReceipt, MAX_PAYLOAD_BYTES, Payload,
    PolicyReceipt, Reporter, Via,
};
pub use receipt::{Check, ReceiptFile, ReceiptId, ReceiptIdError, Verified, VerifyError};
pub use root::SignedRoot;
pub use signer::{MAX_PROVIDER_BYTES, MAX_VERSION_BYTES, Signer, SignerError, SigningKey};
pub use storage::DiskStorage;
