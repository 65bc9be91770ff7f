//! What goes wrong in a schedule.

use knhk_receipts::storage::ModelStorage;
use knhk_regions::wire::KeyId;
use rand::RngExt;

use super::super::network::Weather;
use super::super::node::{Disk, Node, seed};
use super::World;
use crate::rig::key;

impl World {
    pub(super) fn step(&mut self) -> Result<(), String> {
        let at = self.rng.random_range(0..self.nodes.len());
        let what = self.rng.random_range(0..104);
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
            90..92 => self.restart_all()?,
            92..94 => self.network.slow = self.rng.random::<bool>().then_some(at),
            _ => {
                self.nodes[at].operate(&mut self.rng);
                self.tell(at);
            }
        }
        self.bury();
        Ok(())
    }

    /// A new release: one region after the other is restarted, while clients go on.
    fn restart_all(&mut self) -> Result<(), String> {
        for at in 0..self.nodes.len() {
            self.leave(at);
            let down = self.rng.random_range(0..500);
            self.restarts.insert(at, self.now + down);
            for other in (0..self.nodes.len()).filter(|other| *other != at) {
                self.nodes[other].append(3, &self.rt);
                self.flush(other)?;
            }
            let time = self.rng.random_range(0..2_000);
            self.until(time)?;
        }
        self.seen.rolling += 1;
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
    pub(super) fn pin_what_is_left(&mut self) {
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
                oversized: up_to(10),
                replayed: up_to(20),
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
}
