//! Three regions: one is killed in the middle and comes back, and a rollback reaches all of them.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::timeline::count;
use super::{DemoError, ROLLOUT, Scene, Timeline, check};
use crate::service::Service;
use crate::{Error, wait};

/// The demo's own region, and the others.
const HERE: &str = "us-east-1";
const PEERS: [&str; 2] = ["eu-west-1", "ap-south-1"];
/// How many regions have to hold a receipt.
const QUORUM: usize = 2;
/// What is written while a region is away before it comes back, in receipts.
const MISSED: u64 = 100;
/// How long a region may take to have what it missed, and a rollback to reach every region. It takes moments.
const SOON: Duration = Duration::from_secs(20);

/// In how many regions the demo plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Regions {
    /// One.
    One,
    /// Three.
    Three,
}

/// What `REGIONS` says.
impl FromStr for Regions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" | "1" => Ok(Self::One),
            "3" => Ok(Self::Three),
            _ => Err(format!("`{text}` is neither 1 nor 3")),
        }
    }
}

/// The other regions.
#[derive(Debug)]
pub(super) struct Peers {
    services: Vec<Service>,
}

/// What the demo reads of `knhk region status`.
#[derive(Debug, Deserialize)]
struct Status {
    signed: u64,
    committed: u64,
    peers: Vec<Peer>,
}

#[derive(Debug, Deserialize)]
struct Peer {
    region: String,
    acknowledged: u64,
    lag_entries: u64,
}

impl Peers {
    /// Starts the other regions, and `here` with them. Each is started alone first: its key has to exist before the others pin it.
    pub(super) async fn start_with(here: &mut Service) -> Result<Self, DemoError> {
        let services: Result<Vec<_>, _> = PEERS.iter().map(|_| Service::stopped()).collect();
        let mut services = services?;
        let mut known = Vec::new();
        let names = [HERE].into_iter().chain(PEERS);
        for (name, service) in names.zip(std::iter::once(&mut *here).chain(&mut services)) {
            service.be_region(name);
            service.up().await?;
            known.push((name, service.addresses().http, log_key(service).await?));
            service.terminate(wait::SOON).await?;
        }
        for (at, service) in std::iter::once(&mut *here).chain(&mut services).enumerate() {
            service.join(section(&known, at));
            service.launch()?;
        }
        for service in std::iter::once(&mut *here).chain(&mut services) {
            service.ready().await?;
        }
        Ok(Self { services })
    }
}

/// The `regions` of one of them.
fn section(known: &[(&str, SocketAddr, Value)], at: usize) -> Value {
    let others = known.iter().enumerate().filter(|(other, _)| *other != at);
    let peers: Vec<_> = others
        .map(|(_, (region, http, key))| json!({ "region": region, "url": format!("http://{http}"), "log_key": key }))
        .collect();
    json!({ "quorum": QUORUM, "peers": peers })
}

async fn log_key(service: &Service) -> Result<Value, DemoError> {
    let set = service.cli()?.json(&["key", "list"]).await?;
    Ok(set["keys"][0]["id"].clone())
}

/// Says who plays beside.
pub(super) fn introduce(scene: &Scene, timeline: &mut Timeline<impl Write>) -> Result<(), DemoError> {
    if scene.peers.is_none() {
        return Ok(());
    }
    timeline.event(&format!(
        "{HERE} and its peers {}: a receipt counts as committed when {QUORUM} of the 3 hold it",
        PEERS.join(" and ")
    ))
}

