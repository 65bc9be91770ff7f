//! All regions, the network between them, and what goes wrong, by a seed.

mod judging;
mod seen;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};

use knhk_receipts::storage::Crash;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Runtime;

pub(crate) use seen::Seen;

use super::checker::Promise;
use super::network::{Body, Network, Packet};
use super::node::{Disk, Ended, Node, Out, Setup};

/// Time goes on in such steps.
const TICK_MS: u64 = 20;

pub(crate) struct World {
    seed: u64,
    rt: Runtime,
    setup: Setup,
    pub(crate) nodes: Vec<Node>,
    network: Network,
    rng: SmallRng,
    now: u64,
    restarts: BTreeMap<usize, u64>,
    promises: BTreeSet<Promise>,
    /// Disks that were lost, or replaced by old copies, since all regions were last equal.
    lost: usize,
    /// Logs whose region came back with an old copy of its disk: it may have gone on from there.
    old: BTreeSet<String>,
    /// Logs whose region came back without its disk.
    wiped: BTreeSet<String>,
    backups: BTreeMap<usize, Disk>,
    pub(crate) seen: Seen,
}

impl World {
    pub(crate) fn new(seed: u64, setup: Setup) -> Self {
        let nodes = (0..setup.names.len()).map(|at| Node::new(at, &setup, seed));
        Self {
            seed,
            rt: crate::rig::runtime(),
            nodes: nodes.collect(),
            setup,
            network: Network::default(),
            rng: SmallRng::seed_from_u64(seed),
            now: 0,
            restarts: BTreeMap::new(),
            promises: BTreeSet::new(),
            lost: 0,
            old: BTreeSet::new(),
            wiped: BTreeSet::new(),
            backups: BTreeMap::new(),
            seen: Seen::default(),
        }
    }

    /// Runs the schedule of its seed, mends everything, and lets the checker look.
    pub(crate) fn run(&mut self, steps: usize) -> Result<(), String> {
        for at in 0..self.nodes.len() {
            self.start(at);
        }
        self.until(3_000)?;
        for _ in 0..steps {
            self.step()?;
            let time = self.rng.random_range(0..400);
            self.until(time)?;
        }
        self.heal()?;
        self.seen.schedules = 1;
        self.judge()
    }

    /// For who looks for the cause of a failure: `KNHK_TRACE=1`.
    fn trace(&self, what: impl FnOnce() -> String) {
        if std::env::var_os("KNHK_TRACE").is_some() {
            let stages: Vec<_> = self.nodes.iter().map(Node::stage).collect();
            eprintln!("{:>7} {}   [{}]", self.now, what(), stages.join(" "));
        }
    }

    fn tell(&mut self, at: usize) {
        if self.nodes[at].up.is_none() {
            return;
        }
        let bytes = self.nodes[at].message();
        for to in (0..self.nodes.len()).filter(|to| *to != at) {
            let body = Body::Replicate(bytes.clone());
            self.network
                .send(Packet { from: at, to, body }, self.now, &mut self.rng);
        }
    }

    fn start(&mut self, at: usize) {
        match self.nodes[at].start(&self.setup, self.now) {
            Ok(()) => self.trace(|| format!("started {at}")),
            Err(ended) => self.end(at, &ended),
        }
    }

    /// The process ended by itself. Something is wrong with the code where that was not for the disk.
    fn end(&mut self, at: usize, ended: &Ended) {
        self.trace(|| format!("{at} ended: {}", ended.0));
        let is_disk = ["dead", "full", "space", "storage"]
            .iter()
            .any(|word| ended.0.contains(word));
        assert!(
            is_disk || self.nodes[at].disk.is_dead(),
            "seed {}: {}: {}",
            self.seed,
            self.nodes[at].name,
            ended.0
        );
        self.leave(at);
        self.restarts.insert(at, self.now + 1_000);
    }

    /// The process ends, the machine does not.
    fn leave(&mut self, at: usize) {
        self.nodes[at].kill();
        let disk = self.nodes[at].disk.crash(Crash::Process, &mut self.rng);
        self.nodes[at].disk = disk;
    }

    fn crash(&mut self, at: usize) {
        let kinds = [Crash::Process, Crash::LoseAll, Crash::KeepAll, Crash::Scramble];
        let kind = kinds[self.rng.random_range(0..kinds.len())];
        self.nodes[at].kill();
        let disk = self.nodes[at].disk.crash(kind, &mut self.rng);
        self.nodes[at].disk = disk;
        self.seen.crashes += 1;
        let down = self.rng.random_range(0..4_000);
        self.restarts.insert(at, self.now + down);
    }

    /// Machines that died.
    fn bury(&mut self) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].disk.is_dead() {
                self.crash(at);
            }
        }
    }

    fn flush(&mut self, at: usize) -> Result<(), String> {
        let out = self.nodes[at].flush(&self.rt, self.now);
        self.carry_out(at, out)
    }

    /// Lets time pass.
    fn until(&mut self, more: u64) -> Result<(), String> {
        let end = self.now + more;
        while self.now < end {
            self.now += TICK_MS;
            while let Some((_, packet)) = self.network.arrive(self.now) {
                let Packet { from, to, body } = packet;
                let from = self.nodes[from].name.clone();
                match self.nodes[to].receive(&from, body, &self.setup, &self.rt, self.now) {
                    Ok(out) => self.carry_out(to, out)?,
                    Err(ended) => self.end(to, &ended),
                }
                self.bury();
            }
            for at in 0..self.nodes.len() {
                if self.restarts.get(&at).is_some_and(|at| *at <= self.now) {
                    self.restarts.remove(&at);
                    self.start(at);
                }
                match self.nodes[at].pump(&self.setup, &self.rt, self.now) {
                    Ok(out) => self.carry_out(at, out)?,
                    Err(ended) => self.end(at, &ended),
                }
            }
            self.bury();
        }
        Ok(())
    }

    fn carry_out(&mut self, at: usize, out: Out) -> Result<(), String> {
        let number = |name: &str| {
            self.nodes
                .iter()
                .position(|it| it.name == name)
                .expect("a region")
        };
        let packets: Vec<_> = out
            .packets
            .into_iter()
            .map(|(to, body)| (number(&to), body))
            .collect();
        let timers: Vec<_> = out
            .timers
            .into_iter()
            .map(|(when, sent, peer)| (when, sent, number(&peer)))
            .collect();
        for (to, body) in packets {
            self.network
                .send(Packet { from: at, to, body }, self.now, &mut self.rng);
        }
        for (when, sent, peer) in timers {
            self.network.put(
                Packet {
                    from: peer,
                    to: at,
                    body: Body::Silence { sent },
                },
                when,
            );
        }
        if let Some((size, root)) = out.committed {
            let region = self.nodes[at].name.clone();
            self.promised(&Promise { region, size, root })?;
        }
        Ok(())
    }
}
