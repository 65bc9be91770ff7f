//! From a flag and a context to a variant, with the reason.

use std::borrow::Cow;

use crate::context::{Context, Facts};
use crate::flag::Flag;
use crate::json::Json;
use crate::limits::MAX_COST;
use crate::logic::{Budget, Machine, Rule, Stop, Value, name};
use crate::set::FlagSet;

/// What a flag gives for a context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resolution<'s> {
    /// The variant and its value; `None` where the caller's own default holds.
    pub chosen: Option<Chosen<'s>>,
    /// Why.
    pub reason: Reason,
}

/// A variant, as the flag file has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen<'s> {
    /// Its name.
    pub variant: &'s str,
    /// Its value.
    pub value: &'s Json,
}

/// Why a flag gives what it gives; flagd's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The flag has no rule: always its default variant.
    Static,
    /// The rule chose a variant.
    TargetingMatch,
    /// The rule left it to the default, or there is no default variant.
    Default,
    /// The flag is disabled.
    Disabled,
}

impl Reason {
    /// flagd's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Static => "STATIC",
            Self::TargetingMatch => "TARGETING_MATCH",
            Self::Default => "DEFAULT",
            Self::Disabled => "DISABLED",
        }
    }
}

/// Why a flag gives nothing. flagd's reason is then [`EvaluationError::REASON`]; the caller's own default holds.
///
/// flagd's `PARSE_ERROR` is missing here: a file that would give one is refused when it is read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// There is no such flag.
    #[error("there is no such flag: write the key of one that the file has")]
    FlagNotFound,
    /// The value is not of the type that was asked for.
    #[error("variant {variant:?} has {actual} values, and {asked} was asked for: ask for what the flag has")]
    TypeMismatch {
        /// The variant that was chosen.
        variant: Box<str>,
        /// Which values the flag has.
        actual: &'static str,
        /// Which were asked for.
        asked: &'static str,
    },
    /// The rule gives something that names no variant.
    #[error(
        "the rule gives {given}, which names no variant: let it give the name of one, or null for the default"
    )]
    NoVariant {
        /// What it gives, as it may be shown.
        given: Box<str>,
    },
    /// The rule gives nothing at all.
    #[error("the rule has no result: {0}")]
    Stopped(#[from] Stop),
}

impl EvaluationError {
    /// The reason that flagd gives with every error.
    pub const REASON: &'static str = "ERROR";

    /// flagd's code for it, stable and fit for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::FlagNotFound => "FLAG_NOT_FOUND",
            Self::TypeMismatch { .. } => "TYPE_MISMATCH",
            Self::NoVariant { .. } | Self::Stopped(_) => "GENERAL",
        }
    }
}

/// Which values a caller asks for: one for each of the calls that `OpenFeature` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    /// `true` or `false`.
    Boolean,
    /// A text.
    String,
    /// A number that is written without fraction and exponent.
    Integer,
    /// Any number.
    Float,
    /// A JSON object.
    Object,
}

impl Asked {
    /// Its name, as in messages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Object => "object",
        }
    }

    fn takes(self, value: &Json) -> bool {
        matches!(
            (self, value),
            (Self::Boolean, Json::Bool(_))
                | (Self::String, Json::Text(_))
                | (Self::Integer, Json::Int(_))
                | (Self::Float, Json::Int(_) | Json::Float(_))
                | (Self::Object, Json::Object(_))
        )
    }
}

