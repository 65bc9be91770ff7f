//! Deciding again from evidence.
//!
//! Written apart from the decision on purpose: it goes through all rules and sorts them, where the decision looks them
//! up, so that a fault in one of the two shows.

mod error;
mod flags;
mod verdict;

use std::cmp::Reverse;
use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use crate::bucket::{BUCKETS, bucket};
use crate::decide::{Admission, Variant};
use crate::document::RolloutRule;
use crate::evidence::{Evidence, EvidenceRoute};
use crate::peer::SpiffeId;
use crate::policy::Policy;
use crate::rule::{Compiled, Condition, HostPattern, Key, PathPattern};

pub use error::ReplayError;
use error::contradiction;
use flags::{check_all_flags_read, check_flags, recorded_flag, told};
pub use verdict::{ReplayedFlag, ReplayedRoute, ReplayedVerdict};

/// Decides again: which rollout, generation and variant follow from this evidence under this policy, and whether the
/// caller is admitted. What the evidence says was decided is not used, and what can be checked in it is.
///
/// What a flag gave is taken as it was recorded, since what its rule read is not in the evidence; it has to be something
/// that the flag may give, and every condition on it has to follow from it.
pub fn replay(policy: &Policy, evidence: &Evidence) -> Result<ReplayedVerdict, ReplayError> {
    let subject = subject(evidence)?;
    let mut candidates = candidates(policy, evidence);
    check_paths(&candidates, evidence)?;
    check_conditions(policy, evidence)?;
    check_flags(policy, evidence)?;
    candidates.retain(|candidate| holds(&candidate.compiled.path, evidence));
    candidates.sort_by_key(Candidate::precedence);
    let mut read = Vec::new();
    let mut flags_read = Vec::new();
    let mut winner = None;
    let mut reads_peer = false;
    for Candidate { rule, compiled, .. } in candidates {
        let of_match = (0..).zip(&compiled.conditions);
        let holds = conditions_hold(rule, of_match, evidence, subject, &mut read)?;
        let is_staged = holds && compiled.staging.is_some() && {
            let of_staging = (0..).zip(compiled.conditions.iter().chain(compiled.staging()));
            let of_staging = of_staging.skip(compiled.conditions.len());
            conditions_hold(rule, of_staging, evidence, subject, &mut read)?
        };
        for (_, index) in read.iter().filter(|(name, _)| *name == rule.name) {
            let Some(condition) = compiled.condition(*index as usize) else {
                continue;
            };
            reads_peer |= condition.reads_peer();
            if let Condition::Flag { key, .. } = condition {
                reads_peer |= policy.flags().may_ask_for_peer(compiled, key);
                flags_read.push((rule.name.as_str(), &**key));
            }
        }
        if holds {
            winner = Some((rule, compiled, is_staged));
            break;
        }
    }
    check_all_read(&read, evidence)?;
    let verdict = match winner {
        None => ReplayedVerdict::NoRollout,
        Some((rule, compiled, is_staged)) => {
            let mut route = route(rule, compiled, evidence, subject)?;
            if is_staged {
                route.variant = Variant::Staging;
            }
            let key = evidence.rollout.as_ref().and_then(|recorded| recorded.key);
            reads_peer |= compiled.routing_reads_peer(key);
            match compiled.admission(|| subject) {
                Admission::Admitted => {
                    for flag in &rule.flags {
                        reads_peer |= policy.flags().may_ask_for_peer(compiled, flag);
                        flags_read.push((rule.name.as_str(), flag.as_str()));
                        route.flags.extend(told(rule, flag, evidence)?);
                    }
                    ReplayedVerdict::Routed(route)
                }
                Admission::Denied => ReplayedVerdict::Denied(route),
            }
        }
    };
    check_all_flags_read(&flags_read, evidence)?;
    if subject.is_some() && !reads_peer {
        return Err(contradiction(
            "there is a subject, but nothing asks for the caller",
        ));
    }
    Ok(verdict)
}

/// The caller, who is recorded if and only if he was asked for and has an ID.
fn subject(evidence: &Evidence) -> Result<Option<SpiffeId<'_>>, ReplayError> {
    let Some(text) = &evidence.subject else {
        return Ok(None);
    };
    let id = SpiffeId::parse(text).ok_or_else(|| contradiction("the subject is no workload's SPIFFE ID"))?;
    Ok(Some(id))
}

