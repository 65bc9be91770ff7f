//! A snapshot's bytes, as a filter gets them: refused, or compiled into a policy that decides anything.
#![no_main]

use knhk_decision::{Facts, Policy, SpiffeId, decide, evidence, replay};
use libfuzzer_sys::fuzz_target;

/// One request, cut out of the same bytes.
struct Request<'a>(&'a [u8]);

impl Facts for Request<'_> {
    fn method(&self) -> &[u8] {
        b"GET"
    }

    fn authority(&self) -> &[u8] {
        self.0.split(|byte| *byte == b'"').nth(1).unwrap_or_default()
    }

    fn path(&self) -> &[u8] {
        self.0
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        (!name.is_empty()).then_some(self.0)
    }

    fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let words = || self.0.split(|byte| *byte == b'"');
        words().zip(words().skip(1))
    }

    fn unix_seconds(&self) -> i64 {
        1_795_000_000
    }

    fn peer_spiffe_id(&self) -> Option<SpiffeId<'_>> {
        let mut words = self.0.split(|byte| *byte == b'"');
        words.find_map(|word| SpiffeId::parse(std::str::from_utf8(word).ok()?))
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(policy) = Policy::parse(bytes) else { return };
    let request = Request(bytes);
    let decision = decide(&policy, &request);
    assert!(decision.flags_header().is_none_or(|told| told.bytes().all(|byte| byte.is_ascii_graphic())));
    let evidence = evidence(&policy, &request, &decision);
    let again = replay(&policy, &evidence).expect("evidence is enough to replay");
    assert!(again.agrees_with(&evidence), "a replay differs from its decision");
});
