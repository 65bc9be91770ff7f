//! Every label that this crate gives is in the registry, and the registry lists no other.

use std::collections::BTreeSet;
use std::path::Path;

use knhk_identity::{OUTCOMES, Refusal, SourceError};
use serde::Deserialize;

#[derive(Deserialize)]
struct Registry {
    attributes: Vec<Attribute>,
}

#[derive(Deserialize)]
struct Attribute {
    key: String,
    #[serde(rename = "type")]
    kind: Kind,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Kind {
    Closed { members: Vec<Member> },
    Plain(#[expect(dead_code, reason = "only its shape is needed")] String),
}

#[derive(Deserialize)]
struct Member {
    value: String,
}

fn listed(key: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../registry/attributes.yaml");
    let text = std::fs::read_to_string(path).expect("the registry");
    let registry: Registry = serde_saphyr::from_str(&text).expect("its shape");
    let attribute = registry
        .attributes
        .into_iter()
        .find(|attribute| attribute.key == key);
    match attribute.expect("it is listed").kind {
        Kind::Closed { members } => members
            .into_iter()
            .map(|member| member.value)
            .filter(|value| value != "_OTHER")
            .collect(),
        Kind::Plain(_) => panic!("{key} is open"),
    }
}

#[test]
fn labels_and_registry_agree() {
    let set = |labels: &[&str]| labels.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(listed("knhk.svid.refusal"), set(&Refusal::LABELS));
    assert_eq!(listed("knhk.svid.source_error"), set(&SourceError::LABELS));
    assert_eq!(listed("knhk.tls.outcome"), set(&OUTCOMES));
}
