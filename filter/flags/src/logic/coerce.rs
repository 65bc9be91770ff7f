//! What values count as: `JsonLogic`'s conversions, as the evaluator that flagd's Python provider uses has them.
//!
//! They are close to JavaScript's, and where they are not, they are Python's: a boolean is written `True`, `null` equals
//! `0`, and a blank text is no number.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::number::{Number, full_form, number_in, short_form};
use super::value::{List, Value};

/// Whether a value counts as true: an empty object does, an empty list does not.
pub(crate) fn truth(value: &Value<'_>) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Int(int) => *int != 0,
        Value::Float(float) => !float.is_nan() && *float != 0.0,
        Value::Text(text) => !text.is_empty(),
        Value::List(list) => list.len() > 0,
        Value::Object(_) => true,
    }
}

/// A value as a number; a list of one item is that item.
pub(crate) fn number(value: &Value<'_>) -> Number {
    match value {
        Value::Null => Number::ZERO,
        Value::Bool(truth) => Number::Bool(*truth),
        Value::Int(int) => Number::Int(*int),
        Value::Float(float) => Number::Float(*float),
        Value::Text(text) => Number::Float(number_in(text)),
        Value::List(list) => match (list.len(), list.get(0)) {
            (0, _) => Number::ZERO,
            (1, Some(item)) => number(&item),
            _ => Number::Float(f64::NAN),
        },
        Value::Object(_) => Number::Float(f64::NAN),
    }
}

/// A value as text. Whoever calls has paid for the whole value.
pub(crate) fn text<'v>(value: &'v Value<'_>) -> Cow<'v, str> {
    match value {
        Value::Null => "null".into(),
        Value::Bool(truth) => written(*truth).into(),
        Value::Int(int) => int.to_string().into(),
        Value::Float(float) => short_form(*float).into(),
        Value::Text(text) => Cow::Borrowed(text),
        Value::List(list) => joined(list).into(),
        Value::Object(_) => "[object Object]".into(),
    }
}

fn joined(list: &List<'_>) -> String {
    let mut all = String::new();
    for (index, item) in list.iter().enumerate() {
        if index > 0 {
            all.push(',');
        }
        all.push_str(&text(&item));
    }
    all
}

/// A value as Python's `str()` writes it, where that can be a version or the name of a variant.
pub(crate) fn name<'v>(value: &'v Value<'_>) -> Option<Cow<'v, str>> {
    match value {
        Value::Bool(truth) => Some(written(*truth).into()),
        Value::Float(float) => Some(full_form(*float).into()),
        Value::Int(_) | Value::Text(_) => Some(text(value)),
        Value::Null | Value::List(_) | Value::Object(_) => None,
    }
}

fn written(truth: bool) -> &'static str {
    if truth { "True" } else { "False" }
}

/// `==`: with conversions. Lists and objects equal only themselves.
pub(crate) fn loosely_equal(a: &Value<'_>, b: &Value<'_>) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Text(a), Value::Text(b)) => **a == **b,
        (Value::List(a), Value::List(b)) => a.is(b),
        (Value::Object(a), Value::Object(b)) => a.is(*b),
        _ if is_number(a) || is_number(b) => number(a).equals(number(b)),
        (Value::Text(text_of), other @ (Value::List(_) | Value::Object(_)))
        | (other @ (Value::List(_) | Value::Object(_)), Value::Text(text_of)) => **text_of == *text(other),
        _ => false,
    }
}

/// `===`, and what `in` looks for: without conversions, through lists and objects; a boolean is a number.
pub(crate) fn strictly_equal(a: &Value<'_>, b: &Value<'_>) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Text(a), Value::Text(b)) => **a == **b,
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| strictly_equal(&a, &b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let (a, b) = (a.members(), b.members());
            a.len() == b.len()
                && a.iter()
                    .zip(&b)
                    .all(|((a_name, a), (b_name, b))| a_name == b_name && strictly_equal(a, b))
        }
        _ => is_number(a) && is_number(b) && number(a).equals(number(b)),
    }
}

/// How two values stand to each other for `<` and its like; `None` where one is not a number. Texts by code points.
pub(crate) fn compare(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    let is_text = |value: &Value<'_>| matches!(value, Value::Text(_));
    if !is_number(a) && !is_number(b) && (is_text(a) || is_text(b)) {
        return Some(text(a).cmp(&text(b)));
    }
    number(a).compare(number(b))
}

fn is_number(value: &Value<'_>) -> bool {
    matches!(value, Value::Bool(_) | Value::Int(_) | Value::Float(_))
}
