//! Feature flags in a decision: which ones a policy has, and what they give for a request.

mod context;
pub(crate) mod header;
mod needs;

use std::borrow::Cow;
use std::collections::BTreeMap;

use knhk_flags::message::quoted;
use knhk_flags::{Budget, Document, FlagSet, Reason};
use serde::{Deserialize, Serialize};

use crate::decide::{Decision, Verdict};
use crate::document::RolloutRule;
use crate::error::{Fault, FieldError, PolicyError};
use crate::evidence::FlagTruth;
use crate::facts::Facts;
use crate::limits::{FLAG_COST, MAX_FLAGS_COST, MAX_FLAGS_HEADER_BYTES};
use crate::rule::{Compiled, Key};

use self::context::Gathered;
use self::needs::Needs;

/// The flags of a policy, ready to evaluate.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    set: FlagSet,
    /// What each flag needs of a request.
    needs: BTreeMap<Box<str>, Needs>,
}

/// What a flag gave for a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlagRead<'p> {
    /// The name of the rollout, for whose key it was evaluated.
    pub rollout: &'p str,
    /// The flag's key.
    pub flag: &'p str,
    /// The variant, if it gave one.
    pub variant: Option<&'p str>,
    /// Why.
    pub reason: FlagReason,
}

/// Why a flag gave what it gave: flagd's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FlagReason {
    /// The flag has no rule.
    Static,
    /// The rule chose the variant.
    TargetingMatch,
    /// The rule left it to the default, or there is no default variant.
    Default,
    /// The flag is disabled.
    Disabled,
    /// The rule has no result, or costs more than it may: flagd's `GENERAL`.
    Error,
}

impl FlagReason {
    /// flagd's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Static => Reason::Static.as_str(),
            Self::TargetingMatch => Reason::TargetingMatch.as_str(),
            Self::Default => Reason::Default.as_str(),
            Self::Disabled => Reason::Disabled.as_str(),
            Self::Error => knhk_flags::EvaluationError::REASON,
        }
    }

    fn of(reason: Reason) -> Self {
        match reason {
            Reason::Static => Self::Static,
            Reason::TargetingMatch => Self::TargetingMatch,
            Reason::Default => Self::Default,
            Reason::Disabled => Self::Disabled,
        }
    }
}

impl From<&FlagRead<'_>> for FlagTruth {
    fn from(read: &FlagRead<'_>) -> Self {
        Self {
            rollout: read.rollout.to_owned(),
            flag: read.flag.to_owned(),
            variant: read.variant.map(str::to_owned),
            reason: read.reason,
        }
    }
}

impl Flags {
    pub(crate) fn parse(document: Option<&Document>) -> Result<Self, PolicyError> {
        let Some(document) = document else {
            return Ok(Self::default());
        };
        let set = FlagSet::compile(document).map_err(PolicyError::Flags)?;
        let needs = set
            .keys()
            .filter_map(|(key, _)| Some((key.into(), Needs::of(set.reads(key)?))));
        Ok(Self {
            needs: needs.collect(),
            set,
        })
    }

