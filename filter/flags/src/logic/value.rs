//! What a rule computes with: borrowed from flag file and context where it can be.

use std::ops::Deref;
use std::rc::Rc;

use super::stop::Stop;
use crate::context::{Facts, Texts};
use crate::json::{self, Json};
use crate::limits::MAX_MADE_DEPTH;

#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Text<'a>),
    List(List<'a>),
    Object(Object<'a>),
}

#[derive(Clone, Debug)]
pub(crate) enum Text<'a> {
    Borrowed(&'a str),
    Made(Rc<str>),
}

#[derive(Clone, Debug)]
pub(crate) enum List<'a> {
    Borrowed(&'a json::List),
    Made(Rc<Made<'a>>),
}

/// A list that a rule made.
#[derive(Debug)]
pub(crate) struct Made<'a> {
    items: Vec<Value<'a>>,
    /// How deep made lists lie in one another here: 1 for a list of no other.
    depth: usize,
}

/// Rules make no objects: they come from the context, or are the context.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Object<'a> {
    Borrowed(&'a json::Object),
    Texts(&'a Texts<'a>),
    /// The whole context.
    Context(&'a Facts<'a>),
    /// What the context holds as `$flagd`.
    Flagd(&'a Facts<'a>),
}

impl<'a> Value<'a> {
    pub(crate) fn borrowed(text: &'a str) -> Self {
        Self::Text(Text::Borrowed(text))
    }

    pub(crate) fn made_text(text: &str) -> Self {
        Self::Text(Text::Made(text.into()))
    }

    /// A new list, or why it would lie too deep.
    pub(crate) fn list(items: Vec<Self>) -> Result<Self, Stop> {
        let depth = 1 + items.iter().map(Self::made_depth).max().unwrap_or_default();
        if depth > MAX_MADE_DEPTH {
            return Err(Stop::TooDeep);
        }
        Ok(Self::List(List::Made(Rc::new(Made { items, depth }))))
    }

    fn made_depth(&self) -> usize {
        match self {
            Self::List(List::Made(made)) => made.depth,
            _ => 0,
        }
    }
}

impl<'a> From<&'a Json> for Value<'a> {
    fn from(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(truth) => Self::Bool(*truth),
            Json::Int(int) => Self::Int(*int),
            Json::Float(float) => Self::Float(*float),
            Json::Text(text) => Self::borrowed(text),
            Json::List(list) => Self::List(List::Borrowed(list)),
            Json::Object(object) => Self::Object(Object::Borrowed(object)),
        }
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Made(text) => text,
        }
    }
}

impl<'a> List<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Borrowed(list) => list.items().len(),
            Self::Made(made) => made.items.len(),
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            Self::Borrowed(list) => list.items().get(index).map(Value::from),
            Self::Made(made) => made.items.get(index).cloned(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).map_while(|index| self.get(index))
    }

    /// Whether both are one and the same list, which is more than equal.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Borrowed(a), Self::Borrowed(b)) => std::ptr::eq(*a, *b),
            (Self::Made(a), Self::Made(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl<'a> Object<'a> {
    pub(crate) fn get(self, name: &str) -> Option<Value<'a>> {
        match self {
            Self::Borrowed(object) => object.get(name).map(Value::from),
            Self::Texts(texts) => texts.get(name).map(Value::borrowed),
            Self::Context(facts) => facts.get(name),
            Self::Flagd(facts) => facts.flagd(name),
        }
    }

    /// All members, sorted by name.
    pub(crate) fn members(self) -> Vec<(&'a str, Value<'a>)> {
        match self {
            Self::Borrowed(object) => object
                .members()
                .map(|(name, value)| (name, value.into()))
                .collect(),
            Self::Texts(texts) => texts
                .members()
                .map(|(name, text)| (name, Value::borrowed(text)))
                .collect(),
            Self::Context(facts) => facts.members(),
            Self::Flagd(facts) => facts.flagd_members(),
        }
    }

    /// Whether both are one and the same object, which is more than equal.
    pub(crate) fn is(self, other: Self) -> bool {
        match (self, other) {
            (Self::Borrowed(a), Self::Borrowed(b)) => std::ptr::eq(a, b),
            (Self::Texts(a), Self::Texts(b)) => std::ptr::eq(a, b),
            (Self::Context(_), Self::Context(_)) | (Self::Flagd(_), Self::Flagd(_)) => true,
            _ => false,
        }
    }
}
