//! From JSON to a rule, or to what is wrong with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::check::{
    Place, check_count, check_path, check_share, check_text, check_written, is_written, written_shares,
};
use super::fractional::{Fractional, MAX_WEIGHT_SUM, Shares};
use super::operation::Operation;
use super::reads::Reads;
use super::rule::{Haystack, In, Key, Reduce, Rule, SemVer, Three, Var, Wanted};
use super::version::{Range, version_in};
use crate::context::TARGETING_KEY;
use crate::error::{Fault, Refusal};
use crate::json::Json;
use crate::limits::MAX_RULE_VALUES;
use crate::message::quoted;
use crate::path::Path;

/// The rules of `$evaluators` by their names.
pub(crate) type Evaluators<'d> = BTreeMap<&'d str, Evaluator>;

/// A rule that others refer to.
#[derive(Debug)]
pub(crate) struct Evaluator {
    pub(crate) rule: Arc<Rule>,
    /// What it may read.
    pub(crate) reads: Reads,
}

/// Makes rules of JSON, and notes what they read.
#[derive(Debug)]
pub(crate) struct Compiler<'d> {
    evaluators: Option<&'d Evaluators<'d>>,
    reads: &'d mut Reads,
    values: usize,
}

impl<'d> Compiler<'d> {
    /// `evaluators` are what a rule may refer to: none where a rule is itself one of them.
    pub(crate) fn new(evaluators: Option<&'d Evaluators<'d>>, reads: &'d mut Reads) -> Self {
        Self {
            evaluators,
            reads,
            values: 0,
        }
    }

    /// A whole rule, which is an operation.
    pub(crate) fn rule(mut self, json: &Json, at: &Path<'_>) -> Result<Rule, Refusal> {
        match json {
            Json::Object(_) => self.value(json, at),
            other => {
                let reason = format!("is {}: write an operation, as in {{\"if\": [...]}}", other.kind());
                Err(at.refuse(Fault::BadForm, reason))
            }
        }
    }

    /// An operation or a value.
    fn value(&mut self, json: &Json, at: &Path<'_>) -> Result<Rule, Refusal> {
        self.count(at)?;
        match json {
            Json::Null | Json::Bool(_) | Json::Int(_) | Json::Float(_) | Json::Text(_) => {
                Ok(Rule::Literal(json.clone()))
            }
            Json::List(list) => self.values(list.items(), at).map(Rule::List),
            Json::Object(object) => {
                let mut members = object.members();
                let (Some((name, given)), None) = (members.next(), members.next()) else {
                    let reason = format!(
                        "an object with {} members is no operation: write one with one, as in {{\"var\": \"email\"}}",
                        object.len()
                    );
                    return Err(at.refuse(Fault::BadForm, reason));
                };
                self.operation(name, given, at)
            }
        }
    }

    fn values(&mut self, list: &[Json], at: &Path<'_>) -> Result<Box<[Rule]>, Refusal> {
        list.iter()
            .enumerate()
            .map(|(index, json)| self.value(json, &at.item(index)))
            .collect()
    }

    fn operation(&mut self, name: &str, given: &Json, at: &Path<'_>) -> Result<Rule, Refusal> {
        let here = at.member(name);
        let Some((operation, count)) = Operation::named(name) else {
            let reason = format!("{} {}", quoted(name), Operation::unknown(name));
            return Err(here.refuse(Fault::UnknownOperation, reason));
        };
        // One value may stand without a list around it.
        let single = std::slice::from_ref(given);
        let (list, place) = match given {
            Json::List(list) => (list.items(), Place::List(&here)),
            _ => (single, Place::Single(&here)),
        };
        check_count(name, list.len(), &count, &here)?;
        self.of(operation, list, &place)
    }

