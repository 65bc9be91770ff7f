//! The operations there are, by name, with how many values each takes.

use std::ops::RangeInclusive;

use super::rule::{Each, End, Equality, Relation};

/// Takes as many values as there are.
const MANY: usize = usize::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Var,
    Missing,
    MissingSome,
    If,
    And,
    Or,
    Not,
    Truth,
    Equality(Equality),
    Order(Relation),
    Plus,
    Times,
    Minus,
    Over,
    Modulo,
    Extreme(Relation),
    Each(Each),
    Reduce,
    Merge,
    In,
    Cat,
    Substr,
    Fractional,
    Affix(End),
    SemVer,
    Ref,
}

impl Operation {
    /// The operation of that name and how many values it takes.
    pub(crate) fn named(name: &str) -> Option<(Self, RangeInclusive<usize>)> {
        Some(match name {
            "var" => (Self::Var, 1..=2),
            "missing" => (Self::Missing, 1..=MANY),
            "missing_some" => (Self::MissingSome, 2..=2),
            "if" => (Self::If, 1..=MANY),
            "and" => (Self::And, 1..=MANY),
            "or" => (Self::Or, 1..=MANY),
            "!" => (Self::Not, 1..=1),
            "!!" => (Self::Truth, 1..=1),
            "==" => (Self::Equality(Equality::Loose { negated: false }), 2..=2),
            "!=" => (Self::Equality(Equality::Loose { negated: true }), 2..=2),
            "===" => (Self::Equality(Equality::Strict { negated: false }), 2..=2),
            "!==" => (Self::Equality(Equality::Strict { negated: true }), 2..=2),
            "<" => (Self::Order(Relation::Less), 2..=3),
            "<=" => (Self::Order(Relation::LessOrEqual), 2..=3),
            ">" => (Self::Order(Relation::Greater), 2..=2),
            ">=" => (Self::Order(Relation::GreaterOrEqual), 2..=2),
            "+" => (Self::Plus, 1..=MANY),
            "*" => (Self::Times, 1..=MANY),
            "-" => (Self::Minus, 1..=2),
            "/" => (Self::Over, 2..=2),
            "%" => (Self::Modulo, 2..=2),
            "min" => (Self::Extreme(Relation::Less), 1..=MANY),
            "max" => (Self::Extreme(Relation::Greater), 1..=MANY),
            "map" => (Self::Each(Each::Map), 2..=2),
            "filter" => (Self::Each(Each::Filter), 2..=2),
            "all" => (Self::Each(Each::All), 2..=2),
            "some" => (Self::Each(Each::Some), 2..=2),
            "none" => (Self::Each(Each::None), 2..=2),
            "reduce" => (Self::Reduce, 3..=3),
            "merge" => (Self::Merge, 1..=MANY),
            "in" => (Self::In, 2..=2),
            "cat" => (Self::Cat, 1..=MANY),
            "substr" => (Self::Substr, 2..=3),
            "fractional" => (Self::Fractional, 1..=MANY),
            "starts_with" => (Self::Affix(End::Start), 2..=2),
            "ends_with" => (Self::Affix(End::End), 2..=2),
            "sem_ver" => (Self::SemVer, 3..=3),
            "$ref" => (Self::Ref, 1..=1),
            _ => return None,
        })
    }

    /// Why an operation of that name is refused, and what would be right.
    pub(crate) fn unknown(name: &str) -> &'static str {
        match name {
            "log" => "writes to a log, which a proxy does not do for each request: leave it out",
            "?:" => "is not in flagd's schema: write if",
            "method" | "xor" | "contains" => "is not in flagd's schema: write one of its operations",
            "ref" => "is no operation: write $ref",
            "fractionalEvaluation" => "is flagd's old name: write fractional",
            _ => "is no operation of flagd: see docs/flags.md for those there are",
        }
    }
}
