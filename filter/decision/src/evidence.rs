//! What a receipt keeps of a decision, so that it can be decided again without the request.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::decide::{Admission, Decision, Variant};
use crate::facts::Facts;
use crate::flags::FlagReason;
use crate::limits::MAX_METHOD_BYTES;
use crate::peer::SpiffeId;
use crate::policy::Policy;
use crate::rule::{Compiled, Condition, Host, PathPattern, without_query};

/// What was found out about a request on the way to its verdict. With the policy it is enough to decide again, see
/// [`crate::replay`]. Of the request itself it has no more than is named here: no key, no header, no readable path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// The method; what is not visible ASCII is a `?`. One that is too long for any condition is cut off there.
    pub method: String,
    /// Lower case, without the port; what is not visible ASCII is a `?`. Empty if it is too long to be a host.
    pub host: String,
    /// SHA-256 of the path without its query.
    #[serde(serialize_with = "as_hex")]
    pub path_sha256: [u8; 32],
    /// The caller's SPIFFE ID, if there is one and a condition, the admission, a key or a flag asked for it.
    pub subject: Option<String>,
    /// The path patterns, among those of rollouts for this host, that the path satisfies: `/api` for the prefix,
    /// `=/api` for the exact path. Sorted; patterns that every path satisfies are left out.
    pub paths: Vec<String>,
    /// The truth of every other condition that was read, in the order of reading.
    pub conditions: Vec<ConditionTruth>,
    /// What each flag gave that a condition or the upstream asked for, in the order of asking. What a flag's rule read is
    /// not kept: the variant stands for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<FlagTruth>,
    /// How the request was routed, or would have been had it been admitted; absent when no rollout matched.
    pub rollout: Option<EvidenceRoute>,
    /// Whether the request went on.
    pub admission: Admission,
}

/// What one flag gave for a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlagTruth {
    /// The name of the rollout, for whose key it was evaluated.
    pub rollout: String,
    /// The flag's key.
    pub flag: String,
    /// The variant, if it gave one.
    pub variant: Option<String>,
    /// Why.
    pub reason: FlagReason,
}

/// Whether one condition of a rollout held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionTruth {
    /// The rollout's name.
    pub rollout: String,
    /// Which of its conditions, from 0: the list of methods first if it has one, then its headers, then
    /// the list of callers, then its flags by their keys; then staging's in the same order.
    pub index: u32,
    /// Whether it held.
    pub holds: bool,
}

/// How a rollout routed the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceRoute {
    /// The rollout's name.
    pub name: String,
    /// Its generation.
    pub generation: u64,
    /// 0 to 999,999; absent when the request had none of the rollout's keys.
    pub bucket: Option<u32>,
    /// Which of the rollout's keys was used, from 0.
    pub key: Option<u32>,
    /// Which version was to serve.
    pub variant: Variant,
}

/// The evidence of what [`crate::decide`] decided by this policy on these facts.
pub fn evidence(policy: &Policy, facts: &impl Facts, decision: &Decision<'_>) -> Evidence {
    let host = Host::of(facts.authority());
    let path = without_query(facts.path());
    let mut seen = Seen::default();
    policy.index().find(host.as_bytes(), path, &mut |index| {
        let (rule, compiled) = policy.rule(index)?;
        seen.look(&rule.name, compiled, facts, decision);
        // On to the end, for the paths.
        None::<()>
    });
    let routed = decision.routed();
    let reads_peer = seen.reads_peer
        || decision.flags_asked_for_peer
        || routed
            .and_then(|routed| Some(policy.rule(routed.index)?.1.routing_reads_peer(routed.key)))
            .unwrap_or(false);
    let subject = if reads_peer { facts.peer_spiffe_id() } else { None };
    Evidence {
        method: visible(facts.method().iter().take(MAX_METHOD_BYTES + 1)),
        host: visible(host.as_bytes()),
        path_sha256: Sha256::digest(path).into(),
        subject: subject.map(SpiffeId::as_str).map(str::to_owned),
        paths: seen.paths.into_iter().collect(),
        conditions: seen.conditions,
        flags: decision.flags.iter().map(FlagTruth::from).collect(),
        rollout: routed.map(|routed| EvidenceRoute {
            name: routed.rule.name.clone(),
            generation: routed.rule.generation,
            bucket: routed.bucket,
            key: routed.key,
            variant: routed.variant,
        }),
        admission: decision.admission(),
    }
}

/// What is seen of the rules on the way through them, in order of precedence.
#[derive(Default)]
struct Seen {
    paths: BTreeSet<String>,
    conditions: Vec<ConditionTruth>,
    /// Whether one of the conditions asked for the caller.
    reads_peer: bool,
    found: bool,
}

impl Seen {
    fn look(&mut self, rollout: &str, compiled: &Compiled, facts: &impl Facts, decision: &Decision<'_>) {
        if compiled.path != PathPattern::Any {
            self.paths.insert(compiled.path.to_string());
        }
        // A rule with several hosts may come by again.
        if self.found || self.conditions.iter().any(|seen| seen.rollout == rollout) {
            return;
        }
        let of_match = compiled.conditions.iter();
        self.found = self.hold(rollout, of_match, facts, decision);
        if self.found {
            self.hold(rollout, compiled.staging().iter(), facts, decision);
        }
    }

    /// Reads conditions as the decision reads them: up to the first that does not hold. Those of a rollout are numbered on.
    fn hold<'c>(
        &mut self,
        rollout: &str,
        mut conditions: impl Iterator<Item = &'c Condition>,
        facts: &impl Facts,
        decision: &Decision<'_>,
    ) -> bool {
        let read = self.conditions.iter().filter(|seen| seen.rollout == rollout);
        let mut index = read.map(|seen| seen.index + 1).max().unwrap_or(0);
        conditions.all(|condition| {
            let holds = condition.holds(facts, |flag| decision.variant(rollout, flag));
            self.reads_peer |= condition.reads_peer();
            self.conditions.push(ConditionTruth {
                rollout: rollout.to_owned(),
                index,
                holds,
            });
            index += 1;
            holds
        })
    }
}

/// No method and no host of a pattern has a `?`, so what was false stays false.
fn visible<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> String {
    bytes
        .into_iter()
        .map(|&b| if b.is_ascii_graphic() { char::from(b) } else { '?' })
        .collect()
}

fn as_hex<S: Serializer>(digest: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Hex(digest))
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
