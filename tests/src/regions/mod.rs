//! Several regions, each a real `knhk serve`, and the lines between them.

#[path = "../../../ext-authz/regions/tests/regions/simulation/checker.rs"]
#[allow(clippy::expect_used, reason = "the simulation's judge, which is a test's")]
mod checker;
pub mod disks;
pub mod link;
mod rollouts;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::namespace::Network;
use crate::recorded::{Acknowledged, Recording};
use crate::service::{Addresses, Identities, Service};
use crate::{Error, wait};
use disks::is_sound;
use link::{Line, Link};

/// What they are called, in their order.
pub const NAMES: [&str; 5] = ["us-east-1", "eu-west-1", "ap-south-1", "sa-east-1", "af-south-1"];

/// How long everything may take to be equal again: a breaker that is open pauses for 30 s.
pub const HEALED: Duration = Duration::from_secs(120);

/// How long a start waits for its peers.
const START_WAIT: &str = "4s";

/// From one to another one.
type Links = BTreeMap<(usize, usize), Link>;

/// Regions and the lines between each two of them, one for each direction.
#[derive(Debug)]
pub struct Regions {
    services: Vec<Service>,
    links: Links,
    quorum: usize,
}

impl Regions {
    /// Starts so many, which know each other's keys, with a quorum of more than half.
    pub async fn start(count: usize) -> Result<Self, Error> {
        Self::start_in(&vec![std::env::temp_dir(); count]).await
    }

    /// The same, each with its data below a directory of these.
    pub async fn start_in(directories: &[PathBuf]) -> Result<Self, Error> {
        let services = directories.iter().map(|directory| Service::stopped_in(directory));
        Self::of(services.collect::<Result<_, _>>()?, laid).await
    }

    /// The same over mutual TLS, all with these identities.
    pub async fn start_as(count: usize, identities: &Identities) -> Result<Self, Error> {
        let mut services = Vec::new();
        for _ in 0..count {
            let mut service = Service::stopped()?;
            service.identify_by(identities.clone());
            services.push(service);
        }
        Self::of(services, laid).await
    }

    /// The same, each on a host of a network of its own, without other lines.
    pub async fn start_on(network: &Network, identities: &Identities) -> Result<Self, Error> {
        let mut services = Vec::new();
        for at in 0..network.count() {
            let on = |port| (network.address(at), port).into();
            let mut service = Service::stopped_at(Addresses {
                grpc: on(9191),
                http: on(9192),
                probe: ([127, 0, 0, 1], 9193).into(),
            })?;
            service.live_in(network.namespace(at));
            service.identify_by(identities.clone());
            services.push(service);
        }
        Self::of(services, |_| Ok(Links::new())).await
    }

    async fn of(
        mut services: Vec<Service>,
        lay: impl FnOnce(&[Service]) -> Result<Links, Error>,
    ) -> Result<Self, Error> {
        // Each is started alone first: its key has to exist before the others can pin it.
        let mut keys = Vec::new();
        for (service, name) in services.iter_mut().zip(NAMES) {
            service.be_region(name);
            service.up().await?;
            keys.push(service.reads("/v1/keys").await?["keys"][0]["id"].clone());
            service.terminate(wait::SOON).await?;
        }
        let (links, quorum) = (lay(&services)?, services.len() / 2 + 1);
        let others: Vec<_> = services.iter().map(|it| it.addresses().http).collect();
        for (from, service) in services.iter_mut().enumerate() {
            let scheme = if service.is_identified() { "https" } else { "http" };
            let peer = |to: usize| {
                let at = links.get(&(from, to)).map_or(others[to], Link::address);
                json!({ "region": NAMES[to], "url": format!("{scheme}://{at}"), "log_key": keys[to] })
            };
            let peers: Vec<_> = (0..others.len()).filter(|to| *to != from).map(peer).collect();
            service.join(json!({ "quorum": quorum, "start_wait": START_WAIT, "peers": peers }));
        }
        let mut regions = Self {
            services,
            links,
            quorum,
        };
        regions.up_all().await?;
        Ok(regions)
    }

    /// Starts all that do not run: they wait for each other.
    pub async fn up_all(&mut self) -> Result<(), Error> {
        for service in &mut self.services {
            if service.process().is_none() {
                service.launch()?;
            }
        }
        for service in &mut self.services {
            service.ready().await?;
        }
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.services.len()
    }

    /// How many have to hold a receipt.
    pub fn quorum(&self) -> usize {
        self.quorum
    }

    /// One of them.
    pub fn at(&self, at: usize) -> &Service {
        &self.services[at]
    }

    /// One of them, to be killed or started.
    pub fn at_mut(&mut self, at: usize) -> &mut Service {
        &mut self.services[at]
    }

    /// The line from one to another is like this from now on.
    pub fn line(&self, from: usize, to: usize, line: Line) {
        if let Some(link) = self.links.get(&(from, to)) {
            link.become_like(line);
        }
    }

    /// The line from one to another leads to somebody else from now on.
    pub fn lead(&self, from: usize, to: usize, address: SocketAddr) {
        if let Some(link) = self.links.get(&(from, to)) {
            link.lead_to(address);
        }
    }