impl FlagSet {
    /// What the flag gives for this context.
    pub fn evaluate(&self, key: &str, context: &Context<'_>) -> Result<Resolution<'_>, EvaluationError> {
        self.evaluate_within(key, context, &mut Budget::of(MAX_COST))
    }

    /// What the flag gives for this context, at the cost of a budget that others share. An evaluation of its own may cost
    /// no more than it may in [`FlagSet::evaluate`]; where less is left, it ends with `GENERAL` once that is spent.
    pub fn evaluate_within(
        &self,
        key: &str,
        context: &Context<'_>,
        budget: &mut Budget,
    ) -> Result<Resolution<'_>, EvaluationError> {
        let (key, flag) = self.flag(key).ok_or(EvaluationError::FlagNotFound)?;
        if !flag.enabled {
            return Ok(Resolution {
                chosen: None,
                reason: Reason::Disabled,
            });
        }
        match &flag.targeting {
            None => Ok(default(flag, Reason::Static)),
            Some(rule) => targeted(
                flag,
                rule,
                &Facts {
                    flag_key: key,
                    context,
                },
                budget,
            ),
        }
    }

    /// Whether a flag may give this variant, or none, for this reason to some context: what its definition says by itself.
    pub fn may_give(&self, key: &str, variant: Option<&str>, reason: Reason) -> bool {
        let Some((_, flag)) = self.flag(key) else {
            return false;
        };
        let default = flag.default().map(|chosen| chosen.0);
        match reason {
            Reason::Disabled => !flag.enabled && variant.is_none(),
            Reason::Static => {
                flag.enabled && flag.targeting.is_none() && variant.is_some() && variant == default
            }
            Reason::TargetingMatch => {
                flag.enabled
                    && flag.targeting.is_some()
                    && variant.is_some_and(|name| flag.variant(name).is_some())
            }
            // Without a rule the reason is this one only where there is no default either.
            Reason::Default => {
                flag.enabled && variant == default && (flag.targeting.is_some() || default.is_none())
            }
        }
    }

    /// Whether evaluating a flag may end without a result: its definition has a rule, and is not disabled.
    pub fn may_fail(&self, key: &str) -> bool {
        self.flag(key)
            .is_some_and(|(_, flag)| flag.enabled && flag.targeting.is_some())
    }

    /// What the flag gives for this context, if it is a value of that type.
    pub fn evaluate_as(
        &self,
        key: &str,
        asked: Asked,
        context: &Context<'_>,
    ) -> Result<Resolution<'_>, EvaluationError> {
        let resolution = self.evaluate(key, context)?;
        match resolution.chosen {
            Some(chosen) if !asked.takes(chosen.value) => Err(EvaluationError::TypeMismatch {
                variant: chosen.variant.into(),
                actual: self.flag(key).map_or("other", |(_, flag)| flag.kind.label()),
                asked: asked.label(),
            }),
            _ => Ok(resolution),
        }
    }
}

/// The default variant; without one, the caller's own default, whatever would be the reason otherwise.
fn default(flag: &Flag, reason: Reason) -> Resolution<'_> {
    match flag.default() {
        Some(chosen) => resolution(chosen, reason),
        None => Resolution {
            chosen: None,
            reason: Reason::Default,
        },
    }
}

fn targeted<'s>(
    flag: &'s Flag,
    rule: &Rule,
    facts: &Facts<'_>,
    budget: &mut Budget,
) -> Result<Resolution<'s>, EvaluationError> {
    let share = budget.share();
    let mut machine = Machine::new(facts, budget.share());
    let result = machine.result(rule);
    budget.settle(&share, &machine.left());
    let result = result?;
    let named = match &result {
        Value::Null => return Ok(default(flag, Reason::Default)),
        Value::Bool(truth) => Some(Cow::Borrowed(if *truth { "true" } else { "false" })),
        // Python would take a list by the way it writes lists; flagd's schema leaves that open.
        other => name(other),
    };
    named
        .as_deref()
        .and_then(|name| flag.variant(name))
        .map(|chosen| resolution(chosen, Reason::TargetingMatch))
        .ok_or_else(|| EvaluationError::NoVariant {
            given: named
                .as_deref()
                .map_or("a list or an object".into(), crate::message::quoted)
                .into(),
        })
}

fn resolution<'s>((variant, value): (&'s str, &'s Json), reason: Reason) -> Resolution<'s> {
    Resolution {
        chosen: Some(Chosen { variant, value }),
        reason,
    }
}
