//! `x-forwarded-client-cert` as clients send it: whatever the bytes, reading ends, whom it names stands in it, and no
//! beginning that keeps to the form hides what a proxy appends.
#![no_main]

use knhk_decision::{MAX_XFCC_BYTES, SpiffeId, xfcc_peer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(peer) = xfcc_peer(bytes) else { return };
    let id = peer.as_str().as_bytes();
    assert!(bytes.windows(id.len()).any(|window| window == id));
    let appended = [bytes, b",By=x;URI=spiffe://d/w"].concat();
    if appended.len() <= MAX_XFCC_BYTES {
        assert_eq!(xfcc_peer(&appended).map(SpiffeId::as_str), Some("spiffe://d/w"));
    }
});
