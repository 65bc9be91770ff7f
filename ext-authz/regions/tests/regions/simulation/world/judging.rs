//! Everything is mended, and the checker looks at what is on the disks.

use knhk_receipts::storage::{Crash, ModelStorage, Storage};
use rand::RngExt;

use super::super::checker::{Copies, Copy, Files, Promise, are_equal, is_kept, is_one_history};
use super::super::network::Weather;
use super::super::node::Node;
use super::World;

/// After everything is mended the regions have so long to be equal.
const HEAL_MS: u64 = 240_000;

impl Files for ModelStorage {
    fn names(&self, dir: &str) -> Result<Vec<String>, String> {
        self.list(dir).map_err(|e| e.to_string())
    }

    fn whole(&self, path: &str) -> Result<Vec<u8>, String> {
        let file = self.open(path).map_err(|e| format!("{path}: {e}"))?;
        let len = usize::try_from(file.len().map_err(|e| e.to_string())?).expect("small");
        let (mut bytes, mut at) = (vec![0; len], 0);
        while at < len {
            match file.read_at(at as u64, &mut bytes[at..]) {
                Ok(0) => return Err(format!("{path} ends at byte {at}")),
                Ok(read) => at += read,
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(bytes)
    }
}

impl World {
    /// A quorum is claimed. What the machines would have left of it if all died now is looked at.
    pub(super) fn promised(&mut self, promise: &Promise) -> Result<(), String> {
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

    pub(super) fn are_equal(&self) -> bool {
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
    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.network.weather = Weather::default();
        self.network.cut.clear();
        self.network.slow = None;
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

    pub(super) fn judge(&mut self) -> Result<(), String> {
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
