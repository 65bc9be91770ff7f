//! What the service knows, folded from its log: a rollout's state is the last action recorded on it.
//!
//! The log is the truth. `data/state.json` is a shortcut: the fold up to some index, so that a start reads only
//! the log's tail. A missing, older or unusable shortcut costs time and nothing else.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use knhk_decision::PolicyId;
use knhk_promotion::Rollout;
use knhk_receipts::{ActionReceipt, Payload};
use knhk_regions::announce::ACK_KEY_ACTION;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::recorder::MAX_WATERMARKS;
use super::rollouts::{Definitions, Recorded, Tombstones};
use super::snapshots::KEPT_SNAPSHOTS;
use super::workers::Nonce;

/// Version of the shortcut's form; another one is ignored.
const STATE_VERSION: u32 = 3;
/// What actions on rollouts begin with.
pub(crate) const ROLLOUT_ACTIONS: &str = "rollout.";
/// The action by which a rollout is gone.
pub(crate) const DELETED_ACTION: &str = "rollout.deleted";
/// What an operator's change of the flag definitions is called.
pub(crate) const FLAGS_APPLIED: &str = "flags.applied";
/// What it is called that another region's change of them is in force here too.
pub(crate) const FLAGS_FOLLOWED: &str = "flags.followed";
/// The shortcut's name in the data directory.
const STATE_FILE: &str = "state.json";

/// The fold of the log's entries below `through`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ledger {
    version: u32,
    /// Index of the first entry that is not folded in.
    pub(crate) through: u64,
    /// Index of the last action that is folded in.
    pub(crate) last_action: Option<u64>,
    /// Rollouts by name.
    pub(crate) rollouts: BTreeMap<String, Rollout>,
    /// The flag definitions that were applied last, here or in another region.
    pub(crate) flags: Definitions,
    /// The last policies, ascending: number and document.
    pub(crate) policies: VecDeque<(PolicyId, String)>,
    /// Rollouts that were deleted, where there are other regions.
    pub(crate) tombstones: Tombstones,
    /// The key that this log announces its region to acknowledge other logs with, `sha256:...`.
    pub(crate) ack_key: Option<String>,
    /// Highest recorded sequence number of each worker VM, by the nonce in hex.
    watermarks: HashMap<String, u64>,
}

/// Why the log cannot be folded.
#[derive(Debug, Error)]
pub(crate) enum LedgerError {
    #[error(
        "entry {index} of the log: the state of rollout `{rollout}` does not parse: {reason}; this version cannot continue this log"
    )]
    State {
        index: u64,
        rollout: String,
        reason: String,
    },
    #[error(
        "entry {index} of the log: the flag definitions do not parse: {reason}; this version cannot continue this log"
    )]
    Flags { index: u64, reason: String },
    #[error("{path}: cannot be written: {source}; check the disk and the directory's owner")]
    Write { path: PathBuf, source: std::io::Error },
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            version: STATE_VERSION,
            through: 0,
            last_action: None,
            rollouts: BTreeMap::new(),
            flags: Definitions::none(),
            policies: VecDeque::new(),
            tombstones: Tombstones::default(),
            ack_key: None,
            watermarks: HashMap::new(),
        }
    }
}

impl Ledger {
    /// The shortcut in a data directory, if it is usable with a log of `log_size` entries; else an empty fold.
    pub(crate) fn load(data: &Path, log_size: u64) -> Self {
        let parsed = fs::read(data.join(STATE_FILE))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        match parsed {
            Some(ledger) if ledger.version == STATE_VERSION && ledger.through <= log_size => ledger,
            _ => Self::default(),
        }
    }

    /// Folds one entry in.
    pub(crate) fn apply(&mut self, index: u64, payload: &Payload) -> Result<(), LedgerError> {
        match payload {
            Payload::Action(action) if action.what.starts_with(ROLLOUT_ACTIONS) => {
                self.apply_action(index, action)?;
            }
            Payload::Action(action) if [FLAGS_APPLIED, FLAGS_FOLLOWED].contains(&&*action.what) => {
                self.apply_flags(index, action)?;
            }
            Payload::Policy(policy) => {
                let document = String::from_utf8_lossy(&policy.bytes).into_owned();
                self.policies.push_back((policy.id, document));
                while self.policies.len() > KEPT_SNAPSHOTS {
                    self.policies.pop_front();
                }
            }
            Payload::Decision(decision) => {
                if let (Some(nonce), Some(seq)) = (&decision.reporter.vm_nonce, decision.reporter.seq) {
                    self.raise_watermark(nonce, seq);
                }
            }
            Payload::Action(action) if action.what == ACK_KEY_ACTION => {
                self.ack_key = Some(action.target.clone());
            }
            Payload::Action(_) | Payload::Genesis(_) | Payload::Key(_) => {}
        }
        self.through = index.saturating_add(1);
        Ok(())
    }

