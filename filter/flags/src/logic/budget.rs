//! What evaluations may still cost.

use super::stop::Stop;
use super::value::{Object, Value};
use crate::limits::{BYTES_PER_UNIT, FLOAT_COST, MAX_COST};

/// Units that are left. Whoever walks a value or a text pays for it first, so that nothing here runs for long, not even
/// over lists that hold the same list many times.
#[derive(Debug)]
pub struct Budget(usize);

impl Budget {
    /// So many units, for as many evaluations as they last; see [`crate::limits::MAX_COST`] for what a unit is.
    pub const fn of(units: usize) -> Self {
        Self(units)
    }

    /// Takes units away, as many as there are if there are not enough.
    pub fn take(&mut self, units: usize) {
        self.0 = self.0.saturating_sub(units);
    }

    /// What one evaluation may cost of it.
    pub(crate) fn share(&self) -> Self {
        Self(self.0.min(MAX_COST))
    }

    /// Takes away what an evaluation that had `share` did not leave of it.
    pub(crate) fn settle(&mut self, share: &Self, left: &Self) {
        self.take(share.0.saturating_sub(left.0));
    }

    pub(crate) fn spend(&mut self, units: usize) -> Result<(), Stop> {
        self.0 = self.0.checked_sub(units).ok_or(Stop::TooCostly)?;
        Ok(())
    }

    /// For text that is read or made.
    pub(crate) fn spend_bytes(&mut self, bytes: usize) -> Result<(), Stop> {
        self.spend(bytes / BYTES_PER_UNIT)
    }

    /// For a value that is read whole.
    pub(crate) fn spend_whole(&mut self, value: &Value<'_>) -> Result<(), Stop> {
        self.spend(1)?;
        match value {
            Value::Null | Value::Bool(_) | Value::Int(_) => Ok(()),
            Value::Float(_) => self.spend(FLOAT_COST),
            Value::Text(text) => self.spend_bytes(text.len()),
            Value::List(list) => list.iter().try_for_each(|item| self.spend_whole(&item)),
            Value::Object(object) => self.spend_object(*object),
        }
    }

    fn spend_object(&mut self, object: Object<'_>) -> Result<(), Stop> {
        object.members().iter().try_for_each(|(name, value)| {
            self.spend_bytes(name.len())?;
            self.spend_whole(value)
        })
    }
}
