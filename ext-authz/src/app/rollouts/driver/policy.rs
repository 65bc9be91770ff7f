//! The policy that follows from the rollouts.
//!
//! An operator's change that leads to a policy with a rule that can never match is refused. What other regions apply is not ours
//! to refuse: of two rollouts that want the same requests the first by name has them, here as everywhere, and the other one is
//! left out of the policy until they no longer do.

use std::sync::Arc;

use knhk_decision::{Fault, PolicyDoc, PolicyError, PolicyId, RolloutRule};
use knhk_promotion::Rollout;

use super::Driver;
use crate::app::rollouts::CommandError;
use crate::app::snapshots::Snapshot;

impl Driver {
    /// The snapshot that follows when an operator's change makes `name` become `next`.
    pub(super) fn snapshot_with(
        &self,
        name: &str,
        next: Option<&Arc<Rollout>>,
    ) -> Result<Arc<Snapshot>, CommandError> {
        let rules = self.rules(Some(name), next);
        let refused = match self.snapshot(rules.clone()) {
            Ok(snapshot) => return Ok(snapshot),
            Err(refused) => refused,
        };
        let in_force = Arc::clone(&self.parts.snapshots.newest());
        let in_force = in_force.policy.rules();
        let is_in_force = |rule: &RolloutRule| in_force.iter().any(|it| it.name == rule.name);
        let before = rules.len();
        let rules: Vec<_> = rules
            .into_iter()
            .filter(|rule| rule.name == name || is_in_force(rule))
            .collect();
        if rules.len() == before {
            return Err(refused.into());
        }
        Ok(self.snapshot(rules)?)
    }

    /// The snapshot that follows when another region makes `name` become `next`, and of all rollouts as they are.
    pub(super) fn snapshot_of_all(
        &self,
        name: Option<&str>,
        next: Option<&Arc<Rollout>>,
    ) -> Result<Arc<Snapshot>, PolicyError> {
        let mut rules = self.rules(name, next);
        loop {
            let left_out = match self.snapshot(rules.clone()) {
                Err(PolicyError::Rule {
                    rollout,
                    fault: Fault::Shadowed,
                    reason,
                    ..
                }) => (rollout, reason),
                made => return made,
            };
            let (rollout, reason) = left_out;
            let before = rules.len();
            rules.retain(|rule| format!("{:?}", rule.name) != rollout);
            if rules.len() == before {
                return self.snapshot(rules);
            }
            tracing::error!(
                rollout,
                reason,
                "a rollout is left out of the policy: another one, of another region, has its requests"
            );
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

    fn snapshot(&self, rules: Vec<RolloutRule>) -> Result<Arc<Snapshot>, PolicyError> {
        let document = PolicyDoc::new(self.next_id(), rules);
        Ok(Arc::new(Snapshot::parse(document.to_bytes())?))
    }

    pub(super) fn next_id(&self) -> PolicyId {
        PolicyId {
            epoch: self.newest.epoch,
            n: self.newest.n.saturating_add(1),
        }
    }
}
