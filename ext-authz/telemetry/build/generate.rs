//! The registry as Rust source: `attribute::*` types, `metric::{filter, service}::*` constants, and the names in `span` and `event`.

use std::fmt::Write;

use crate::registry::{Attribute, AttributeType, Instrument, Member, Metric, Registry};

/// The value of the member that stands for every value a registry does not list.
const OTHER: &str = "_OTHER";

pub(crate) fn rust(registry: &Registry) -> String {
    let attributes: String = registry.attributes.iter().map(attribute).collect();
    let filter = metrics("The filter's own statistics, shown by Envoy.", &registry.filter);
    let service = metrics("What the service shows at `/metrics`.", &registry.service);
    let spans = names(registry.spans.iter().map(|span| (&span.r#type, &span.brief)));
    let events = names(registry.events.iter().map(|event| (&event.name, &event.brief)));
    format!(
        "/// One type an attribute: its key and its values.\npub mod attribute {{\n{attributes}}}\n\n\
         /// One constant a metric.\npub mod metric {{\npub mod filter {filter}\npub mod service {service}}}\n\n\
         /// Names of the service's spans.\npub mod span {{\n{spans}}}\n\n\
         /// Names of the service's events: the field `event.name` of a log line.\npub mod event {{\n{events}}}\n"
    )
}

fn names<'r>(names: impl Iterator<Item = (&'r String, &'r String)>) -> String {
    let (mut constants, mut all) = (String::new(), String::new());
    for (name, brief) in names {
        let constant = constant_name(name);
        let _ = writeln!(
            constants,
            "/// {brief}. `{name}`\npub const {constant}: &str = {name:?};"
        );
        let _ = write!(all, "({constant:?}, {constant}), ");
    }
    format!("{constants}/// All of these: constant and name.\npub const ALL: &[(&str, &str)] = &[{all}];\n")
}

fn attribute(attribute: &Attribute) -> String {
    let name = type_name(&attribute.key);
    let doc = format!("/// {}. `{}`\n", attribute.brief, attribute.key);
    match &attribute.r#type {
        AttributeType::Primitive(primitive) if primitive == "boolean" => flag(attribute, &name, &doc),
        AttributeType::Primitive(_) => text(attribute, &name, &doc),
        AttributeType::Enum { members } => closed(attribute, members, &name, &doc),
    }
}

fn closed(attribute: &Attribute, members: &[Member], name: &str, doc: &str) -> String {
    let mut variants = String::new();
    let mut all = String::new();
    let mut arms = String::new();
    let mut labels = String::new();
    for member in members {
        let variant = camel(&member.id);
        let _ = writeln!(variants, "/// {}.\n{variant},", member.brief);
        let _ = write!(all, "Self::{variant}, ");
        let _ = write!(arms, "Self::{variant} => {:?},", member.value);
        if member.value == OTHER {
            let _ = write!(labels, "_ => Self::{variant},");
        } else {
            let _ = write!(labels, "{:?} => Self::{variant},", member.value);
        }
    }
    let from_label = if members.iter().any(|m| m.value == OTHER) {
        format!(
            "impl {name} {{\n/// The value with this label; what the registry does not list is `Other`, so that \
             no sender can make labels up.\npub fn from_label(label: &str) -> Self {{ match label {{ {labels} }} }}\n}}\n"
        )
    } else {
        String::new()
    };
    format!(
        "{doc}#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]\npub enum {name} {{\n{variants}}}\n{from_label}{}",
        implementation(
            attribute,
            name,
            &format!("match self {{ {arms} }}"),
            &format!("Some(vec![{all}])"),
        )
    )
}

fn flag(attribute: &Attribute, name: &str, doc: &str) -> String {
    format!(
        "{doc}#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]\npub struct {name}(pub bool);\n{}",
        implementation(
            attribute,
            name,
            "if self.0 { \"true\" } else { \"false\" }",
            "Some(vec![Self(true), Self(false)])",
        )
    )
}

fn text(attribute: &Attribute, name: &str, doc: &str) -> String {
    format!(
        "{doc}#[derive(Clone, Debug, PartialEq, Eq, Hash)]\npub struct {name}(pub String);\n{}",
        implementation(attribute, name, "&self.0", "None")
    )
}

fn implementation(attribute: &Attribute, name: &str, as_str: &str, known: &str) -> String {
    let key = &attribute.key;
    format!(
        "impl crate::typed::Attribute for {name} {{\nconst KEY: &'static str = {key:?};\n\
         fn as_str(&self) -> &str {{ {as_str} }}\nfn known() -> Option<Vec<Self>> {{ {known} }}\n}}\n\n"
    )
}

fn metrics(doc: &str, metrics: &[Metric]) -> String {
    let constants: String = metrics.iter().map(metric).collect();
    let all: String = metrics.iter().fold(String::new(), |mut all, metric| {
        let _ = write!(all, "&{}.definition, ", constant_name(&metric.name));
        all
    });
    format!(
        "{{\n//! {doc}\nuse crate::typed::{{Definition, Instrument, Metric, kind}};\n\n{constants}\n\
         /// Every metric of this module, in the registry's order.\n\
         pub const ALL: &[&Definition] = &[{all}];\n}}\n\n"
    )
}

fn metric(metric: &Metric) -> String {
    let name = constant_name(&metric.name);
    let kind = match metric.instrument {
        Instrument::Counter => "Counter",
        Instrument::Updowncounter => "UpDownCounter",
        Instrument::Gauge => "Gauge",
        Instrument::Histogram => "Histogram",
    };
    let types: String = metric.attributes.iter().fold(String::new(), |mut types, a| {
        let _ = write!(types, "crate::registry::attribute::{}, ", type_name(&a.r#ref));
        types
    });
    let keys: Vec<&str> = metric.attributes.iter().map(|a| a.r#ref.as_str()).collect();
    format!(
        "/// {brief}. `{full}`\npub const {name}: Metric<kind::{kind}, ({types})> = Metric::new(Definition {{ \
         name: {full:?}, unit: {unit:?}, brief: {brief:?}, instrument: Instrument::{kind}, attributes: &{keys:?} }});\n",
        brief = metric.brief,
        full = metric.name,
        unit = metric.unit,
    )
}

/// `knhk.log.signed_size` is `LOG_SIGNED_SIZE`.
fn constant_name(name: &str) -> String {
    name.trim_start_matches("knhk.").replace('.', "_").to_uppercase()
}

/// `knhk.check.outcome` is `CheckOutcome`.
fn type_name(key: &str) -> String {
    camel(key.trim_start_matches("knhk."))
}

fn camel(words: &str) -> String {
    words
        .split(['.', '_'])
        .map(|word| {
            let (first, rest) = word.split_at(word.len().min(1));
            first.to_uppercase() + rest
        })
        .collect()
}
