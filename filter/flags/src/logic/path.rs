//! `var`: where a value is looked up.

use super::coerce;
use super::machine::Machine;
use super::number::Number;
use super::rule::{Key, Var};
use super::stop::Stop;
use super::value::{Text, Value};
use crate::limits::BYTES_PER_UNIT;

/// What `var` looks up in.
#[derive(Clone, Debug)]
pub(crate) enum Scope<'a> {
    /// The context, or the item of a loop.
    Data(Value<'a>),
    /// Inside `reduce`.
    Fold {
        accumulator: Value<'a>,
        current: Value<'a>,
    },
}

impl<'a> Machine<'a> {
    pub(super) fn var(&mut self, var: &'a Var, scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let found = match &var.key {
            Key::Whole => self.whole(scope).map(Some),
            Key::Path(path) => self.walk(path.iter().map(|name| &**name), scope),
            Key::Computed(key) => {
                let key = self.run(key, scope)?;
                self.lookup(&key, scope)
            }
        };
        // The other one is worked out in any case, as all values are that operations take.
        let default = var.default.as_ref().map(|default| self.run(default, scope));
        match (found?, default.transpose()?) {
            (Some(found), _) => Ok(found),
            (None, default) => Ok(default.unwrap_or(Value::Null)),
        }
    }

    /// What a key that came out of a rule names.
    pub(super) fn lookup(&mut self, key: &Value<'a>, scope: &Scope<'a>) -> Result<Option<Value<'a>>, Stop> {
        match key {
            Value::Null => self.whole(scope).map(Some),
            Value::Text(text) if text.is_empty() => self.whole(scope).map(Some),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => self.item(coerce::number(key), scope),
            key => {
                self.budget.spend_whole(key)?;
                self.walk(coerce::text(key).split('.'), scope)
            }
        }
    }

    fn whole(&mut self, scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        self.budget.spend(1)?;
        match scope {
            Scope::Data(data) => Ok(data.clone()),
            Scope::Fold { .. } => Err(Stop::WholeFold),
        }
    }

    /// The item of that number, where the data is a list or a text. Members of objects have no numbers.
    fn item(&mut self, index: Number, scope: &Scope<'a>) -> Result<Option<Value<'a>>, Stop> {
        let Scope::Data(data @ (Value::List(_) | Value::Text(_))) = scope else {
            return Ok(None);
        };
        if index.is_nan() {
            return Ok(None);
        }
        let whole = index.truncated().ok_or(Stop::InfinitePosition)?;
        if !index.equals(Number::Int(whole)) {
            return Ok(None);
        }
        match usize::try_from(whole) {
            Ok(index) => self.at(data, index),
            Err(_) => Ok(None),
        }
    }

    /// What the names lead to. Null is not found.
    fn walk<'p>(
        &mut self,
        mut path: impl Iterator<Item = &'p str>,
        scope: &Scope<'a>,
    ) -> Result<Option<Value<'a>>, Stop> {
        let mut place = match scope {
            Scope::Data(data) => data.clone(),
            Scope::Fold { accumulator, current } => {
                self.budget.spend(1)?;
                match path.next() {
                    Some("accumulator") => accumulator.clone(),
                    Some("current") => current.clone(),
                    _ => Value::Null,
                }
            }
        };
        for name in path {
            self.budget.spend(1 + name.len() / BYTES_PER_UNIT)?;
            let next = match &place {
                Value::Text(text) if name == "length" => {
                    self.budget.spend_bytes(text.len())?;
                    return Ok(Some(length(text.chars().count())));
                }
                Value::List(list) if name == "length" => return Ok(Some(length(list.len()))),
                Value::Text(_) | Value::List(_) => match position(name) {
                    Some(index) => self.at(&place, index)?,
                    None => None,
                },
                Value::Object(object) => Some(object.get(name).unwrap_or(Value::Null)),
                Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => None,
            };
            let Some(next) = next else { return Ok(None) };
            place = next;
        }
        Ok((!matches!(place, Value::Null)).then_some(place))
    }

    fn at(&mut self, of: &Value<'a>, index: usize) -> Result<Option<Value<'a>>, Stop> {
        match of {
            Value::List(list) => Ok(list.get(index)),
            Value::Text(text) => {
                self.budget.spend_bytes(text.len())?;
                Ok(letter(text, index))
            }
            _ => Ok(None),
        }
    }
}

/// A code point of a text, as a text.
fn letter<'a>(text: &Text<'a>, index: usize) -> Option<Value<'a>> {
    let (place, letter) = text.char_indices().nth(index)?;
    let end = place + letter.len_utf8();
    Some(match text {
        Text::Borrowed(text) => Value::borrowed(text.get(place..end)?),
        Text::Made(text) => Value::made_text(text.get(place..end)?),
    })
}

fn length(count: usize) -> Value<'static> {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

/// A name that is a number as it is normally written.
fn position(name: &str) -> Option<usize> {
    let index: usize = name.parse().ok()?;
    (index.to_string() == name).then_some(index)
}
