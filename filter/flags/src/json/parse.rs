//! Reading JSON within bounds, so that no document makes more of itself than its bytes.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_path_to_error::{Segment, Track};

use super::{Json, List, Object};
use crate::error::{Fault, Refusal};
use crate::limits::{MAX_DEPTH, MAX_VALUES};
use crate::message::{one_line, quoted};
use crate::path::Path;

/// Reads a whole document. The caller has seen to its length.
pub(crate) fn parse(bytes: &[u8]) -> Result<Json, Refusal> {
    let state = State {
        values: Cell::new(0),
        fault: Cell::new(Fault::Malformed),
    };
    let seed = Place {
        state: &state,
        depth: 0,
    };
    let mut track = Track::new();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    seed.deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track))
        .and_then(|value| json.end().map(|()| value))
        .map_err(|error| Refusal {
            path: shown(&track.path()),
            fault: state.fault.get(),
            reason: one_line(&error.to_string()),
        })
}

/// Reads one value within the same bounds, in whatever form a deserializer has it.
pub(crate) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
    let state = State {
        values: Cell::new(0),
        fault: Cell::new(Fault::Malformed),
    };
    let seed = Place {
        state: &state,
        depth: 0,
    };
    seed.deserialize(deserializer)
}

struct State {
    values: Cell<usize>,
    /// What a refusal is about.
    fault: Cell<Fault>,
}

/// Where a value is expected.
#[derive(Clone, Copy)]
struct Place<'s> {
    state: &'s State,
    depth: usize,
}

impl Place<'_> {
    fn refuse<E: Error>(self, fault: Fault, reason: impl fmt::Display) -> E {
        self.state.fault.set(fault);
        E::custom(reason)
    }

    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            let reason = format_args!("lies deeper than the bound of {MAX_DEPTH} lists and objects");
            return Err(self.refuse(Fault::AboveBound, reason));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        let values = self.state.values.get() + 1;
        self.state.values.set(values);
        if values > MAX_VALUES {
            let reason = format_args!("more values than the bound of {MAX_VALUES}");
            return Err(self.refuse(Fault::AboveBound, reason));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Json, E> {
        Ok(Json::Bool(truth))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Int(number))
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "what does not fit in 64 bits is a floating-point number, as in Go and JavaScript"
    )]
    fn visit_u64<E: Error>(self, number: u64) -> Result<Json, E> {
        Ok(i64::try_from(number).map_or(Json::Float(number as f64), Json::Int))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Json, E> {
        if !number.is_finite() {
            let reason = format_args!("{number} is no number of JSON: write a finite one");
            return Err(self.refuse(Fault::BadForm, reason));
        }
        Ok(Json::Float(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut given: A) -> Result<Json, A::Error> {
        let place = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = given.next_element_seed(place)? {
            items.push(item);
        }
        Ok(Json::List(List(items.into())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut given: A) -> Result<Json, A::Error> {
        let place = self.deeper()?;
        let mut members: Vec<(Box<str>, Json)> = Vec::new();
        while let Some(name) = given.next_key::<Box<str>>()? {
            members.push((name, given.next_value_seed(place)?));
        }
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        if let Some(name) = repeated(&members) {
            let reason = format!("{} is there twice: keep one", quoted(name));
            return Err(self.refuse(Fault::Duplicate, reason));
        }
        Ok(Json::Object(Object(members.into())))
    }
}

fn repeated(sorted: &[(Box<str>, Json)]) -> Option<&str> {
    sorted
        .iter()
        .zip(sorted.iter().skip(1))
        .find(|((a, _), (b, _))| a == b)
        .map(|((name, _), _)| &**name)
}

/// The path that serde found, in our own words.
fn shown(path: &serde_path_to_error::Path) -> String {
    let segments: Vec<_> = path.iter().collect();
    extended(&Path::Root, &segments)
}

fn extended(path: &Path<'_>, rest: &[&Segment]) -> String {
    match rest.split_first() {
        Some((Segment::Seq { index }, rest)) => extended(&path.item(*index), rest),
        Some((Segment::Map { key } | Segment::Enum { variant: key }, rest)) => {
            extended(&path.member(key), rest)
        }
        None | Some((Segment::Unknown, _)) => path.to_string(),
    }
}
