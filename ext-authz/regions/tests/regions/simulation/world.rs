//! All regions, the network between them, and what goes wrong, by a seed.

use std::collections::{BTreeMap, BTreeSet};

use knhk_receipts::storage::{Crash, ModelStorage};
use knhk_regions::wire::KeyId;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Runtime;

use super::checker::{Copies, Copy, Promise, are_equal, is_kept, is_one_history};
use super::network::{Body, Network, Packet, Weather};
use super::node::{Disk, Ended, Node, Out, Setup, seed};
use crate::rig::key;

/// Time goes on in such steps.
const TICK_MS: u64 = 20;

/// After everything is mended the regions have so long to be equal.
const HEAL_MS: u64 = 240_000;

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

/// What a schedule came to, so that tests can say that it was worth something.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) schedules: usize,
    pub(crate) promises: usize,
    pub(crate) crashes: usize,
    pub(crate) wipes: usize,
    pub(crate) backups: usize,
    pub(crate) stops: usize,
    pub(crate) alarms: usize,
    pub(crate) rotations: usize,
}

impl Seen {
    /// Everything that can go wrong has gone wrong, but for stops, which are rare. Of a few schedules nothing is asked.
    pub(crate) fn is_worth_something(&self) -> bool {
        let all = [
            self.promises,
            self.crashes,
            self.wipes,
            self.backups,
            self.rotations,
        ];
        self.schedules < 40 || all.into_iter().all(|it| it > 0)
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            schedules: self.schedules + other.schedules,
            promises: self.promises + other.promises,
            crashes: self.crashes + other.crashes,
            wipes: self.wipes + other.wipes,
            backups: self.backups + other.backups,
            stops: self.stops + other.stops,
            alarms: self.alarms + other.alarms,
            rotations: self.rotations + other.rotations,
        }
    }
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

    fn step(&mut self) -> Result<(), String> {
        let at = self.rng.random_range(0..self.nodes.len());
        let what = self.rng.random_range(0..100);
        self.trace(|| format!("step {what} at {at}"));
        match what {
            0..40 => {
                let entries = if self.rng.random_ratio(1, 12) {
                    300
                } else {
                    self.rng.random_range(1..12)
                };
                self.nodes[at].append(entries, &self.rt);
                self.flush(at)?;
            }
            40..46 => self.nodes[at].append(2, &self.rt),
            46..50 => {
                if self.nodes[at].keys < 8 {
                    self.nodes[at].rotate(&self.rt);
                    self.seen.rotations += 1;
                }
            }
            50..58 => self.change_weather(),
            58..66 => self.cut_or_join(),
            66..72 => {
                let disk = &self.nodes[at].disk;
                let which = self.rng.random_range(0..disk.all().count());
                let steps = self.rng.random_range(0..40);
                disk.all().nth(which).expect("one of them").crash_after(steps);
            }
            72..76 => self.crash(at),
            76..80 => self.nodes[at].skew_ms = self.rng.random_range(-3_600_000..3_600_000),
            80..84 => {
                let full = self.rng.random::<bool>();
                for disk in self.nodes[at].disk.all() {
                    let room = full.then(|| disk.used() + self.rng.random_range(0..3_000));
                    disk.set_capacity(room);
                }
            }
            84..87 => {
                let copy = self.nodes[at].disk.each(ModelStorage::copy);
                if !self.nodes[at].disk.is_dead() {
                    self.backups.insert(at, copy);
                }
            }
            87..90 => self.lose_disk(at),
            _ => {
                self.nodes[at].operate(&mut self.rng);
                self.tell(at);
            }
        }
        self.bury();
        Ok(())
    }

    /// At most one disk is lost before all regions are equal again: a quorum of two promises no more.
    fn lose_disk(&mut self, at: usize) {
        if self.are_equal() {
            self.lost = 0;
        }
        if self.lost > 0 {
            return;
        }
        self.lost += 1;
        let name = self.nodes[at].name.clone();
        self.nodes[at].kill();
        if let Some(backup) = self.backups.remove(&at) {
            self.nodes[at].disk = backup;
            self.old.insert(name);
            self.seen.backups += 1;
        } else {
            let peers: Vec<_> = self.nodes[at].pins.keys().cloned().collect();
            self.nodes[at].disk = Disk::new(peers.into_iter());
            self.wiped.insert(name);
            self.seen.wipes += 1;
            if self.rng.random() {
                self.pin_anew(at);
            }
        }
        let down = self.rng.random_range(0..3_000);
        self.restarts.insert(at, self.now + down);
    }

    /// An operator sets the region up with the keys that sign now.
    fn pin_anew(&mut self, at: usize) {
        for peer in 0..self.nodes.len() {
            let active = self.nodes[peer].log().map(|log| log.active_key().key.key_id());
            let name = self.nodes[peer].name.clone();
            if let (Some(pin), Some(active)) = (self.nodes[at].pins.get_mut(&name), active) {
                *pin = active;
            }
        }
    }

    /// A key that was pinned before it signed, and whose log then lost its announcement, never signs: operators pin another one.
    fn pin_what_is_left(&mut self) {
        for at in 0..self.nodes.len() {
            let gone: Vec<_> = self.nodes[at]
                .pins
                .iter()
                .filter(|(peer, pin)| self.is_gone(peer, **pin))
                .collect();
            let gone: Vec<_> = gone.into_iter().map(|(peer, _)| peer.clone()).collect();
            if gone.is_empty() {
                continue;
            }
            for peer in gone {
                let number = self
                    .nodes
                    .iter()
                    .position(|it| it.name == peer)
                    .expect("a region");
                self.nodes[at].pins.insert(peer, key(seed(number, 0)).key_id());
            }
            self.leave(at);
            self.restarts.insert(at, self.now);
        }
    }

    fn is_gone(&self, peer: &str, pin: KeyId) -> bool {
        let node = self.nodes.iter().find(|it| it.name == peer);
        let keys = node.and_then(Node::log).map(knhk_receipts::Log::keys);
        keys.is_some_and(|keys| {
            keys.iter()
                .all(|it| it.key.key_id() != pin || it.first_size.is_none())
        })
    }

    fn change_weather(&mut self) {
        let mut up_to = |most| self.rng.random_range(0..=most);
        self.network.weather = match up_to(2) {
            0 => Weather::default(),
            1 => Weather {
                lost: up_to(30),
                doubled: up_to(20),
                slow_ms: 400,
                ..Weather::default()
            },
            _ => Weather {
                lost: up_to(10),
                doubled: up_to(10),
                changed: up_to(40),
                forged: up_to(20),
                slow_ms: u64::from(up_to(1)) * 5_000,
            },
        };
    }

    fn cut_or_join(&mut self) {
        let regions = self.nodes.len();
        if self.rng.random() {
            self.network.cut.clear();
            return;
        }
        let alone = self.rng.random_range(0..regions);
        for other in (0..regions).filter(|other| *other != alone) {
            self.network.cut.insert((alone, other));
            // Some networks fail in one direction only.
            if self.rng.random_ratio(3, 4) {
                self.network.cut.insert((other, alone));
            }
        }
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

    /// A quorum is claimed. What the machines would have left of it if all died now is looked at.
    fn promised(&mut self, promise: &Promise) -> Result<(), String> {
        self.seen.promises += 1;
        let first = self.promises.insert(promise.clone());
        if first && self.rng.random_ratio(1, 3) {
            let copies = self.copies(&promise.region, |it| it.copy().crash(Crash::LoseAll, 0))?;
            is_kept(promise, &copies, self.setup.quorum.saturating_sub(self.lost))?;
        }
        Ok(())
    }

    fn copies(&self, region: &str, view: impl Fn(&ModelStorage) -> ModelStorage) -> Result<Copies, String> {
        let copy = |node: &Node| {
            let storage = view(node.disk.copy_of(region));
            let copy = Copy::read(&storage).map_err(|e| format!("{} of {region}: {e}", node.name))?;
            Ok((node.name.clone(), copy))
        };
        self.nodes.iter().map(copy).collect()
    }

    fn are_equal(&self) -> bool {
        self.nodes.iter().all(|node| self.is_done(node))
    }

    /// Whether every region has what this one has signed, and it knows.
    fn is_done(&self, node: &Node) -> bool {
        let (Some(log), Some(sender)) = (node.log(), node.sender()) else {
            return false;
        };
        let Some(signed) = log.checkpoint() else {
            return false;
        };
        let has = |other: &Node| {
            let mirror = other.up.as_ref().and_then(|up| up.mirrors.get(&node.name));
            mirror
                .is_some_and(|mirror| mirror.checkpoint() == Some(&signed) && mirror.held() == signed.size())
        };
        let all_have = self.nodes.iter().filter(|other| other.at != node.at).all(has);
        all_have && log.size() == signed.size() && sender.committed() == signed.size()
    }

    /// Everything is mended, and the regions come back.
    fn heal(&mut self) -> Result<(), String> {
        self.network.weather = Weather::default();
        self.network.cut.clear();
        for at in 0..self.nodes.len() {
            if self.nodes[at].up.is_none() {
                self.restarts.entry(at).or_insert(self.now);
            }
            for disk in self.nodes[at].disk.all() {
                disk.set_capacity(None);
                // A crash that was still to come never comes.
                disk.crash_after(u64::MAX / 2);
            }
        }
        let end = self.now + HEAL_MS;
        while self.now < end {
            self.until(1_000)?;
            self.pin_what_is_left();
            for at in 0..self.nodes.len() {
                self.flush(at)?;
                self.tell(at);
            }
            if self.is_settled() {
                // What was doubled long ago may still arrive.
                self.until(6_000)?;
                if self.is_settled() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A log of which two histories may have been signed: its region came back with less than it had signed.
    fn may_differ(&self, region: &str) -> bool {
        let node = self.nodes.iter().find(|it| it.name == region).expect("a region");
        let alarmed = self.nodes.iter().any(|other| {
            let mirror = other.up.as_ref().and_then(|up| up.mirrors.get(region));
            mirror.is_some_and(knhk_regions::Mirror::is_alarmed)
        });
        let came_back = self.old.contains(region) || self.wiped.contains(region);
        came_back && (node.is_stopped() || alarmed)
    }

    fn is_settled(&self) -> bool {
        let settled = |node: &Node| self.is_done(node) || self.may_differ(&node.name);
        self.nodes.iter().all(settled) && self.rollouts_agree()
    }

    fn rollouts_agree(&self) -> bool {
        self.nodes
            .windows(2)
            .all(|pair| pair[0].rollouts == pair[1].rollouts)
    }

    fn judge(&mut self) -> Result<(), String> {
        for at in 0..self.nodes.len() {
            let name = self.nodes[at].name.clone();
            let copies = self.copies(&name, ModelStorage::copy)?;
            let differs = self.may_differ(&name);
            self.trace(|| format!("{name} differs {differs}: {}", self.state_of(at)));
            self.seen.stops += usize::from(self.nodes[at].is_stopped());
            self.seen.alarms += usize::from(differs);
            if !differs {
                is_one_history(&name, &copies)?;
                are_equal(&name, &copies)?;
                if !self.is_done(&self.nodes[at]) {
                    return Err(format!("{name} has not come to an end: {}", self.state_of(at)));
                }
            }
            let least = match () {
                () if !differs => self.setup.quorum,
                // What one disk held alone with the one that was replaced.
                () => self.setup.quorum - 1,
            };
            for promise in self.promises.iter().filter(|it| it.region == name) {
                is_kept(promise, &copies, least)?;
            }
        }
        if !self.rollouts_agree() {
            return Err("rollouts differ".to_owned());
        }
        Ok(())
    }

    fn state_of(&self, at: usize) -> String {
        let node = &self.nodes[at];
        let (up, stopped) = (node.up.is_some(), node.is_stopped());
        let status = node.sender().map(|sender| sender.status(self.now));
        format!(
            "up {up}, stopped {stopped}, log {:?}, {status:?}",
            node.log().map(knhk_receipts::Log::status)
        )
    }

    /// Changes a bit of an entry that a region holds of another one's log.
    pub(crate) fn damage(&mut self, at: usize, of: &str) {
        let storage = self.nodes[at].disk.copy_of(of);
        let paths = storage.paths();
        let path = paths
            .iter()
            .find(|path| path.strip_suffix(".seg").is_some())
            .expect("a segment");
        storage.flip_bit(path, 16 + 8 + 90, 2);
    }

    pub(crate) fn checked(&mut self) -> Result<(), String> {
        self.judge()
    }
}
