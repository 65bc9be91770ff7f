//! A receipt from anywhere: refused, or read; and what was read is written back byte by byte.
#![no_main]

use knhk_receipts::{Payload, ReceiptFile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(receipt) = ReceiptFile::from_bytes(bytes) {
        assert_eq!(receipt.to_bytes(), bytes, "there is one encoding");
        assert!(receipt.verify(&[]).is_err(), "no key, no verification");
    }
    if let Ok(payload) = Payload::from_bytes(bytes) {
        assert_eq!(payload.to_bytes(), bytes, "there is one encoding");
    }
});
