//! Who changed version, and whether a snapshot explains it.

use std::collections::{BTreeMap, HashMap};

use super::Sample;

/// The last version of each user, and every change of it.
///
/// Workers of a proxy take a new snapshot within a moment of each other, so answers are put in the order of the snapshot
/// that decided them, not of the clock: a user may change version with a newer snapshot, never within one.
#[derive(Debug, Clone)]
pub struct Sticky {
    users: Vec<HashMap<Policy, u16>>,
    newest: Vec<Option<(Policy, u16)>>,
    versions: Vec<String>,
    moves: BTreeMap<(String, String), u64>,
    flips: u64,
}

/// A snapshot's number.
type Policy = (u64, u64);

impl Sticky {
    pub(super) fn of(users: u32) -> Self {
        let users = users as usize;
        Self {
            users: vec![HashMap::new(); users],
            newest: vec![None; users],
            versions: Vec::new(),
            moves: BTreeMap::new(),
            flips: 0,
        }
    }

    pub(super) fn add(&mut self, sample: &Sample) {
        let Ok(answer) = &sample.result else { return };
        let Some(policy) = answer.seen("policy").and_then(parse) else {
            return;
        };
        let version = self.number(answer.version());
        let user = sample.user as usize;
        if *self.users[user].entry(policy).or_insert(version) != version {
            self.flips += 1;
        }
        match self.newest[user] {
            Some((newest, _)) if newest > policy => {}
            Some((_, before)) if before == version => self.newest[user] = Some((policy, version)),
            Some((_, before)) => {
                let change = (
                    self.versions[usize::from(before)].clone(),
                    self.versions[usize::from(version)].clone(),
                );
                *self.moves.entry(change).or_default() += 1;
                self.newest[user] = Some((policy, version));
            }
            None => self.newest[user] = Some((policy, version)),
        }
    }

    /// Requests that got another version than an earlier one of the same user under the same snapshot. There must be none.
    pub fn flips(&self) -> u64 {
        self.flips
    }

    /// How many times a user went from one version to another with a newer snapshot.
    pub fn moved(&self, from: &str, to: &str) -> u64 {
        self.moves
            .get(&(from.to_owned(), to.to_owned()))
            .copied()
            .unwrap_or(0)
    }

    fn number(&mut self, version: &str) -> u16 {
        let position = self
            .versions
            .iter()
            .position(|known| known == version)
            .unwrap_or_else(|| {
                self.versions.push(version.to_owned());
                self.versions.len() - 1
            });
        u16::try_from(position).unwrap_or(u16::MAX)
    }
}

fn parse(policy: &str) -> Option<Policy> {
    let (epoch, n) = policy.split_once('.')?;
    Some((epoch.parse().ok()?, n.parse().ok()?))
}
