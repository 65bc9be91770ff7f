use knhk_decision::{Admission, PolicyId, replay};
use proptest::prelude::*;

use super::samples::{any_payload, decision};
use super::{DecodeError, MAX_PAYLOAD_BYTES, Payload, PolicyReceipt, to_hex};

/// Fixed for ever: a change here makes receipts of earlier versions unreadable.
const GOLDEN: &str = concat!(
    "b5",
    "0001",
    "0101",
    "026474657374",
    "031b0000018bcfe56800",
    "041a6553f100",
    "0507",
    "065820aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "0700",
    "0869676174657761792d31",
    "095001010101010101010101010101010101",
    "0a182a",
    "0b00",
    "0c63474554",
    "0d74636865636b6f75742e6578616d706c652e636f6d",
    "0e5820bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
    "0f78247370696666653a2f2f6578616d706c652e636f6d2f6e732f73686f702f73612f63617274",
    "1081642f617069",
    "1181",
    "8368636865636b6f757401f5",
    "12a5",
    "0068636865636b6f7574",
    "0103",
    "021a0001e240",
    "0300",
    "0401",
    "1318c8",
    "14193039",
);

fn refused(bytes: &[u8]) -> DecodeError {
    Payload::from_bytes(bytes).expect_err("it is no payload")
}

#[test]
fn the_bytes_of_a_decision_are_fixed() {
    assert_eq!(to_hex(&decision(42).to_bytes()), GOLDEN);
}

/// The two that came later leave all others as they are: 11 is a 1, and 21 stands at the end.
#[test]
fn the_bytes_of_a_denial_reported_under_an_identity_are_fixed() {
    let Payload::Decision(mut receipt) = decision(42) else {
        panic!("a decision")
    };
    receipt.evidence.admission = Admission::Denied;
    receipt.reporter.identity = Some("spiffe://d/gw".to_owned());
    let golden = GOLDEN.replacen("b5", "b6", 1).replacen("0b000c63", "0b010c63", 1);
    let identity = ["15", "6d", &to_hex(b"spiffe://d/gw")].concat();
    let bytes = Payload::Decision(receipt).to_bytes();
    assert_eq!(to_hex(&bytes), golden + &identity);
    let json = serde_json::to_value(Payload::from_bytes(&bytes).expect("its own bytes")).expect("JSON");
    assert_eq!(json["evidence"]["admission"], "denied");
    assert_eq!(json["reporter"]["identity"], "spiffe://d/gw");
    let later = to_hex(&bytes).replacen("0b010c63", "0b020c63", 1);
    let later: Vec<u8> = (0..later.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&later[at..at + 2], 16).expect("hex"))
        .collect();
    assert_eq!(refused(&later).label(), "malformed");
}

#[test]
fn other_encodings_of_the_same_values_are_refused() {
    let good = decision(42).to_bytes();
    assert_eq!(Payload::from_bytes(&good).expect("good"), decision(42));
    // The version as a two-byte integer.
    let longer = [&good[..2], &[0x18, 0x01], &good[3..]].concat();
    assert_eq!(refused(&longer), DecodeError::NotDeterministic);
    // The length of the map in two bytes.
    let longer = [&[0xb8, 0x15], &good[1..]].concat();
    assert_eq!(refused(&longer), DecodeError::NotDeterministic);
    // A map of indefinite length.
    let indefinite = [&[0xbf], &good[1..], &[0xff]].concat();
    assert_eq!(refused(&indefinite).label(), "malformed");
    // Keys 0 and 1 exchanged.
    let exchanged = [&good[..1], &good[3..5], &good[1..3], &good[5..]].concat();
    assert_eq!(refused(&exchanged).label(), "missing");
    // Key 0 twice.
    let doubled = [&[0xb6], &good[1..3], &good[1..]].concat();
    assert_eq!(refused(&doubled).label(), "missing");
    // Something behind the end.
    assert_eq!(
        refused(&[&good[..], &[0]].concat()),
        DecodeError::NotDeterministic
    );
    assert_eq!(refused(&good[..good.len() - 1]).label(), "malformed");
}

