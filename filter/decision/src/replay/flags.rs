//! What flags gave, as it was recorded.

use knhk_flags::message::quoted;

use super::error::{ReplayError, contradiction};
use super::verdict::ReplayedFlag;
use crate::document::RolloutRule;
use crate::evidence::{Evidence, FlagTruth};
use crate::policy::Policy;

/// Every recorded flag has to be one that its rollout asks for, once, and to have given what it may give.
pub(super) fn check_flags(policy: &Policy, evidence: &Evidence) -> Result<(), ReplayError> {
    for (i, truth) in evidence.flags.iter().enumerate() {
        let FlagTruth { rollout, flag, .. } = truth;
        let rule = policy.all_rules().find(|(rule, _)| rule.name == *rollout);
        if !rule.is_some_and(|(rule, _)| rule.asks_for().any(|key| key == flag)) {
            let what = format!("flag {flag:?} in rollout {rollout:?}");
            return Err(ReplayError::NotInPolicy { what });
        }
        let earlier = evidence.flags.iter().take(i);
        if earlier
            .into_iter()
            .any(|other| (&other.rollout, &other.flag) == (rollout, flag))
        {
            return Err(contradiction(&format!(
                "flag {flag:?} is there twice for rollout {rollout}"
            )));
        }
        let variant = truth.variant.as_deref();
        if !policy.flags().may_give(flag, variant, truth.reason) {
            let what = format!(
                "flag {flag:?} cannot give {} for the reason {}",
                variant.map_or_else(|| "no variant".to_owned(), quoted),
                truth.reason.as_str()
            );
            return Err(contradiction(&what));
        }
    }
    Ok(())
}

/// Nothing is recorded but what is asked for on the way to the verdict and for the upstream.
pub(super) fn check_all_flags_read(read: &[(&str, &str)], evidence: &Evidence) -> Result<(), ReplayError> {
    let recorded = evidence
        .flags
        .iter()
        .map(|it| (it.rollout.as_str(), it.flag.as_str()));
    match recorded.into_iter().find(|flag| !read.contains(flag)) {
        None => Ok(()),
        Some((rollout, flag)) => Err(contradiction(&format!(
            "by the others flag {flag:?} of rollout {rollout} was never asked for"
        ))),
    }
}

/// What a flag gave, which has to be known.
pub(super) fn recorded_flag<'e>(
    rule: &RolloutRule,
    flag: &str,
    evidence: &'e Evidence,
) -> Result<&'e FlagTruth, ReplayError> {
    let mut flags = evidence.flags.iter();
    flags
        .find(|it| it.rollout == rule.name && it.flag == flag)
        .ok_or_else(|| ReplayError::MissingFlag {
            rollout: rule.name.clone(),
            flag: flag.to_owned(),
        })
}

/// What the upstream is told of a flag that it asks for.
pub(super) fn told(
    rule: &RolloutRule,
    flag: &str,
    evidence: &Evidence,
) -> Result<Option<ReplayedFlag>, ReplayError> {
    let recorded = recorded_flag(rule, flag, evidence)?;
    Ok(recorded.variant.clone().map(|variant| ReplayedFlag {
        flag: flag.to_owned(),
        variant,
    }))
}
