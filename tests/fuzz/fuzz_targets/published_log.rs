//! What an auditor reads of a log, and of keys, from anywhere: refused, or read; and what was read is the one form that it has.
#![no_main]

use knhk_receipts::audit::{BundleReader, Content};
use knhk_receipts::{PublicKey, SignedCheckpoint, bundle, kept};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (mut rest, mut items) = (bytes, 0);
    while let Ok(Some((item, taken))) = bundle::split(rest) {
        let mut again = Vec::new();
        bundle::put(&mut again, item.salt, item.payload);
        assert_eq!(again, rest[..taken], "there is one encoding");
        rest = &rest[taken..];
        items += 1;
    }

    // In pieces or in one: the same entries, and one word at most about what is none.
    let width = 1 + bytes.len() as u64 % 256;
    let told = [1, 7, 4096].map(|piece| {
        let (mut read, mut broken) = (0, 0);
        let mut each = |_: u64, content: Result<Content<'_>, String>| match content {
            Ok(_) => read += 1,
            Err(_) => broken += 1,
        };
        let mut reader = BundleReader::new(3, width);
        bytes.chunks(piece).for_each(|piece| reader.push(piece, &mut each));
        reader.finish(&mut each);
        (read, broken)
    });
    assert!(told.iter().all(|it| *it == told[0]), "{told:?}");
    assert!(told[0].0 <= width && told[0].0 <= items && told[0].1 <= 1, "{told:?} of {items} items");

    let mut rest = bytes;
    while let Some((note, behind)) = kept::split(rest) {
        if let Ok(checkpoint) = SignedCheckpoint::from_bytes(note) {
            assert_eq!(checkpoint.as_bytes(), note, "kept as it is");
        }
        rest = behind;
    }

    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(keys) = PublicKey::from_pem(text)
    {
        let again: String = keys.iter().map(PublicKey::pem).collect();
        assert_eq!(PublicKey::from_pem(&again), Ok(keys), "they are read again");
    }
});
