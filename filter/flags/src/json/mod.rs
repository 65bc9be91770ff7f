//! JSON as flags and contexts hold it: a tree that does not change.

mod parse;

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

pub(crate) use parse::{parse, read};

/// A JSON value. Whole numbers and others are told apart, as flagd's evaluator does: `1` is not `1.0`.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without fraction and exponent that fits in 64 bits.
    Int(i64),
    /// Any other number; never infinite, always a number.
    Float(f64),
    /// A string.
    Text(Box<str>),
    /// An array.
    List(List),
    /// An object.
    Object(Object),
}

/// A JSON array.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct List(Box<[Json]>);

/// A JSON object: its members by their names, each name once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(Box<[(Box<str>, Json)]>);

/// No number of a document is not a number.
impl Eq for Json {}
impl Eq for List {}
impl Eq for Object {}

impl List {
    /// The items in their order.
    pub fn items(&self) -> &[Json] {
        &self.0
    }
}

impl Object {
    /// The members, sorted by name.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (&str, &Json)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// The member of that name.
    pub fn get(&self, name: &str) -> Option<&Json> {
        let found = self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        self.0.get(found).map(|(_, value)| value)
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The members that `keep` says yes to.
    pub(crate) fn only(&self, keep: impl Fn(&str) -> bool) -> Self {
        let kept = self.0.iter().filter(|(name, _)| keep(name));
        Self(kept.cloned().collect())
    }

    /// The same with this member in the place of the one that has its name, if there is one.
    pub(crate) fn with(mut self, name: &str, value: Json) -> Self {
        if let Some((_, place)) = self.0.iter_mut().find(|(known, _)| **known == *name) {
            *place = value;
        }
        self
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Json {
    /// What kind of value it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(truth) => serializer.serialize_bool(*truth),
            Self::Int(number) => serializer.serialize_i64(*number),
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => list.serialize(serializer),
            Self::Object(object) => object.serialize(serializer),
        }
    }
}

impl Serialize for List {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for item in &self.0 {
            list.serialize_element(item)?;
        }
        list.end()
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            object.serialize_entry(name, value)?;
        }
        object.end()
    }
}
