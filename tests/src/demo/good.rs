//! A good version: 1, 5, 25 %, then the testers, then 100 %, Succeeded.

use std::io::Write;
use std::time::Duration;

use super::timeline::{bar, count, ms, percent};
use super::{DemoError, Scene, Timeline, check};
use crate::load::Tally;
use crate::rollout::Status;
use crate::wait;

const FILE: &str = "tests/demo/shop-v2.yaml";
/// The stages and weights that it must climb, in percent.
const CLIMB: [(&str, f64); 5] = [
    ("canary", 1.0),
    ("canary", 5.0),
    ("canary", 25.0),
    ("staging", 25.0),
    ("production", 100.0),
];
/// Far more than its pauses take together.
const DEADLINE: Duration = Duration::from_secs(60);

pub(super) async fn roll_out(
    scene: &mut Scene,
    timeline: &mut Timeline<impl Write>,
) -> Result<(), DemoError> {
    timeline.command(&format!("knhk rollout apply -f {FILE}"))?;
    apply(scene, FILE).await?;
    let mut climbed = Vec::new();
    loop {
        let step = scene.status().await?;
        climbed.push((step.stage().to_owned(), step.weight));
        let testers = step.picked().map(|_| scene.testers());
        timeline.event(&match step.picked() {
            Some(picked) => format!("{}: {picked}; the others at {} %", step.stage(), step.weight),
            None => format!("{}: weight {} %", step.stage(), step.weight),
        })?;
        scene.take();
        let next = scene
            .rollouts
            .until(super::ROLLOUT, "the next step", DEADLINE, |status| {
                (status.stage(), status.weight.to_bits()) != (step.stage(), step.weight.to_bits())
                    || status.phase != "Progressing"
            })
            .await?;
        report(scene, &step, timeline)?;
        if let Some(testers) = testers {
            let tally = testers.finish().await;
            report_testers(&tally, &step, timeline)?;
            scene.count(&tally);
        }
        if next.phase != "Progressing" {
            check(next.phase == "Succeeded", || {
                format!("the good version did not succeed: {}", next.shown())
            })?;
            let climbed: Vec<_> = climbed
                .iter()
                .map(|(stage, weight)| (stage.as_str(), *weight))
                .collect();
            check(climbed == CLIMB, || {
                format!("it climbed {climbed:?} instead of {CLIMB:?}")
            })?;
            break;
        }
    }
    timeline.event("Succeeded: v2 serves everyone")?;
    let back = scene.load.sticky().moved("v2", "v1");
    check(back == 0, || {
        format!("{back} users went back from v2 to v1 while the weight rose")
    })?;
    timeline.detail("no user went back to v1 on the way")
}

/// Applies a file of the repository with the command line.
pub(super) async fn apply(scene: &Scene, file: &str) -> Result<(), DemoError> {
    let path = crate::artifacts::root().join(file);
    let path = path.to_string_lossy();
    scene.cli.json(&["rollout", "apply", "-f", &*path]).await?;
    scene
        .rollouts
        .until(
            super::ROLLOUT,
            "the snapshot to be everywhere",
            wait::SOON,
            Status::everywhere,
        )
        .await?;
    Ok(())
}

/// What users saw during a step.
fn report(scene: &mut Scene, step: &Status, timeline: &mut Timeline<impl Write>) -> Result<(), DemoError> {
    let tally = scene.take();
    let seen = Scene::check_share(&tally, step)?;
    let new = tally.version_under(&step.policy, &step.version);
    let old = tally.version_under(&step.policy, &step.stable);
    let failed = match old.requests {
        0 => format!("failed {}", percent(new.failed_share())),
        _ => format!(
            "failed {}, {} {}",
            percent(new.failed_share()),
            step.stable,
            percent(old.failed_share())
        ),
    };
    timeline.detail(&format!(
        "{} {} served {:>8} of {} requests; {failed}; p99 {}",
        bar(seen),
        step.version,
        percent(seen),
        count(tally.under(&step.policy).requests),
        ms(tally.latency(0.99))
    ))
}

/// What testers saw during staging: nothing but the version.
fn report_testers(
    tally: &Tally,
    step: &Status,
    timeline: &mut Timeline<impl Write>,
) -> Result<(), DemoError> {
    let all = tally.under(&step.policy);
    let new = tally.version_under(&step.policy, &step.version);
    check(all.requests > 0 && new == all, || {
        format!(
            "of {} requests of testers {} went to {}",
            all.requests, new.requests, step.version
        )
    })?;
    timeline.detail(&format!(
        "{} {} served {:>8} of {} requests of testers; failed {}",
        bar(1.0),
        step.version,
        percent(1.0),
        count(all.requests),
        percent(new.failed_share())
    ))
}