    fn of(&mut self, operation: Operation, list: &[Json], at: &Place<'_>) -> Result<Rule, Refusal> {
        Ok(match operation {
            Operation::Var => Rule::Var(Box::new(self.var(list, at)?)),
            Operation::Missing => {
                self.note_keys(list);
                Rule::Missing(self.many(list, at)?)
            }
            Operation::MissingSome => {
                self.note_keys(list.get(1..).unwrap_or_default());
                Rule::MissingSome(self.two(list, at)?)
            }
            Operation::If => Rule::If(self.many(list, at)?),
            Operation::And | Operation::Or => Rule::FirstThat {
                until: operation == Operation::Or,
                of: self.many(list, at)?,
            },
            Operation::Not | Operation::Truth => Rule::Is {
                wanted: operation == Operation::Truth,
                of: Box::new(self.nth(list, 0, at)?),
            },
            Operation::Equality(test) => Rule::Equality {
                test,
                of: self.two(list, at)?,
            },
            Operation::Order(relation) => Rule::Order {
                relation,
                of: self.three(list, at)?,
            },
            Operation::Plus => Rule::Sum(self.many(list, at)?),
            Operation::Times => Rule::Product(self.many(list, at)?),
            Operation::Minus => {
                Rule::Difference(Box::new((self.nth(list, 0, at)?, self.optional(list, 1, at)?)))
            }
            Operation::Over => Rule::Quotient(self.two(list, at)?),
            Operation::Modulo => Rule::Modulo(self.two(list, at)?),
            Operation::Extreme(relation) => Rule::Extreme {
                relation,
                of: self.many(list, at)?,
            },
            Operation::Each(what) => Rule::Each {
                what,
                of: self.two(list, at)?,
            },
            Operation::Reduce => Rule::Reduce(Box::new(self.reduce(list, at)?)),
            Operation::Merge => Rule::Merge(self.many(list, at)?),
            Operation::In => Rule::In(Box::new(self.search(list, at)?)),
            Operation::Cat => Rule::Cat(self.many(list, at)?),
            Operation::Substr => Rule::Substr(self.three(list, at)?),
            Operation::Fractional => Rule::Fractional(Box::new(self.fractional(list, at)?)),
            Operation::Affix(end) => {
                at.each(list, check_text)?;
                Rule::Affix {
                    end,
                    of: self.two(list, at)?,
                }
            }
            Operation::SemVer => Rule::SemVer(Box::new(self.sem_ver(list, at)?)),
            Operation::Ref => self.reference(list, at)?,
        })
    }

    fn many(&mut self, list: &[Json], at: &Place<'_>) -> Result<Box<[Rule]>, Refusal> {
        (0..list.len()).map(|index| self.nth(list, index, at)).collect()
    }

    fn two(&mut self, list: &[Json], at: &Place<'_>) -> Result<Box<[Rule; 2]>, Refusal> {
        Ok(Box::new([self.nth(list, 0, at)?, self.nth(list, 1, at)?]))
    }

    fn three(&mut self, list: &[Json], at: &Place<'_>) -> Result<Box<Three>, Refusal> {
        Ok(Box::new(Three {
            first: [self.nth(list, 0, at)?, self.nth(list, 1, at)?],
            third: self.optional(list, 2, at)?,
        }))
    }

    /// The value of that number, or null for one that is not there.
    fn nth(&mut self, list: &[Json], index: usize, at: &Place<'_>) -> Result<Rule, Refusal> {
        let value = self.optional(list, index, at)?;
        Ok(value.unwrap_or(Rule::Literal(Json::Null)))
    }

    fn optional(&mut self, list: &[Json], index: usize, at: &Place<'_>) -> Result<Option<Rule>, Refusal> {
        list.get(index)
            .map(|json| at.nth(index, |at| self.value(json, at)))
            .transpose()
    }

    fn var(&mut self, list: &[Json], at: &Place<'_>) -> Result<Var, Refusal> {
        let key = match list.first() {
            None | Some(Json::Null) => self.whole(),
            Some(Json::Text(path)) if path.is_empty() => self.whole(),
            Some(Json::Text(path)) => {
                at.nth(0, |at| check_path(path, at))?;
                self.reads.add(path);
                Key::Path(path.split('.').map(Box::from).collect())
            }
            Some(_) => {
                self.reads.add_everything();
                Key::Computed(self.nth(list, 0, at)?)
            }
        };
        let default = self.optional(list, 1, at)?;
        Ok(Var { key, default })
    }

    fn whole(&mut self) -> Key {
        self.reads.add_everything();
        Key::Whole
    }

    /// Notes what is looked up by values that are names.
    fn note_keys(&mut self, list: &[Json]) {
        for json in list {
            match json {
                Json::Text(path) => self.reads.add(path),
                Json::List(list) => self.note_keys(list.items()),
                _ => self.reads.add_everything(),
            }
        }
    }

    fn reduce(&mut self, list: &[Json], at: &Place<'_>) -> Result<Reduce, Refusal> {
        let start = list.get(2).cloned().unwrap_or(Json::Null);
        at.nth(2, |at| check_written(&start, at))?;
        Ok(Reduce {
            list: self.nth(list, 0, at)?,
            step: self.nth(list, 1, at)?,
            start,
        })
    }

