//! `sem_ver`: whether a version stands to another as a range says.

use std::cmp::Ordering;

use semver::Version;

/// How two versions may stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    SameMajor,
    SameMinor,
}

impl Range {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "=" => Self::Equal,
            "!=" => Self::Unequal,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            "^" => Self::SameMajor,
            "~" => Self::SameMinor,
            _ => return None,
        })
    }

    /// By precedence (semver.org, 11), which builds take no part in.
    pub(crate) fn holds(self, given: &Version, wanted: &Version) -> bool {
        let order = given.cmp_precedence(wanted);
        match self {
            Self::Equal => order == Ordering::Equal,
            Self::Unequal => order != Ordering::Equal,
            Self::Less => order == Ordering::Less,
            Self::LessOrEqual => order != Ordering::Greater,
            Self::Greater => order == Ordering::Greater,
            Self::GreaterOrEqual => order != Ordering::Less,
            Self::SameMajor => given.major == wanted.major,
            Self::SameMinor => given.major == wanted.major && given.minor == wanted.minor,
        }
    }
}

/// A text as a version: with a leading `v` or without, and with zeros for a minor or patch number that is not there.
pub(crate) fn version_in(text: &str) -> Option<Version> {
    let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
    let numbers = text.split(['-', '+']).next().unwrap_or_default();
    let zeros = match numbers.matches('.').count() {
        0 => ".0.0",
        1 => ".0",
        _ => return Version::parse(text).ok(),
    };
    let rest = text.get(numbers.len()..).unwrap_or_default();
    Version::parse(&format!("{numbers}{zeros}{rest}")).ok()
}