#[test]
fn what_this_version_does_not_know_is_refused() {
    let good = decision(42).to_bytes();
    let mut other = good.clone();
    other[2] = 2;
    assert_eq!(
        refused(&other),
        DecodeError::UnknownVersion { found: 2, known: 1 }
    );
    let mut other = good.clone();
    other[4] = 9;
    assert_eq!(refused(&other).label(), "malformed");
    let more = [&[0xb6], &good[1..], &[0x17, 0x00]].concat();
    assert_eq!(refused(&more), DecodeError::UnexpectedKey { key: 23 });
    assert_eq!(refused(&vec![0; MAX_PAYLOAD_BYTES + 1]).label(), "too_large");
    assert_eq!(refused(&[]).label(), "malformed");
    assert_eq!(refused(&[0xa0]), DecodeError::Missing { field: "version" });
    // An array that claims more items than there are bytes.
    let claims = [0xa1, 0x00, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(refused(&claims).label(), "malformed");
}

#[test]
fn a_snapshot_with_a_wrong_digest_is_refused() {
    let id = PolicyId { epoch: 1, n: 2 };
    let wrong = PolicyReceipt {
        region: String::new(),
        time_unix_ms: 0,
        id,
        sha256: [0; 32],
        bytes: vec![1],
    };
    assert_eq!(refused(&Payload::Policy(wrong).to_bytes()).label(), "malformed");
}

#[test]
fn json_is_for_people_and_programs() {
    let json = serde_json::to_value(decision(42)).expect("it has a JSON form");
    assert_eq!(json["kind"], "decision");
    assert_eq!(json["policy"], "1700000000.7");
    assert_eq!(json["via"], "filter");
    assert_eq!(json["reporter"]["vmNonce"], "01".repeat(16));
    assert_eq!(json["evidence"]["rollout"]["variant"], "canary");
    assert_eq!(json["policySha256"], "aa".repeat(32));
}

/// A decision that was recorded is decided again from its receipt alone.
#[test]
fn a_decision_is_replayed_from_its_payload() {
    use knhk_decision::{Facts, Policy, SpiffeId, Verdict, decide, evidence};

    struct Request;
    impl Facts for Request {
        fn method(&self) -> &[u8] {
            b"GET"
        }
        fn authority(&self) -> &[u8] {
            b"checkout.example.com"
        }
        fn path(&self) -> &[u8] {
            b"/api/cart?x=1"
        }
        fn header(&self, name: &str) -> Option<&[u8]> {
            (name == "x-user-id").then_some(b"a secret user")
        }
        fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
            std::iter::once((&b"x-user-id"[..], &b"a secret user"[..]))
        }
        fn unix_seconds(&self) -> i64 {
            0
        }
        fn peer_spiffe_id(&self) -> Option<SpiffeId<'_>> {
            None
        }
    }

    let document =
        br#"{"apiVersion":"knhk.dev/v1","kind":"Policy","epoch":1,"n":2,"rollouts":[{"name":"checkout",
        "generation":3,"window":4,"match":{"hosts":["checkout.example.com"],"pathPrefix":"/api"},
        "key":[{"header":"x-user-id"}],"weight":50,"stable":"v1","canary":"v2"}]}"#;
    let policy = Policy::parse(document).expect("a policy");
    let decided = decide(&policy, &Request);
    assert!(matches!(decided.verdict, Verdict::Routed(_)));
    let Payload::Decision(mut receipt) = decision(1) else {
        panic!("a decision")
    };
    receipt.evidence = evidence(&policy, &Request, &decided);
    let bytes = Payload::Decision(receipt).to_bytes();
    let shown = String::from_utf8_lossy(&bytes).into_owned();
    assert!(!shown.contains("secret"), "no key is in it");
    let Ok(Payload::Decision(read)) = Payload::from_bytes(&bytes) else {
        panic!("a decision")
    };
    let replayed = replay(&policy, &read.evidence).expect("enough evidence");
    assert!(replayed.agrees_with(&read.evidence), "{replayed:?}");
}

proptest! {
    #[test]
    fn every_payload_round_trips(payload in any_payload()) {
        let bytes = payload.to_bytes();
        prop_assert_eq!(&Payload::from_bytes(&bytes).expect("its own bytes"), &payload);
        prop_assert!(serde_json::to_string(&payload).is_ok());
    }

    /// One value, one encoding: whatever is accepted encodes to itself.
    #[test]
    fn a_changed_payload_is_refused_or_is_another_one(payload in any_payload(), at: prop::sample::Index, mask in 1..=255_u8) {
        let mut bytes = payload.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        if let Ok(other) = Payload::from_bytes(&bytes) {
            prop_assert_ne!(&other, &payload);
            prop_assert_eq!(other.to_bytes(), bytes);
        }
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Payload::from_bytes(&bytes);
        let _ = crate::ReceiptFile::from_bytes(&bytes);
    }
}
