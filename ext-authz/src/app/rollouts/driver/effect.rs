//! How a change is recorded and comes into force.

use std::sync::Arc;
use std::time::Duration;

use knhk_decision::{PolicyDoc, PolicyId};
use knhk_promotion::{Finding, HistoryEntry, Phase, Rollout, What};
use knhk_receipts::Payload;
use knhk_telemetry::attribute;

use super::Driver;
use crate::app::rollouts::backlog::{Append, RECORD_WITHIN};
use crate::app::rollouts::change::{Appended, Change, Next, Pending};
use crate::app::rollouts::{CommandError, Tombstone};
use crate::app::snapshots::Snapshot;

/// What became of a change.
pub(super) enum Made {
    /// It is in force, or it was refused and nothing changed.
    Now(Result<(), CommandError>),
    /// It waits for the log, see [`Pending`].
    Later,
}

impl Driver {
    /// Sees what the log has taken meanwhile, and waits for it no longer than `limit`.
    pub(super) async fn settle(&mut self, limit: Duration) {
        let recorded = self.backlog.retry(&self.parts.journal, limit).await;
        self.last_recorded = recorded.max(self.last_recorded);
        let Some(mut pending) = self.pending.take() else {
            return;
        };
        match pending.append.answer(limit).await {
            None => self.pending = Some(pending),
            Some(appended) => self.resolve(pending, appended).await,
        }
    }

    /// The log has answered for a change that had to wait.
    async fn resolve(&mut self, pending: Pending, appended: Appended) {
        let Pending {
            mut change,
            done,
            overtaken,
            ..
        } = pending;
        let name = change.name.clone();
        let answer = match appended {
            Err(error) => Err(error.into()),
            Ok(last) if overtaken => {
                self.last_recorded = last.max(self.last_recorded);
                Err(CommandError::Overtaken(name.clone()))
            }
            Ok(last) => {
                self.last_recorded = last.max(self.last_recorded);
                let follows = change.snapshot.as_ref().is_some_and(|it| it.id == self.next_id());
                if change.snapshot.is_some() && !follows {
                    // A rollback of another rollout came between: its policy knows nothing of this change.
                    change.snapshot = None;
                    self.take_effect(change);
                    self.publish_all(Vec::new()).await;
                } else {
                    self.take_effect(change);
                }
                Ok(())
            }
        };
        match (done, answer) {
            (Some(done), answer) => drop(done.send(answer)),
            (None, Err(error)) => say_that_it_stands_still(&name, &error),
            (None, Ok(())) => {}
        }
    }

    /// Records a change, then lets it take effect. What is urgent takes effect whatever the log says.
    pub(super) async fn make(&mut self, mut change: Change) -> Made {
        if change.is_urgent() {
            self.overtake(&change.name);
            let actions = std::mem::take(&mut change.actions);
            let snapshot = change.snapshot.take();
            change.snapshot = self.record_at_once(actions, snapshot).await;
            self.take_effect(change);
            return Made::Now(Ok(()));
        }
        let mut payloads = std::mem::take(&mut change.actions);
        payloads.extend(change.snapshot.as_deref().map(|snapshot| self.policy(snapshot)));
        if payloads.is_empty() {
            self.take_effect(change);
            return Made::Now(Ok(()));
        }
        // The log holds actions in the order in which they happened.
        if self.is_behind() {
            return Made::Now(Err(CommandError::Behind));
        }
        let mut append = Append::start(&self.parts.journal, payloads);
        match append.answer(RECORD_WITHIN).await {
            Some(Ok(last)) => {
                self.last_recorded = last.max(self.last_recorded);
                self.take_effect(change);
                Made::Now(Ok(()))
            }
            Some(Err(error)) => Made::Now(Err(error.into())),
            None => {
                self.pending = Some(Pending {
                    change,
                    append,
                    done: None,
                    overtaken: false,
                });
                Made::Later
            }
        }
    }

    fn overtake(&mut self, name: &str) {
        if let Some(pending) = self.pending.as_mut().filter(|it| it.change.is_of(name)) {
            pending.overtaken = true;
        }
    }

    fn is_behind(&self) -> bool {
        self.pending.is_some() || !self.backlog.is_empty()
    }

    /// Hands receipts to the log, which gets a moment to take them, and returns the snapshot to publish.
    ///
    /// One that is not durable gets a number in an epoch of its own: were the service killed now, the next one would
    /// give its number within this epoch to another policy.
    async fn record_at_once(
        &mut self,
        mut payloads: Vec<Payload>,
        snapshot: Option<Arc<Snapshot>>,
    ) -> Option<Arc<Snapshot>> {
        if self.is_behind() {
            let renumbered = snapshot.map(|snapshot| self.in_new_epoch(&snapshot));
            payloads.extend(renumbered.as_deref().map(|snapshot| self.policy(snapshot)));
            self.record_behind(payloads, Duration::ZERO).await;
            return renumbered;
        }
        payloads.extend(snapshot.as_deref().map(|snapshot| self.policy(snapshot)));
        self.record_behind(payloads, RECORD_WITHIN).await;
        if self.backlog.is_empty() {
            return snapshot;
        }
        tracing::error!("the log does not take a rollback's receipts; traffic is taken off all the same");
        let renumbered = self.in_new_epoch(&snapshot?);
        self.backlog.add(vec![self.policy(&renumbered)]);
        Some(renumbered)
    }

    /// Puts receipts behind those that wait. The log gets `limit` to take them.
    async fn record_behind(&mut self, payloads: Vec<Payload>, limit: Duration) {
        self.backlog.add(payloads);
        let recorded = self.backlog.retry(&self.parts.journal, limit).await;
        self.last_recorded = recorded.max(self.last_recorded);
    }

