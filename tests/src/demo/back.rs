//! A version that is taken back: what is waited for, what users saw of it, and the service's own words.

use std::io::Write;
use std::time::Duration;

use tokio::time::Instant;

use super::timeline::{count, percent};
use super::{DemoError, ROLLOUT, Scene, Timeline, check};
use crate::load::{Served, Tally};
use crate::rollout::Status;
use crate::wait;

/// How many requests are watched afterwards: none of them may go to the version.
const WATCHED: u64 = 4_000;

/// How it went.
#[derive(Debug)]
pub(super) struct Back {
    /// From its first failed answer to the last request that was sent to it.
    pub after: Duration,
    /// Its requests and those that it failed.
    pub served: Served,
}

/// A rollback, as operators and users saw it.
#[derive(Debug)]
pub(super) struct Rollback {
    version: &'static str,
    /// When the service showed that it has failed.
    pub decided: Instant,
    /// When every worker had it.
    pub everywhere: Instant,
    during: Tally,
    after: Tally,
}

impl Rollback {
    /// Waits until the version is taken back everywhere, and watches users for a while then. It is not taken back where its weight
    /// rises above `weight` before.
    pub(super) async fn of(
        version: &'static str,
        weight: f64,
        scene: &mut Scene,
        timeline: &mut Timeline<impl Write>,
    ) -> Result<Self, DemoError> {
        let failed = scene
            .rollouts
            .until(ROLLOUT, "the rollback", wait::SOON, |status| {
                status.phase != "Progressing" || status.weight > weight
            })
            .await?;
        check(failed.phase == "Failed" && failed.weight == 0.0, || {
            format!("not rolled back: {}", failed.shown())
        })?;
        let decided = Instant::now();
        let what = "the rollback to be everywhere";
        scene
            .rollouts
            .until(ROLLOUT, what, wait::SOON, Status::everywhere)
            .await?;
        let everywhere = Instant::now();
        let during = scene.take();
        timeline.event(&format!(
            "Failed ({}), weight 0 %",
            failed.reason.unwrap_or_default()
        ))?;
        timeline.detail(&why(scene).await?)?;
        let after = watch(scene).await?;
        Ok(Self {
            version,
            decided,
            everywhere,
            during,
            after,
        })
    }

    /// When the version failed first.
    pub(super) fn first_failure(&self) -> Result<Instant, DemoError> {
        let first = self.during.version(self.version).first_failure;
        first.ok_or_else(|| DemoError::Untrue(format!("{} never failed", self.version)))
    }

    /// What it did to users. None was sent to it once every worker had the rollback.
    pub(super) fn seen(&self) -> Result<Back, DemoError> {
        let (first, bad) = (self.first_failure()?, self.during.version(self.version));
        // What was under way when the workers took the snapshot may be answered after it.
        let late = self.after.version(self.version);
        let last = late.last_sent.max(bad.last_sent).unwrap_or(first);
        check(last <= self.everywhere, || {
            format!(
                "a request went to {} after every worker had the rollback",
                self.version
            )
        })?;
        Ok(Back {
            after: last.saturating_duration_since(first),
            served: bad.and(late),
        })
    }

    /// Everybody is on v2 again.
    pub(super) async fn ended(
        &self,
        scene: &Scene,
        timeline: &mut Timeline<impl Write>,
    ) -> Result<(), DemoError> {
        let now = scene.status().await?;
        let seen = self.after.under(&now.policy);
        check(self.after.version_under(&now.policy, "v2") == seen, || {
            "not everyone is on v2 again".to_owned()
        })?;
        timeline.event(&format!(
            "{} requests later: 0 to {}, {} failed",
            count(seen.requests),
            self.version,
            percent(seen.failed_share())
        ))
    }
}

/// Traffic after the rollback.
async fn watch(scene: &mut Scene) -> Result<Tally, DemoError> {
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
async fn why(scene: &Scene) -> Result<String, DemoError> {
    let history = scene.rollouts.history(ROLLOUT).await?;
    let entry = history
        .iter()
        .rev()
        .find(|entry| entry.what == "rolled_back")
        .ok_or_else(|| DemoError::Untrue("the history has no rollback".to_owned()))?;
    Ok(entry.why.clone())
}
