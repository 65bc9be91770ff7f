//! The configurations for operators, judged by Envoy itself.
#![allow(clippy::expect_used)]

use knhk_tests::envoy::{EnvoyConfig, validate};
use knhk_tests::mesh::{BOTH, EXT_AUTHZ, EXT_PROC, FILTER, SPIFFE};
use serde_json::{Value, json};

#[test]
fn envoy_takes_each_configuration_for_operators() {
    for file in [FILTER, EXT_AUTHZ, BOTH, EXT_PROC, SPIFFE] {
        validate(&EnvoyConfig::load(file).expect("it can be read")).expect("Envoy takes it");
    }
}

/// As the comment in it says.
#[test]
fn envoy_takes_the_clusters_of_mutual_tls_in_each_other_configuration() {
    let spiffe = EnvoyConfig::load(SPIFFE).expect("it can be read");
    for file in [FILTER, EXT_AUTHZ, BOTH, EXT_PROC] {
        let mut config = EnvoyConfig::load(file).expect("it can be read");
        config
            .take_clusters(&spiffe, &["knhk", "spire_agent"])
            .expect("both are there");
        validate(&config).expect("Envoy takes it");
    }
}

/// Its parts by name, so that their order does not matter.
fn whole(mut config: EnvoyConfig) -> Value {
    let clusters = config.at("/static_resources/clusters").expect("clusters");
    let clusters = clusters.as_array_mut().expect("a list");
    clusters.sort_by_key(|cluster| cluster["name"].to_string());
    config.at("").expect("the whole").clone()
}

#[test]
fn the_configuration_of_mutual_tls_is_the_plain_one_but_for_its_two_clusters() {
    let spiffe = EnvoyConfig::load(SPIFFE).expect("it can be read");
    let mut plain = EnvoyConfig::load(FILTER).expect("it can be read");
    plain
        .take_clusters(&spiffe, &["knhk", "spire_agent"])
        .expect("both are there");
    assert_eq!(whole(plain), whole(spiffe));
}

#[test]
fn a_wrong_plugin_configuration_is_refused_when_envoy_starts_with_a_line_that_names_the_field() {
    for (configuration, part) in [
        (json!({ "failmode": "open" }), "unknown field `failmode`"),
        (json!({ "failMode": "ajar" }), "unknown variant `ajar`"),
        (json!({ "cluster": "" }), "cluster"),
    ] {
        let mut config = EnvoyConfig::load(FILTER).expect("it can be read");
        config.configure_filter(&configuration).expect("the filter");
        let refusal = validate(&config).expect_err("Envoy refuses it").to_string();
        assert!(refusal.contains(part), "{configuration}: {refusal}");
    }
}

#[test]
fn a_filter_that_is_not_there_is_refused_when_envoy_starts() {
    let mut config = EnvoyConfig::load(FILTER).expect("it can be read");
    config
        .set_filter_file("/no/such/filter.wasm".as_ref())
        .expect("the filter");
    let refusal = validate(&config).expect_err("Envoy refuses it").to_string();
    assert!(refusal.contains("/no/such/filter.wasm"), "{refusal}");
}
