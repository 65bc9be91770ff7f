//! The policy document and the parts that people write.

use std::collections::BTreeMap;

use knhk_decision::spec::{HeaderMatch, KeySpec, MatchSpec, Record, ValueMatch, Weight};
use knhk_decision::{Policy, PolicyDoc, PolicyId, RolloutRule};
use knhk_flags::Document;
use proptest::prelude::*;

use crate::support::{admit, any_rules, any_weight, doc, rule};

#[test]
fn the_bytes_are_these() {
    let full = RolloutRule {
        salt: Some("pepper".to_owned()),
        r#match: MatchSpec {
            hosts: vec!["*.example.com".to_owned()],
            path_prefix: Some("/api".to_owned()),
            path: None,
            methods: vec!["GET".to_owned()],
            headers: vec![
                HeaderMatch {
                    name: "x-a".to_owned(),
                    value: ValueMatch::Exact("1".to_owned()),
                },
                HeaderMatch {
                    name: "x-b".to_owned(),
                    value: ValueMatch::Prefix("2".to_owned()),
                },
                HeaderMatch {
                    name: "x-c".to_owned(),
                    value: ValueMatch::Present(false),
                },
            ],
            peers: vec!["spiffe://example.org/ns/shop/*".to_owned()],
            flags: BTreeMap::from([("beta".to_owned(), "on".to_owned())]),
        },
        admit: Some(admit(&["spiffe://example.org/*"])),
        key: vec![
            KeySpec::Header("x-user-id".to_owned()),
            KeySpec::Cookie("session".to_owned()),
            KeySpec::Query("uid".to_owned()),
            KeySpec::PeerSpiffeId {},
            KeySpec::RequestId {},
        ],
        weight: Weight::from_ppm(333_333).expect("a weight"),
        flags: vec!["beta".to_owned()],
        record: Record::Sample(Weight::from_ppm(10_000).expect("a weight")),
        thresholds: vec![250_000],
        outcomes: Vec::new(),
        ..rule("checkout")
    };
    let expected = concat!(
        r#"{"apiVersion":"knhk.dev/v1","kind":"Policy","epoch":3,"n":7,"rollouts":[{"name":"checkout","#,
        r#""generation":1,"window":1,"salt":"pepper","match":{"hosts":["*.example.com"],"pathPrefix":"/api","#,
        r#""methods":["GET"],"headers":[{"name":"x-a","exact":"1"},{"name":"x-b","prefix":"2"},"#,
        r#"{"name":"x-c","present":false}],"peers":["spiffe://example.org/ns/shop/*"],"flags":{"beta":"on"}},"#,
        r#""admit":{"peers":["spiffe://example.org/*"]},"key":[{"header":"x-user-id"},{"cookie":"session"},{"query":"uid"},"#,
        r#"{"peerSpiffeId":{}},{"requestId":{}}],"weight":33.3333,"stable":"v1","canary":"v2","#,
        r#""flags":["beta"],"record":{"sample":1},"thresholds":[250000]}],"#,
        r#""flags":{"flags":{"beta":{"state":"ENABLED","variants":{"off":false,"on":true}}}}}"#,
    );
    let flags = br#"{ "flags": { "beta": { "state": "ENABLED", "variants": { "on": true, "off": false } } }, "metadata": {} }"#;
    let flags = Document::parse(flags).expect("a document");
    let bytes = doc(vec![full]).with_flags(&flags).to_bytes();
    assert_eq!(String::from_utf8(bytes.clone()).expect("text"), expected);
    assert_eq!(
        Policy::parse(&bytes).expect("a policy").id(),
        PolicyId { epoch: 3, n: 7 }
    );
}

