//! Deterministic CBOR (RFC 8949, 4.2.1) as every format here has it, for formats that carry receipts elsewhere.
//!
//! Maps have small integer keys in ascending order. Reading asks for them in that order, so a key that is out of order, doubled
//! or unknown is left over and refused; who reads then encodes again and compares, so that no second form is accepted.

pub use crate::payload::{Encoder, MapReader, Written, array_len, fixed_bytes, in_memory};
