//! Document to specification: every value is judged here, once.

use super::document::{AnalysisDoc, Document, SloDoc, StageDoc};
use super::{
    API_VERSION, Analysis, KIND, MAX_ALPHA, MAX_APPROVER_BYTES, MAX_APPROVERS, MAX_MIN_REQUESTS, MAX_PAUSE,
    MAX_REASON_BYTES, MAX_SLO_DURATION, MAX_SLOS, MAX_STEPS, RolloutSpec, Slo, Span, SpecError, Stage, Step,
};
use knhk_decision::spec::Weight;
use knhk_decision::{PolicyError, RolloutRule};

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
        Stage::Canary { steps } => steps
            .iter()
            .filter(|step| step.deadline.is_none())
            .map(|step| step.pause)
            .collect(),
        Stage::Production { watch, .. } => vec![*watch],
    });
    deadline(
        "spec.analysis.deadline",
        rollout.analysis.deadline,
        least.max().unwrap_or(Span::ZERO),
    )
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

/// Name, versions, salt, match, admission, key and flags: refused exactly where the policy that they end in would be.
fn routing(rollout: &RolloutSpec) -> Result<(), SpecError> {
    let rule = RolloutRule {
        name: rollout.name.clone(),
        generation: 1,
        window: 1,
        salt: rollout.salt.clone(),
        r#match: rollout.r#match.clone(),
        admit: rollout.admit.clone(),
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
        field => format!("spec.{field}"),
    }
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

fn stages(written: &[StageDoc]) -> Result<Vec<Stage>, SpecError> {
    let mut stages = Vec::new();
    for (i, stage) in written.iter().enumerate() {
        let path = format!("spec.stages[{i}]");
        stages.push(match (stage.name.as_str(), stages.last()) {
            ("canary", None) => canary(&path, stage)?,
            ("production", Some(Stage::Canary { .. })) => production(&path, stage)?,
            ("canary", Some(_)) => {
                return Err(SpecError::field(
                    format!("{path}.name"),
                    "the canary stage does not come first",
                    "write one canary stage, with all its steps, before production",
                ));
            }
            ("production", Some(Stage::Production { .. })) => {
                return Err(SpecError::field(
                    format!("{path}.name"),
                    "there are two production stages",
                    "write one, as the last stage",
                ));
            }
            ("production", None) => {
                return Err(SpecError::field(
                    format!("{path}.name"),
                    "production is the first stage, so nobody has watched the version beside stable",
                    "put a canary stage before it",
                ));
            }
            ("staging", _) => {
                return Err(SpecError::Unsupported {
                    field: path,
                    feature: "a staging stage",
                });
            }
            (other, _) => {
                return Err(SpecError::field(
                    format!("{path}.name"),
                    format!("{other:?} is no stage"),
                    "write canary or production",
                ));
            }
        });
    }
    if stages.is_empty() {
        return Err(SpecError::field(
            "spec.stages",
            "there is no stage",
            "write a canary stage with at least one step",
        ));
    }
    Ok(stages)
}

fn canary(path: &str, stage: &StageDoc) -> Result<Stage, SpecError> {
    if stage.approval.is_some() {
        return Err(SpecError::field(
            format!("{path}.approval"),
            "the first stage begins with apply, which is an operator's action already",
            "ask for approval on a stage after it",
        ));
    }
    if stage.watch.is_some() {
        return Err(SpecError::field(
            format!("{path}.watch"),
            "a canary stage has no watch",
            "give each of its steps a pause",
        ));
    }
    let written = stage.steps.as_deref().unwrap_or_default();
    let path = format!("{path}.steps");
    if written.is_empty() {
        return Err(SpecError::field(
            path,
            "there is no step",
            "write at least one, such as { setWeight: 5, pause: 1m }",
        ));
    }
    if written.len() > MAX_STEPS {
        return Err(SpecError::field(
            path,
            format!("there are {} steps", written.len()),
            format!("write at most {MAX_STEPS}"),
        ));
    }
    let mut steps: Vec<Step> = Vec::with_capacity(written.len());
    for (i, step) in written.iter().enumerate() {
        if let Some(before) = steps.last().filter(|before| step.set_weight <= before.weight) {
            return Err(SpecError::field(
                format!("{path}[{i}].setWeight"),
                format!(
                    "{} does not lie above the step before it, {}",
                    step.set_weight, before.weight
                ),
                "write weights that rise from step to step",
            ));
        }
        at_most(&format!("{path}[{i}].pause"), step.pause, MAX_PAUSE)?;
        deadline(&format!("{path}[{i}].deadline"), step.deadline, step.pause)?;
        let skip_analysis = step
            .skip_analysis
            .as_ref()
            .map(|skip| skip.reason.trim().to_owned());
        if let Some(given) = &skip_analysis {
            reason(&format!("{path}[{i}].skipAnalysis.reason"), given)?;
        }
        steps.push(Step {
            weight: step.set_weight,
            pause: step.pause,
            deadline: step.deadline,
            skip_analysis,
        });
    }
    if steps.last().is_some_and(|last| last.weight == Weight::ZERO) {
        return Err(SpecError::field(
            format!("{path}[0].setWeight"),
            "it is the only step, and at 0 % nobody sees the canary",
            "add a step above 0, so that the version is watched before it gets every request",
        ));
    }
    Ok(Stage::Canary { steps })
}

fn production(path: &str, stage: &StageDoc) -> Result<Stage, SpecError> {
    if stage.steps.is_some() {
        return Err(SpecError::field(
            format!("{path}.steps"),
            "a production stage has no steps",
            "write them in the canary stage",
        ));
    }
    let field = format!("{path}.watch");
    let watch = stage.watch.filter(|watch| *watch > Span::ZERO).ok_or_else(|| {
        SpecError::field(
            &field,
            "there is no time to watch",
            "write one such as 15m, or leave the stage out",
        )
    })?;
    at_most(&field, watch, MAX_PAUSE)?;
    let approval = stage.approval.clone();
    if let Some(approval) = &approval {
        approvers(&format!("{path}.approval.by"), &approval.by)?;
    }
    Ok(Stage::Production { watch, approval })
}

/// A deadline before the end of a pause would be over before anything is decided.
fn deadline(field: &str, deadline: Option<Span>, pause: Span) -> Result<(), SpecError> {
    let Some(deadline) = deadline else { return Ok(()) };
    at_most(field, deadline, MAX_PAUSE)?;
    if deadline > pause {
        return Ok(());
    }
    Err(SpecError::field(
        field,
        format!(
            "{deadline} is not longer than the pause or watch of {pause}, before which nothing is passed"
        ),
        "write a longer one, counted from the beginning of the step",
    ))
}

/// Each is compared with the operator's name as it is.
fn approvers(field: &str, by: &[String]) -> Result<(), SpecError> {
    let example = "write SPIFFE IDs, or the names that `knhk rollout history` shows";
    if by.is_empty() || by.len() > MAX_APPROVERS {
        let problem = format!("{} operators may approve", by.len());
        return Err(SpecError::field(
            field,
            problem,
            format!("name 1 to {MAX_APPROVERS}"),
        ));
    }
    for (i, name) in by.iter().enumerate() {
        let is_name =
            !name.is_empty() && name.len() <= MAX_APPROVER_BYTES && !name.chars().any(char::is_control);
        if !is_name {
            return Err(SpecError::field(
                format!("{field}[{i}]"),
                format!("it is no name of 1 to {MAX_APPROVER_BYTES} bytes in one line"),
                example,
            ));
        }
        if by.iter().take(i).any(|earlier| earlier == name) {
            return Err(SpecError::field(
                format!("{field}[{i}]"),
                format!("{name} is there twice"),
                "keep one",
            ));
        }
    }
    Ok(())
}

/// What somebody wrote down for those who read the receipts.
fn reason(field: &str, reason: &str) -> Result<(), SpecError> {
    let problem = if reason.is_empty() {
        "there is no reason"
    } else if reason.len() > MAX_REASON_BYTES {
        "it is too long"
    } else if reason.chars().any(char::is_control) {
        "it is not one line"
    } else {
        return Ok(());
    };
    let remedy = format!("write why, in one line of at most {MAX_REASON_BYTES} bytes");
    Err(SpecError::field(field, problem, remedy))
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