#[test]
fn a_match_may_be_left_out_and_is_then_every_request() {
    let rest = r#""generation":1,"window":1,"key":[{"requestId":{}}],"weight":5,"stable":"a","canary":"b""#;
    let json = format!(
        r#"{{"apiVersion":"knhk.dev/v1","kind":"Policy","epoch":1,"n":1,"rollouts":[{{"name":"all",{rest}}}]}}"#
    );
    let policy = Policy::parse(json.as_bytes()).expect("a policy");
    assert_eq!(policy.rules()[0].r#match, MatchSpec::default());
    assert_eq!(policy.rules()[0].record, Record::None);
}

#[test]
fn weights_are_read_exactly() {
    for (text, ppm, shown) in [
        ("0", 0, "0 %"),
        ("0.0001", 1, "0.0001 %"),
        ("1", 10_000, "1 %"),
        ("5.0", 50_000, "5 %"),
        ("33.3333", 333_333, "33.3333 %"),
        ("0.3", 3_000, "0.3 %"),
        ("1e-4", 1, "0.0001 %"),
        ("99.9999", 999_999, "99.9999 %"),
        ("100", 1_000_000, "100 %"),
    ] {
        let weight = Weight::from_ppm(ppm).expect("a weight");
        assert_eq!(serde_json::from_str::<Weight>(text).expect(text), weight);
        assert_eq!(serde_saphyr::from_str::<Weight>(text).expect(text), weight);
        assert_eq!(text.parse::<Weight>().expect(text), weight);
        assert_eq!(weight.to_string(), shown);
        assert_eq!(shown.parse::<Weight>().expect(shown), weight);
    }
}

#[test]
fn what_is_no_weight_is_refused_with_the_reason() {
    for (text, says) in [
        ("0.00001", "steps of 0.0001"),
        ("33.33335", "steps of 0.0001"),
        ("100.1", "from 0 to 100"),
        ("100.0001", "from 0 to 100"),
        ("101", "from 0 to 100"),
        ("-1", "from 0 to 100"),
        ("-0.0001", "from 0 to 100"),
        ("18446744073709551615", "from 0 to 100"),
    ] {
        for message in [
            serde_json::from_str::<Weight>(text).expect_err(text).to_string(),
            serde_saphyr::from_str::<Weight>(text)
                .expect_err(text)
                .to_string(),
            text.parse::<Weight>().expect_err(text).to_string(),
        ] {
            assert!(message.contains(says), "{text}: {message}");
        }
    }
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let message = Weight::from_percent(number).expect_err("no number").to_string();
        assert!(message.contains("from 0 to 100"), "{message}");
        assert!(number.to_string().parse::<Weight>().is_err());
    }
    for yaml in [".nan", ".inf", "-.inf"] {
        assert!(serde_saphyr::from_str::<Weight>(yaml).is_err(), "{yaml}");
    }
    for json in ["\"5\"", "null", "[5]", "true"] {
        let message = serde_json::from_str::<Weight>(json).expect_err(json).to_string();
        assert!(message.contains("percent from 0 to 100"), "{json}: {message}");
    }
    assert!(
        "five"
            .parse::<Weight>()
            .expect_err("no number")
            .to_string()
            .contains("as a number")
    );
    assert!(
        Weight::from_ppm(1_000_001)
            .expect_err("above")
            .to_string()
            .contains("from 0 to 100")
    );
}

#[test]
fn records_and_keys_have_one_form_each() {
    for (yaml, record) in [
        ("none", Record::None),
        ("denials", Record::Denials),
        ("all", Record::All),
        (
            "{sample: 0.5}",
            Record::Sample(Weight::from_ppm(5_000).expect("a weight")),
        ),
    ] {
        assert_eq!(serde_saphyr::from_str::<Record>(yaml).expect(yaml), record);
    }
    for (yaml, key) in [
        ("{header: x-user-id}", KeySpec::Header("x-user-id".to_owned())),
        ("{cookie: session}", KeySpec::Cookie("session".to_owned())),
        ("{query: uid}", KeySpec::Query("uid".to_owned())),
        ("{peerSpiffeId: {}}", KeySpec::PeerSpiffeId {}),
        ("{requestId: {}}", KeySpec::RequestId {}),
    ] {
        assert_eq!(serde_saphyr::from_str::<KeySpec>(yaml).expect(yaml), key);
    }
    for json in [
        r#"{"requestId":{"x":1}}"#,
        r#"{"body":"x"}"#,
        r#"{"header":"a","cookie":"b"}"#,
        "{}",
    ] {
        assert!(serde_json::from_str::<KeySpec>(json).is_err(), "{json}");
    }
}

#[test]
fn a_header_has_exactly_one_condition() {
    let read = |json: &str| {
        serde_json::from_str::<HeaderMatch>(json)
            .expect_err(json)
            .to_string()
    };
    assert!(read(r#"{"name":"x-a"}"#).contains("\"x-a\" has no condition: give exact, prefix or present"));
    assert!(read(r#"{"name":"x-a","exact":"1","present":true}"#).contains("give exactly one"));
    assert!(read(r#"{"name":"x-a","regex":"1"}"#).contains("unknown field `regex`"));
}

#[test]
fn policy_ids_are_read_as_they_are_printed() {
    let id: PolicyId = "18446744073709551615.7".parse().expect("an ID");
    assert_eq!(
        id,
        PolicyId {
            epoch: u64::MAX,
            n: 7
        }
    );
    assert_eq!(id.to_string(), "18446744073709551615.7");
    for text in ["", "1", "1.", ".1", "1.2.3", "a.b", "-1.2"] {
        let message = text.parse::<PolicyId>().expect_err(text).to_string();
        assert!(message.contains("EPOCH.N"), "{text}: {message}");
    }
}

proptest! {
    #[test]
    fn a_document_survives_its_bytes(rules in any_rules()) {
        let doc = doc(rules);
        let read: PolicyDoc = serde_json::from_slice(&doc.to_bytes()).expect("a document");
        prop_assert_eq!(&read, &doc);
        prop_assert_eq!(read.to_bytes(), doc.to_bytes());
        let yaml: PolicyDoc = serde_saphyr::from_slice(&doc.to_bytes()).expect("JSON is YAML");
        prop_assert_eq!(yaml, doc);
    }

    #[test]
    fn every_weight_survives_json_yaml_and_text(weight in any_weight()) {
        let json = serde_json::to_string(&weight).expect("json");
        prop_assert_eq!(serde_json::from_str::<Weight>(&json).expect("a weight"), weight);
        prop_assert_eq!(serde_saphyr::from_str::<Weight>(&json).expect("a weight"), weight);
        prop_assert_eq!(weight.to_string().parse::<Weight>().expect("a weight"), weight);
        prop_assert_eq!(Weight::from_percent(weight.percent()).expect("a weight"), weight);
    }
}
