//! What rules read of a context.

use std::collections::BTreeSet;

/// What the rule of a flag may read of a context, so that nobody looks up what no rule asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    paths: BTreeSet<Box<str>>,
    everything: bool,
}

impl Reads {
    /// The dotted paths that are written in the rule and in the evaluators that it refers to, sorted; `targetingKey` where
    /// `fractional` splits by it. A path inside a loop over a list is among them, though it
    /// is looked up in the list's items.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &str> {
        self.paths.iter().map(|path| &**path)
    }

    /// Whether it may read what [`Reads::paths`] does not name: it has a `var` whose name it computes, or takes the
    /// whole context.
    pub fn everything(&self) -> bool {
        self.everything
    }

    pub(crate) fn add(&mut self, path: &str) {
        if !self.paths.contains(path) {
            self.paths.insert(path.into());
        }
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        self.everything |= other.everything;
        self.paths.extend(other.paths.iter().cloned());
    }

    pub(crate) fn add_everything(&mut self) {
        self.everything = true;
    }
}