    fn apply_action(&mut self, index: u64, action: &ActionReceipt) -> Result<(), LedgerError> {
        self.last_action = Some(index);
        let unreadable = |error: serde_json::Error| LedgerError::State {
            index,
            rollout: action.target.clone(),
            reason: error.to_string(),
        };
        let deleted = action.what == DELETED_ACTION;
        let Some(after) = action.after.as_ref().filter(|_| !deleted) else {
            self.rollouts.remove(&action.target);
            if let Some(tombstone) = &action.after {
                let tombstone = serde_json::from_slice(tombstone).map_err(unreadable)?;
                self.tombstones.insert(&action.target, tombstone);
            }
            return Ok(());
        };
        let rollout: Rollout = serde_json::from_slice(after).map_err(unreadable)?;
        self.tombstones.remove(&action.target);
        // A receipt holds the newest transition only; the ones before it are in the receipts before it.
        let rollout = match self.rollouts.get(&action.target) {
            Some(before) => rollout.continuing(before),
            None => rollout,
        };
        self.rollouts.insert(action.target.clone(), rollout);
        Ok(())
    }

    fn apply_flags(&mut self, index: u64, action: &ActionReceipt) -> Result<(), LedgerError> {
        self.last_action = Some(index);
        let after = action.after.as_deref().unwrap_or_default();
        self.flags = Definitions::from_receipt(after).map_err(|error| LedgerError::Flags {
            index,
            reason: error.to_string(),
        })?;
        Ok(())
    }

    fn raise_watermark(&mut self, nonce: &Nonce, seq: u64) {
        if self.watermarks.len() >= MAX_WATERMARKS && !self.watermarks.contains_key(&hex(nonce)) {
            // The shortcut forgets; a VM that resends after that has its decisions recorded twice, with the same
            // sequence numbers, which an auditor sees.
            self.watermarks.clear();
        }
        let mark = self.watermarks.entry(hex(nonce)).or_insert(0);
        *mark = seq.max(*mark);
    }

    /// What the driver goes on from.
    pub(crate) fn recorded(&self) -> Recorded {
        Recorded {
            rollouts: self.rollouts.clone(),
            tombstones: self.tombstones.clone(),
            flags: self.flags.clone(),
            last_action: self.last_action,
        }
    }

    /// What each worker VM has durable.
    pub(crate) fn watermarks(&self) -> impl Iterator<Item = (Nonce, u64)> + '_ {
        self.watermarks
            .iter()
            .filter_map(|(nonce, seq)| Some((unhex(nonce)?, *seq)))
    }

    /// Writes the shortcut, whole or not at all.
    pub(crate) fn save(&self, data: &Path) -> Result<(), LedgerError> {
        let path = data.join(STATE_FILE);
        let bytes = serde_json::to_vec(self).expect("a ledger is JSON: its keys are strings");
        replace(&path, &bytes).map_err(|source| LedgerError::Write { path, source })
    }
}

/// Replaces a file's content atomically and durably.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn hex(nonce: &Nonce) -> String {
    format!("{:032x}", u128::from_be_bytes(*nonce))
}

