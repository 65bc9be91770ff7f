//! A bad version: out again in a moment.

use std::io::Write;
use std::time::Duration;

use tokio::time::Instant;

use super::back::{Back, Rollback};
use super::good::apply;
use super::timeline::{count, percent};
use super::{DemoError, ROLLOUT, Scene, Timeline, check};
use crate::wait;

const FILE: &str = "tests/demo/shop-v3.yaml";
/// The share of its requests that the bad version fails.
pub(super) const FAILS: f64 = 0.3;
/// How long after the first failure the last request may go to the bad version. It takes about a second; more than this
/// is not what is promised.
const PROMISED: Duration = Duration::from_secs(3);
pub(super) async fn roll_out(
    scene: &mut Scene,
    timeline: &mut Timeline<impl Write>,
) -> Result<Back, DemoError> {
    scene.stable.deploy("v2")?;
    timeline.event("the platform runs v2 as stable too")?;
    timeline.command(&format!("knhk rollout apply -f {FILE}"))?;
    apply(scene, FILE).await?;
    let step = scene.status().await?;
    check(step.weight == 0.0, || {
        format!(
            "the bad version's rollout should start at 0 %, not {} %",
            step.weight
        )
    })?;
    timeline.event("weight 0 %: everyone is on stable v2, so v3 can take the canary's place")?;
    scene.canary.deploy("v3")?;
    scene.canary.fail(FAILS);

    let step = scene
        .rollouts
        .until(ROLLOUT, "the first step", wait::SOON, |status| {
            status.weight > 0.0
        })
        .await?;
    timeline.event(&format!("weight {} %", step.weight))?;
    let rollback = Rollback::of("v3", step.weight, scene, timeline).await?;
    let (back, first) = (rollback.seen()?, rollback.first_failure()?);
    let since = |moment: Instant| moment.saturating_duration_since(first).as_secs_f64();
    timeline.detail(&format!(
        "after the first failure of v3: last request to v3 {:.2} s, rolled back {:.2} s, on every worker {:.2} s",
        back.after.as_secs_f64(),
        since(rollback.decided),
        since(rollback.everywhere)
    ))?;
    timeline.detail(&format!(
        "v3 served {} requests in all and failed {} of them ({})",
        count(back.served.requests),
        count(back.served.failed),
        percent(back.served.failed_share())
    ))?;
    check(back.after <= PROMISED, || {
        format!(
            "v3 still got requests {:?} after its first failure, more than {PROMISED:?}",
            back.after
        )
    })?;
    rollback.ended(scene, timeline).await?;
    Ok(back)
}
