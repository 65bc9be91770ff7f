//! A version that is good as a canary and fails in production: out again, by the watch.

use std::io::Write;
use std::time::Duration;

use tokio::time::Instant;

use super::bad::{FAILS, watch, why};
use super::good::apply;
use super::scene::ALWAYS_FAILS;
use super::timeline::{count, percent};
use super::{DemoError, ROLLOUT, Scene, Timeline, check};
use crate::load::Tally;
use crate::rollout::Status;
use crate::wait;

const FILE: &str = "tests/demo/shop-v4.yaml";
/// Far more than its pause takes.
const DEADLINE: Duration = Duration::from_secs(60);
/// Requests in production that are seen before it begins to fail.
const GOOD: u64 = 2_000;

/// How it went.
#[derive(Debug)]
pub(super) struct Back {
    /// From the first failed answer in production to the last request that was sent to it.
    pub after: Duration,
    /// Requests that it failed.
    pub failed: u64,
}

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
    let failed = scene
        .rollouts
        .until(ROLLOUT, "the rollback", wait::SOON, |status| {
            status.phase != "Progressing"
        })
        .await?;
    check(failed.phase == "Failed" && failed.weight == 0.0, || {
        format!("not rolled back: {}", failed.shown())
    })?;
    timeline.event(&format!(
        "Failed ({}), weight 0 %",
        failed.reason.as_deref().unwrap_or_default()
    ))?;
    timeline.detail(&why(scene).await?)?;
    scene
        .rollouts
        .until(
            ROLLOUT,
            "the rollback to be everywhere",
            wait::SOON,
            Status::everywhere,
        )
        .await?;
    let everywhere = Instant::now();
    let during = scene.take();
    let after = watch(scene).await?;
    ended(&during, &after, everywhere, scene, timeline).await
}

/// What users saw of it.
async fn ended(
    during: &Tally,
    after: &Tally,
    everywhere: Instant,
    scene: &Scene,
    timeline: &mut Timeline<impl Write>,
) -> Result<Back, DemoError> {
    let bad = during.version("v4");
    let first = bad
        .first_failure
        .ok_or_else(|| DemoError::Untrue("v4 never failed".to_owned()))?;
    // What was under way when the workers took the snapshot may be answered after it.
    let last = after.version("v4").last_sent.max(bad.last_sent).unwrap_or(first);
    check(last <= everywhere, || {
        "a request went to v4 after every worker had the rollback".to_owned()
    })?;
    let now = scene.status().await?;
    let seen = after.under(&now.policy);
    check(after.version_under(&now.policy, "v2") == seen, || {
        "not everyone is on v2 again".to_owned()
    })?;
    timeline.event(&format!(
        "{} requests later: 0 to v4, {} failed",
        count(seen.requests),
        percent(seen.failed_share())
    ))?;
    Ok(Back {
        after: last.saturating_duration_since(first),
        failed: bad.and(after.version("v4")).failed,
    })
}
