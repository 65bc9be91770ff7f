//! Stages: which there are, in which order, and what each of them may have.

use super::at_most;
use crate::spec::document::{SkipAnalysisDoc, StageDoc, StepDoc};
use crate::spec::{
    Approval, DEFAULT_PAUSE, MAX_APPROVER_BYTES, MAX_APPROVERS, MAX_PAUSE, MAX_REASON_BYTES, MAX_STEPS, Span,
    SpecError, Stage, Step,
};
use knhk_decision::spec::Weight;

/// At least one; each kind once; production last, and not first.
pub(super) fn stages(written: &[StageDoc]) -> Result<Vec<Stage>, SpecError> {
    let mut stages: Vec<Stage> = Vec::new();
    for (i, stage) in written.iter().enumerate() {
        let path = format!("spec.stages[{i}]");
        in_order(&path, &stage.name, &stages)?;
        let approval = approval(&path, stage, &stages)?;
        stages.push(match stage.name.as_str() {
            "canary" => canary(&path, stage, approval)?,
            "staging" => staging(&path, stage, approval, kept(&stages))?,
            "production" => production(&path, stage, approval)?,
            other => {
                return Err(SpecError::field(
                    format!("{path}.name"),
                    format!("{other:?} is no stage"),
                    "write canary, staging or production",
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

fn in_order(path: &str, name: &str, before: &[Stage]) -> Result<(), SpecError> {
    let refuse =
        |problem: String, remedy: &str| Err(SpecError::field(format!("{path}.name"), problem, remedy));
    if before.iter().any(|stage| stage.name() == name) {
        let remedy = match name {
            "canary" => "write one, with all its steps",
            "staging" => "write one, with all its conditions",
            _ => "write one, as the last stage",
        };
        return refuse(format!("there are two {name} stages"), remedy);
    }
    if matches!(before.last(), Some(Stage::Production { .. })) {
        let problem =
            format!("{name} comes after production, where every request goes to the version already");
        return refuse(problem, "write production as the last stage");
    }
    if name == "production" && before.is_empty() {
        return refuse(
            "production is the first stage, so nobody has watched the version on a part of the requests"
                .to_owned(),
            "put a canary or a staging stage before it",
        );
    }
    Ok(())
}

/// The weight that these stages leave behind: what requests keep that staging does not pick.
fn kept(before: &[Stage]) -> Weight {
    match before.last() {
        Some(Stage::Canary { steps, .. }) => steps.last().map_or(Weight::ZERO, |step| step.weight),
        Some(Stage::Staging { .. } | Stage::Production { .. }) | None => Weight::ZERO,
    }
}

/// Who may let the rollout into a stage.
fn approval(path: &str, stage: &StageDoc, before: &[Stage]) -> Result<Option<Approval>, SpecError> {
    let Some(approval) = &stage.approval else {
        return Ok(None);
    };
    if before.is_empty() {
        return Err(SpecError::field(
            format!("{path}.approval"),
            "the first stage begins with apply, which is an operator's action already",
            "ask for approval on a stage after it",
        ));
    }
    approvers(&format!("{path}.approval.by"), &approval.by)?;
    Ok(Some(approval.clone()))
}

/// Each kind of stage has fields of its own, and none of another's.
fn only(path: &str, stage: &StageDoc, fields: &[&str], remedy: &str) -> Result<(), SpecError> {
    let written = [
        ("steps", stage.steps.is_some()),
        ("match", stage.r#match.is_some()),
        ("pause", stage.pause.is_some()),
        ("deadline", stage.deadline.is_some()),
        ("skipAnalysis", stage.skip_analysis.is_some()),
        ("watch", stage.watch.is_some()),
    ];
    let mut foreign = written
        .iter()
        .filter(|(field, given)| *given && !fields.contains(field));
    foreign.next().map_or(Ok(()), |(field, _)| {
        Err(SpecError::field(
            format!("{path}.{field}"),
            format!("a {} stage has no {field}", stage.name),
            remedy,
        ))
    })
}

fn canary(path: &str, stage: &StageDoc, approval: Option<Approval>) -> Result<Stage, SpecError> {
    only(
        path,
        stage,
        &["steps"],
        "write it in each of its steps, if they have it, or leave it out",
    )?;
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
    for (i, written) in written.iter().enumerate() {
        if let Some(before) = steps.last().filter(|before| written.set_weight <= before.weight) {
            return Err(SpecError::field(
                format!("{path}[{i}].setWeight"),
                format!(
                    "{} does not lie above the step before it, {}",
                    written.set_weight, before.weight
                ),
                "write weights that rise from step to step",
            ));
        }
        let StepDoc {
            set_weight,
            pause,
            deadline,
            skip_analysis,
        } = written;
        steps.push(step(
            &format!("{path}[{i}]"),
            *set_weight,
            *pause,
            *deadline,
            skip_analysis.as_ref(),
        )?);
    }
    if steps.last().is_some_and(|last| last.weight == Weight::ZERO) {
        return Err(SpecError::field(
            format!("{path}[0].setWeight"),
            "it is the only step, and at 0 % nobody sees the canary",
            "add a step above 0, so that the version is watched before it gets every request",
        ));
    }
    Ok(Stage::Canary { steps, approval })
}

/// What is to be found wrong with the match beside the rollout's own is found where the policy's rule is.
fn staging(
    path: &str,
    stage: &StageDoc,
    approval: Option<Approval>,
    kept: Weight,
) -> Result<Stage, SpecError> {
    only(
        path,
        stage,
        &["match", "pause", "deadline", "skipAnalysis"],
        "give it a match and a pause, such as { name: staging, match: { headers: [ { name: x-tester, present: true } ] }, pause: 10m }",
    )?;
    let picked = stage.r#match.clone().ok_or_else(|| {
        SpecError::field(
            format!("{path}.match"),
            "it is missing, so nobody knows which requests go to the version",
            "write at least one of headers, peers and flags, such as { headers: [ { name: x-tester, present: true } ] }",
        )
    })?;
    let step = step(
        path,
        kept,
        stage.pause.unwrap_or(DEFAULT_PAUSE),
        stage.deadline,
        stage.skip_analysis.as_ref(),
    )?;
    Ok(Stage::Staging {
        picked,
        step,
        approval,
    })
}

fn production(path: &str, stage: &StageDoc, approval: Option<Approval>) -> Result<Stage, SpecError> {
    only(
        path,
        stage,
        &["watch"],
        "write it in a stage before, if that has it, or leave it out",
    )?;
    let field = format!("{path}.watch");
    let watch = stage.watch.filter(|watch| *watch > Span::ZERO).ok_or_else(|| {
        SpecError::field(
            &field,
            "there is no time to watch",
            "write one such as 15m, or leave the stage out",
        )
    })?;
    at_most(&field, watch, MAX_PAUSE)?;
    Ok(Stage::Production { watch, approval })
}

fn step(
    path: &str,
    weight: Weight,
    pause: Span,
    until: Option<Span>,
    skip: Option<&SkipAnalysisDoc>,
) -> Result<Step, SpecError> {
    at_most(&format!("{path}.pause"), pause, MAX_PAUSE)?;
    deadline(&format!("{path}.deadline"), until, pause)?;
    let skip_analysis = skip.map(|skip| skip.reason.trim().to_owned());
    if let Some(given) = &skip_analysis {
        reason(&format!("{path}.skipAnalysis.reason"), given)?;
    }
    Ok(Step {
        weight,
        pause,
        deadline: until,
        skip_analysis,
    })
}

/// A deadline before the end of a pause would be over before anything is decided.
pub(super) fn deadline(field: &str, deadline: Option<Span>, pause: Span) -> Result<(), SpecError> {
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
