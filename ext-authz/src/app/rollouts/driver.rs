//! The task that owns the rollouts.
//!
//! A change is: the pure step, then the snapshot that follows from it (compiled here, so that what a filter would
//! refuse is refused before anything happened), then one append of its receipts, then publication. Nothing is
//! published that is not durable, with one exception: what takes traffic off a version (a rollback, an abort) is
//! published at once even when the log fails, and recorded as soon as the log works again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use knhk_decision::{PolicyDoc, PolicyId, RolloutRule};
use knhk_promotion::{
    Command, Effect, Event, Finding, HistoryEntry, LOOK_EVERY_MS, Now, Phase, Rollout, What, WindowCounts,
};
use knhk_receipts::{ActionReceipt, Payload, PolicyReceipt};
use knhk_telemetry::{ServiceMetrics, attribute};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::backlog::Backlog;
use super::{Action, Book, CommandError, MAX_ROLLOUTS, Request, Rollouts, WAITING_COMMANDS};
use crate::app::clock::Clock;
use crate::app::evidence::Evidence;
use crate::app::journal::Journal;
use crate::app::ledger::ROLLOUT_ACTIONS;
use crate::app::snapshots::{Snapshot, Snapshots};

/// How often the evidence is looked at: the rate of false alarms in docs/analysis.md holds for this one.
const LOOK_EVERY: Duration = Duration::from_millis(LOOK_EVERY_MS);
/// Who acts when nobody does.
const SERVICE: &str = "knhk";

/// What the driver is made of.
pub(crate) struct DriverParts {
    pub(crate) region: String,
    pub(crate) clock: Clock,
    pub(crate) journal: Journal,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) evidence: Arc<Evidence>,
    pub(crate) metrics: Arc<ServiceMetrics>,
}

/// Owns the rollouts.
pub(crate) struct Driver {
    parts: DriverParts,
    rollouts: BTreeMap<String, Arc<Rollout>>,
    book: Book,
    commands: mpsc::Receiver<Request>,
    backlog: Backlog,
    newest: PolicyId,
    last_recorded: Option<u64>,
}

impl Driver {
    /// Takes the recorded rollouts up where they were.
    pub(crate) fn new(
        parts: DriverParts,
        recorded: BTreeMap<String, Rollout>,
        last_recorded: Option<u64>,
    ) -> Result<(Self, Rollouts), CommandError> {
        let (sender, commands) = mpsc::channel(WAITING_COMMANDS);
        let book = Book::default();
        let newest = parts.snapshots.newest().id;
        let mut driver = Self {
            rollouts: BTreeMap::new(),
            book: book.clone(),
            commands,
            backlog: Backlog::default(),
            newest,
            last_recorded,
            parts,
        };
        driver.resume(recorded)?;
        Ok((
            driver,
            Rollouts {
                book,
                commands: sender,
            },
        ))
    }

    fn resume(&mut self, recorded: BTreeMap<String, Rollout>) -> Result<(), CommandError> {
        let now = self.parts.clock.now();
        for (name, rollout) in recorded {
            let (rollout, _) = step(&rollout, Event::Restarted, now)?;
            self.set(name, Arc::new(rollout));
        }
        Ok(())
    }