    /// The same policy under a number that no other one has had: the time's, and more than the newest one's.
    fn in_new_epoch(&self, snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
        let after_newest = self.newest.epoch.saturating_add(1);
        let id = PolicyId {
            epoch: self.parts.clock.now().wall_ms.max(after_newest),
            n: 1,
        };
        let document = PolicyDoc {
            flags: snapshot.flags.clone(),
            ..PolicyDoc::new(id, snapshot.policy.rules().to_vec())
        };
        match Snapshot::parse(document.to_bytes()) {
            Ok(renumbered) => Arc::new(renumbered),
            Err(error) => {
                tracing::error!(%error, "a snapshot keeps a number that may be used again");
                Arc::clone(snapshot)
            }
        }
    }

    /// A change is in force from here on.
    fn take_effect(&mut self, change: Change) {
        let Change {
            name,
            by,
            next,
            entries,
            snapshot,
            tombstone,
            ..
        } = change;
        for entry in &entries {
            tracing::info!(rollout = name, by, what = entry.what.label(), why = entry.why, weight = %entry.weight);
        }
        self.count_rollbacks(&name, &entries);
        match &next {
            Next::Rollout(after) if !entries.is_empty() => self.tell(&name, Some(after), None),
            Next::NoRollout => self.tell(&name, None, tombstone.as_ref()),
            Next::Flags(flags) => self.tell_flags(flags),
            // A step's time that goes on is no news to other regions.
            Next::Rollout(_) => {}
        }
        match next {
            Next::Rollout(after) => self.set(name, after),
            Next::NoRollout => self.remove(&name, &by, tombstone),
            Next::Flags(flags) => self.set_flags(flags, &by),
        }
        if let Some(snapshot) = snapshot {
            self.publish(snapshot);
        }
    }

    pub(super) fn set(&mut self, name: String, rollout: Arc<Rollout>) {
        self.parts.evidence.open(&rollout.rule(), self.parts.clock.mono());
        self.parts
            .metrics
            .rollout(&name, rollout.weight().percent(), phase_label(rollout.phase()));
        self.book
            .insert(name.clone(), Arc::clone(&rollout), self.last_recorded);
        self.rollouts.insert(name, rollout);
    }

    fn remove(&mut self, name: &str, by: &str, tombstone: Option<Tombstone>) {
        tracing::info!(rollout = name, by, "deleted");
        if let Some(tombstone) = tombstone {
            self.tombstones.insert(name, tombstone);
        }
        self.rollouts.remove(name);
        self.book.remove(name, self.last_recorded);
        self.parts.evidence.close(name);
        self.parts.metrics.rollout_deleted(name);
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.newest = snapshot.id;
        self.parts.metrics.snapshot_made(snapshot.id.n);
        self.parts.snapshots.publish(snapshot);
    }

    fn count_rollbacks(&self, name: &str, entries: &[HistoryEntry]) {
        for entry in entries.iter().filter(|entry| entry.what == What::RolledBack) {
            let worst = entry
                .readings
                .iter()
                .find(|reading| reading.finding == Finding::Worse);
            let metric = worst.map_or("", |reading| {
                reading.slo.split_whitespace().next().unwrap_or_default()
            });
            self.parts
                .metrics
                .rolled_back(name, attribute::RollbackReason::from_label(metric));
        }
    }

    /// Brings the policy to what the rollouts and the flags say. They differ when the service was killed between a change and its
    /// policy: while the log took the one and not yet the other, or when a rollback was published that the log never
    /// took and that only the shortcut has kept.
    pub(super) async fn restore(&mut self) {
        let newest = self.parts.snapshots.newest();
        let in_force = (newest.policy.rules(), &newest.flags);
        let wanted = self.snapshot_of_all(None, None);
        let wanted = wanted
            .as_ref()
            .map(|wanted| (wanted.policy.rules(), &wanted.flags));
        if wanted.is_ok_and(|wanted| wanted == in_force) {
            return;
        }
        // Those that stay left out of the policy are not ahead of it.
        let ahead = self.rollouts.values().filter(|rollout| {
            let rule = rollout.rule();
            !in_force.0.contains(&rule) && wanted.is_ok_and(|(rules, _)| rules.contains(&rule))
        });
        let actions = ahead.map(|rollout| self.restored(rollout)).collect();
        self.publish_all(actions).await;
    }

    /// Publishes a policy of all rollouts as they are.
    async fn publish_all(&mut self, actions: Vec<Payload>) {
        match self.snapshot_of_all(None, None) {
            Ok(snapshot) => {
                if let Some(snapshot) = self.record_at_once(actions, Some(snapshot)).await {
                    self.publish(snapshot);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the rollouts' policy does not compile; the last one stays");
            }
        }
    }
}

/// A log that takes nothing says so itself, once; the rollout tries again at each look.
pub(super) fn say_that_it_stands_still(rollout: &str, error: &CommandError) {
    if let CommandError::Behind | CommandError::NotRecorded(_) = error {
        tracing::debug!(%error, rollout, "a rollout waits for the log");
    } else {
        tracing::error!(%error, rollout, "a rollout could not go on");
    }
}

fn phase_label(phase: Phase) -> attribute::Phase {
    match phase {
        Phase::Progressing => attribute::Phase::Progressing,
        Phase::Paused(_) => attribute::Phase::Paused,
        Phase::Succeeded => attribute::Phase::Succeeded,
        Phase::Failed(_) => attribute::Phase::Failed,
    }
}
