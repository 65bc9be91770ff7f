//! Conditions of a staging stage: which of a rollout's requests go to the version whatever their key.

use crate::error::{Fault, FieldError};
use crate::flags::plain;
use crate::rule::condition::{Condition, parse_flags, parse_headers};
use crate::rule::peer::Peers;
use crate::spec::StagingSpec;

/// The conditions in the order of a match: headers, then callers, then flags. At least one.
///
/// Refuses what no request of the rollout can have, and what each of them has: `matched` are the conditions that they all
/// satisfy, `admitted` the callers that get through.
pub(super) fn parse(
    spec: &StagingSpec,
    matched: &[Condition],
    admitted: Option<&Peers>,
) -> Result<Box<[Condition]>, FieldError> {
    let mut conditions = Vec::with_capacity(1 + spec.headers.len());
    parse_headers("staging.match.headers", &spec.headers, &mut conditions)?;
    conditions.extend(Peers::parse("staging.match.peers", &spec.peers)?.map(Condition::Peers));
    parse_flags("staging.match.flags", &spec.flags, &mut conditions)?;
    if conditions.is_empty() {
        let reason = "no condition, so staging would pick every request: write at least one of headers, peers and flags";
        return Err(FieldError::new("staging.match", Fault::BadForm, reason));
    }
    for (i, condition) in conditions.iter().enumerate() {
        let never = |reason: &str| Err(FieldError::new(field(i, condition), Fault::NeverMatches, reason));
        if matched.iter().any(|other| other.contradicts(condition)) {
            return never(
                "contradicts the rollout's own match, so staging would pick no request: change one of the two",
            );
        }
        if matched.iter().any(|other| other.implies(condition)) {
            return never("says nothing that the rollout's own match does not: leave it out");
        }
        if let (Condition::Peers(peers), Some(admitted)) = (condition, admitted)
            && !peers.meet(admitted)
        {
            return never(
                "no caller that admit.peers has, so every request of staging would be denied: change one of the two",
            );
        }
    }
    Ok(conditions.into())
}

/// Where the condition at `index` was written: headers stand first.
fn field(index: usize, condition: &Condition) -> String {
    match condition {
        Condition::Header { .. } => format!("staging.match.headers[{index}]"),
        Condition::Flag { key, .. } => format!("staging.match.flags.{}", plain(key)),
        Condition::Peers(_) | Condition::Methods(_) => "staging.match.peers".to_owned(),
    }
}