/// A rule for the request's host.
struct Candidate<'p> {
    rule: &'p RolloutRule,
    compiled: &'p Compiled,
    /// Of the hosts that hold the most specific: exact ones above suffixes, above any host.
    host: (u8, usize),
}

impl<'p> Candidate<'p> {
    fn precedence(&self) -> impl Ord + use<'p> {
        let compiled = self.compiled;
        (
            Reverse((self.host, compiled.path.rank(), compiled.conditions.len())),
            &self.rule.name,
        )
    }
}

fn candidates<'p>(policy: &'p Policy, evidence: &Evidence) -> Vec<Candidate<'p>> {
    let rank = |host: &HostPattern| match host {
        HostPattern::Exact(name) => (2, name.len()),
        HostPattern::Suffix(suffix) => (1, suffix.len()),
    };
    let best = |compiled: &Compiled| match &*compiled.hosts {
        [] => Some((0, 0)),
        hosts => hosts
            .iter()
            .filter(|host| host.holds(evidence.host.as_bytes()))
            .map(rank)
            .max(),
    };
    policy
        .all_rules()
        .filter_map(|(rule, compiled)| {
            Some(Candidate {
                rule,
                compiled,
                host: best(compiled)?,
            })
        })
        .collect()
}

/// An exact path is known by its digest. Of prefixes it has to be recorded.
fn holds(path: &PathPattern, evidence: &Evidence) -> bool {
    match path {
        PathPattern::Any => true,
        PathPattern::Prefix(_) => is_recorded(path, evidence),
        PathPattern::Exact(exact) => {
            <[u8; 32]>::from(Sha256::digest(exact.as_bytes())) == evidence.path_sha256
        }
    }
}

fn is_recorded(path: &PathPattern, evidence: &Evidence) -> bool {
    let text = path.to_string();
    evidence.paths.contains(&text)
}

