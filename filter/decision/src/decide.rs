//! The decision.

use serde::{Deserialize, Serialize};

use crate::bucket::Hashed;
use crate::document::RolloutRule;
use crate::facts::Facts;
use crate::flags::{FlagRead, FlagReason, Reading, header};
use crate::policy::Policy;
use crate::rule::{Compiled, Host, without_query};

/// What was decided about a request, and the flags that were asked for on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<'p> {
    /// Which version serves, and whether the request goes on.
    pub verdict: Verdict<'p>,
    /// Each flag once for each rollout that asked for it, in the order of asking.
    pub flags: Vec<FlagRead<'p>>,
    /// Whether a flag, or the key that it was evaluated for, asked for the caller.
    pub(crate) flags_asked_for_peer: bool,
}

impl<'p> Decision<'p> {
    /// How the request is routed, or would be if it were admitted.
    pub fn routed(&self) -> Option<&Routed<'p>> {
        self.verdict.routed()
    }

    /// Whether the request goes on.
    pub fn admission(&self) -> Admission {
        self.verdict.admission()
    }

    /// The variant that a flag gave for a rollout.
    pub(crate) fn variant(&self, rollout: &str, flag: &str) -> Option<&'p str> {
        let read = self
            .flags
            .iter()
            .find(|read| read.rollout == rollout && read.flag == flag);
        read.and_then(|read| read.variant)
    }

    /// The flags that the upstream is told, with their variants, in the rollout's order; those that give none are left out.
    pub fn told(&self) -> impl Iterator<Item = (&'p str, &'p str)> {
        let rule = match &self.verdict {
            Verdict::Routed(routed) => Some(routed.rule),
            Verdict::NoRollout | Verdict::Denied(_) => None,
        };
        rule.into_iter().flat_map(|rule| {
            rule.flags
                .iter()
                .filter_map(|flag| Some((flag.as_str(), self.variant(&rule.name, flag)?)))
        })
    }

    /// How many of the flags gave nothing because they failed.
    pub fn flags_failed(&self) -> u64 {
        let failed = self.flags.iter().filter(|read| read.reason == FlagReason::Error);
        failed.count() as u64
    }

    /// The value of [`crate::headers::FLAGS`]; `None` where there is nothing to tell.
    pub fn flags_header(&self) -> Option<String> {
        if self.flags.is_empty() {
            return None;
        }
        header::value(self.told())
    }
}

/// Which version serves a request, and whether it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'p> {
    /// No rollout matches: the request goes where its route says.
    NoRollout,
    /// One rollout routes it.
    Routed(Routed<'p>),
    /// The rollout that would route it does not admit its caller: it is answered with
    /// [`crate::headers::PEER_NOT_ALLOWED`], and no version sees it.
    Denied(Routed<'p>),
}

impl<'p> Verdict<'p> {
    /// How the request is routed, or would be if it were admitted.
    pub fn routed(&self) -> Option<&Routed<'p>> {
        match self {
            Self::NoRollout => None,
            Self::Routed(routed) | Self::Denied(routed) => Some(routed),
        }
    }

    /// Whether the request goes on.
    pub fn admission(&self) -> Admission {
        match self {
            Self::NoRollout | Self::Routed(_) => Admission::Admitted,
            Self::Denied(_) => Admission::Denied,
        }
    }
}

/// Whether a request goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Admission {
    /// It goes on to the upstream.
    Admitted,
    /// It is answered in the upstream's place.
    Denied,
}

impl Admission {
    /// `admitted` or `denied`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Denied => "denied",
        }
    }
}

