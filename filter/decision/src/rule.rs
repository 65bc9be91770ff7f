//! A rollout's rule, parsed: everything that can be found wrong with one rule alone is found here.

mod condition;
mod host;
mod key;
mod name;
mod path;

pub(crate) use self::condition::Condition;
pub use self::host::Host;
pub(crate) use self::host::HostPattern;
pub(crate) use self::key::Key;
pub use self::key::request_id_bucket;
pub(crate) use self::path::{PathPattern, without_query};

use crate::document::RolloutRule;
use crate::error::{Fault, FieldError, PolicyError, quoted, within};
use crate::limits::{MAX_HOSTS, MAX_THRESHOLD_US, MAX_THRESHOLDS};

/// What a rule's match and keys mean, in the forms that requests are compared with.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    /// Empty: any host.
    pub(crate) hosts: Box<[HostPattern]>,
    pub(crate) path: PathPattern,
    pub(crate) conditions: Box<[Condition]>,
    pub(crate) keys: Box<[Key]>,
}

impl Compiled {
    pub(crate) fn of(rule: &RolloutRule) -> Result<Self, PolicyError> {
        Self::parse(rule).map_err(|error| error.of(&rule.name))
    }

    fn parse(rule: &RolloutRule) -> Result<Self, FieldError> {
        name::check_rollout(&rule.name)?;
        name::check_version("stable", &rule.stable)?;
        name::check_version("canary", &rule.canary)?;
        if let Some(salt) = &rule.salt {
            name::check_salt(salt)?;
        }
        check_thresholds(&rule.thresholds)?;
        Ok(Self {
            hosts: parse_hosts(&rule.r#match.hosts)?,
            path: PathPattern::parse(rule.r#match.path.as_deref(), rule.r#match.path_prefix.as_deref())?,
            conditions: Condition::parse(&rule.r#match)?,
            keys: Key::parse_chain(&rule.key)?,
        })
    }

    /// Whether every request for a host and path of both that satisfies this rule's conditions satisfies `other`'s.
    pub(crate) fn implies_conditions_of(&self, other: &Self) -> bool {
        other
            .conditions
            .iter()
            .all(|theirs| self.conditions.iter().any(|ours| ours.implies(theirs)))
    }
}

impl RolloutRule {
    /// Refuses a rule that makes no sense whatever other rules there are: a form that is wrong, a bound that is met,
    /// a match that no request can satisfy. What two rules do to each other is seen by [`crate::Policy::compile`].
    pub fn check(&self) -> Result<(), PolicyError> {
        Compiled::of(self).map(drop)
    }
}

fn parse_hosts(hosts: &[String]) -> Result<Box<[HostPattern]>, FieldError> {
    within("match.hosts", hosts.len(), MAX_HOSTS, "hosts")?;
    let mut parsed = Vec::with_capacity(hosts.len());
    for (i, text) in hosts.iter().enumerate() {
        let field = format!("match.hosts[{i}]");
        let host = HostPattern::parse(&field, text)?;
        if parsed.contains(&host) {
            let reason = format!("{} is there twice: keep one", quoted(text));
            return Err(FieldError::new(field, Fault::Duplicate, reason));
        }
        parsed.push(host);
    }
    Ok(parsed.into())
}

fn check_thresholds(thresholds: &[u64]) -> Result<(), FieldError> {
    within("thresholds", thresholds.len(), MAX_THRESHOLDS, "thresholds")?;
    let mut previous = 0;
    for (i, &threshold) in thresholds.iter().enumerate() {
        let field = format!("thresholds[{i}]");
        if threshold <= previous {
            let reason =
                format!("{threshold} is not above {previous}: write microseconds in ascending order");
            return Err(FieldError::new(field, Fault::BadForm, reason));
        }
        if threshold > MAX_THRESHOLD_US {
            let reason = format!("{threshold} microseconds are above the bound of {MAX_THRESHOLD_US}");
            return Err(FieldError::new(field, Fault::AboveBound, reason));
        }
        previous = threshold;
    }
    Ok(())
}