    /// Refuses a rollout that asks for what is not there, or for what no request has.
    pub(crate) fn check(&self, rule: &RolloutRule) -> Result<(), FieldError> {
        let staging = rule.staging.iter().flat_map(|staging| &staging.r#match.flags);
        let gates = rule.r#match.flags.iter().map(|gate| ("match", gate));
        for (of, (key, variant)) in gates.chain(staging.map(|gate| ("staging.match", gate))) {
            let field = format!("{of}.flags.{}", plain(key));
            let variants = self.variants(&field, key)?;
            if !variants.contains(&variant.as_str()) {
                let known: Vec<_> = variants.into_iter().map(quoted).collect();
                let reason = format!(
                    "{} is no variant of flag {}: write one of {}",
                    quoted(variant),
                    quoted(key),
                    known.join(", ")
                );
                return Err(FieldError::new(field, Fault::Dangling, reason));
            }
            self.check_needs(&field, key)?;
        }
        let mut longest = 0;
        for (i, key) in rule.flags.iter().enumerate() {
            let field = format!("flags[{i}]");
            longest += header::longest(key, self.variants(&field, key)?.into_iter());
            self.check_needs(&field, key)?;
        }
        if longest > MAX_FLAGS_HEADER_BYTES {
            let reason = format!(
                "x-knhk-flags may come to {longest} bytes, above the bound of {MAX_FLAGS_HEADER_BYTES}: tell the upstream of fewer \
                 flags, or give their variants shorter names"
            );
            return Err(FieldError::new("flags", Fault::AboveBound, reason));
        }
        Ok(())
    }

    fn variants(&self, field: &str, key: &str) -> Result<Vec<&str>, FieldError> {
        self.set.variants(key).map(Iterator::collect).ok_or_else(|| {
            let reason = format!(
                "there is no flag {}: define it (knhk flag apply), or take it out of the rollout",
                quoted(key)
            );
            FieldError::new(field, Fault::Dangling, reason)
        })
    }

    /// A flag's rule may look for headers only by names that they can have here.
    fn check_needs(&self, field: &str, key: &str) -> Result<(), FieldError> {
        let reads = self.set.reads(key);
        match reads.and_then(needs::unreadable) {
            None => Ok(()),
            Some(why) => {
                let reason = format!("the rule of flag {} {why}", quoted(key));
                Err(FieldError::new(field, Fault::NeverMatches, reason))
            }
        }
    }

    /// Whether evaluating a flag asks for the caller, leaving aside the rollout's key.
    pub(crate) fn reads_peer(&self, key: &str) -> bool {
        self.needs.get(key).is_some_and(|needs| needs.peer)
    }

    /// Whether evaluating a flag for a rollout may ask for the caller, his being the key included.
    pub(crate) fn may_ask_for_peer(&self, compiled: &Compiled, key: &str) -> bool {
        self.needs.get(key).is_some_and(|needs| {
            needs.peer || (needs.targeting_key && compiled.keys.contains(&Key::PeerSpiffeId))
        })
    }

    /// Whether a flag may give this, by its definition alone.
    pub(crate) fn may_give(&self, key: &str, variant: Option<&str>, reason: FlagReason) -> bool {
        let may = |reason| self.set.may_give(key, variant, reason);
        match reason {
            FlagReason::Static => may(Reason::Static),
            FlagReason::TargetingMatch => may(Reason::TargetingMatch),
            FlagReason::Default => may(Reason::Default),
            FlagReason::Disabled => may(Reason::Disabled),
            // A flag that nothing is left for fails as well, if only a rule could say what it gives.
            FlagReason::Error => variant.is_none() && self.set.may_fail(key),
        }
    }
}

/// A key as it may stand in a field's name.
pub(crate) fn plain(key: &str) -> String {
    let plain = key
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if plain && !key.is_empty() {
        key.to_owned()
    } else {
        quoted(key)
    }
}

/// What one decision has read of the flags. What it asks for again it has already.
pub(crate) struct Reading<'p, 'f, F> {
    flags: &'p Flags,
    facts: &'f F,
    budget: Budget,
    /// With the place of the rollout in the policy.
    read: Vec<(usize, FlagRead<'p>)>,
    /// The request's key for the rollout in this place, of those that flags were read for the last.
    key: Option<(usize, Option<Cow<'f, str>>)>,
    asked_for_peer: bool,
}

impl<'p, 'f, F: Facts> Reading<'p, 'f, F> {
    pub(crate) fn new(flags: &'p Flags, facts: &'f F) -> Self {
        Self {
            flags,
            facts,
            budget: Budget::of(MAX_FLAGS_COST),
            read: Vec::new(),
            key: None,
            asked_for_peer: false,
        }
    }

    /// The variant that a flag gives for a rollout.
    pub(crate) fn variant(
        &mut self,
        index: usize,
        rule: &'p RolloutRule,
        compiled: &'p Compiled,
        flag: &str,
    ) -> Option<&'p str> {
        let known = self
            .read
            .iter()
            .find(|(of, read)| *of == index && read.flag == flag);
        if let Some((_, read)) = known {
            return read.variant;
        }
        let read = self.evaluate(index, rule, compiled, flag)?;
        self.read.push((index, read));
        read.variant
    }

    /// `None` for a flag that the policy does not have, which it was checked for.
    fn evaluate(
        &mut self,
        index: usize,
        rule: &'p RolloutRule,
        compiled: &'p Compiled,
        flag: &str,
    ) -> Option<FlagRead<'p>> {
        let flags = self.flags;
        let (key, needs) = flags.needs.get_key_value(flag)?;
        self.budget.take(FLAG_COST);
        if needs.targeting_key && self.key.as_ref().is_none_or(|(of, _)| *of != index) {
            self.key = Some((index, self.targeting_key(compiled)));
        }
        let targeting_key = self.key.as_ref().filter(|(of, _)| *of == index);
        let targeting_key = targeting_key.and_then(|(_, key)| key.as_deref());
        self.asked_for_peer |= needs.peer;
        let gathered = Gathered::of(needs, self.facts, &mut self.budget);
        let result = flags
            .set
            .evaluate_within(key, &gathered.context(targeting_key), &mut self.budget);
        Some(FlagRead {
            rollout: &rule.name,
            flag: key,
            variant: result.as_ref().ok().and_then(|it| Some(it.chosen?.variant)),
            reason: result.map_or(FlagReason::Error, |it| FlagReason::of(it.reason)),
        })
    }

    /// The first key of the rollout that is present, if it is text.
    fn targeting_key(&mut self, compiled: &Compiled) -> Option<Cow<'f, str>> {
        let facts = self.facts;
        for key in &compiled.keys {
            self.budget.take(context::cost_of_bytes(key.searched(facts)));
            self.asked_for_peer |= *key == Key::PeerSpiffeId;
            if let Some(value) = key.value(facts) {
                self.budget.take(context::cost_of_bytes(value.len()));
                return match value {
                    Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
                    Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
                };
            }
        }
        None
    }

    pub(crate) fn decision(self, verdict: Verdict<'p>) -> Decision<'p> {
        Decision {
            verdict,
            flags: self.read.into_iter().map(|(_, read)| read).collect(),
            flags_asked_for_peer: self.asked_for_peer,
        }
    }
}
