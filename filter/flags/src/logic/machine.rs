//! Running a rule.

use std::cmp::Ordering;

use super::budget::Budget;
use super::coerce::{self, compare, loosely_equal, number, strictly_equal, text, truth};
use super::number::Number;
use super::path::Scope;
use super::rule::{End, Equality, Haystack, In, Relation, Rule, SemVer, Three, Wanted};
use super::stop::Stop;
use super::substr::substr;
use super::value::{List, Object, Value};
use super::version::version_in;
use crate::context::Facts;
use crate::limits::VERSION_COST;

/// One evaluation under way.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(super) budget: Budget,
    facts: &'a Facts<'a>,
}

impl<'a> Machine<'a> {
    pub(crate) fn new(facts: &'a Facts<'a>, budget: Budget) -> Self {
        Self { budget, facts }
    }

    /// What is left to spend.
    pub(crate) fn left(self) -> Budget {
        self.budget
    }

    /// What the rule of a flag gives.
    pub(crate) fn result(&mut self, rule: &'a Rule) -> Result<Value<'a>, Stop> {
        let context = Value::Object(Object::Context(self.facts));
        self.run(rule, &Scope::Data(context))
    }

    pub(super) fn run(&mut self, rule: &'a Rule, scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        self.budget.spend(1)?;
        match rule {
            Rule::Literal(value) => Ok(value.into()),
            Rule::List(items) => Value::list(self.all(items, scope)?),
            Rule::Shared(rule) => self.run(rule, scope),
            Rule::Var(var) => self.var(var, scope),
            Rule::Missing(keys) => {
                let keys = self.all(keys, scope)?;
                let missing = match keys.first() {
                    Some(Value::List(keys)) => self.missing(keys.iter(), scope)?,
                    _ => self.missing(keys.into_iter(), scope)?,
                };
                Value::list(missing)
            }
            Rule::MissingSome(of) => self.missing_some(of, scope),
            Rule::If(branches) => self.branch(branches, scope),
            Rule::FirstThat { until, of } => self.first_that(*until, of, scope),
            Rule::Is { wanted, of } => Ok(Value::Bool(truth(&self.run(of, scope)?) == *wanted)),
            Rule::Equality { test, of } => self.equality(*test, of, scope),
            Rule::Order { relation, of } => self.order(*relation, of, scope),
            Rule::Sum(of) => self.fold(of, scope, Number::ZERO, Number::plus),
            Rule::Product(of) => self.fold(of, scope, Number::ONE, Number::times),
            Rule::Difference(of) => self.difference(of, scope),
            Rule::Quotient(of) => self.divide(of, scope, Number::over),
            Rule::Modulo(of) => self.divide(of, scope, Number::modulo),
            Rule::Extreme { relation, of } => self.extreme(*relation, of, scope),
            Rule::Each { what, of } => self.each(*what, of, scope),
            Rule::Reduce(reduce) => self.reduce(reduce, scope),
            Rule::Merge(of) => self.merge(of, scope),
            Rule::In(search) => self.search(search, scope),
            Rule::Cat(of) => self.cat(of, scope),
            Rule::Substr(of) => self.substr(of, scope),
            Rule::Fractional(split) => self.fractional(split, scope),
            Rule::Affix { end, of } => self.affix(*end, of, scope),
            Rule::SemVer(versions) => self.sem_ver(versions, scope),
        }
    }

    fn all(&mut self, rules: &'a [Rule], scope: &Scope<'a>) -> Result<Vec<Value<'a>>, Stop> {
        rules.iter().map(|rule| self.run(rule, scope)).collect()
    }

    /// Two values that are then read whole.
    fn both(&mut self, [a, b]: &'a [Rule; 2], scope: &Scope<'a>) -> Result<(Value<'a>, Value<'a>), Stop> {
        let (a, b) = (self.run(a, scope)?, self.run(b, scope)?);
        self.budget.spend_whole(&a)?;
        self.budget.spend_whole(&b)?;
        Ok((a, b))
    }

