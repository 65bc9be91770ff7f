//! Flag definitions as they are written, before they are checked: a flag file, or the part of another document that is one.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::FlagsError;
use crate::json::{self, Json, Object};
use crate::limits::MAX_FLAGS_BYTES;

/// Flag definitions as JSON, within the bounds that any document has. [`crate::FlagSet::compile`] says whether they make
/// sense. Equal documents are written as equal bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document(Json);

impl Document {
    /// Reads a document of at most [`MAX_FLAGS_BYTES`].
    pub fn parse(bytes: &[u8]) -> Result<Self, FlagsError> {
        if bytes.len() > MAX_FLAGS_BYTES {
            return Err(FlagsError::TooLarge { bytes: bytes.len() });
        }
        Ok(Self(json::parse(bytes)?))
    }

    /// The document as JSON, without blanks, its members sorted by name.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Writing to memory cannot fail, and nothing here has keys that are not text. Were that ever to change, no bytes
        // are no flags, and every reader refuses them.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The keys of its flags, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.flags()
            .into_iter()
            .flat_map(Object::members)
            .map(|(key, _)| key)
    }

    /// A flag as it is defined.
    pub fn definition(&self, key: &str) -> Option<&Json> {
        self.flags()?.get(key)
    }

    /// No more than what the flags that `keep` says yes to need: these, and the rules of `$evaluators` that they refer to.
    /// They give what they give here.
    #[must_use]
    pub fn only(&self, keep: impl Fn(&str) -> bool) -> Self {
        let (Json::Object(file), Some(flags)) = (&self.0, self.flags()) else {
            return self.clone();
        };
        let flags = flags.only(keep);
        let mut referred = BTreeSet::new();
        flags.members().for_each(|(_, flag)| refers(flag, &mut referred));
        let evaluators = match file.get("$evaluators") {
            Some(Json::Object(rules)) => rules.only(|name| referred.contains(name)),
            _ => Object::default(),
        };
        let parts = file.only(|name| name == "flags" || (name == "$evaluators" && !evaluators.is_empty()));
        Self(Json::Object(
            parts
                .with("flags", Json::Object(flags))
                .with("$evaluators", Json::Object(evaluators)),
        ))
    }

    pub(crate) fn json(&self) -> &Json {
        &self.0
    }

    fn flags(&self) -> Option<&Object> {
        match &self.0 {
            Json::Object(file) => match file.get("flags") {
                Some(Json::Object(flags)) => Some(flags),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Notes the names that a value refers to, wherever they stand in it.
fn refers<'j>(json: &'j Json, names: &mut BTreeSet<&'j str>) {
    match json {
        Json::Object(object) => object.members().for_each(|(name, value)| {
            match value {
                Json::Text(to) if name == "$ref" => _ = names.insert(to),
                // One value may stand with a list around it.
                Json::List(list) if name == "$ref" => {
                    for value in list.items() {
                        if let Json::Text(to) = value {
                            names.insert(to);
                        }
                    }
                }
                _ => refers(value, names),
            }
        }),
        Json::List(list) => list.items().iter().for_each(|item| refers(item, names)),
        Json::Null | Json::Bool(_) | Json::Int(_) | Json::Float(_) | Json::Text(_) => {}
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json::read(deserializer).map(Self)
    }
}
