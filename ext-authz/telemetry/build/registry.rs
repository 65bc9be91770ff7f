//! The part of the registry's language that KNHK uses, parsed and checked.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Most attributes that a metric may have: the label sets in `src/typed.rs` are written for so many.
const MAX_ATTRIBUTES: usize = 2;

/// Units that `Definition::exposed_unit` knows how to show.
const UNITS: [&str; 4] = ["s", "By", "%", "1"];

/// Kinds of spans.
const SPAN_KINDS: [&str; 5] = ["client", "server", "producer", "consumer", "internal"];

pub(crate) struct Registry {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) filter: Vec<Metric>,
    pub(crate) service: Vec<Metric>,
    pub(crate) spans: Vec<Span>,
    pub(crate) events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Span {
    pub(crate) r#type: String,
    name: SpanName,
    kind: String,
    pub(crate) brief: String,
    #[serde(default)]
    attributes: Vec<AttributeRef>,
    stability: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpanName {
    note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) brief: String,
    #[serde(default)]
    attributes: Vec<AttributeRef>,
    stability: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attribute {
    pub(crate) key: String,
    pub(crate) brief: String,
    pub(crate) r#type: AttributeType,
    #[expect(dead_code, reason = "weaver wants examples, the generator does not")]
    examples: Option<Vec<String>>,
    stability: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum AttributeType {
    Primitive(String),
    Enum { members: Vec<Member> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) value: String,
    pub(crate) brief: String,
    stability: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) brief: String,
    pub(crate) unit: String,
    pub(crate) instrument: Instrument,
    #[serde(default)]
    pub(crate) attributes: Vec<AttributeRef>,
    stability: String,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Instrument {
    Counter,
    Updowncounter,
    Gauge,
    Histogram,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AttributeRef {
    pub(crate) r#ref: String,
    requirement_level: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    file_format: String,
    #[serde(default)]
    attributes: Vec<Attribute>,
    #[serde(default)]
    metrics: Vec<Metric>,
    #[serde(default)]
    spans: Vec<Span>,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    #[expect(dead_code, reason = "for people")]
    description: String,
    schema_url: String,
}

impl Registry {
    pub(crate) fn read(folder: &Path) -> Result<Self, Box<dyn Error>> {
        check_files(folder)?;
        let manifest: Manifest = parse(&folder.join("manifest.yaml"))?;
        let attributes: Document = parse(&folder.join("attributes.yaml"))?;
        let filter: Document = parse(&folder.join("filter.yaml"))?;
        let service: Document = parse(&folder.join("service.yaml"))?;
        for (name, file) in [
            ("attributes", &attributes),
            ("filter", &filter),
            ("service", &service),
        ] {
            ensure(file.file_format == "definition/2", || {
                format!("{name}.yaml: file_format is not definition/2")
            })?;
        }
        ensure(attributes.metrics.is_empty(), || {
            "attributes.yaml: metrics belong in filter.yaml, service.yaml".into()
        })?;
        let elsewhere = [&attributes, &filter];
        let has_none = |file: &&Document| file.spans.is_empty() && file.events.is_empty();
        ensure(elsewhere.iter().all(has_none), || {
            "attributes.yaml, filter.yaml: spans and events belong in service.yaml".into()
        })?;
        ensure(
            filter.attributes.is_empty() && service.attributes.is_empty(),
            || "filter.yaml, service.yaml: attributes belong in attributes.yaml".into(),
        )?;
        ensure(manifest.schema_url.contains(&manifest.name), || {
            "manifest.yaml: schema_url lacks the name".into()
        })?;

        let registry = Self {
            attributes: attributes.attributes,
            filter: filter.metrics,
            service: service.metrics,
            spans: service.spans,
            events: service.events,
        };
        registry.check()?;
        Ok(registry)
    }

    fn check(&self) -> Result<(), Box<dyn Error>> {
        let mut keys = BTreeMap::new();
        for attribute in &self.attributes {
            let key = attribute.key.as_str();
            attribute
                .check()
                .map_err(|reason| format!("attribute {key}: {reason}"))?;
            ensure(keys.insert(key, attribute).is_none(), || {
                format!("attribute {key}: defined twice")
            })?;
        }
        let mut names = BTreeSet::new();
        let mut used = BTreeSet::new();
        for metric in self.filter.iter().chain(&self.service) {
            let name = metric.name.as_str();
            metric
                .check(&keys)
                .map_err(|reason| format!("metric {name}: {reason}"))?;
            ensure(names.insert(name), || format!("metric {name}: defined twice"))?;
            used.extend(metric.attributes.iter().map(|a| a.r#ref.as_str()));
        }
        for span in &self.spans {
            let name = span.r#type.as_str();
            span.check(&keys)
                .map_err(|reason| format!("span {name}: {reason}"))?;
            ensure(names.insert(name), || format!("span {name}: defined twice"))?;
        }
        for event in &self.events {
            let name = event.name.as_str();
            event
                .check(&keys)
                .map_err(|reason| format!("event {name}: {reason}"))?;
        }
        for key in keys.keys() {
            ensure(used.contains(key), || {
                format!("attribute {key}: no metric has it")
            })?;
        }
        Ok(())
    }
}

impl Attribute {
    fn check(&self) -> Result<(), String> {
        check_name(&self.key)?;
        check_brief(&self.brief)?;
        check_stability(&self.stability)?;
        match &self.r#type {
            AttributeType::Primitive(name) if name == "string" || name == "boolean" => Ok(()),
            AttributeType::Primitive(name) => {
                Err(format!("type {name}: only string, boolean and members are used"))
            }
            AttributeType::Enum { members } => {
                let (mut ids, mut values) = (BTreeSet::new(), BTreeSet::new());
                for member in members {
                    check_brief(&member.brief)?;
                    check_stability(&member.stability)?;
                    if !ids.insert(&member.id) || !values.insert(&member.value) {
                        return Err(format!("member {}: its id or value is there already", member.id));
                    }
                }
                Ok(())
            }
        }
    }
}

impl Span {
    fn check(&self, attributes: &BTreeMap<&str, &Attribute>) -> Result<(), String> {
        check_name(&self.r#type)?;
        check_brief(&self.brief)?;
        check_stability(&self.stability)?;
        if self.name.note != self.r#type {
            return Err("a span is called what its type is".into());
        }
        if !SPAN_KINDS.contains(&self.kind.as_str()) {
            return Err(format!("kind {}: not one of {SPAN_KINDS:?}", self.kind));
        }
        check_references(&self.attributes, attributes)
    }
}

impl Event {
    fn check(&self, attributes: &BTreeMap<&str, &Attribute>) -> Result<(), String> {
        check_name(&self.name)?;
        check_brief(&self.brief)?;
        check_stability(&self.stability)?;
        check_references(&self.attributes, attributes)
    }
}

fn check_references(
    references: &[AttributeRef],
    attributes: &BTreeMap<&str, &Attribute>,
) -> Result<(), String> {
    for attribute in references {
        if !attributes.contains_key(attribute.r#ref.as_str()) {
            return Err(format!("attribute {}: not defined", attribute.r#ref));
        }
        if attribute.requirement_level != "required" {
            return Err(format!(
                "attribute {}: it is always set: required",
                attribute.r#ref
            ));
        }
    }
    Ok(())
}

impl Metric {
    fn check(&self, attributes: &BTreeMap<&str, &Attribute>) -> Result<(), String> {
        check_name(&self.name)?;
        check_brief(&self.brief)?;
        check_stability(&self.stability)?;
        let annotation = self.unit.starts_with('{') && self.unit.ends_with('}');
        if !annotation && !UNITS.contains(&self.unit.as_str()) {
            return Err(format!("unit {}: not one of {UNITS:?} or {{thing}}", self.unit));
        }
        if self.attributes.len() > MAX_ATTRIBUTES {
            return Err(format!("more than {MAX_ATTRIBUTES} attributes"));
        }
        check_references(&self.attributes, attributes)?;
        let mut labels = BTreeSet::new();
        for attribute in &self.attributes {
            if !labels.insert(attribute.r#ref.rsplit('.').next()) {
                return Err(format!(
                    "attribute {}: two attributes end the same, so labels clash",
                    attribute.r#ref
                ));
            }
        }
        Ok(())
    }
}

fn check_files(folder: &Path) -> Result<(), Box<dyn Error>> {
    let known = ["attributes.yaml", "filter.yaml", "manifest.yaml", "service.yaml"];
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let yaml = name.ends_with(".yaml") || name.ends_with(".yml");
        ensure(!yaml || known.contains(&&*name), || {
            format!("{name}: the generator does not read it; known are {known:?}")
        })?;
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(path: &Path) -> Result<T, Box<dyn Error>> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_saphyr::from_str(&text).map_err(|e| format!("{}: {e}", path.display()).into())
}

/// Names are `knhk.` and lower-case words between dots.
fn check_name(name: &str) -> Result<(), String> {
    let word = |w: &str| {
        !w.is_empty()
            && w.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    match name.strip_prefix("knhk.") {
        Some(rest) if rest.split('.').all(word) => Ok(()),
        _ => Err("the name is not knhk. and lower-case words between dots".into()),
    }
}

/// The exposition adds the full stop.
fn check_brief(brief: &str) -> Result<(), String> {
    if brief.is_empty() || brief.ends_with('.') || brief.contains('\n') {
        return Err("the brief is not one line without a full stop".into());
    }
    Ok(())
}

fn check_stability(stability: &str) -> Result<(), String> {
    match stability {
        "development" | "stable" => Ok(()),
        other => Err(format!("stability {other}: only development and stable are used")),
    }
}

fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Result<(), Box<dyn Error>> {
    if holds { Ok(()) } else { Err(reason().into()) }
}
