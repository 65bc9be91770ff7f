//! Every refusal is one line that names rollout, field, reason and what would be right.

mod bounds;
mod documents;
mod flags;
mod forms;
mod staging;

use knhk_decision::{Policy, PolicyError, RolloutRule};

use crate::support::doc;

fn refused(rollouts: Vec<RolloutRule>) -> PolicyError {
    let error = Policy::compile(doc(rollouts)).expect_err("a refusal");
    let line = error.to_string();
    assert!(line.len() < 700 && !line.contains('\n'), "{line}");
    error
}

/// What `check` alone says about a rule whose fault is its own.
fn own_fault(rule: &RolloutRule) -> (String, &'static str) {
    let error = rule.check().expect_err("a refusal");
    assert_eq!(refused(vec![rule.clone()]), error);
    (error.to_string(), error.label())
}