    /// Three values that are then read whole; null for a third that is not there.
    fn three(&mut self, of: &'a Three, scope: &Scope<'a>) -> Result<(Value<'a>, Value<'a>, Value<'a>), Stop> {
        let (a, b) = self.both(&of.first, scope)?;
        let c = self.optional(of.third.as_ref(), scope)?;
        Ok((a, b, c))
    }

    /// A value that is then read whole; null where there is none.
    fn optional(&mut self, rule: Option<&'a Rule>, scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let Some(rule) = rule else {
            return Ok(Value::Null);
        };
        let value = self.run(rule, scope)?;
        self.budget.spend_whole(&value)?;
        Ok(value)
    }

    fn number(&mut self, rule: &'a Rule, scope: &Scope<'a>) -> Result<Number, Stop> {
        let value = self.run(rule, scope)?;
        self.budget.spend_whole(&value)?;
        Ok(number(&value))
    }

    /// Those of the keys that the data does not have, or has as null or as an empty text.
    fn missing(
        &mut self,
        keys: impl Iterator<Item = Value<'a>>,
        scope: &Scope<'a>,
    ) -> Result<Vec<Value<'a>>, Stop> {
        let mut missing = Vec::new();
        for key in keys {
            self.budget.spend(1)?;
            match self.lookup(&key, scope) {
                Ok(None | Some(Value::Null)) => missing.push(key),
                Ok(Some(Value::Text(text))) if text.is_empty() => missing.push(key),
                // Everything at once is there, though it is no value of its own.
                Ok(Some(_)) | Err(Stop::WholeFold) => {}
                Err(stop) => return Err(stop),
            }
        }
        Ok(missing)
    }

    /// All that are missing, or none where there are enough that are not.
    fn missing_some(&mut self, [needed, keys]: &'a [Rule; 2], scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let needed = self.number(needed, scope)?;
        let Value::List(keys) = self.run(keys, scope)? else {
            return Value::list(Vec::new());
        };
        let missing = self.missing(keys.iter(), scope)?;
        let there = i64::try_from(keys.len().saturating_sub(missing.len())).unwrap_or(i64::MAX);
        let enough = Number::Int(there).compare(needed).is_some_and(Ordering::is_ge);
        Value::list(if enough { Vec::new() } else { missing })
    }

    fn branch(&mut self, branches: &'a [Rule], scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let mut pairs = branches.chunks_exact(2);
        for pair in &mut pairs {
            let [condition, then] = pair else { break };
            if truth(&self.run(condition, scope)?) {
                return self.run(then, scope);
            }
        }
        match pairs.remainder() {
            [otherwise] => self.run(otherwise, scope),
            _ => Ok(Value::Null),
        }
    }

    fn first_that(&mut self, until: bool, of: &'a [Rule], scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let mut last = Value::Null;
        for rule in of {
            last = self.run(rule, scope)?;
            if truth(&last) == until {
                break;
            }
        }
        Ok(last)
    }

    fn equality(&mut self, test: Equality, of: &'a [Rule; 2], scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let (a, b) = self.both(of, scope)?;
        Ok(Value::Bool(match test {
            Equality::Loose { negated } => loosely_equal(&a, &b) != negated,
            Equality::Strict { negated } => strictly_equal(&a, &b) != negated,
        }))
    }

    fn order(&mut self, relation: Relation, of: &'a Three, scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let (a, b, c) = self.three(of, scope)?;
        let first = relation.holds(&a, &b);
        Ok(Value::Bool(match c {
            Value::Null => first,
            c => first && relation.holds(&b, &c),
        }))
    }

    fn fold(
        &mut self,
        of: &'a [Rule],
        scope: &Scope<'a>,
        start: Number,
        step: fn(Number, Number) -> Number,
    ) -> Result<Value<'a>, Stop> {
        let mut sum = start;
        for rule in of {
            sum = step(sum, self.number(rule, scope)?);
        }
        Ok(sum.into())
    }

    /// Without the second, or with null for it, what is on the other side of zero.
    fn difference(&mut self, (a, b): &'a (Rule, Option<Rule>), scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let a = self.number(a, scope)?;
        Ok(match self.optional(b.as_ref(), scope)? {
            Value::Null => a.negated(),
            b => a.minus(number(&b)),
        }
        .into())
    }

    fn divide(
        &mut self,
        [a, b]: &'a [Rule; 2],
        scope: &Scope<'a>,
        operation: fn(Number, Number) -> Option<Number>,
    ) -> Result<Value<'a>, Stop> {
        let (a, b) = (self.number(a, scope)?, self.number(b, scope)?);
        operation(a, b).map(Value::from).ok_or(Stop::DivisionByZero)
    }

    /// The first of those that no other is beyond.
    fn extreme(&mut self, relation: Relation, of: &'a [Rule], scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let mut extreme: Option<Number> = None;
        for rule in of {
            let next = self.number(rule, scope)?;
            if extreme.is_none_or(|known| relation.holds_for(next, known)) {
                extreme = Some(next);
            }
        }
        Ok(extreme.unwrap_or(Number::Float(f64::NAN)).into())
    }

    fn merge(&mut self, of: &'a [Rule], scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let mut merged = Vec::new();
        for rule in of {
            match self.run(rule, scope)? {
                Value::List(list) => {
                    self.budget.spend(list.len())?;
                    merged.extend(list.iter());
                }
                other => merged.push(other),
            }
        }
        Value::list(merged)
    }

    fn search(&mut self, search: &'a In, scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let needle = self.run(&search.needle, scope)?;
        let haystack = match &search.haystack {
            Haystack::Written(list) => Value::List(List::Borrowed(list)),
            Haystack::Computed(rule) => self.run(rule, scope)?,
        };
        self.budget.spend_whole(&needle)?;
        self.budget.spend_whole(&haystack)?;
        Ok(Value::Bool(match &haystack {
            Value::List(list) => list.iter().any(|item| strictly_equal(&needle, &item)),
            Value::Text(haystack) => haystack.contains(&*text(&needle)),
            _ => false,
        }))
    }

    fn cat(&mut self, of: &'a [Rule], scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let mut all = String::new();
        for rule in of {
            let value = self.run(rule, scope)?;
            self.budget.spend_whole(&value)?;
            all.push_str(&text(&value));
        }
        Ok(Value::made_text(&all))
    }

    fn substr(&mut self, of: &'a Three, scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let (whole, start, length) = self.three(of, scope)?;
        let length = match length {
            Value::Null => None,
            length => Some(number(&length)),
        };
        substr(&text(&whole), number(&start), length).map(Value::made_text)
    }

    /// Null where one of them is no text.
    fn affix(&mut self, end: End, of: &'a [Rule; 2], scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let (Value::Text(text), Value::Text(affix)) = self.both(of, scope)? else {
            return Ok(Value::Null);
        };
        Ok(Value::Bool(match end {
            End::Start => text.starts_with(&*affix),
            End::End => text.ends_with(&*affix),
        }))
    }

    /// Null where one of them is no version.
    fn sem_ver(&mut self, versions: &'a SemVer, scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let given = self.version(&versions.given, scope)?;
        let wanted = self.version(&versions.wanted, scope)?;
        Ok(given.zip(wanted).map_or(Value::Null, |(given, wanted)| {
            Value::Bool(versions.range.holds(&given, &wanted))
        }))
    }

    fn version(&mut self, version: &'a Wanted, scope: &Scope<'a>) -> Result<Option<semver::Version>, Stop> {
        match version {
            Wanted::Written(version) => Ok(Some(version.clone())),
            Wanted::Computed(rule) => {
                let value = self.run(rule, scope)?;
                self.budget.spend_whole(&value)?;
                self.budget.spend(VERSION_COST)?;
                Ok(coerce::name(&value).and_then(|name| version_in(&name)))
            }
        }
    }
}

impl Relation {
    fn holds(self, a: &Value<'_>, b: &Value<'_>) -> bool {
        compare(a, b).is_some_and(|order| self.allows(order))
    }

    fn holds_for(self, a: Number, b: Number) -> bool {
        a.compare(b).is_some_and(|order| self.allows(order))
    }

    fn allows(self, order: Ordering) -> bool {
        match self {
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}