/// The patterns that hold for one path lie within each other, so the longest that is recorded says of most others
/// whether they hold.
fn check_paths(candidates: &[Candidate<'_>], evidence: &Evidence) -> Result<(), ReplayError> {
    let patterns: BTreeSet<_> = candidates
        .iter()
        .map(|candidate| &candidate.compiled.path)
        .collect();
    let texts: BTreeSet<_> = patterns.iter().map(ToString::to_string).collect();
    if let Some(unknown) = evidence.paths.iter().find(|path| !texts.contains(path.as_str())) {
        return Err(ReplayError::NotInPolicy {
            what: format!("path {unknown:?} for host {:?}", evidence.host),
        });
    }
    let exact = patterns
        .iter()
        .find(|p| matches!(p, PathPattern::Exact(_)) && holds(p, evidence));
    let longest = || {
        patterns
            .iter()
            .filter(|p| is_recorded(p, evidence))
            .max_by_key(|p| p.rank())
    };
    let longest = exact.or_else(longest);
    for pattern in &patterns {
        let says = match (longest, pattern) {
            (_, PathPattern::Any) => continue,
            (_, PathPattern::Exact(_)) => holds(pattern, evidence),
            (Some(PathPattern::Prefix(longest) | PathPattern::Exact(longest)), PathPattern::Prefix(_)) => {
                pattern.holds(longest.as_bytes())
            }
            (Some(PathPattern::Any) | None, PathPattern::Prefix(_)) => false,
        };
        if says != is_recorded(pattern, evidence) {
            let what = format!(
                "by the other paths {pattern} {} hold",
                if says { "has to" } else { "cannot" }
            );
            return Err(ReplayError::Contradiction { what });
        }
    }
    Ok(())
}

/// Every recorded condition has to be one of the policy, and to have one truth.
fn check_conditions(policy: &Policy, evidence: &Evidence) -> Result<(), ReplayError> {
    for (i, truth) in evidence.conditions.iter().enumerate() {
        let rule = policy.all_rules().find(|(rule, _)| rule.name == truth.rollout);
        let condition = rule.and_then(|(_, compiled)| compiled.condition(truth.index as usize));
        if condition.is_none() {
            let what = format!("condition {} of rollout {:?}", truth.index, truth.rollout);
            return Err(ReplayError::NotInPolicy { what });
        }
        let earlier = evidence.conditions.iter().take(i);
        if earlier
            .into_iter()
            .any(|other| (&other.rollout, other.index) == (&truth.rollout, truth.index))
        {
            let what = format!(
                "condition {} of rollout {} is there twice",
                truth.index, truth.rollout
            );
            return Err(ReplayError::Contradiction { what });
        }
    }
    Ok(())
}

/// Nothing is recorded but what is read on the way to the verdict.
fn check_all_read(read: &[(&str, u32)], evidence: &Evidence) -> Result<(), ReplayError> {
    let recorded = evidence
        .conditions
        .iter()
        .map(|truth| (truth.rollout.as_str(), truth.index));
    match recorded.into_iter().find(|truth| !read.contains(truth)) {
        None => Ok(()),
        Some((rollout, index)) => {
            let what = format!("by the others condition {index} of rollout {rollout} was never read");
            Err(ReplayError::Contradiction { what })
        }
    }
}

/// As the decision read them: up to the first that does not hold. A list of methods or of callers is read again.
fn conditions_hold<'p>(
    rule: &'p RolloutRule,
    conditions: impl Iterator<Item = (u32, &'p Condition)>,
    evidence: &Evidence,
    subject: Option<SpiffeId<'_>>,
    read: &mut Vec<(&'p str, u32)>,
) -> Result<bool, ReplayError> {
    for (index, condition) in conditions {
        let truth = evidence
            .conditions
            .iter()
            .find(|truth| truth.rollout == rule.name && truth.index == index);
        let Some(truth) = truth else {
            return Err(ReplayError::MissingCondition {
                rollout: rule.name.clone(),
                index,
            });
        };
        if let Some(holds) = condition.holds_by_record(evidence.method.as_bytes(), subject)
            && holds != truth.holds
        {
            let what = format!(
                "method {:?}, subject {:?} and condition {index} of rollout {}",
                evidence.method, evidence.subject, rule.name
            );
            return Err(ReplayError::Contradiction { what });
        }
        if let Condition::Flag { key, variant } = condition {
            let given = recorded_flag(rule, key, evidence)?.variant.as_deref();
            if (given == Some(&**variant)) != truth.holds {
                let what = format!(
                    "what flag {key:?} gave and condition {index} of rollout {}",
                    rule.name
                );
                return Err(contradiction(&what));
            }
        }
        read.push((&rule.name, index));
        if !truth.holds {
            return Ok(false);
        }
    }
    Ok(true)
}

/// By the weight.
fn route(
    rule: &RolloutRule,
    compiled: &Compiled,
    evidence: &Evidence,
    subject: Option<SpiffeId<'_>>,
) -> Result<ReplayedRoute, ReplayError> {
    let recorded = evidence
        .rollout
        .as_ref()
        .filter(|route| route.name == rule.name)
        .ok_or_else(|| {
            let recorded = evidence.rollout.as_ref().map(|route| route.name.clone());
            ReplayError::MissingBucket {
                rollout: rule.name.clone(),
                recorded,
            }
        })?;
    check_key(rule, compiled, recorded, subject)?;
    Ok(ReplayedRoute {
        name: rule.name.clone(),
        generation: rule.generation,
        bucket: recorded.bucket,
        variant: Variant::by_weight(rule, recorded.bucket),
        flags: Vec::new(),
    })
}

/// The bucket of a subject can be computed again; that of another key has to be taken as it is recorded.
fn check_key(
    rule: &RolloutRule,
    compiled: &Compiled,
    recorded: &EvidenceRoute,
    subject: Option<SpiffeId<'_>>,
) -> Result<(), ReplayError> {
    let contradiction = |what| Err(contradiction(what));
    let peer = compiled.keys.iter().position(|key| *key == Key::PeerSpiffeId);
    let (key, found) = match (recorded.key, recorded.bucket) {
        (None, None) if peer.is_some() && subject.is_some() => {
            return contradiction("no key, but a subject, which is one");
        }
        (None, None) => return Ok(()),
        (Some(key), Some(bucket)) => (key as usize, bucket),
        _ => return contradiction("of key and bucket there is only one"),
    };
    if key >= compiled.keys.len() {
        return Err(ReplayError::NotInPolicy {
            what: format!("key {key} of rollout {:?}", rule.name),
        });
    }
    if found >= BUCKETS {
        return contradiction("the bucket is above 999999");
    }
    match subject {
        None if peer == Some(key) => contradiction("the key is the subject, but there is none"),
        Some(subject) if peer == Some(key) && bucket(rule.salt(), subject.as_str().as_bytes()) != found => {
            contradiction("the bucket is not the subject's")
        }
        Some(_) if peer.is_some_and(|peer| peer < key) => {
            contradiction("there is a subject, but a later key was used")
        }
        _ => Ok(()),
    }
}
