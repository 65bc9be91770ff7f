//! One flag, read from its definition.

use crate::error::{Fault, Refusal};
use crate::json::{Json, Object};
use crate::limits::{MAX_FLAG_KEY_BYTES, MAX_METADATA, MAX_VARIANT_NAME_BYTES, MAX_VARIANTS};
use crate::logic::{Compiler, Evaluators, Reads, Rule};
use crate::message::quoted;
use crate::path::Path;

/// Which values a flag has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `true` and `false`.
    Boolean,
    /// Texts.
    String,
    /// Numbers, whole and others.
    Number,
    /// JSON objects.
    Object,
}

impl Kind {
    /// A stable name of the kind.
    pub fn label(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::String => "string",
            Self::Number => "number",
            Self::Object => "object",
        }
    }

    fn of(value: &Json) -> Option<Self> {
        match value {
            Json::Bool(_) => Some(Self::Boolean),
            Json::Text(_) => Some(Self::String),
            Json::Int(_) | Json::Float(_) => Some(Self::Number),
            Json::Object(_) => Some(Self::Object),
            Json::Null | Json::List(_) => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) enabled: bool,
    pub(crate) kind: Kind,
    variants: Object,
    /// A name of `variants`.
    default: Option<Box<str>>,
    pub(crate) targeting: Option<Rule>,
    /// What the rule may read.
    pub(crate) reads: Reads,
    pub(crate) metadata: Object,
}

impl Flag {
    /// The variant of that name, and its value.
    pub(crate) fn variant(&self, name: &str) -> Option<(&str, &Json)> {
        self.variants.members().find(|(known, _)| *known == name)
    }

    /// The variants' names, sorted.
    pub(crate) fn variants(&self) -> impl Iterator<Item = &str> {
        self.variants.members().map(|(name, _)| name)
    }

    /// The variant that is taken where no rule chooses one.
    pub(crate) fn default(&self) -> Option<(&str, &Json)> {
        self.default.as_deref().and_then(|name| self.variant(name))
    }

    pub(crate) fn read(json: &Json, at: &Path<'_>, evaluators: &Evaluators<'_>) -> Result<Self, Refusal> {
        let definition = object(json, at)?;
        only(
            definition,
            &["state", "variants", "defaultVariant", "targeting", "metadata"],
            at,
        )?;
        let enabled = read_state(definition, at)?;
        let (variants, kind) = read_variants(definition, at)?;
        let default = read_default(definition, variants, at)?;
        let mut reads = Reads::default();
        let targeting = match definition.get("targeting") {
            None | Some(Json::Null) => None,
            Some(Json::Object(empty)) if empty.is_empty() => None,
            Some(rule) => {
                Some(Compiler::new(Some(evaluators), &mut reads).rule(rule, &at.member("targeting"))?)
            }
        };
        Ok(Self {
            enabled,
            kind,
            variants: variants.clone(),
            default,
            targeting,
            reads,
            metadata: read_metadata(definition, at)?,
        })
    }
}

/// A flag's key, which goes into tables and headers.
pub(crate) fn check_key(key: &str, at: &Path<'_>) -> Result<(), Refusal> {
    at.within(key.len(), MAX_FLAG_KEY_BYTES, "bytes of a flag's key")?;
    if key.is_empty() || key.chars().any(char::is_control) {
        let reason = format!(
            "{} is no key: write some text without control characters",
            quoted(key)
        );
        return Err(at.refuse(Fault::BadForm, reason));
    }
    Ok(())
}

/// `metadata` of a flag or of the whole file.
pub(crate) fn read_metadata(definition: &Object, at: &Path<'_>) -> Result<Object, Refusal> {
    let at = at.member("metadata");
    let metadata = match definition.get("metadata") {
        None => return Ok(Object::default()),
        Some(metadata) => object(metadata, &at)?,
    };
    at.within(metadata.len(), MAX_METADATA, "entries")?;
    for (name, value) in metadata.members() {
        let at = at.member(name);
        if name.is_empty() {
            return Err(at.refuse(Fault::BadForm, "an entry without a name: give it one"));
        }
        if matches!(value, Json::Null | Json::List(_) | Json::Object(_)) {
            let reason = format!("is {}: write a string, a number or a boolean", value.kind());
            return Err(at.refuse(Fault::BadForm, reason));
        }
    }
    Ok(metadata.clone())
}

pub(crate) fn object<'j>(json: &'j Json, at: &Path<'_>) -> Result<&'j Object, Refusal> {
    match json {
        Json::Object(object) => Ok(object),
        other => Err(at.refuse(Fault::BadForm, format!("is {}: write an object", other.kind()))),
    }
}

