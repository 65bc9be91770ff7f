//! A rule in the form that runs: what can be known of it is worked out, and what it needs it has.

use std::sync::Arc;

use semver::Version;

use super::fractional::Fractional;
use super::version::Range;
use crate::json::{self, Json};

/// An operation with what it works on, or a value.
#[derive(Debug)]
pub(crate) enum Rule {
    /// A null, boolean, number or text.
    Literal(Json),
    /// A list, made anew each time.
    List(Box<[Rule]>),
    /// A rule of `$evaluators`.
    Shared(Arc<Rule>),
    Var(Box<Var>),
    Missing(Box<[Rule]>),
    MissingSome(Box<[Rule; 2]>),
    /// Conditions and what follows from each in turn, then what else.
    If(Box<[Rule]>),
    /// The first that counts as `until`, or the last.
    FirstThat {
        until: bool,
        of: Box<[Rule]>,
    },
    /// Whether it counts as that.
    Is {
        wanted: bool,
        of: Box<Rule>,
    },
    Equality {
        test: Equality,
        of: Box<[Rule; 2]>,
    },
    /// Of two, or of three in a row.
    Order {
        relation: Relation,
        of: Box<Three>,
    },
    Sum(Box<[Rule]>),
    Product(Box<[Rule]>),
    /// Without the second, what is on the other side of zero.
    Difference(Box<(Rule, Option<Rule>)>),
    Quotient(Box<[Rule; 2]>),
    Modulo(Box<[Rule; 2]>),
    Extreme {
        relation: Relation,
        of: Box<[Rule]>,
    },
    /// A list, and what is asked of each item.
    Each {
        what: Each,
        of: Box<[Rule; 2]>,
    },
    Reduce(Box<Reduce>),
    Merge(Box<[Rule]>),
    In(Box<In>),
    Cat(Box<[Rule]>),
    /// Text, start, and length where it is given.
    Substr(Box<Three>),
    Fractional(Box<Fractional>),
    Affix {
        end: End,
        of: Box<[Rule; 2]>,
    },
    SemVer(Box<SemVer>),
}

/// Two values, and a third where it is given.
#[derive(Debug)]
pub(crate) struct Three {
    pub(crate) first: [Rule; 2],
    pub(crate) third: Option<Rule>,
}

/// What to look up, and what to take where it is not there.
#[derive(Debug)]
pub(crate) struct Var {
    pub(crate) key: Key,
    pub(crate) default: Option<Rule>,
}

#[derive(Debug)]
pub(crate) enum Key {
    /// All the data.
    Whole,
    /// Names, each in what the one before names.
    Path(Box<[Box<str>]>),
    /// Known only when it runs.
    Computed(Rule),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Equality {
    Loose { negated: bool },
    Strict { negated: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Each {
    Map,
    Filter,
    All,
    Some,
    None,
}

#[derive(Debug)]
pub(crate) struct Reduce {
    pub(crate) list: Rule,
    pub(crate) step: Rule,
    /// Not a rule: it is taken as it is written.
    pub(crate) start: Json,
}

#[derive(Debug)]
pub(crate) struct In {
    pub(crate) needle: Rule,
    pub(crate) haystack: Haystack,
}

#[derive(Debug)]
pub(crate) enum Haystack {
    /// A list of values as the file has it.
    Written(json::List),
    Computed(Rule),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Start,
    End,
}

#[derive(Debug)]
pub(crate) struct SemVer {
    pub(crate) given: Wanted,
    pub(crate) range: Range,
    pub(crate) wanted: Wanted,
}

/// A version.
#[derive(Debug)]
pub(crate) enum Wanted {
    Written(Version),
    Computed(Rule),
}
