//! Operations that run a rule for each item of a list.

use super::coerce::truth;
use super::machine::Machine;
use super::path::Scope;
use super::rule::{Each, Reduce, Rule};
use super::stop::Stop;
use super::value::{List, Value};

impl<'a> Machine<'a> {
    pub(super) fn each(
        &mut self,
        what: Each,
        [list, body]: &'a [Rule; 2],
        scope: &Scope<'a>,
    ) -> Result<Value<'a>, Stop> {
        let Value::List(list) = self.run(list, scope)? else {
            return what.of_no_list();
        };
        match what {
            Each::Map => {
                let made = list.iter().map(|item| self.run(body, &Scope::Data(item)));
                Value::list(made.collect::<Result<_, _>>()?)
            }
            Each::Filter => self.filter(&list, body),
            // All of an empty list do not: so JsonLogic has it.
            Each::All => Ok(Value::Bool(list.len() > 0 && !self.any(&list, body, false)?)),
            Each::Some => Ok(Value::Bool(self.any(&list, body, true)?)),
            Each::None => Ok(Value::Bool(!self.any(&list, body, true)?)),
        }
    }

    fn filter(&mut self, list: &List<'a>, body: &'a Rule) -> Result<Value<'a>, Stop> {
        let mut kept = Vec::new();
        for item in list.iter() {
            if truth(&self.run(body, &Scope::Data(item.clone()))?) {
                kept.push(item);
            }
        }
        Value::list(kept)
    }

    /// Whether the body counts as `wanted` for any item.
    fn any(&mut self, list: &List<'a>, body: &'a Rule, wanted: bool) -> Result<bool, Stop> {
        for item in list.iter() {
            if truth(&self.run(body, &Scope::Data(item))?) == wanted {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn reduce(&mut self, reduce: &'a Reduce, scope: &Scope<'a>) -> Result<Value<'a>, Stop> {
        let mut accumulator = (&reduce.start).into();
        if let Value::List(list) = self.run(&reduce.list, scope)? {
            for current in list.iter() {
                accumulator = self.run(&reduce.step, &Scope::Fold { accumulator, current })?;
            }
        }
        Ok(accumulator)
    }
}

impl Each {
    /// What comes of something that is no list.
    fn of_no_list<'a>(self) -> Result<Value<'a>, Stop> {
        match self {
            Self::Map | Self::Filter => Value::list(Vec::new()),
            Self::All | Self::Some => Ok(Value::Bool(false)),
            Self::None => Ok(Value::Bool(true)),
        }
    }
}
