//! A good version: 1, 5, 25, 50, 100 %, Succeeded.

use std::io::Write;
use std::time::Duration;

use super::timeline::{bar, count, ms, percent};
use super::{DemoError, Scene, Timeline, check};
use crate::rollout::Status;
use crate::wait;

const FILE: &str = "tests/demo/shop-v2.yaml";
/// The weights that it must climb, in percent.
const CLIMB: [f64; 5] = [1.0, 5.0, 25.0, 50.0, 100.0];
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
        climbed.push(step.weight);
        timeline.event(&format!("weight {} %", step.weight))?;
        scene.take();
        let next = scene
            .rollouts
            .until(super::ROLLOUT, "the next step", DEADLINE, |status| {
                status.weight.to_bits() != step.weight.to_bits() || status.phase != "Progressing"
            })
            .await?;
        report(scene, &step, timeline)?;
        if next.phase != "Progressing" {
            check(next.phase == "Succeeded", || {
                format!("the good version did not succeed: {}", next.shown())
            })?;
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
