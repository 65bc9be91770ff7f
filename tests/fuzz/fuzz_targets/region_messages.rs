//! What regions send each other: refused, or read; and what was read is written back byte by byte.
#![no_main]

use knhk_regions::mirror::Fork;
use knhk_regions::wire::{Ack, Answer, Batch, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(batch) = Batch::from_bytes(bytes) {
        assert_eq!(batch.to_bytes(), bytes, "there is one encoding");
        assert!(batch.end() <= batch.checkpoint.size(), "it leads to its checkpoint");
    }
    if let Ok(answer) = Answer::from_bytes(bytes) {
        assert_eq!(answer.to_bytes(), bytes, "there is one encoding");
    }
    if let Ok(ack) = Ack::from_bytes(bytes) {
        assert_eq!(ack.to_bytes(), bytes, "there is one encoding");
    }
    if let Ok(message) = Message::from_bytes(bytes) {
        assert_eq!(message.to_bytes(), bytes, "there is one encoding");
    }
    if let Ok(fork) = Fork::from_bytes(bytes) {
        assert_eq!(fork.to_bytes(), bytes, "there is one encoding");
    }
});