    fn search(&mut self, list: &[Json], at: &Place<'_>) -> Result<In, Refusal> {
        let needle = self.nth(list, 0, at)?;
        let haystack = match list.get(1) {
            Some(Json::List(items)) if items.items().iter().all(is_written) => {
                items
                    .items()
                    .iter()
                    .try_for_each(|_| at.nth(1, |at| self.count(at)))?;
                Haystack::Written(items.clone())
            }
            _ => Haystack::Computed(self.nth(list, 1, at)?),
        };
        Ok(In { needle, haystack })
    }

    fn fractional(&mut self, list: &[Json], at: &Place<'_>) -> Result<Fractional, Refusal> {
        let (by, shares, first) = match list.split_first() {
            Some((Json::List(_), _)) | None => {
                self.reads.add(TARGETING_KEY);
                (None, list, 0)
            }
            Some((Json::Null, _)) => {
                let reason = "null is nothing to split by: write a var, or leave it out for the targetingKey";
                return Err(at.refuse(0, Fault::BadForm, reason));
            }
            Some((_, shares)) => (Some(self.nth(list, 0, at)?), shares, 1),
        };
        // What comes out of a first rule may be a share too, so one alone may be all there is.
        let place = Place::After(first, at);
        place.each(shares, check_share)?;
        if let Some(written) = written_shares(shares) {
            let total = written.last().map_or(0, |last| last.end);
            if total > MAX_WEIGHT_SUM.unsigned_abs() {
                let reason = format!("weights of {total} in all are above flagd's bound of {MAX_WEIGHT_SUM}");
                return Err(at.refuse_all(Fault::AboveBound, reason));
            }
            shares
                .iter()
                .try_for_each(|_| place.nth(0, |at| self.count(at)))?;
            return Ok(Fractional {
                by,
                shares: Shares::Written(written),
            });
        }
        let shares = Shares::Computed(self.many(shares, &place)?);
        Ok(Fractional { by, shares })
    }

    fn sem_ver(&mut self, list: &[Json], at: &Place<'_>) -> Result<SemVer, Refusal> {
        let range = match list.get(1) {
            Some(Json::Text(name)) => Range::named(name),
            _ => None,
        };
        let Some(range) = range else {
            let reason = "is no comparison of versions: write one of = != < <= > >= ^ ~";
            return Err(at.refuse(1, Fault::BadForm, reason));
        };
        Ok(SemVer {
            given: self.wanted(list, 0, at)?,
            range,
            wanted: self.wanted(list, 2, at)?,
        })
    }

    fn wanted(&mut self, list: &[Json], index: usize, at: &Place<'_>) -> Result<Wanted, Refusal> {
        match list.get(index) {
            Some(Json::Object(_)) | None => self.nth(list, index, at).map(Wanted::Computed),
            Some(Json::Text(text)) => version_in(text).map(Wanted::Written).ok_or_else(|| {
                let reason = format!("{} is no version: write one as in 1.2.3", quoted(text));
                at.refuse(index, Fault::BadForm, reason)
            }),
            Some(other) => {
                let reason = format!("is {}: write a version as in \"1.2.3\", or a var", other.kind());
                Err(at.refuse(index, Fault::BadForm, reason))
            }
        }
    }

    fn reference(&mut self, list: &[Json], at: &Place<'_>) -> Result<Rule, Refusal> {
        let Some(evaluators) = self.evaluators else {
            let reason = "an evaluator may not refer to another: flagd replaces them in no defined order; write the rule out";
            return Err(at.refuse_all(Fault::BadForm, reason));
        };
        let [Json::Text(name)] = list else {
            let reason = "write the name of an evaluator, as in {\"$ref\": \"isStaff\"}";
            return Err(at.refuse_all(Fault::BadForm, reason));
        };
        let evaluator = evaluators.get(&**name).ok_or_else(|| {
            let reason = format!("$evaluators has no {}: {}", quoted(name), known(evaluators));
            at.refuse_all(Fault::Dangling, reason)
        })?;
        self.reads.add_all(&evaluator.reads);
        Ok(Rule::Shared(Arc::clone(&evaluator.rule)))
    }

    fn count(&mut self, at: &Path<'_>) -> Result<(), Refusal> {
        self.values += 1;
        if self.values <= MAX_RULE_VALUES {
            return Ok(());
        }
        let reason = format!("the rule has more operations and values than the bound of {MAX_RULE_VALUES}");
        Err(at.refuse(Fault::AboveBound, reason))
    }
}

fn known(evaluators: &Evaluators<'_>) -> String {
    const SHOWN: usize = 8;
    if evaluators.is_empty() {
        return "it is empty".to_owned();
    }
    let mut names: Vec<_> = evaluators.keys().take(SHOWN).map(|name| quoted(name)).collect();
    if evaluators.len() > SHOWN {
        names.push("...".to_owned());
    }
    format!("it has {}", names.join(", "))
}
