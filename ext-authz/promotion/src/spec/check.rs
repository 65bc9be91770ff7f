//! Document to specification: every value is judged here, once.

mod stages;

use self::stages::{deadline, stages};
use super::document::{AnalysisDoc, Document, SloDoc};
use super::{
    API_VERSION, Analysis, KIND, MAX_ALPHA, MAX_MIN_REQUESTS, MAX_SLO_DURATION, MAX_SLOS, RolloutSpec, Slo,
    Span, SpecError, Stage, Step,
};
use knhk_decision::{PolicyError, RolloutRule, StagingRule};

pub(super) fn check(document: Document) -> Result<RolloutSpec, SpecError> {
    constant("apiVersion", &document.api_version, API_VERSION)?;
    constant("kind", &document.kind, KIND)?;
    let spec = document.spec;
    if spec.version == spec.stable {
        return Err(SpecError::field(
            "spec.version",
            format!("{:?} is also spec.stable", spec.version),
            "name two different versions",
        ));
    }
    let rollout = RolloutSpec {
        name: document.metadata.name,
        version: spec.version,
        stable: spec.stable,
        salt: spec.salt,
        r#match: spec.r#match,
        admit: spec.admit,
        key: spec.key,
        flags: spec.flags,
        record: spec.record,
        stages: stages(&spec.stages)?,
        analysis: analysis(&spec.analysis)?,
        auto_rollback: spec.auto_rollback,
    };
    waits(&rollout)?;
    routing(&rollout)?;
    Ok(rollout)
}

/// The analysis's deadline, seen from every stage that has none of its own.
fn waits(rollout: &RolloutSpec) -> Result<(), SpecError> {
    let least = rollout.stages.iter().flat_map(|stage| match stage {
        Stage::Canary { steps, .. } => own_waits(steps),
        Stage::Staging { step, .. } => own_waits(std::slice::from_ref(step)),
        Stage::Production { watch, .. } => vec![*watch],
    });
    deadline(
        "spec.analysis.deadline",
        rollout.analysis.deadline,
        least.max().unwrap_or(Span::ZERO),
    )
}

/// The pauses of steps that have no deadline of their own.
fn own_waits(steps: &[Step]) -> Vec<Span> {
    let without = steps.iter().filter(|step| step.deadline.is_none());
    without.map(|step| step.pause).collect()
}

fn constant(field: &str, found: &str, expected: &str) -> Result<(), SpecError> {
    if found == expected {
        return Ok(());
    }
    Err(SpecError::field(
        field,
        format!("{found:?} is not known"),
        format!("write {expected}"),
    ))
}

/// Name, versions, salt, matches, admission, key and flags: refused exactly where the policy that they end in would be.
fn routing(rollout: &RolloutSpec) -> Result<(), SpecError> {
    let rule = RolloutRule {
        name: rollout.name.clone(),
        generation: 1,
        window: 1,
        salt: rollout.salt.clone(),
        r#match: rollout.r#match.clone(),
        admit: rollout.admit.clone(),
        staging: rollout.staging().map(|(_, picked)| StagingRule {
            active: false,
            r#match: picked.clone(),
        }),
        key: rollout.key.clone(),
        weight: rollout.first_weight(),
        stable: rollout.stable.clone(),
        canary: rollout.version.clone(),
        flags: rollout.flags.clone(),
        record: rollout.record,
        thresholds: rollout.thresholds(),
        outcomes: rollout.outcomes(),
    };
    rule.check().map_err(|refusal| match refusal {
        PolicyError::Rule { field, reason, .. } => SpecError::Document {
            field: spec_field(rollout, &field),
            problem: reason,
        },
        other => SpecError::Document {
            field: String::new(),
            problem: other.to_string(),
        },
    })
}

/// Where the specification has what the policy's rule calls `field`.
fn spec_field(rollout: &RolloutSpec, field: &str) -> String {
    match field {
        "name" => "metadata.name".to_owned(),
        "canary" => "spec.version".to_owned(),
        field if field.starts_with("thresholds") => "spec.analysis.slos".to_owned(),
        field if field.starts_with("outcomes[") => outcome_field(rollout, field),
        field if field.starts_with("staging") => staging_field(rollout, field),
        field => format!("spec.{field}"),
    }
}

/// `staging.match.headers[0].name` of a rule, in the stage that it comes from.
fn staging_field(rollout: &RolloutSpec, field: &str) -> String {
    let index = rollout.staging().map_or(0, |(index, _)| index);
    format!("spec.stages[{index}]{}", field.trim_start_matches("staging"))
}

/// `outcomes[1].good[0]` of a rule, as the outcome of the SLO that it comes from.
fn outcome_field(rollout: &RolloutSpec, field: &str) -> String {
    let (index, rest) = field
        .trim_start_matches("outcomes[")
        .split_once(']')
        .unwrap_or_default();
    let slos = rollout.analysis.slos.iter().enumerate();
    let mut outcomes = slos.filter(|(_, slo)| matches!(slo, Slo::Outcome { .. }));
    let own = index.parse().ok().and_then(|index| outcomes.nth(index));
    own.map_or_else(
        || "spec.analysis.slos".to_owned(),
        |(slo, _)| format!("spec.analysis.slos[{slo}].outcome{rest}"),
    )
}