fn unhex(text: &str) -> Option<Nonce> {
    u128::from_str_radix(text, 16)
        .ok()
        .filter(|_| text.len() == 32)
        .map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use knhk_promotion::{Command, Event, Now, RolloutSpec, create, step};
    use knhk_receipts::PolicyReceipt;

    const SPEC: &str = "
apiVersion: knhk.dev/v1
kind: Rollout
metadata: { name: checkout }
spec:
  version: v2
  stable: v1
  match: { hosts: [checkout.example.com] }
  key: [ { header: x-user-id } ]
  stages:
    - { name: canary, steps: [ { setWeight: 5, pause: 1s } ] }
  analysis:
    slos: [ { metric: request-success-rate, min: 99 } ]
";

    fn now() -> Now {
        Now {
            wall_ms: 1,
            mono_ms: 1,
        }
    }

    fn action(rollout: Option<&Rollout>) -> Payload {
        Payload::Action(ActionReceipt {
            region: "eu".into(),
            time_unix_ms: 1,
            who: "someone".into(),
            what: "rollout.applied".into(),
            target: "checkout".into(),
            before: None,
            after: rollout.map(Rollout::to_receipt_json),
            reason: String::new(),
        })
    }

    fn policy(n: u64) -> Payload {
        Payload::Policy(PolicyReceipt {
            region: "eu".into(),
            time_unix_ms: 1,
            id: PolicyId { epoch: 1, n },
            sha256: [0; 32],
            bytes: b"{}".to_vec(),
        })
    }

    #[test]
    fn the_last_action_on_a_rollout_is_its_state_and_its_history_is_whole() {
        let (first, _) = create(RolloutSpec::from_yaml(SPEC).expect("valid"), "someone", now());
        let pause = Event::Command {
            by: "someone",
            command: Command::Pause,
        };
        let (second, _) = step(&first, pause, now()).expect("can be paused");
        let mut ledger = Ledger::default();
        ledger.apply(1, &action(Some(&first))).expect("folds");
        ledger.apply(2, &action(Some(&second))).expect("folds");
        assert_eq!(ledger.rollouts.get("checkout"), Some(&second));
        assert_eq!(second.history().len(), 2);
        assert_eq!((ledger.through, ledger.last_action), (3, Some(2)));
        ledger.apply(3, &action(None)).expect("folds");
        assert!(ledger.rollouts.is_empty());
    }

    #[test]
    fn the_last_flags_that_were_applied_are_in_force() {
        let applied = |after: &str| {
            let Payload::Action(action) = action(None) else {
                unreachable!()
            };
            Payload::Action(ActionReceipt {
                what: FLAGS_APPLIED.into(),
                target: "flags".into(),
                after: Some(after.into()),
                ..action
            })
        };
        let mut ledger = Ledger::default();
        for (index, after) in [(1, r#"{"flags":{"a":1}}"#), (2, r#"{"flags":{"b":1.5}}"#)] {
            ledger.apply(index, &applied(after)).expect("folds");
            assert_eq!(String::from_utf8_lossy(&ledger.flags.document.to_bytes()), after);
        }
        let data = tempfile::tempdir().expect("a directory");
        ledger.save(data.path()).expect("written");
        assert_eq!(Ledger::load(data.path(), 3), ledger);
        let broken = ledger.apply(3, &applied("{")).expect_err("refused").to_string();
        assert!(broken.contains("entry 3") && !broken.contains('\n'), "{broken}");
    }

    #[test]
    fn the_last_sixteen_policies_are_kept() {
        let mut ledger = Ledger::default();
        (1..=20).for_each(|n| ledger.apply(n, &policy(n)).expect("folds"));
        let kept: Vec<_> = ledger.policies.iter().map(|(id, _)| id.n).collect();
        assert_eq!(kept, (5..=20).collect::<Vec<_>>());
    }

    #[test]
    fn an_action_that_does_not_parse_stops_the_fold_and_names_the_entry() {
        let Payload::Action(mut broken) = action(None) else {
            unreachable!()
        };
        broken.after = Some(b"{}".to_vec());
        let error = Ledger::default()
            .apply(7, &Payload::Action(broken))
            .expect_err("refused")
            .to_string();
        assert!(
            error.contains("entry 7") && error.contains("checkout") && !error.contains('\n'),
            "{error}"
        );
    }

    #[test]
    fn a_shortcut_comes_back_as_it_was_unless_the_log_is_shorter() {
        let data = tempfile::tempdir().expect("a directory");
        let mut ledger = Ledger::default();
        ledger.apply(4, &policy(1)).expect("folds");
        ledger.raise_watermark(&[7; 16], 9);
        ledger.save(data.path()).expect("written");
        assert_eq!(Ledger::load(data.path(), 5), ledger);
        assert_eq!(Ledger::load(data.path(), 4), Ledger::default());
        assert_eq!(ledger.watermarks().collect::<Vec<_>>(), [([7; 16], 9)]);
        fs::write(data.path().join(STATE_FILE), b"{ torn").expect("written");
        assert_eq!(Ledger::load(data.path(), 5), Ledger::default());
    }
}
