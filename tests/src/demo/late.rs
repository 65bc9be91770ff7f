//! A version that is good as a canary and fails in production: out again, by the watch.

use std::io::Write;
use std::time::Duration;

use super::back::{Back, Rollback};
use super::bad::FAILS;
use super::good::apply;
use super::scene::ALWAYS_FAILS;
use super::timeline::{count, percent};
use super::{DemoError, ROLLOUT, Scene, Timeline, check};
use crate::wait;

const FILE: &str = "tests/demo/shop-v4.yaml";
/// Far more than its pause takes.
const DEADLINE: Duration = Duration::from_secs(60);
/// Requests in production that are seen before it begins to fail.
const GOOD: u64 = 2_000;

pub(super) async fn roll_out(
    scene: &mut Scene,
    timeline: &mut Timeline<impl Write>,
) -> Result<Back, DemoError> {
    scene.canary.fail(ALWAYS_FAILS);
    scene.canary.deploy("v4")?;
    timeline.event("v4 takes the place of v3, where nobody is")?;
    timeline.command(&format!("knhk rollout apply -f {FILE}"))?;
    apply(scene, FILE).await?;
    let step = scene.status().await?;
    timeline.event(&format!("{}: weight {} %", step.stage(), step.weight))?;
    let production = scene
        .rollouts
        .until(ROLLOUT, "production", DEADLINE, |status| {
            status.phase != "Progressing" || status.stage() == "production"
        })
        .await?;
    check(production.phase == "Progressing", || {
        format!("v4 did not come to production: {}", production.shown())
    })?;
    timeline.event(&format!("production: weight {} %, watched", production.weight))?;
    wait::until("traffic in production", wait::SOON, || {
        let seen = scene.load.peek(|tally| tally.under(&production.policy).requests);
        async move {
            if seen >= GOOD {
                Ok(())
            } else {
                Err(format!("{seen} answers"))
            }
        }
    })
    .await?;
    let good = scene.take().version_under(&production.policy, "v4");
    timeline.detail(&format!(
        "v4 served {} requests in production and failed {}",
        count(good.requests),
        percent(good.failed_share())
    ))?;

    scene.canary.fail(FAILS);
    timeline.event(
        "now v4 begins to fail 30 % of its requests, and no stable runs beside it to be compared with",
    )?;
    let rollback = Rollback::of("v4", production.weight, scene, timeline).await?;
    rollback.ended(scene, timeline).await?;
    rollback.seen()
}
