//! `fractional`: a share of all keys for each variant, the same key always in the same share.

use super::hash::{hash_of, hash_of_pair};
use super::machine::Machine;
use super::path::Scope;
use super::rule::Rule;
use super::stop::Stop;
use super::value::{Object, Value};
use crate::json::Json;

/// What the weights of all shares may come to: 2^31 - 1.
pub(crate) const MAX_WEIGHT_SUM: i64 = 2_147_483_647;

#[derive(Debug)]
pub(crate) struct Fractional {
    /// What to split by; where there is none, by the flag's key and the targeting key. A list that comes out here is no
    /// such value but the first share.
    pub(crate) by: Option<Rule>,
    pub(crate) shares: Shares,
}

#[derive(Debug)]
pub(crate) enum Shares {
    /// All variants and weights stand in the file.
    Written(Box<[Share]>),
    /// Lists of a variant and, where it is given, its weight.
    Computed(Box<[Rule]>),
}

/// A variant and its weight, and where its share of the weights ends.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) variant: Json,
    pub(crate) weight: i64,
    pub(crate) end: u64,
}

impl<'a> Machine<'a> {
    /// Null where there is nothing to split by, or no weights to split into.
    pub(super) fn fractional(&mut self, split: &'a Fractional, scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let (by, first) = match split.by.as_ref().map(|by| self.run(by, scope)).transpose()? {
            Some(list @ Value::List(_)) => (None, Some(list)),
            by => (by, None),
        };
        match (&split.shares, first) {
            (Shares::Written(shares), None) => {
                self.budget.spend(shares.len())?;
                let hash = self.hash(by.as_ref(), scope)?;
                Ok(hash.and_then(|hash| written(hash, shares)).unwrap_or(Value::Null))
            }
            (shares, first) => {
                let others = self.shares(shares, scope)?;
                let hash = self.hash(by.as_ref(), scope)?;
                let chosen = hash.zip(others).and_then(|(hash, others)| {
                    let first = first.as_ref().map(share);
                    computed(
                        hash,
                        first
                            .into_iter()
                            .chain(others.into_iter().map(Some))
                            .collect::<Option<_>>()?,
                    )
                });
                Ok(chosen.unwrap_or(Value::Null))
            }
        }
    }

    /// Variants and weights; `None` where one is not what it should be.
    fn shares(&mut self, shares: &'a Shares, scope: &Scope<'a>) -> Result<Option<Weighed<'a>>, Stop> {
        match shares {
            Shares::Written(shares) => {
                self.budget.spend(shares.len())?;
                let shares = shares.iter().map(|share| ((&share.variant).into(), share.weight));
                Ok(Some(shares.collect()))
            }
            Shares::Computed(rules) => {
                let values: Vec<_> = rules
                    .iter()
                    .map(|rule| self.run(rule, scope))
                    .collect::<Result<_, _>>()?;
                Ok(values.iter().map(share).collect())
            }
        }
    }

    /// The hash to split by, if there is something.
    fn hash(&mut self, by: Option<&Value<'a>>, scope: &Scope<'a>) -> Result<Option<u32>, Stop> {
        match by {
            Some(Value::Null) => Ok(None),
            Some(by) => {
                self.budget.spend_whole(by)?;
                Ok(Some(hash_of(by)))
            }
            None => self.hash_of_targeting_key(scope),
        }
    }

    fn hash_of_targeting_key(&mut self, scope: &Scope<'a>) -> Result<Option<u32>, Stop> {
        let data = match scope {
            Scope::Data(Value::Object(data)) => *data,
            Scope::Data(_) => return Err(Stop::NoContext),
            Scope::Fold { .. } => return Ok(None),
        };
        let Some(Value::Text(key)) = data.get("targetingKey") else {
            return Ok(None);
        };
        if key.is_empty() {
            return Ok(None);
        }
        let key = Value::Text(key);
        let flag = flag_key(data)?;
        self.budget.spend_whole(&flag)?;
        self.budget.spend_whole(&key)?;
        Ok(Some(hash_of_pair(&flag, &key)))
    }
}

fn flag_key(data: Object<'_>) -> Result<Value<'_>, Stop> {
    let none = || Value::borrowed("");
    match data.get("$flagd") {
        None => Ok(none()),
        Some(Value::Object(flagd)) => Ok(flagd.get("flagKey").unwrap_or_else(none)),
        Some(_) => Err(Stop::NoContext),
    }
}

/// Variants and their weights.
type Weighed<'a> = Vec<(Value<'a>, i64)>;

/// The variant that a hash falls to.
fn written(hash: u32, shares: &[Share]) -> Option<Value<'_>> {
    let bucket = bucket(hash, shares.last()?.end);
    let chosen = shares.iter().find(|share| bucket < share.end)?;
    Some((&chosen.variant).into())
}

/// The variant that a hash falls to; `None` where the weights come to nothing, or to too much.
fn computed(hash: u32, shares: Weighed<'_>) -> Option<Value<'_>> {
    let mut total: i64 = 0;
    for (_, weight) in &shares {
        total = total.checked_add(*weight)?;
    }
    if total > MAX_WEIGHT_SUM {
        return None;
    }
    let bucket = bucket(hash, u64::try_from(total).ok()?);
    let mut end: u64 = 0;
    for (variant, weight) in shares {
        end += u64::try_from(weight).ok()?;
        if bucket < end {
            return Some(variant);
        }
    }
    None
}

/// A variant and its weight: 1 unless it is given, and none for less than none.
fn share<'a>(value: &Value<'a>) -> Option<(Value<'a>, i64)> {
    let Value::List(list) = value else { return None };
    let weight = match (list.len(), list.get(1)) {
        (1, _) => 1,
        (2, Some(Value::Int(weight))) => weight.max(0),
        _ => return None,
    };
    list.get(0).map(|variant| (variant, weight))
}

/// Where in the weights a hash falls: 0 to `total` - 1, each as often as any other.
fn bucket(hash: u32, total: u64) -> u64 {
    (u64::from(hash) * total) >> 32
}