/// One region is killed under traffic, and comes back.
pub(super) async fn lose_one(
    scene: &mut Scene,
    timeline: &mut Timeline<impl Write>,
) -> Result<(), DemoError> {
    if scene.peers.is_none() {
        return Ok(());
    }
    timeline.chapter("Meanwhile a region dies, and comes back")?;
    let before = settled(scene).await?;
    timeline.event("$ knhk region status")?;
    timeline.detail(&shown(&before))?;
    let lost = PEERS[0];
    if let Some(service) = scene.peers.as_mut().and_then(|peers| peers.services.first_mut()) {
        service.kill();
    }
    timeline.event(&format!("kill -9 {lost}"))?;
    let wanted = before.signed + MISSED;
    let during = until(scene, "receipts that a quorum holds without it", |status| {
        status.committed >= wanted && lag_of(status, lost) >= MISSED
    })
    .await?;
    timeline.detail(&shown(&during))?;
    timeline.detail(&format!(
        "{} receipts since, each committed by the other two",
        count(during.committed.saturating_sub(before.committed))
    ))?;
    let missed = lag_of(&status(scene).await?, lost);
    let back = Instant::now();
    if let Some(service) = scene.peers.as_mut().and_then(|peers| peers.services.first_mut()) {
        service.up().await?;
    }
    timeline.event(&format!("{lost} is started again"))?;
    let after = until(scene, "the region to have caught up", |status| {
        acknowledged_by(status, lost) >= during.signed
    })
    .await?;
    timeline.detail(&format!(
        "it had {} receipts to catch up with, and had them {:.1} s after it was started",
        count(missed),
        back.elapsed().as_secs_f64()
    ))?;
    timeline.detail(&shown(&after))
}

/// The rollback has reached every region.
pub(super) async fn all_rolled_back(
    scene: &Scene,
    timeline: &mut Timeline<impl Write>,
) -> Result<(), DemoError> {
    let Some(peers) = &scene.peers else {
        return Ok(());
    };
    for (name, service) in PEERS.iter().zip(&peers.services) {
        let there = service
            .rollouts()
            .until(ROLLOUT, "the rollback in another region", SOON, |status| {
                status.phase == "Failed"
            })
            .await?;
        check(there.weight == 0.0, || {
            format!("{name} still sends {} % to the bad version", there.weight)
        })?;
    }
    timeline.event(&format!("{} follow: weight 0 % there too", PEERS.join(" and ")))
}

/// Writes the peers' public keys into files, for who verifies their acknowledgements.
pub(super) async fn keys(scene: &Scene, directory: &Path) -> Result<Vec<std::path::PathBuf>, DemoError> {
    let mut files = Vec::new();
    let services = scene.peers.iter().flat_map(|peers| &peers.services);
    for (name, service) in PEERS.iter().zip(services) {
        let keys = service.cli()?.json(&["key", "list"]).await?;
        let file = directory.join(format!("{name}.json"));
        std::fs::write(&file, keys.to_string()).map_err(Error::io("a region's keys"))?;
        files.push(file);
    }
    Ok(files)
}

/// Everything that is signed is committed, for a moment at least.
async fn settled(scene: &Scene) -> Result<Status, DemoError> {
    until(scene, "everything signed to be held by a quorum", |status| {
        status.signed > 0 && status.committed == status.signed
    })
    .await
}

async fn until(scene: &Scene, what: &str, holds: impl Fn(&Status) -> bool) -> Result<Status, DemoError> {
    let found = wait::until(what, SOON, || async {
        match status(scene).await {
            Ok(status) if holds(&status) => Ok(status),
            Ok(status) => Err(shown(&status)),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    Ok(found)
}

async fn status(scene: &Scene) -> Result<Status, DemoError> {
    let json = scene.cli.json(&["region", "status"]).await?;
    serde_json::from_value(json).map_err(|error| DemoError::Untrue(error.to_string()))
}

fn shown(status: &Status) -> String {
    let peers: Vec<_> = status
        .peers
        .iter()
        .map(|peer| match peer.lag_entries {
            0 => format!("{} has all", peer.region),
            lag => format!("{} lags {}", peer.region, count(lag)),
        })
        .collect();
    format!(
        "{} receipts signed, {} held by {QUORUM} regions or more; {}",
        count(status.signed),
        count(status.committed),
        peers.join(", ")
    )
}

fn lag_of(status: &Status, region: &str) -> u64 {
    let peer = status.peers.iter().find(|peer| peer.region == region);
    peer.map_or(0, |peer| peer.lag_entries)
}

fn acknowledged_by(status: &Status, region: &str) -> u64 {
    let peer = status.peers.iter().find(|peer| peer.region == region);
    peer.map_or(0, |peer| peer.acknowledged)
}
