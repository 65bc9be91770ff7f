//! Where in a document something stands.

use std::fmt;

use crate::error::{Fault, Refusal};
use crate::message::quoted;

/// A place in a document: a chain back to its root, which is put into words only where something is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path<'p> {
    Root,
    Member(&'p Path<'p>, &'p str),
    Item(&'p Path<'p>, usize),
}

impl<'p> Path<'p> {
    pub(crate) fn member(&'p self, name: &'p str) -> Self {
        Self::Member(self, name)
    }

    pub(crate) fn item(&'p self, index: usize) -> Self {
        Self::Item(self, index)
    }

    /// What is wrong here.
    pub(crate) fn refuse(&self, fault: Fault, reason: impl Into<String>) -> Refusal {
        Refusal {
            path: self.to_string(),
            fault,
            reason: reason.into(),
        }
    }

    /// Refuses more than `bound` of what `what` names.
    pub(crate) fn within(&self, count: usize, bound: usize, what: &str) -> Result<(), Refusal> {
        if count <= bound {
            return Ok(());
        }
        let reason = format!("{count} {what} are above the bound of {bound}");
        Err(self.refuse(Fault::AboveBound, reason))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("$"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Member(Self::Root, name) if is_plain(name) => f.write_str(name),
            Self::Member(parent, name) if is_plain(name) => write!(f, "{parent}.{name}"),
            Self::Member(Self::Root, name) => write!(f, "[{}]", quoted(name)),
            Self::Member(parent, name) => write!(f, "{parent}[{}]", quoted(name)),
        }
    }
}

/// Whether a name can stand in a path as it is: short, visible, and with nothing that a path has between names.
fn is_plain(name: &str) -> bool {
    const SHOWN: usize = 80;
    !name.is_empty()
        && name.len() <= SHOWN
        && name
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b".[]\"".contains(&b))
}
