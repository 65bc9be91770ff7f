//! Conditions of a match beside host and path.

use std::collections::BTreeMap;

use crate::error::{Fault, FieldError, within};
use crate::facts::Facts;
use crate::limits::{
    MAX_FLAGS_OF_ROLLOUT, MAX_HEADER_VALUE_BYTES, MAX_HEADERS, MAX_METHOD_BYTES, MAX_METHODS,
};
use crate::peer::SpiffeId;
use crate::rule::name;
use crate::rule::peer::Peers;
use crate::spec::{HeaderMatch, MatchSpec, ValueMatch};
use knhk_flags::message::quoted;

/// One condition: a list of methods, a header, a list of callers, or a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Any of these methods.
    Methods(Box<[Box<str>]>),
    /// What must hold for a header's first value.
    Header { name: Box<str>, value: ValueMatch },
    /// Any of these callers.
    Peers(Peers),
    /// The flag gives this variant.
    Flag { key: Box<str>, variant: Box<str> },
}

impl Condition {
    /// The conditions of a match: the methods first if there are any, then the headers as they are given, then the
    /// callers, and the flags by their keys last: what may cost most comes after what spares it.
    pub(crate) fn parse(spec: &MatchSpec) -> Result<Box<[Self]>, FieldError> {
        let mut conditions = Vec::with_capacity(2 + spec.headers.len());
        if !spec.methods.is_empty() {
            conditions.push(parse_methods(&spec.methods)?);
        }
        parse_headers("match.headers", &spec.headers, &mut conditions)?;
        conditions.extend(Peers::parse("match.peers", &spec.peers)?.map(Self::Peers));
        parse_flags("match.flags", &spec.flags, &mut conditions)?;
        Ok(conditions.into())
    }

    /// `variant` is asked for the variant of a flag, if it gives one.
    pub(crate) fn holds<'v>(
        &self,
        facts: &impl Facts,
        variant: impl FnOnce(&str) -> Option<&'v str>,
    ) -> bool {
        match self {
            Self::Methods(methods) => has(methods, facts.method()),
            Self::Header { name, value } => {
                let given = facts.header(name).filter(|given| !given.is_empty());
                match (value, given) {
                    (ValueMatch::Exact(exact), Some(given)) => given == exact.as_bytes(),
                    (ValueMatch::Prefix(prefix), Some(given)) => given.starts_with(prefix.as_bytes()),
                    (ValueMatch::Exact(_) | ValueMatch::Prefix(_), None) => false,
                    (ValueMatch::Present(present), given) => given.is_some() == *present,
                }
            }
            Self::Peers(peers) => peers.hold(facts.peer_spiffe_id()),
            Self::Flag { key, variant: wanted } => variant(key) == Some(wanted),
        }
    }

    /// Whether this holds for a request of that method and caller, if the two are enough to know. Of flags their variants
    /// are recorded.
    pub(crate) fn holds_by_record(&self, method: &[u8], peer: Option<SpiffeId<'_>>) -> Option<bool> {
        match self {
            Self::Methods(methods) => Some(has(methods, method)),
            Self::Header { .. } | Self::Flag { .. } => None,
            Self::Peers(peers) => Some(peers.hold(peer)),
        }
    }

    /// Whether the caller is asked for.
    pub(crate) fn reads_peer(&self) -> bool {
        matches!(self, Self::Peers(_))
    }

    /// Whether this depends on the rollout's keys as well.
    pub(crate) fn is_by_key(&self) -> bool {
        matches!(self, Self::Flag { .. })
    }

    /// Whether every request that satisfies this also satisfies `other`, of a rollout with the same keys where that matters.
    pub(crate) fn implies(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Methods(narrow), Self::Methods(wide)) => narrow.iter().all(|m| wide.contains(m)),
            (
                Self::Header { name, value },
                Self::Header {
                    name: other_name,
                    value: other,
                },
            ) => name == other_name && value_implies(value, other),
            (Self::Peers(narrow), Self::Peers(wide)) => wide.cover(narrow),
            (Self::Flag { .. }, Self::Flag { .. }) => self == other,
            _ => false,
        }
    }

    /// Whether no request can satisfy both, of one rollout.
    pub(crate) fn contradicts(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Header { .. }, Self::Header { .. }) => {
                self.same_subject(other) && !self.implies(other) && !other.implies(self)
            }
            (Self::Peers(one), Self::Peers(other)) => !one.meet(other),
            (
                Self::Flag { key, variant },
                Self::Flag {
                    key: other_key,
                    variant: other_variant,
                },
            ) => key == other_key && variant != other_variant,
            _ => false,
        }
    }

    fn same_subject(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Methods(_), Self::Methods(_)) => true,
            (Self::Header { name, .. }, Self::Header { name: other, .. }) => name == other,
            _ => false,
        }
    }
}

