//! Header pairs as the proxy hands them to the filter: whatever the bytes, reading ends and stays inside them.
#![no_main]

use knhk_filter::pairs::Pairs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let pairs = Pairs::new(bytes);
    let read: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(read <= bytes.len());
    if let Some((name, value)) = pairs.iter().next() {
        assert_eq!(pairs.first(name), Some(value));
    }
});
