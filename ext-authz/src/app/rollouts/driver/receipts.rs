//! The receipts of what the driver does.

use knhk_promotion::{HistoryEntry, Rollout};
use knhk_receipts::{ActionReceipt, Payload, PolicyReceipt};

use super::{Driver, SERVICE};
use crate::app::ledger::{DELETED_ACTION, ROLLOUT_ACTIONS};
use crate::app::rollouts::Tombstone;
use crate::app::snapshots::Snapshot;

impl Driver {
    pub(super) fn deletion(
        &self,
        name: &str,
        by: &str,
        before: Option<&Rollout>,
        tombstone: Option<&Tombstone>,
    ) -> Payload {
        Payload::Action(ActionReceipt {
            region: self.parts.region.clone(),
            time_unix_ms: self.parts.clock.now().wall_ms,
            who: by.to_owned(),
            what: DELETED_ACTION.to_owned(),
            target: name.to_owned(),
            before: before.map(Rollout::to_receipt_json),
            // A name and a number: writing them as JSON cannot fail.
            after: tombstone.and_then(|it| serde_json::to_vec(it).ok()),
            reason: "deleted; its requests go to stable".to_owned(),
        })
    }

    pub(super) fn action(
        &self,
        name: &str,
        by: &str,
        before: Option<&Rollout>,
        after: &Rollout,
        entry: &HistoryEntry,
    ) -> Payload {
        Payload::Action(ActionReceipt {
            region: self.parts.region.clone(),
            time_unix_ms: entry.wall_ms,
            who: by.to_owned(),
            what: format!("{ROLLOUT_ACTIONS}{}", entry.what.label()),
            target: name.to_owned(),
            before: before.map(Rollout::to_receipt_json),
            after: Some(after.to_receipt_json()),
            reason: entry.why.clone(),
        })
    }

    pub(super) fn restored(&self, rollout: &Rollout) -> Payload {
        let last = rollout.history().last().map_or(String::new(), |entry| {
            format!(": {} by {}: {}", entry.what.label(), entry.who, entry.why)
        });
        Payload::Action(ActionReceipt {
            region: self.parts.region.clone(),
            time_unix_ms: self.parts.clock.now().wall_ms,
            who: SERVICE.to_owned(),
            what: format!("{ROLLOUT_ACTIONS}restored"),
            target: rollout.name().to_owned(),
            before: None,
            after: Some(rollout.to_receipt_json()),
            reason: format!("the service had ended before the policy of this change was recorded{last}"),
        })
    }

    pub(super) fn policy(&self, snapshot: &Snapshot) -> Payload {
        Payload::Policy(PolicyReceipt {
            region: self.parts.region.clone(),
            time_unix_ms: self.parts.clock.now().wall_ms,
            id: snapshot.id,
            sha256: snapshot.sha256,
            bytes: snapshot.bytes.to_vec(),
        })
    }
}
