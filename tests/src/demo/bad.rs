//! A bad version: out again in a moment.

use std::io::Write;
use std::time::Duration;

use tokio::time::Instant;

use super::good::apply;
use super::timeline::{count, percent};
use super::{DemoError, ROLLOUT, Scene, Timeline, check};
use crate::load::Tally;
use crate::rollout::Status;
use crate::wait;

const FILE: &str = "tests/demo/shop-v3.yaml";
/// The share of its requests that the bad version fails.
pub(super) const FAILS: f64 = 0.3;
/// How long after the first failure the last request may go to the bad version. It takes about a second; more than this
/// is not what is promised.
const PROMISED: Duration = Duration::from_secs(3);
/// How many requests are watched afterwards: none of them may go to the bad version.
const WATCHED: u64 = 4_000;

/// How it went.
#[derive(Debug)]
pub(super) struct Back {
    /// From the first failed answer of the bad version to the last request that was sent to it.
    pub after: Duration,
    /// Requests that it failed.
    pub failed: u64,
}

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
    let failed = scene
        .rollouts
        .until(ROLLOUT, "the rollback", wait::SOON, |status| {
            status.phase != "Progressing" || status.weight > step.weight
        })
        .await?;
    check(failed.phase == "Failed" && failed.weight == 0.0, || {
        format!("not rolled back: {}", failed.shown())
    })?;
    let decided = Instant::now();
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
    let bad = during.version("v3");
    let first = bad
        .first_failure
        .ok_or_else(|| DemoError::Untrue("v3 never failed".to_owned()))?;
    timeline.event(&format!(
        "Failed ({}), weight 0 %",
        failed.reason.unwrap_or_default()
    ))?;
    timeline.detail(&why(scene).await?)?;

    let after = watch(scene).await?;
    // What was under way when the workers took the snapshot may be answered after it.
    let last = after.version("v3").last_sent.max(bad.last_sent).unwrap_or(first);
    check(last <= everywhere, || {
        "a request went to v3 after every worker had the rollback".to_owned()
    })?;
    let bad = bad.and(after.version("v3"));
    let gone = last.saturating_duration_since(first);
    timeline.detail(&format!(
        "after the first failure of v3: last request to v3 {:.2} s, rolled back {:.2} s, on every worker {:.2} s",
        gone.as_secs_f64(),
        decided.saturating_duration_since(first).as_secs_f64(),
        everywhere.saturating_duration_since(first).as_secs_f64()
    ))?;
    timeline.detail(&format!(
        "v3 served {} requests in all and failed {} of them ({})",
        count(bad.requests),
        count(bad.failed),
        percent(bad.failed_share())
    ))?;
    check(gone <= PROMISED, || {
        format!("v3 still got requests {gone:?} after its first failure, more than {PROMISED:?}")
    })?;
    let now = scene.status().await?;
    let seen = after.under(&now.policy);
    check(after.version_under(&now.policy, "v2") == seen, || {
        "not everyone is on v2 again".to_owned()
    })?;
    timeline.event(&format!(
        "{} requests later: 0 to v3, {} failed",
        count(seen.requests),
        percent(seen.failed_share())
    ))?;
    Ok(Back {
        after: gone,
        failed: bad.failed,
    })
}

/// Traffic after the rollback.
pub(super) async fn watch(scene: &mut Scene) -> Result<Tally, DemoError> {
    wait::until("traffic after the rollback", wait::SOON, || {
        let answered = scene.load.peek(Tally::answered);
        async move {
            if answered >= WATCHED {
                Ok(())
            } else {
                Err(format!("{answered} answers"))
            }
        }
    })
    .await?;
    Ok(scene.take())
}

/// The service's own words.
pub(super) async fn why(scene: &Scene) -> Result<String, DemoError> {
    let history = scene.rollouts.history(ROLLOUT).await?;
    let entry = history
        .iter()
        .rev()
        .find(|entry| entry.what == "rolled_back")
        .ok_or_else(|| DemoError::Untrue("the history has no rollback".to_owned()))?;
    Ok(entry.why.clone())
}