/// How a rollout routes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed<'p> {
    /// The rollout.
    pub rule: &'p RolloutRule,
    /// Its place in [`Policy::rules`].
    pub index: usize,
    /// Which version serves.
    pub variant: Variant,
    /// 0 to 999,999; absent when the request has none of the rollout's keys, and stable serves it unless staging picks it.
    pub bucket: Option<u32>,
    /// Which of the rollout's keys was used, from 0; there if and only if `bucket` is.
    pub key: Option<u32>,
    /// The key's group, below [`crate::GROUPS`]: the low four bits of the hash that its bucket is made of. A key stays in
    /// it while the salt stays, whatever the weight. 0 without a key.
    pub group: u8,
}

/// Which of a rollout's two versions serves, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Variant {
    /// The version that serves now.
    Stable,
    /// The version that is being rolled out, by the key's bucket.
    Canary,
    /// The version that is being rolled out, because the staging stage picks the request, whatever its key.
    Staging,
}

impl Variant {
    /// `stable`, `canary` or `staging`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Canary => "canary",
            Self::Staging => "staging",
        }
    }

    /// The name of the version that serves.
    pub fn version(self, rule: &RolloutRule) -> &str {
        match self {
            Self::Stable => &rule.stable,
            Self::Canary | Self::Staging => &rule.canary,
        }
    }

    /// The variant of a key in `bucket`, or of a request without a key, that staging does not pick.
    pub(crate) fn by_weight(rule: &RolloutRule, bucket: Option<u32>) -> Self {
        if bucket.is_some_and(|bucket| rule.weight.takes(bucket)) {
            Self::Canary
        } else {
            Self::Stable
        }
    }
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Decides a request: the same policy and facts always give the same verdict.
///
/// Of the rollouts whose match holds, the one with the most specific host routes the request: an exact host before a
/// suffix, a longer suffix before a shorter one, any host last. Then the one with the longest path, an exact path
/// before a prefix of that length. Then the one with most conditions, where the list of methods counts as one, each
/// header as one, the list of callers as one and each flag as one. Then the first by name. Whether it admits the caller does not count:
/// whom it does not admit no other rollout takes. Nor does its staging, which is looked at last.
pub fn decide<'p>(policy: &'p Policy, facts: &impl Facts) -> Decision<'p> {
    let host = Host::of(facts.authority());
    let path = without_query(facts.path());
    let mut reading = Reading::new(policy.flags(), facts);
    let found = policy.index().find(host.as_bytes(), path, &mut |index| {
        let (rule, compiled) = policy.rule(index)?;
        compiled
            .conditions
            .iter()
            .all(|condition| condition.holds(facts, |flag| reading.variant(index, rule, compiled, flag)))
            .then_some((index, rule, compiled))
    });
    let Some((index, rule, compiled)) = found else {
        return reading.decision(Verdict::NoRollout);
    };
    let is_staged = compiled.staging.as_ref().is_some_and(|conditions| {
        conditions
            .iter()
            .all(|condition| condition.holds(facts, |flag| reading.variant(index, rule, compiled, flag)))
    });
    let mut routed = route(index, rule, compiled, facts);
    if is_staged {
        routed.variant = Variant::Staging;
    }
    let verdict = match compiled.admission(|| facts.peer_spiffe_id()) {
        Admission::Admitted => Verdict::Routed(routed),
        Admission::Denied => Verdict::Denied(routed),
    };
    if let Verdict::Routed(_) = verdict {
        for flag in &rule.flags {
            reading.variant(index, rule, compiled, flag);
        }
    }
    reading.decision(verdict)
}

/// By the weight: the first key that is present decides.
fn route<'p>(index: usize, rule: &'p RolloutRule, compiled: &Compiled, facts: &impl Facts) -> Routed<'p> {
    let found = (0..)
        .zip(&compiled.keys)
        .find_map(|(i, key)| Some((i, key.hash(rule.salt(), facts)?)));
    let (key, hash) = found.unzip();
    let bucket = hash.map(Hashed::bucket);
    Routed {
        rule,
        index,
        variant: Variant::by_weight(rule, bucket),
        bucket,
        key,
        group: hash.map_or(0, Hashed::group),
    }
}