fn has(methods: &[Box<str>], method: &[u8]) -> bool {
    methods.iter().any(|m| m.as_bytes() == method)
}

fn value_implies(value: &ValueMatch, other: &ValueMatch) -> bool {
    match (value, other) {
        (ValueMatch::Exact(a), ValueMatch::Exact(b)) => a == b,
        (ValueMatch::Exact(a) | ValueMatch::Prefix(a), ValueMatch::Prefix(b)) => a.starts_with(b.as_str()),
        (ValueMatch::Exact(_) | ValueMatch::Prefix(_), ValueMatch::Present(present)) => *present,
        (ValueMatch::Present(a), ValueMatch::Present(b)) => a == b,
        (ValueMatch::Prefix(_), ValueMatch::Exact(_))
        | (ValueMatch::Present(_), ValueMatch::Exact(_) | ValueMatch::Prefix(_)) => false,
    }
}

pub(super) fn parse_headers(
    field: &str,
    headers: &[HeaderMatch],
    conditions: &mut Vec<Condition>,
) -> Result<(), FieldError> {
    within(field, headers.len(), MAX_HEADERS, "headers")?;
    for (i, header) in headers.iter().enumerate() {
        let condition = parse_header(&format!("{field}[{i}]"), header)?;
        if let Some(earlier) = conditions.iter().find(|earlier| earlier.same_subject(&condition)) {
            let reason = if condition.contradicts(earlier) {
                "contradicts another condition on that header: keep one"
            } else {
                "says nothing that another condition on that header does not: keep the stricter one"
            };
            let reason = format!("{} {reason}", quoted(&header.name));
            return Err(FieldError::new(
                format!("{field}[{i}]"),
                Fault::NeverMatches,
                reason,
            ));
        }
        conditions.push(condition);
    }
    Ok(())
}

pub(super) fn parse_flags(
    field: &str,
    flags: &BTreeMap<String, String>,
    conditions: &mut Vec<Condition>,
) -> Result<(), FieldError> {
    within(field, flags.len(), MAX_FLAGS_OF_ROLLOUT, "flags")?;
    conditions.extend(flags.iter().map(|(key, variant)| Condition::Flag {
        key: key.as_str().into(),
        variant: variant.as_str().into(),
    }));
    Ok(())
}

fn parse_methods(methods: &[String]) -> Result<Condition, FieldError> {
    within("match.methods", methods.len(), MAX_METHODS, "methods")?;
    for (i, method) in methods.iter().enumerate() {
        let field = format!("match.methods[{i}]");
        within(field.as_str(), method.len(), MAX_METHOD_BYTES, "bytes")?;
        if !name::is_token(method) {
            let reason = format!("{} is no method: write one as in GET", quoted(method));
            return Err(FieldError::new(field, Fault::BadForm, reason));
        }
        if method.bytes().any(|b| b.is_ascii_lowercase()) {
            let upper = method.to_ascii_uppercase();
            let reason = format!(
                "{} can never match: methods are in upper case, write {upper}",
                quoted(method)
            );
            return Err(FieldError::new(field, Fault::NeverMatches, reason));
        }
        if methods.iter().take(i).any(|earlier| earlier == method) {
            let reason = format!("{} is there twice: keep one", quoted(method));
            return Err(FieldError::new(field, Fault::Duplicate, reason));
        }
    }
    Ok(Condition::Methods(
        methods.iter().map(|method| method.as_str().into()).collect(),
    ))
}

fn parse_header(field: &str, header: &HeaderMatch) -> Result<Condition, FieldError> {
    let name = name::parse_header(&format!("{field}.name"), &header.name)?;
    match &header.value {
        ValueMatch::Exact(value) => {
            check_value(&format!("{field}.exact"), value)?;
            if value.ends_with([' ', '\t']) {
                return Err(blank(&format!("{field}.exact"), value));
            }
        }
        ValueMatch::Prefix(value) => check_value(&format!("{field}.prefix"), value)?,
        ValueMatch::Present(_) => {}
    }
    Ok(Condition::Header {
        name,
        value: header.value.clone(),
    })
}

fn check_value(field: &str, value: &str) -> Result<(), FieldError> {
    within(field, value.len(), MAX_HEADER_VALUE_BYTES, "bytes")?;
    if value.is_empty() {
        let reason = "an empty value counts as absent: write present: true or present: false";
        return Err(FieldError::new(field, Fault::BadForm, reason));
    }
    if value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
        let reason = format!(
            "{} can never match: header values have no control characters",
            quoted(value)
        );
        return Err(FieldError::new(field, Fault::NeverMatches, reason));
    }
    if value.starts_with([' ', '\t']) {
        return Err(blank(field, value));
    }
    Ok(())
}

fn blank(field: &str, value: &str) -> FieldError {
    let reason = format!(
        "{} can never match: blanks around a header's value are dropped",
        quoted(value)
    );
    FieldError::new(field, Fault::NeverMatches, reason)
}