    /// Every line is.
    pub fn every_line(&self, line: Line) {
        self.links.values().for_each(|link| link.become_like(line));
    }

    /// Every line to and from this region is.
    pub fn lines_of(&self, at: usize, line: Line) {
        for other in 0..self.count() {
            self.line(at, other, line);
            self.line(other, at, line);
        }
    }

    /// Records so many decisions at a region, locally durable, and more.
    pub async fn record(&self, at: usize, name: &str, count: u64) -> Result<Vec<Acknowledged>, Error> {
        let recording = Recording::start(self.services[at].addresses().grpc, name).await?;
        until_recorded(&recording, count).await?;
        Ok(recording.finish().await)
    }

    /// What a region says of itself and its peers: `GET /v1/regions`.
    pub async fn status(&self, at: usize) -> Result<Value, Error> {
        self.services[at].reads("/v1/regions").await
    }

    /// Waits until a region's status is so.
    pub async fn until(&self, at: usize, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value, Error> {
        wait::until(what, HEALED, || async {
            match self.status(at).await {
                Ok(status) if holds(&status) => Ok(status),
                Ok(status) => Err(status.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    /// Waits until a quorum holds everything that the region has signed, and that is `entries` or more.
    pub async fn until_committed(&self, at: usize, entries: u64) -> Result<u64, Error> {
        let committed = |it: &Value| it["committed"].as_u64().unwrap_or_default();
        let status = self.until(at, "a quorum", |it| committed(it) >= entries).await?;
        Ok(committed(&status))
    }

    /// Waits until everything that was recorded at a region so far is under a checkpoint.
    pub async fn until_signed(&self, at: usize) -> Result<(), Error> {
        wait::until("the last receipt to be signed", HEALED, || async {
            match self.services[at].reads("/v1/receipts?limit=1").await {
                Ok(list) if list["receipts"][0]["signed"] == true => Ok(()),
                Ok(list) => Err(list.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    /// Waits until each of these regions holds everything that the others have signed, and they know.
    pub async fn until_equal(&self, which: &[usize]) -> Result<(), Error> {
        for &at in which {
            self.until_signed(at).await?;
        }
        for &at in which {
            let names: Vec<_> = which.iter().map(|it| NAMES[*it]).collect();
            self.until(at, "peers that hold everything", |status| {
                let signed = status["signed"].as_u64().unwrap_or_default();
                let peers = status["peers"].as_array().cloned().unwrap_or_default();
                let mut peers = peers
                    .iter()
                    .filter(|peer| names.iter().any(|name| peer["region"] == *name));
                signed > 0 && peers.all(|peer| peer["acknowledged"] == signed && peer["last_error"].is_null())
            })
            .await?;
        }
        Ok(())
    }

    /// One peer as a region's status shows it.
    pub fn peer<'s>(status: &'s Value, name: &str) -> &'s Value {
        let peers = status["peers"].as_array().map_or(&[][..], Vec::as_slice);
        peers
            .iter()
            .find(|peer| peer["region"] == name)
            .unwrap_or(&Value::Null)
    }

    /// Ends all, and lets the judge read their disks: one history, equal everywhere, and nothing missing of what was claimed.
    /// `claimed` is for each region how many entries a quorum was said to hold.
    pub async fn judged(&mut self, claimed: &[u64]) -> Result<(), String> {
        for service in &mut self.services {
            if service.process().is_some() {
                service
                    .terminate(wait::SOON)
                    .await
                    .map_err(|error| error.to_string())?;
            }
        }
        self.looked_at(claimed, true)
    }

    /// The same of what is on the disks now, equal or not.
    pub fn looked_at(&self, claimed: &[u64], are_equal: bool) -> Result<(), String> {
        let disks: Vec<_> = NAMES
            .iter()
            .zip(&self.services)
            .map(|(name, it)| (*name, it.data()))
            .collect();
        for (at, (region, _)) in disks.iter().enumerate() {
            let claimed = claimed.get(at).copied().unwrap_or_default();
            is_sound(region, &disks, claimed, self.quorum, are_equal)?;
        }
        Ok(())
    }
}

/// Waits for so many acknowledged receipts.
pub async fn until_recorded(recording: &Recording, count: u64) -> Result<(), Error> {
    wait::until("recorded decisions", HEALED, || async {
        match recording.count() {
            enough if enough >= count => Ok(()),
            few => Err(few.to_string()),
        }
    })
    .await
}

/// The index of a receipt's entry.
pub fn index_of(id: &str) -> Option<u64> {
    id.rsplit_once('/')?.1.parse().ok()
}

/// A line from each to each.
fn laid(services: &[Service]) -> Result<Links, Error> {
    let mut links = Links::new();
    for from in 0..services.len() {
        for to in (0..services.len()).filter(|to| *to != from) {
            let seed = 100 * from as u64 + to as u64;
            links.insert((from, to), Link::lay(services[to].addresses().http, seed)?);
        }
    }
    Ok(links)
}
