//! A rollout's rule, parsed: everything that can be found wrong with one rule alone is found here.

mod condition;
mod host;
mod key;
mod name;
mod path;
mod peer;
mod staging;

pub(crate) use self::condition::Condition;
pub use self::host::Host;
pub(crate) use self::host::HostPattern;
pub(crate) use self::key::Key;
pub use self::key::request_id_bucket;
pub(crate) use self::path::{PathPattern, without_query};

use self::peer::Peers;
use crate::decide::Admission;
use crate::document::RolloutRule;
use crate::error::{Fault, FieldError, PolicyError, within};
use crate::facts::Facts;
use crate::limits::{
    MAX_FLAGS_OF_ROLLOUT, MAX_GOOD_OUTCOMES, MAX_HEADER_VALUE_BYTES, MAX_HOSTS, MAX_OUTCOMES,
    MAX_THRESHOLD_US, MAX_THRESHOLDS,
};
use crate::peer::SpiffeId;
use crate::spec::{AdmitSpec, OutcomeSpec};
use knhk_flags::message::quoted;

/// What a rule's match and keys mean, in the forms that requests are compared with.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    /// Empty: any host.
    pub(crate) hosts: Box<[HostPattern]>,
    pub(crate) path: PathPattern,
    pub(crate) conditions: Box<[Condition]>,
    /// Absent: the rollout is not in staging. Never empty.
    pub(crate) staging: Option<Box<[Condition]>>,
    /// Absent: everybody.
    admit: Option<Peers>,
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
        check_outcomes(&rule.outcomes)?;
        check_flags(&rule.flags)?;
        let conditions = Condition::parse(&rule.r#match)?;
        let hosts = parse_hosts(&rule.r#match.hosts)?;
        let path = PathPattern::parse(rule.r#match.path.as_deref(), rule.r#match.path_prefix.as_deref())?;
        let admit = parse_admit(rule.admit.as_ref(), &conditions)?;
        let staging = rule
            .staging
            .as_ref()
            .map(|staging| staging::parse(&staging.r#match, &conditions, admit.as_ref()))
            .transpose()?
            .filter(|_| rule.staging.as_ref().is_some_and(|staging| staging.active));
        Ok(Self {
            hosts,
            path,
            admit,
            staging,
            conditions,
            keys: Key::parse_chain(&rule.key)?,
        })
    }

    /// Whether a request that the rule routes is admitted. The caller is asked for only where that depends on it.
    pub(crate) fn admission<'p>(&self, peer: impl FnOnce() -> Option<SpiffeId<'p>>) -> Admission {
        match &self.admit {
            Some(admitted) if !admitted.hold(peer()) => Admission::Denied,
            Some(_) | None => Admission::Admitted,
        }
    }

    /// Staging's conditions: none where the rollout is not in staging.
    pub(crate) fn staging(&self) -> &[Condition] {
        self.staging.as_deref().unwrap_or_default()
    }

    /// A condition by its number in receipts: the match's, then staging's.
    pub(crate) fn condition(&self, index: usize) -> Option<&Condition> {
        self.conditions.iter().chain(self.staging()).nth(index)
    }

    /// Whether a decision may ask for the caller.
    pub(crate) fn reads_peer(&self) -> bool {
        let mut conditions = self.conditions.iter().chain(self.staging());
        conditions.any(Condition::reads_peer) || self.routing_reads_peer(None)
    }

    /// Whether routing a request that had its key in this place of the chain, or none, asks for the caller.
    pub(crate) fn routing_reads_peer(&self, key: Option<u32>) -> bool {
        let read = key.map_or(self.keys.len(), |key| (key as usize).saturating_add(1));
        self.admit.is_some() || self.keys.iter().take(read).any(|key| *key == Key::PeerSpiffeId)
    }

    /// Whether every request for a host and path of both that satisfies this rule's conditions satisfies `other`'s.
    pub(crate) fn implies_conditions_of(&self, other: &Self) -> bool {
        let same_keys = self.keys == other.keys;
        other.conditions.iter().all(|theirs| {
            (same_keys || !theirs.is_by_key()) && self.conditions.iter().any(|ours| ours.implies(theirs))
        })
    }
}

impl RolloutRule {
    /// Refuses a rule that makes no sense whatever other rules there are: a form that is wrong, a bound that is met,
    /// a match that no request can satisfy. What two rules do to each other is seen by [`crate::Policy::compile`].
    pub fn check(&self) -> Result<(), PolicyError> {
        Compiled::of(self).map(drop)
    }

    /// Whether the rollout is in staging and that picks a request which the rule routes. `variant` is asked for the variant of
    /// a flag, if it gives one. An error where [`Self::check`] has one.
    pub fn picks<'v>(
        &self,
        facts: &impl Facts,
        variant: impl Fn(&str) -> Option<&'v str>,
    ) -> Result<bool, PolicyError> {
        let compiled = Compiled::of(self)?;
        let holds = |condition: &Condition| condition.holds(facts, &variant);
        Ok(compiled
            .staging
            .is_some_and(|conditions| conditions.iter().all(holds)))
    }

    /// Whether this rule, if it routes a request, admits it; by the caller alone. An error where [`Self::check`] has one.
    pub fn admission(&self, peer: Option<SpiffeId<'_>>) -> Result<Admission, PolicyError> {
        Ok(Compiled::of(self)?.admission(|| peer))
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

/// Refuses a rule that nobody could pass.
fn parse_admit(admit: Option<&AdmitSpec>, conditions: &[Condition]) -> Result<Option<Peers>, FieldError> {
    const FIELD: &str = "admit.peers";
    let Some(admit) = admit else { return Ok(None) };
    let refuse = |reason| Err(FieldError::new(FIELD, Fault::NeverMatches, reason));
    let Some(peers) = Peers::parse(FIELD, &admit.peers)? else {
        return refuse("no caller, so every request would be denied: name some, or leave admit out");
    };
    let matched = conditions.iter().find_map(|condition| match condition {
        Condition::Peers(matched) => Some(matched),
        Condition::Methods(_) | Condition::Header { .. } | Condition::Flag { .. } => None,
    });
    if matched.is_some_and(|matched| !matched.meet(&peers)) {
        return refuse(
            "no caller that match.peers has, so every request would be denied: change one of the two",
        );
    }
    Ok(Some(peers))
}

fn check_outcomes(outcomes: &[OutcomeSpec]) -> Result<(), FieldError> {
    within("outcomes", outcomes.len(), MAX_OUTCOMES, "outcomes")?;
    for (i, outcome) in outcomes.iter().enumerate() {
        name::parse_header(&format!("outcomes[{i}].header"), &outcome.header)?;
        let field = format!("outcomes[{i}].good");
        within(&field, outcome.good.len(), MAX_GOOD_OUTCOMES, "values")?;
        if outcome.good.is_empty() {
            let reason = "no value is good, so every response would be bad: write some, as in [ok]";
            return Err(FieldError::new(field, Fault::NeverMatches, reason));
        }
        for (k, value) in outcome.good.iter().enumerate() {
            let field = format!("{field}[{k}]");
            within(&field, value.len(), MAX_HEADER_VALUE_BYTES, "bytes")?;
            if value.is_empty() || value.trim() != value || value.chars().any(char::is_control) {
                let reason = format!(
                    "{} is no header's value: write visible text, as in ok",
                    quoted(value)
                );
                return Err(FieldError::new(field, Fault::NeverMatches, reason));
            }
        }
    }
    Ok(())
}

fn check_flags(flags: &[String]) -> Result<(), FieldError> {
    within("flags", flags.len(), MAX_FLAGS_OF_ROLLOUT, "flags")?;
    for (i, flag) in flags.iter().enumerate() {
        if flags.iter().take(i).any(|earlier| earlier == flag) {
            let reason = format!("{} is there twice: keep one", quoted(flag));
            return Err(FieldError::new(format!("flags[{i}]"), Fault::Duplicate, reason));
        }
    }
    Ok(())
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