fn at_most(field: &str, span: Span, max: Span) -> Result<(), SpecError> {
    if span <= max {
        return Ok(());
    }
    Err(SpecError::field(
        field,
        format!("{span} is too long"),
        format!("write at most {max}"),
    ))
}

fn analysis(written: &AnalysisDoc) -> Result<Analysis, SpecError> {
    if !(1..=MAX_MIN_REQUESTS).contains(&written.min_requests) {
        return Err(SpecError::field(
            "spec.analysis.minRequests",
            format!("{} is out of range", written.min_requests),
            format!("write 1 to {MAX_MIN_REQUESTS}: no data is never good data"),
        ));
    }
    if written.alpha.ppm() == 0 || written.alpha > MAX_ALPHA {
        return Err(SpecError::field(
            "spec.analysis.alpha",
            format!("{} is out of range", written.alpha),
            format!("write a probability above 0 and at most {MAX_ALPHA}, such as 0.01"),
        ));
    }
    if written.slos.is_empty() {
        return Err(SpecError::field(
            "spec.analysis.slos",
            "there is no SLO to judge the canary by",
            "write at least one, such as { metric: request-success-rate, min: 99.5 }",
        ));
    }
    if written.slos.len() > MAX_SLOS {
        return Err(SpecError::field(
            "spec.analysis.slos",
            format!("there are {} SLOs", written.slos.len()),
            format!("write at most {MAX_SLOS}"),
        ));
    }
    let mut slos = Vec::with_capacity(written.slos.len());
    for (i, slo) in written.slos.iter().enumerate() {
        let path = format!("spec.analysis.slos[{i}]");
        let parsed = objective(&path, slo)?;
        if slos.contains(&parsed) {
            return Err(SpecError::field(
                path,
                format!("{parsed} is written twice"),
                "write it once",
            ));
        }
        slos.push(parsed);
    }
    Ok(Analysis {
        min_requests: written.min_requests,
        alpha: written.alpha,
        tolerance: written.tolerance,
        deadline: written.deadline,
        slos,
    })
}

fn objective(path: &str, slo: &SloDoc) -> Result<Slo, SpecError> {
    let misplaced = |field: &str, metric: &str, example: &str| {
        SpecError::field(
            format!("{path}.{field}"),
            format!("{metric} has no {field}"),
            example,
        )
    };
    let missing =
        |field: &str, example: &str| SpecError::field(format!("{path}.{field}"), "it is missing", example);
    // Each metric has fields of its own, and none of another's.
    let only = |fields: &[&str], example: &str| {
        let written = [
            ("min", slo.min.is_some()),
            ("quantile", slo.quantile.is_some()),
            ("max", slo.max.is_some()),
            ("outcome", slo.outcome.is_some()),
        ];
        let foreign = written
            .iter()
            .find(|(field, given)| *given && !fields.contains(field));
        foreign.map_or(Ok(()), |(field, _)| Err(misplaced(field, &slo.metric, example)))
    };
    let at_least = |example: &str| {
        let min = slo.min.ok_or_else(|| missing("min", example))?;
        if min.is_zero() {
            return Err(SpecError::field(
                format!("{path}.min"),
                "0 % is met by every canary",
                "write a percentage above 0 and at most 100",
            ));
        }
        Ok(min)
    };
    match slo.metric.as_str() {
        "request-success-rate" => {
            let example = "write { metric: request-success-rate, min: 99.5 }";
            only(&["min"], example)?;
            Ok(Slo::SuccessRate {
                min: at_least(example)?,
            })
        }
        "request-outcome" => {
            let example =
                "write { metric: request-outcome, outcome: { header: x-result, good: [ok] }, min: 99 }";
            only(&["min", "outcome"], example)?;
            let outcome = slo.outcome.clone().ok_or_else(|| missing("outcome", example))?;
            Ok(Slo::Outcome {
                outcome,
                min: at_least(example)?,
            })
        }
        "request-duration" => {
            let example = "write { metric: request-duration, quantile: 0.99, max: 250ms }";
            only(&["quantile", "max"], example)?;
            let quantile = slo.quantile.ok_or_else(|| missing("quantile", example))?;
            if quantile.ppm() == 0 || quantile.ppm() == 1_000_000 {
                return Err(SpecError::field(
                    format!("{path}.quantile"),
                    format!("{quantile} is out of range"),
                    "write a fraction above 0 and below 1, such as 0.99",
                ));
            }
            let max = slo.max.ok_or_else(|| missing("max", example))?;
            if max == Span::ZERO {
                return Err(SpecError::field(
                    format!("{path}.max"),
                    "no request takes no time",
                    example,
                ));
            }
            at_most(&format!("{path}.max"), max, MAX_SLO_DURATION)?;
            Ok(Slo::Duration { quantile, max })
        }
        other => Err(SpecError::field(
            format!("{path}.metric"),
            format!("{other:?} is no metric"),
            "write request-success-rate, request-duration or request-outcome",
        )),
    }
}
