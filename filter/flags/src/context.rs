//! What a flag is evaluated for: facts about one request, and the time.

use crate::error::{ContextError, Fault};
use crate::json::{self, Json, Object};
use crate::limits::MAX_CONTEXT_BYTES;
use crate::logic::{self, Value};
use crate::path::Path;

/// The name under which flagd puts what it adds itself.
const FLAGD: &str = "$flagd";
const FLAG_KEY: &str = "flagKey";
const TIMESTAMP: &str = "timestamp";
pub(crate) const TARGETING_KEY: &str = "targetingKey";

/// Facts about one request. Flag rules read them with `var`.
#[derive(Clone, Debug, Default)]
pub struct Context<'a> {
    timestamp: i64,
    targeting_key: Option<&'a str>,
    /// Sorted by name, each name once; without those that stand beside it.
    attributes: Vec<(&'a str, Attribute<'a>)>,
}

#[derive(Clone, Copy, Debug)]
enum Attribute<'a> {
    Text(&'a str),
    Json(&'a Json),
    Texts(&'a Texts<'a>),
}

/// An object of texts, each name once.
#[derive(Clone, Debug, Default)]
pub struct Texts<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Texts<'a> {
    /// Of several texts of one name the first counts.
    pub fn new(mut texts: Vec<(&'a str, &'a str)>) -> Self {
        // Stable, so the first of a name comes first.
        texts.sort_by_key(|(name, _)| *name);
        texts.dedup_by_key(|(name, _)| *name);
        Self(texts)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        let found = self.0.binary_search_by_key(&name, |(known, _)| known).ok()?;
        self.0.get(found).map(|(_, text)| *text)
    }

    /// Sorted by name.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        self.0.iter().copied()
    }
}

impl<'a> Context<'a> {
    /// A context of nothing but the time, in seconds since 1970 in UTC: `$flagd.timestamp`.
    pub fn at(timestamp: i64) -> Self {
        Self {
            timestamp,
            ..Self::default()
        }
    }

    /// Sets who the request is for: `targetingKey`, which `fractional` splits by unless a rule says otherwise.
    #[must_use]
    pub fn for_key(mut self, targeting_key: &'a str) -> Self {
        self.targeting_key = Some(targeting_key);
        self
    }

    /// Sets a text. A later one of the same name replaces it; `$flagd` and `targetingKey` are not settable here.
    #[must_use]
    pub fn with_text(mut self, name: &'a str, text: &'a str) -> Self {
        self.set(name, Attribute::Text(text));
        self
    }

    /// Sets a value of any kind. A later one of the same name replaces it; `$flagd` and `targetingKey` are not settable
    /// here.
    #[must_use]
    pub fn with_json(mut self, name: &'a str, value: &'a Json) -> Self {
        self.set(name, Attribute::Json(value));
        self
    }

    /// Sets an object of texts. A later one of the same name replaces it; `$flagd` and `targetingKey` are not settable here.
    #[must_use]
    pub fn with_texts(mut self, name: &'a str, texts: &'a Texts<'a>) -> Self {
        self.set(name, Attribute::Texts(texts));
        self
    }

    /// Sets all members of a document that [`Context::read`] has read; its `targetingKey` is the targeting key.
    #[must_use]
    pub fn with_all(mut self, document: &'a Object) -> Self {
        if let Some(Json::Text(key)) = document.get(TARGETING_KEY) {
            self.targeting_key = Some(key);
        }
        for (name, value) in document.members() {
            self.set(name, Attribute::Json(value));
        }
        self
    }

    /// Reads a context from JSON: an object, whose `targetingKey` is a string where it is there.
    pub fn read(bytes: &[u8]) -> Result<Object, ContextError> {
        if bytes.len() > MAX_CONTEXT_BYTES {
            return Err(ContextError::TooLarge { bytes: bytes.len() });
        }
        let root = Path::Root;
        let object = match json::parse(bytes)? {
            Json::Object(object) => object,
            other => {
                let reason = format!(
                    "is {}: write an object, as in {{\"targetingKey\": \"user-1\"}}",
                    other.kind()
                );
                return Err(root.refuse(Fault::BadForm, reason).into());
            }
        };
        match object.get(TARGETING_KEY) {
            None | Some(Json::Null | Json::Text(_)) => Ok(object),
            Some(other) => {
                let reason = format!("is {}: write a string", other.kind());
                Err(root.member(TARGETING_KEY).refuse(Fault::BadForm, reason).into())
            }
        }
    }

    fn set(&mut self, name: &'a str, attribute: Attribute<'a>) {
        if name == FLAGD || name == TARGETING_KEY {
            return;
        }
        match self.attributes.binary_search_by_key(&name, |(known, _)| known) {
            Ok(found) => {
                if let Some(known) = self.attributes.get_mut(found) {
                    *known = (name, attribute);
                }
            }
            Err(place) => self.attributes.insert(place, (name, attribute)),
        }
    }
}

/// A context as a rule of one flag sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) flag_key: &'a str,
    pub(crate) context: &'a Context<'a>,
}

impl<'a> Facts<'a> {
    pub(crate) fn get(&'a self, name: &str) -> Option<Value<'a>> {
        match name {
            FLAGD => Some(Value::Object(logic::Object::Flagd(self))),
            TARGETING_KEY => self.context.targeting_key.map(Value::borrowed),
            _ => {
                let attributes = &self.context.attributes;
                let found = attributes.binary_search_by_key(&name, |(known, _)| known).ok()?;
                attributes.get(found).map(|(_, attribute)| (*attribute).into())
            }
        }
    }

    pub(crate) fn flagd(&self, name: &str) -> Option<Value<'a>> {
        match name {
            FLAG_KEY => Some(Value::borrowed(self.flag_key)),
            TIMESTAMP => Some(Value::Int(self.context.timestamp)),
            _ => None,
        }
    }

    /// All there is, sorted by name. A targeting key that is not there is null.
    pub(crate) fn members(&'a self) -> Vec<(&'a str, Value<'a>)> {
        let mut members: Vec<_> = self
            .context
            .attributes
            .iter()
            .map(|(name, attribute)| (*name, (*attribute).into()))
            .collect();
        members.push((FLAGD, Value::Object(logic::Object::Flagd(self))));
        members.push((TARGETING_KEY, self.get(TARGETING_KEY).unwrap_or(Value::Null)));
        members.sort_by_key(|(name, _)| *name);
        members
    }

    pub(crate) fn flagd_members(&self) -> Vec<(&'a str, Value<'a>)> {
        [FLAG_KEY, TIMESTAMP]
            .into_iter()
            .filter_map(|name| Some((name, self.flagd(name)?)))
            .collect()
    }
}

impl<'a> From<Attribute<'a>> for Value<'a> {
    fn from(attribute: Attribute<'a>) -> Self {
        match attribute {
            Attribute::Text(text) => Self::borrowed(text),
            Attribute::Json(json) => json.into(),
            Attribute::Texts(texts) => Self::Object(logic::Object::Texts(texts)),
        }
    }
}
