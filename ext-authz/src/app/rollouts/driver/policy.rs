//! The policy that follows from the rollouts and the flags.
//!
//! An operator's change that leads to a policy with a rule that can never match, or that asks for flags which are not defined, is
//! refused. What other regions apply is not ours to refuse: of two rollouts that want the same requests the first by name has
//! them, here as everywhere, and the other one is left out of the policy until they no longer do. So is one that asks for flags
//! which are not defined, until they are.

use std::sync::Arc;

use knhk_decision::{Fault, PolicyDoc, PolicyError, PolicyId, RolloutRule};
use knhk_flags::Document;
use knhk_promotion::Rollout;

use super::Driver;
use crate::app::rollouts::{CommandError, InUse};
use crate::app::snapshots::Snapshot;

/// A rollout that the policy has no room for.
struct LeftOut {
    rollout: String,
    why: PolicyError,
}

impl LeftOut {
    /// Another rollout has all its requests, whatever the flags.
    fn is_shadowed(&self) -> bool {
        matches!(
            self.why,
            PolicyError::Rule {
                fault: Fault::Shadowed,
                ..
            }
        )
    }
}

impl Driver {
    /// The snapshot that follows when an operator's change makes `name` become `next`.
    pub(super) fn snapshot_with(
        &self,
        name: &str,
        next: Option<&Arc<Rollout>>,
    ) -> Result<Arc<Snapshot>, CommandError> {
        let rules = self.rules(Some(name), next);
        let refused = match self.snapshot(rules.clone(), &self.flags.document) {
            Ok(snapshot) => return Ok(snapshot),
            Err(refused) => refused,
        };
        let in_force = self.parts.snapshots.newest();
        let before = rules.len();
        let rules: Vec<_> = rules
            .into_iter()
            .filter(|rule| rule.name == name || in_force.routes(&rule.name))
            .collect();
        if rules.len() == before {
            return Err(refused.into());
        }
        Ok(self.snapshot(rules, &self.flags.document)?)
    }

    /// The snapshot that follows when another region makes `name` become `next`, and of all rollouts as they are.
    pub(super) fn snapshot_of_all(
        &self,
        name: Option<&str>,
        next: Option<&Arc<Rollout>>,
    ) -> Result<Arc<Snapshot>, PolicyError> {
        let (snapshot, left_out) = self.what_can_be(self.rules(name, next), &self.flags.document)?;
        say_who_is_left_out(&left_out);
        Ok(snapshot)
    }

    /// The snapshot that follows when these flags take the place of those in force. An operator's are refused where a rollout that
    /// is in force asks for what they do not have; another region's may leave it out.
    pub(super) fn snapshot_of_flags(
        &self,
        flags: &Document,
        in_use: InUse,
    ) -> Result<Arc<Snapshot>, PolicyError> {
        let (snapshot, left_out) = self.what_can_be(self.rules(None, None), flags)?;
        let in_force = self.parts.snapshots.newest();
        let loses = |out: &&LeftOut| !out.is_shadowed() && in_force.routes(&out.rollout);
        match (in_use, left_out.iter().find(loses)) {
            (InUse::Stay, Some(lost)) => Err(lost.why.clone()),
            (InUse::Stay, None) | (InUse::MayGo, _) => {
                say_who_is_left_out(&left_out);
                Ok(snapshot)
            }
        }
    }

    /// The snapshot of those of the rules that can be, beside each other and with these flags, and the rollouts that cannot. A rule
    /// that makes no sense by itself is an error.
    fn what_can_be(
        &self,
        mut rules: Vec<RolloutRule>,
        flags: &Document,
    ) -> Result<(Arc<Snapshot>, Vec<LeftOut>), PolicyError> {
        let mut left_out = Vec::new();
        loop {
            let why = match self.snapshot(rules.clone(), flags) {
                Ok(snapshot) => return Ok((snapshot, left_out)),
                Err(why) => why,
            };
            let PolicyError::Rule { rollout, .. } = &why else {
                return Err(why);
            };
            let at = rules
                .iter()
                .position(|rule| format!("{:?}", rule.name) == *rollout);
            let Some(at) = at.filter(|&at| rules[at].check().is_ok()) else {
                return Err(why);
            };
            let rollout = rules.remove(at).name;
            left_out.push(LeftOut { rollout, why });
        }
    }

    /// The rules when `name` becomes `next`, by name.
    fn rules(&self, name: Option<&str>, next: Option<&Arc<Rollout>>) -> Vec<RolloutRule> {
        let others = self
            .rollouts
            .iter()
            .filter(|(other, _)| Some(other.as_str()) != name)
            .map(|(_, rollout)| rollout);
        let mut rules: Vec<_> = others.chain(next).map(|rollout| rollout.rule()).collect();
        rules.sort_by(|one, other| one.name.cmp(&other.name));
        rules
    }

    fn snapshot(&self, rules: Vec<RolloutRule>, flags: &Document) -> Result<Arc<Snapshot>, PolicyError> {
        let document = PolicyDoc::new(self.next_id(), rules).with_flags(flags);
        Ok(Arc::new(Snapshot::parse(document.to_bytes())?))
    }

    pub(super) fn next_id(&self) -> PolicyId {
        PolicyId {
            epoch: self.newest.epoch,
            n: self.newest.n.saturating_add(1),
        }
    }
}

fn say_who_is_left_out(left_out: &[LeftOut]) {
    for LeftOut { why, .. } in left_out {
        tracing::error!(%why, "a rollout is left out of the policy");
    }
}