    /// Runs until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(request) = self.commands.recv() => {
                    let answer = self.carry_out(request.name, request.by, request.action).await;
                    // An operator who went away has been served all the same.
                    let _ = request.done.send(answer);
                }
                _ = look.tick() => self.look().await,
            }
        }
    }

    async fn carry_out(&mut self, name: String, by: String, action: Action) -> Result<(), CommandError> {
        let Some(before) = self.rollouts.get(&name).map(Arc::clone) else {
            return match action {
                Action::Command(command) => self.create(name, &by, *command).await,
                Action::Delete => Err(CommandError::NoSuchRollout(name)),
            };
        };
        match action {
            Action::Command(command) => {
                let event = Event::Command {
                    by: &by,
                    command: *command,
                };
                let (after, effects) = step(&before, event, self.parts.clock.now())?;
                self.change(name, &by, Some(&before), after, effects).await
            }
            Action::Delete => self.delete(name, &by, &before).await,
        }
    }

    /// Only `apply` makes a rollout.
    async fn create(&mut self, name: String, by: &str, command: Command) -> Result<(), CommandError> {
        let Command::Apply(spec) = command else {
            return Err(CommandError::NoSuchRollout(name));
        };
        if self.rollouts.len() >= MAX_ROLLOUTS {
            return Err(CommandError::TooMany(name));
        }
        let (rollout, effects) = knhk_promotion::create(spec, by, self.parts.clock.now());
        self.change(name, by, None, rollout, effects).await
    }

    /// Looks at the evidence of every rollout.
    async fn look(&mut self) {
        let recorded = self.backlog.retry(&self.parts.journal).await;
        self.last_recorded = recorded.or(self.last_recorded);
        let now = self.parts.clock.now();
        let names: Vec<_> = self.rollouts.keys().cloned().collect();
        for name in names {
            let Some(before) = self.rollouts.get(&name).map(Arc::clone) else {
                continue;
            };
            let counts = self.counts(&name, &before);
            let stepped = step(&before, Event::Tick(&counts), now);
            let changed = match stepped {
                Ok((after, effects)) if effects.is_empty() => {
                    // Only the lived time went on; the book sees it with the next change.
                    self.rollouts.insert(name, Arc::new(after));
                    Ok(())
                }
                Ok((after, effects)) => self.change(name, SERVICE, Some(&before), after, effects).await,
                Err(refused) => Err(refused),
            };
            if let Err(error) = changed {
                tracing::error!(%error, rollout = before.name(), "a rollout could not go on");
            }
        }
    }

    fn counts(&self, name: &str, rollout: &Rollout) -> WindowCounts {
        self.parts.evidence.totals(name).unwrap_or_else(|| WindowCounts {
            window: rollout.window(),
            ..WindowCounts::default()
        })
    }

    /// Records and publishes one rollout's next state.
    async fn change(
        &mut self,
        name: String,
        by: &str,
        before: Option<&Rollout>,
        after: Rollout,
        effects: Vec<Effect>,
    ) -> Result<(), CommandError> {
        let after = Arc::new(after);
        let entries: Vec<_> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Recorded(entry) => Some(entry.clone()),
                Effect::PolicyChanged | Effect::Changed => None,
            })
            .collect();
        let snapshot = if effects
            .iter()
            .any(|effect| matches!(effect, Effect::PolicyChanged))
        {
            Some(self.snapshot_with(&name, Some(&after))?)
        } else {
            None
        };
        let mut payloads: Vec<_> = entries
            .iter()
            .map(|entry| self.action(&name, by, before, Some(&after), entry))
            .collect();
        payloads.extend(snapshot.as_deref().map(|snapshot| self.policy(snapshot)));
        if entries
            .iter()
            .any(|entry| matches!(entry.what, What::RolledBack | What::Aborted))
        {
            self.record_if_possible(payloads).await;
        } else {
            self.record(payloads).await?;
        }
        for entry in &entries {
            tracing::info!(rollout = name, by, what = entry.what.label(), why = entry.why, weight = %entry.weight);
        }
        self.count_rollbacks(&name, &entries);
        self.set(name, after);
        if let Some(snapshot) = snapshot {
            self.publish(snapshot);
        }
        Ok(())
    }

    async fn delete(&mut self, name: String, by: &str, before: &Rollout) -> Result<(), CommandError> {
        let snapshot = self.snapshot_with(&name, None)?;
        let action = ActionReceipt {
            region: self.parts.region.clone(),
            time_unix_ms: self.parts.clock.now().wall_ms,
            who: by.to_owned(),
            what: format!("{ROLLOUT_ACTIONS}deleted"),
            target: name.clone(),
            before: Some(state(before)),
            after: None,
            reason: "deleted; its requests go to stable".to_owned(),
        };
        let payloads = vec![Payload::Action(action), self.policy(&snapshot)];
        self.record(payloads).await?;
        tracing::info!(rollout = name, by, "deleted");
        self.rollouts.remove(&name);
        self.book.remove(&name, self.last_recorded);
        self.parts.evidence.close(&name);
        self.parts.metrics.rollout_deleted(&name);
        self.publish(snapshot);
        Ok(())
    }

    /// The snapshot that follows when `name` becomes `next`.
    fn snapshot_with(&self, name: &str, next: Option<&Arc<Rollout>>) -> Result<Arc<Snapshot>, CommandError> {
        let others = self
            .rollouts
            .iter()
            .filter(|(other, _)| *other != name)
            .map(|(_, rollout)| rollout);
        let mut rules: Vec<RolloutRule> = others.chain(next).map(|rollout| rollout.rule()).collect();
        rules.sort_by(|one, other| one.name.cmp(&other.name));
        let id = PolicyId {
            epoch: self.newest.epoch,
            n: self.newest.n.saturating_add(1),
        };
        Ok(Arc::new(Snapshot::parse(PolicyDoc::new(id, rules).to_bytes())?))
    }

    /// Makes receipts durable, after the ones that wait: the log holds actions in the order in which they happened.
    async fn record(&mut self, payloads: Vec<Payload>) -> Result<(), CommandError> {
        if payloads.is_empty() {
            return Ok(());
        }
        if !self.backlog.is_empty() {
            return Err(CommandError::Behind);
        }
        let indexes = self.parts.journal.append(payloads).await?;
        self.last_recorded = indexes.last().copied().or(self.last_recorded);
        Ok(())
    }

    /// Makes receipts durable if the log takes them at once; else they wait, and nothing is held up.
    async fn record_if_possible(&mut self, payloads: Vec<Payload>) {
        let recorded = self.backlog.record(&self.parts.journal, payloads).await;
        self.last_recorded = recorded.or(self.last_recorded);
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.newest = snapshot.id;
        self.parts.metrics.snapshot_made(snapshot.id.n);
        self.parts.snapshots.publish(snapshot);
    }

    fn set(&mut self, name: String, rollout: Arc<Rollout>) {
        let rule = rollout.rule();
        self.parts
            .evidence
            .open(&name, rule.window, rule.thresholds.len());
        self.parts
            .metrics
            .rollout(&name, rollout.weight().percent(), phase_label(rollout.phase()));
        self.book
            .insert(name.clone(), Arc::clone(&rollout), self.last_recorded);
        self.rollouts.insert(name, rollout);
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

    fn action(
        &self,
        name: &str,
        by: &str,
        before: Option<&Rollout>,
        after: Option<&Rollout>,
        entry: &HistoryEntry,
    ) -> Payload {
        Payload::Action(ActionReceipt {
            region: self.parts.region.clone(),
            time_unix_ms: entry.wall_ms,
            who: by.to_owned(),
            what: format!("{ROLLOUT_ACTIONS}{}", entry.what.label()),
            target: name.to_owned(),
            before: before.map(state),
            after: after.map(state),
            reason: entry.why.clone(),
        })
    }

    fn policy(&self, snapshot: &Snapshot) -> Payload {
        Payload::Policy(PolicyReceipt {
            region: self.parts.region.clone(),
            time_unix_ms: self.parts.clock.now().wall_ms,
            id: snapshot.id,
            sha256: snapshot.sha256,
            bytes: snapshot.bytes.to_vec(),
        })
    }
}

fn step(rollout: &Rollout, event: Event<'_>, now: Now) -> Result<(Rollout, Vec<Effect>), CommandError> {
    knhk_promotion::step(rollout, event, now).map_err(|refusal| CommandError::Refused {
        name: rollout.name().to_owned(),
        refusal,
    })
}

fn state(rollout: &Rollout) -> Vec<u8> {
    rollout.to_receipt_json()
}

fn phase_label(phase: Phase) -> attribute::Phase {
    match phase {
        Phase::Progressing => attribute::Phase::Progressing,
        Phase::Paused(_) => attribute::Phase::Paused,
        Phase::Succeeded => attribute::Phase::Succeeded,
        Phase::Failed(_) => attribute::Phase::Failed,
    }
}
