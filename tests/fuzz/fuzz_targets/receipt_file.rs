//! A receipt from anywhere, and what the log's files hold: refused, or read; and what was read is written back byte by byte.
#![no_main]

use knhk_receipts::{CoseReceipt, Payload, ReceiptFile, SignedRoot, kept};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(receipt) = ReceiptFile::from_bytes(bytes) {
        assert_eq!(receipt.to_bytes(), bytes, "there is one encoding");
        assert!(receipt.verify(&[]).is_err(), "no key, no verification");
    }
    if let Ok(payload) = Payload::from_bytes(bytes) {
        assert_eq!(payload.to_bytes(), bytes, "there is one encoding");
    }
    if let Ok(receipt) = CoseReceipt::from_bytes(bytes) {
        assert_eq!(receipt.to_bytes(), bytes, "there is one encoding");
    }
    if let Ok(root) = SignedRoot::from_bytes(bytes) {
        assert_eq!(root.to_bytes(), bytes, "there is one encoding");
        assert!(root.verify(&[]).is_err(), "no key, no verification");
    }
    let mut rest = bytes;
    while let Some((note, behind)) = kept::split(rest) {
        assert!(!note.is_empty() && behind.len() < rest.len(), "it comes to an end");
        rest = behind;
    }
});
