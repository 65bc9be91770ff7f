//! A change of the flag definitions.

use std::sync::Arc;

use knhk_flags::Document;
use knhk_receipts::{ActionReceipt, Payload};
use knhk_regions::wire::FlagsState;

use super::Driver;
use crate::app::ledger::{FLAGS_APPLIED, FLAGS_FOLLOWED};
use crate::app::rollouts::change::{Change, Next};
use crate::app::rollouts::{CommandError, Definitions, InUse};
use crate::app::snapshots::Snapshot;

/// What the flag definitions are called where a rollout has its name.
const FLAGS: &str = "flags";
/// Flags that a receipt's reason names; the others are in the states before and after.
const NAMED: usize = 8;

impl Driver {
    /// What definitions change that an operator applies. Where the rollouts ask for nothing that they change, filters hear nothing of it.
    pub(super) fn flags_changed(&self, by: String, document: Arc<Document>) -> Result<Change, CommandError> {
        let snapshot = self
            .snapshot_of_flags(&document, InUse::Stay)
            .map_err(CommandError::FlagsInUse)?;
        if document == self.flags.document {
            return Ok(self.flags_change(by, self.flags.clone(), None, snapshot));
        }
        let after = match (&self.parts.regions, &self.flags.version) {
            (None, None) => Definitions::alone(document),
            // Regions that were taken out of the configuration may come back.
            _ => self.flags.followed_by(document, &self.parts.region),
        };
        let reason = difference(&self.flags.document, &after.document);
        let action = self.flags_action(FLAGS_APPLIED, &by, &after, reason);
        Ok(self.flags_change(by, after, Some(action), snapshot))
    }

    /// What definitions change that another region has in force. None where that is no news.
    pub(super) fn flags_followed(
        &self,
        by: String,
        state: &FlagsState,
        in_use: InUse,
    ) -> Result<Option<Change>, CommandError> {
        if self.flags.state().is_some_and(|known| known >= *state) {
            return Ok(None);
        }
        let after = Definitions::of(state).map_err(|error| CommandError::FlagsUnreadable {
            from: by.trim_start_matches("region:").to_owned(),
            reason: error.to_string(),
        })?;
        let snapshot = self
            .snapshot_of_flags(&after.document, in_use)
            .map_err(CommandError::FlagsInUse)?;
        let reason = format!(
            "applied in {}: {}",
            state.region,
            difference(&self.flags.document, &after.document)
        );
        let action = self.flags_action(FLAGS_FOLLOWED, &by, &after, reason);
        Ok(Some(self.flags_change(by, after, Some(action), snapshot)))
    }

    fn flags_change(
        &self,
        by: String,
        after: Definitions,
        action: Option<Payload>,
        snapshot: Arc<Snapshot>,
    ) -> Change {
        let in_force = self.parts.snapshots.newest();
        let differs =
            (snapshot.policy.rules(), &snapshot.flags) != (in_force.policy.rules(), &in_force.flags);
        Change {
            name: FLAGS.to_owned(),
            by,
            next: Next::Flags(after),
            entries: Vec::new(),
            actions: action.into_iter().collect(),
            snapshot: differs.then_some(snapshot),
            tombstone: None,
        }
    }

    fn flags_action(&self, what: &str, by: &str, after: &Definitions, reason: String) -> Payload {
        Payload::Action(ActionReceipt {
            region: self.parts.region.clone(),
            time_unix_ms: self.parts.clock.now().wall_ms,
            who: by.to_owned(),
            what: what.to_owned(),
            target: FLAGS.to_owned(),
            before: Some(self.flags.to_receipt()),
            after: Some(after.to_receipt()),
            reason,
        })
    }

    /// Other definitions are in force.
    pub(super) fn set_flags(&mut self, flags: Definitions, by: &str) {
        if flags != self.flags {
            tracing::info!(by, flags = flags.document.keys().count(), "flags applied");
        }
        self.book
            .set_flags(Arc::clone(&flags.document), self.last_recorded);
        self.flags = flags;
    }
}

/// What became of which flags, in one line.
fn difference(before: &Document, after: &Document) -> String {
    let added = after.keys().filter(|key| before.definition(key).is_none());
    let removed = before.keys().filter(|key| after.definition(key).is_none());
    let changed = after.keys().filter(|key| {
        let was = before.definition(key);
        was.is_some() && was != after.definition(key)
    });
    let parts = [
        named("added", &added.collect::<Vec<_>>()),
        named("changed", &changed.collect::<Vec<_>>()),
        named("removed", &removed.collect::<Vec<_>>()),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    if parts.is_empty() {
        "no flag itself changed".to_owned()
    } else {
        parts.join("; ")
    }
}

fn named(what: &str, keys: &[&str]) -> Option<String> {
    let (shown, more) = keys.split_at(keys.len().min(NAMED));
    match (shown, more) {
        ([], _) => None,
        (shown, []) => Some(format!("{what} {}", shown.join(", "))),
        (shown, more) => Some(format!("{what} {} and {} more", shown.join(", "), more.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_says_what_became_of_which_flags() {
        let document = |text: &str| Document::parse(text.as_bytes()).expect("a document");
        let before = document(r#"{ "flags": { "a": 1, "b": 2, "c": 3 } }"#);
        let after = document(r#"{ "flags": { "b": 2, "c": 4, "d": 5 } }"#);
        assert_eq!(difference(&before, &after), "added d; changed c; removed a");
        assert_eq!(difference(&after, &after), "no flag itself changed");
        let many: Vec<_> = (0..12).map(|n| format!("\"f{n:02}\": 1")).collect();
        let many = document(&format!("{{ \"flags\": {{ {} }} }}", many.join(", ")));
        let said = difference(&document(r#"{ "flags": {} }"#), &many);
        assert_eq!(said, "added f00, f01, f02, f03, f04, f05, f06, f07 and 4 more");
    }
}
