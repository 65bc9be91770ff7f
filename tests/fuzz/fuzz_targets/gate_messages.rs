//! What goes up and down a Gate stream: decoding ends in a message or a refusal, and messages survive the wire.
#![no_main]

use knhk_proto::v1::{Down, Up};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(up) = Up::decode(bytes) {
        assert_eq!(Up::decode(up.encode_to_vec().as_slice()).as_ref(), Ok(&up));
    }
    if let Ok(down) = Down::decode(bytes) {
        assert_eq!(Down::decode(down.encode_to_vec().as_slice()).as_ref(), Ok(&down));
    }
});
