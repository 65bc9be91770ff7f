//! Whether the values of an operation can be what they are, as far as they are written in the file.

use std::ops::RangeInclusive;

use super::fractional::{MAX_WEIGHT_SUM, Share};
use crate::error::{Fault, Refusal};
use crate::json::Json;
use crate::message::quoted;
use crate::path::Path;

/// Where the values of an operation stand.
pub(super) enum Place<'p> {
    /// In a list.
    List(&'p Path<'p>),
    /// By itself, without a list around it.
    Single(&'p Path<'p>),
    /// So many places further.
    After(usize, &'p Place<'p>),
}

impl Place<'_> {
    pub(super) fn nth<T>(&self, index: usize, with: impl FnOnce(&Path<'_>) -> T) -> T {
        match self {
            Self::List(path) => with(&path.item(index)),
            Self::Single(path) => with(path),
            Self::After(more, place) => place.nth(index + more, with),
        }
    }

    pub(super) fn each(
        &self,
        list: &[Json],
        check: impl Fn(&Json, &Path<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        list.iter()
            .enumerate()
            .try_for_each(|(index, json)| self.nth(index, |at| check(json, at)))
    }

    pub(super) fn refuse(&self, index: usize, fault: Fault, reason: impl Into<String>) -> Refusal {
        self.nth(index, |at| at.refuse(fault, reason))
    }

    /// What is wrong with all of them.
    pub(super) fn refuse_all(&self, fault: Fault, reason: impl Into<String>) -> Refusal {
        match self {
            Self::List(path) | Self::Single(path) => path.refuse(fault, reason),
            Self::After(_, place) => place.refuse_all(fault, reason),
        }
    }
}

pub(super) fn check_count(
    name: &str,
    given: usize,
    allowed: &RangeInclusive<usize>,
    at: &Path<'_>,
) -> Result<(), Refusal> {
    if allowed.contains(&given) {
        return Ok(());
    }
    let (least, most) = (*allowed.start(), *allowed.end());
    let right = if most == usize::MAX {
        format!("{least} or more")
    } else if least == most {
        most.to_string()
    } else {
        format!("{least} to {most}")
    };
    let reason = format!("{name} takes {right} values, and {given} are given");
    Err(at.refuse(Fault::BadForm, reason))
}

pub(super) fn check_path(path: &str, at: &Path<'_>) -> Result<(), Refusal> {
    if !path.starts_with("$flagd.") || ["$flagd.flagKey", "$flagd.timestamp"].contains(&path) {
        return Ok(());
    }
    let reason = format!(
        "{} is nothing that flagd adds: write $flagd.flagKey or $flagd.timestamp",
        quoted(path)
    );
    Err(at.refuse(Fault::BadForm, reason))
}

/// A value that is taken as it is written, where an operation would be taken for data.
pub(super) fn check_written(json: &Json, at: &Path<'_>) -> Result<(), Refusal> {
    if is_written(json) {
        return Ok(());
    }
    let reason = "reduce starts from a value as it is written, flagd's providers differ on operations here: write a value";
    Err(at.refuse(Fault::BadForm, reason))
}

pub(super) fn is_written(json: &Json) -> bool {
    match json {
        Json::Null | Json::Bool(_) | Json::Int(_) | Json::Float(_) | Json::Text(_) => true,
        Json::List(list) => list.items().iter().all(is_written),
        Json::Object(_) => false,
    }
}

pub(super) fn check_text(json: &Json, at: &Path<'_>) -> Result<(), Refusal> {
    match json {
        Json::Text(_) | Json::Object(_) => Ok(()),
        other => {
            let reason = format!(
                "is {}, which no text begins or ends with: write a string, or a var",
                other.kind()
            );
            Err(at.refuse(Fault::BadForm, reason))
        }
    }
}

/// A share as far as it is written: a list of a variant and, if it is given, its weight.
pub(super) fn check_share(json: &Json, at: &Path<'_>) -> Result<(), Refusal> {
    const RIGHT: &str = "write a variant and its weight, as in [\"on\", 50]";
    let list = match json {
        Json::Object(_) => return Ok(()),
        Json::List(list) => list.items(),
        other => return Err(at.refuse(Fault::BadForm, format!("is {}: {RIGHT}", other.kind()))),
    };
    let (variant, weight) = match list {
        [variant] => (variant, None),
        [variant, weight] => (variant, Some(weight)),
        _ => {
            let reason = format!("a share has 1 or 2 values, and {} are given: {RIGHT}", list.len());
            return Err(at.refuse(Fault::BadForm, reason));
        }
    };
    if matches!(variant, Json::List(_)) {
        let reason = "is a list, which names no variant: write its name, or an operation";
        return Err(at.item(0).refuse(Fault::BadForm, reason));
    }
    match weight {
        None | Some(Json::Int(0..=MAX_WEIGHT_SUM) | Json::Object(_)) => Ok(()),
        Some(_) => {
            let reason =
                format!("is no weight: write a whole number from 0 to {MAX_WEIGHT_SUM}, or an operation");
            Err(at.item(1).refuse(Fault::BadForm, reason))
        }
    }
}

/// The shares, if nothing in them is left to compute.
pub(super) fn written_shares(shares: &[Json]) -> Option<Box<[Share]>> {
    let mut end: u64 = 0;
    shares
        .iter()
        .map(|share| {
            let Json::List(list) = share else { return None };
            let (variant, weight) = match list.items() {
                [variant] => (variant, 1),
                [variant, Json::Int(weight)] => (variant, *weight),
                _ => return None,
            };
            if !is_written(variant) {
                return None;
            }
            end = end.checked_add(u64::try_from(weight).ok()?)?;
            Some(Share {
                variant: variant.clone(),
                weight,
                end,
            })
        })
        .collect()
}