/// Refuses names that mean nothing here.
pub(crate) fn only(object: &Object, known: &[&str], at: &Path<'_>) -> Result<(), Refusal> {
    match object.members().find(|(name, _)| !known.contains(name)) {
        None => Ok(()),
        Some((name, _)) => {
            let reason = format!("means nothing here: write one of {}", known.join(", "));
            Err(at.member(name).refuse(Fault::UnknownField, reason))
        }
    }
}

fn read_state(definition: &Object, at: &Path<'_>) -> Result<bool, Refusal> {
    const RIGHT: &str = "write ENABLED or DISABLED";
    let at = at.member("state");
    match definition.get("state") {
        Some(Json::Text(state)) if **state == *"ENABLED" => Ok(true),
        Some(Json::Text(state)) if **state == *"DISABLED" => Ok(false),
        Some(Json::Text(state)) => {
            Err(at.refuse(Fault::BadForm, format!("{} is no state: {RIGHT}", quoted(state))))
        }
        Some(other) => Err(at.refuse(Fault::BadForm, format!("is {}: {RIGHT}", other.kind()))),
        None => Err(at.refuse(Fault::Missing, format!("is missing: {RIGHT}"))),
    }
}

fn read_variants<'j>(definition: &'j Object, at: &Path<'_>) -> Result<(&'j Object, Kind), Refusal> {
    const RIGHT: &str = "write at least one, as in {\"on\": true}";
    let at = at.member("variants");
    let variants = match definition.get("variants") {
        None => return Err(at.refuse(Fault::Missing, format!("is missing: {RIGHT}"))),
        Some(variants) => object(variants, &at)?,
    };
    at.within(variants.len(), MAX_VARIANTS, "variants")?;
    let mut kind = None;
    for (name, value) in variants.members() {
        let at = at.member(name);
        at.within(name.len(), MAX_VARIANT_NAME_BYTES, "bytes of a variant's name")?;
        if name.is_empty() || name.chars().any(char::is_control) {
            let reason = format!(
                "{} is no variant's name: write some text without control characters",
                quoted(name)
            );
            return Err(at.refuse(Fault::BadForm, reason));
        }
        let Some(this) = Kind::of(value) else {
            let reason = format!(
                "is {}: write a boolean, a string, a number or an object",
                value.kind()
            );
            return Err(at.refuse(Fault::BadForm, reason));
        };
        check_no_reference(value, &at)?;
        let first = *kind.get_or_insert(this);
        if first != this {
            let reason = format!(
                "is {}, and the variant before is of kind {}: give all one kind",
                value.kind(),
                first.label()
            );
            return Err(at.refuse(Fault::BadForm, reason));
        }
    }
    let kind = kind.ok_or_else(|| at.refuse(Fault::BadForm, format!("is empty: {RIGHT}")))?;
    Ok((variants, kind))
}

/// flagd replaces references wherever they stand in the file, which nobody means in a value.
fn check_no_reference(value: &Json, at: &Path<'_>) -> Result<(), Refusal> {
    match value {
        Json::Object(object) if object.len() == 1 && object.get("$ref").is_some() => {
            let reason = "flagd would put a rule of $evaluators here: give the value another shape";
            Err(at.refuse(Fault::BadForm, reason))
        }
        Json::Object(object) => object
            .members()
            .try_for_each(|(name, value)| check_no_reference(value, &at.member(name))),
        Json::List(list) => list
            .items()
            .iter()
            .enumerate()
            .try_for_each(|(index, value)| check_no_reference(value, &at.item(index))),
        _ => Ok(()),
    }
}

/// Null, an empty text and nothing at all are the same: the caller has a default of its own.
fn read_default(definition: &Object, variants: &Object, at: &Path<'_>) -> Result<Option<Box<str>>, Refusal> {
    let at = at.member("defaultVariant");
    match definition.get("defaultVariant") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Text(name)) if name.is_empty() => Ok(None),
        Some(Json::Text(name)) if variants.get(name).is_some() => Ok(Some(name.clone())),
        Some(Json::Text(name)) => {
            let known: Vec<_> = variants.members().map(|(name, _)| quoted(name)).collect();
            let reason = format!(
                "{} is no variant of this flag: write one of {}",
                quoted(name),
                known.join(", ")
            );
            Err(at.refuse(Fault::Dangling, reason))
        }
        Some(other) => {
            let reason = format!(
                "is {}: write the name of a variant, or null for the caller's own default",
                other.kind()
            );
            Err(at.refuse(Fault::BadForm, reason))
        }
    }
}
