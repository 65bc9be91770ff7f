//! The demo: a good version goes through canary, staging and production; a bad one is back at 0 % in a moment; one that fails
//! only when it has everything is taken out of production; and all of them leave receipts.
//!
//! Everything that it prints is measured: the split from the answers that users got, the rest from the service. What it
//! claims it has checked, and it fails when one claim is not true.

mod back;
mod bad;
mod good;
mod late;
mod mutual_tls;
mod proof;
mod regions;
mod scene;
mod timeline;

use std::io::Write;

pub use mutual_tls::Transport;
pub use regions::Regions;
pub use scene::Scene;
pub use timeline::Timeline;

use crate::Error;
use crate::peer::{NotRun, Provider};

/// The rollout of the demo, and its host.
const ROLLOUT: &str = "shop";
const HOST: &str = "shop.example.com";

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// Something could not be started or asked.
    #[error("{0}")]
    Harness(#[from] Error),
    /// The key service or the SPIRE that was asked for is not to be had.
    #[error("{0}")]
    NotRun(#[from] NotRun),
    /// One of the demo's ports is taken.
    #[error(
        "{role} needs 127.0.0.1:{port}, and it is in use: stop what listens there and run the demo again"
    )]
    PortTaken {
        /// Who needs it.
        role: &'static str,
        /// Which.
        port: u16,
    },
    /// A claim of the demo did not come true.
    #[error("not as it should be: {0}")]
    Untrue(String),
    /// Its output could not be written.
    #[error("the timeline cannot be written: {0}")]
    Output(std::io::Error),
}

/// Runs the whole demo and writes the timeline.
/// Receipts are signed by `provider`, whose peer is started for it; `transport` says how the parties talk, and `regions` in how many
/// regions it plays.
pub async fn run(
    provider: Provider,
    transport: Transport,
    regions: Regions,
    out: impl Write,
) -> Result<(), DemoError> {
    scene::check_ports()?;
    let mut timeline = Timeline::new(out);
    timeline.title("KNHK: a canary in front of a real Envoy")?;
    let mut scene = Scene::set(provider, transport, regions).await?;
    scene.introduce(&mut timeline).await?;

    timeline.chapter("A good version: v2")?;
    good::roll_out(&mut scene, &mut timeline).await?;
    let mut kept = proof::keep(&scene, 1).await?;
    mutual_tls::rotated(&scene, &mut timeline).await?;

    regions::lose_one(&mut scene, &mut timeline).await?;

    timeline.chapter("Meanwhile the key that signs the receipts is rotated")?;
    proof::rotate(&scene, &mut timeline).await?;

    timeline.chapter("A bad version: v3 fails 30 % of its requests, and nobody knows")?;
    let back = bad::roll_out(&mut scene, &mut timeline).await?;
    regions::all_rolled_back(&scene, &mut timeline).await?;
    kept.extend(proof::keep(&scene, 2).await?);

    timeline.chapter("A version that fails only when it has everything: v4")?;
    let late = late::roll_out(&mut scene, &mut timeline).await?;
    kept.extend(proof::keep(&scene, 3).await?);
    proof::replay(&scene, &kept, &mut timeline).await?;

    timeline.chapter("Receipts of all three, with everything else switched off")?;
    let key = proof::key(&scene).await?;
    let traffic = scene.end().await?;
    proof::verify(kept, &key, &mut timeline).await?;
    proof::audit(&traffic.data(), &key, &mut timeline).await?;

    timeline.chapter("So")?;
    traffic.sum_up(&back, &late, &mut timeline)
}

/// Fails with `what` unless it is true.
fn check(truth: bool, what: impl FnOnce() -> String) -> Result<(), DemoError> {
    if truth {
        Ok(())
    } else {
        Err(DemoError::Untrue(what()))
    }
}
