//! The task that owns the rollouts, and the flags that they ask for.
//!
//! A change is: the pure step, then the snapshot that follows from it (compiled here, so that what a filter would
//! refuse is refused before anything happened), then one append of its receipts, then publication. Nothing is
//! published that is not durable, with one exception: what takes traffic off a version (a rollback, an abort) is
//! published at once even when the log fails, and recorded as soon as the log works again.
//!
//! The driver waits for nobody for long: a change that the log does not take within [`RECORD_WITHIN`] is put aside
//! until the log has answered, and rollbacks go on meanwhile.

mod effect;
mod flags;
mod home;
mod policy;
mod receipts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use knhk_decision::PolicyId;
use knhk_promotion::{Command, Effect, Event, LOOK_EVERY_MS, Now, Rollout};
use knhk_telemetry::ServiceMetrics;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::effect::{Made, say_that_it_stands_still};
use self::home::at_home;
use super::backlog::{Backlog, RECORD_WITHIN};
use super::change::{Change, Next, Pending, is_urgent};
use super::{
    Action, Book, CommandError, Definitions, MAX_ROLLOUTS, Request, Rollouts, Tombstones, WAITING_COMMANDS,
};
use crate::app::clock::Clock;
use crate::app::evidence::Evidence;
use crate::app::journal::Journal;
use crate::app::regions::Regions;
use crate::app::snapshots::Snapshots;

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
    /// The other regions; none where there are none.
    pub(crate) regions: Option<Arc<Regions>>,
}

/// What the log says of rollouts and flags.
pub(crate) struct Recorded {
    pub(crate) rollouts: BTreeMap<String, Rollout>,
    pub(crate) tombstones: Tombstones,
    pub(crate) flags: Definitions,
    /// The entry of the last action on one of them.
    pub(crate) last_action: Option<u64>,
}

/// Owns the rollouts.
pub(crate) struct Driver {
    parts: DriverParts,
    rollouts: BTreeMap<String, Arc<Rollout>>,
    tombstones: Tombstones,
    flags: Definitions,
    book: Book,
    commands: mpsc::Receiver<Request>,
    backlog: Backlog,
    pending: Option<Pending>,
    newest: PolicyId,
    last_recorded: Option<u64>,
}

impl Driver {
    /// Takes the recorded rollouts up where they were.
    pub(crate) fn new(parts: DriverParts, mut recorded: Recorded) -> Result<(Self, Rollouts), CommandError> {
        if parts.regions.is_some() {
            recorded.rollouts = at_home(recorded.rollouts, &parts.region);
            recorded.flags = recorded.flags.at_home(&parts.region);
        }
        let (sender, commands) = mpsc::channel(WAITING_COMMANDS);
        let book = Book::new(Arc::clone(&recorded.flags.document));
        let newest = parts.snapshots.newest().id;
        let mut driver = Self {
            rollouts: BTreeMap::new(),
            tombstones: recorded.tombstones,
            flags: recorded.flags,
            book: book.clone(),
            commands,
            backlog: Backlog::default(),
            pending: None,
            newest,
            last_recorded: recorded.last_action,
            parts,
        };
        driver.parts.metrics.snapshot_made(newest.n);
        driver.tell_what_is_recorded(&recorded.rollouts);
        driver.resume(recorded.rollouts)?;
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
            self.parts
                .evidence
                .resume(&rollout.rule(), self.parts.clock.mono());
            self.set(name, Arc::new(rollout));
        }
        Ok(())
    }

    /// Runs until told to stop, then gives the log a last moment to take what waits.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        self.restore().await;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(request) = self.commands.recv() => self.carry_out(request).await,
                _ = look.tick() => self.look().await,
            }
        }
        // Twice: what is under way, then what waits behind it.
        self.settle(RECORD_WITHIN).await;
        self.settle(RECORD_WITHIN).await;
    }

    async fn carry_out(&mut self, request: Request) {
        let Request { by, action, done } = request;
        let prepared = self.prepare(by, action);
        let made = match prepared {
            Ok(Some(change)) => self.make(change).await,
            // What another region tells is known.
            Ok(None) => Made::Now(Ok(())),
            Err(error) => Made::Now(Err(error)),
        };
        match (made, &mut self.pending) {
            // An operator who went away has been served all the same.
            (Made::Now(answer), _) => drop(done.send(answer)),
            (Made::Later, Some(pending)) => pending.done = Some(done),
            (Made::Later, None) => {}
        }
    }

    /// What a request changes, if it is one that can be carried out. Nothing where another region tells what is known.
    fn prepare(&self, by: String, action: Action) -> Result<Option<Change>, CommandError> {
        match action {
            Action::Command { name, command } => self.commanded(name, by, *command).map(Some),
            Action::Delete { name } => {
                let before = self.existing(&name)?;
                self.is_home_of(&before)?;
                self.deleted(name, by, &before).map(Some)
            }
            Action::Adopt { name } => {
                let before = self.existing(&name)?;
                self.adopted(by, &before).map(Some)
            }
            Action::Follow(state) => self.followed(by, &state),
            Action::Flags(flags) => self.flags_changed(by, flags).map(Some),
            Action::FollowFlags(state, in_use) => self.flags_followed(by, &state, in_use),
        }
    }

    fn existing(&self, name: &str) -> Result<Arc<Rollout>, CommandError> {
        let rollout = self.rollouts.get(name).map(Arc::clone);
        rollout.ok_or_else(|| CommandError::NoSuchRollout(name.to_owned()))
    }

    fn commanded(&self, name: String, by: String, command: Command) -> Result<Change, CommandError> {
        let now = self.parts.clock.now();
        let Some(before) = self.rollouts.get(&name).map(Arc::clone) else {
            // Only `apply` makes a rollout.
            let Command::Apply(spec) = command else {
                return Err(CommandError::NoSuchRollout(name));
            };
            if self.rollouts.len() >= MAX_ROLLOUTS {
                return Err(CommandError::TooMany(name));
            }
            let (rollout, effects) = knhk_promotion::create(spec, &by, now);
            let rollout = self.born_here(rollout);
            return self.changed(name, by, None, rollout, effects);
        };
        self.may(&before, &command)?;
        let event = Event::Command { by: &by, command };
        let (after, effects) = step(&before, event, now)?;
        self.changed(name, by, Some(&before), after, effects)
    }

    /// Looks at the evidence of every rollout.
    async fn look(&mut self) {
        self.settle(Duration::ZERO).await;
        let now = self.parts.clock.now();
        let names: Vec<_> = self.rollouts.keys().cloned().collect();
        for name in names {
            let Some(before) = self.rollouts.get(&name).map(Arc::clone) else {
                continue;
            };
            // The home looks at its evidence, and has been passed on what is new.
            if self.is_home_of(&before).is_err() {
                drop(self.parts.evidence.news(&before));
                continue;
            }
            let evidence = self.parts.evidence.totals(&before, self.parts.clock.mono());
            self.parts
                .metrics
                .reporters_set_aside(&name, evidence.set_aside());
            // Whatever becomes of this look, nothing that was reported is looked at twice.
            let looked = Event::Looked {
                evidence: &evidence,
                reports: &self.parts.evidence.news(&before),
            };
            let change = match step(&before, looked, now) {
                Ok((after, effects)) if effects.is_empty() => {
                    // Only the lived time went on; the book sees it with the next change.
                    self.rollouts.insert(name, Arc::new(after));
                    continue;
                }
                Ok((after, effects)) => self.changed(name, SERVICE.to_owned(), Some(&before), after, effects),
                Err(refused) => Err(refused),
            };
            let made = match change {
                Ok(change) => self.make(change).await,
                Err(error) => Made::Now(Err(error)),
            };
            if let Made::Now(Err(error)) = made {
                say_that_it_stands_still(before.name(), &error);
            }
        }
    }

    /// One rollout's next state, with its receipts and the policy that follows from it.
    fn changed(
        &self,
        name: String,
        by: String,
        before: Option<&Rollout>,
        after: Rollout,
        effects: Vec<Effect>,
    ) -> Result<Change, CommandError> {
        let after = Arc::new(after);
        let changes_policy = effects.contains(&Effect::PolicyChanged);
        let entries: Vec<_> = effects
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Recorded(entry) => Some(entry),
                Effect::PolicyChanged | Effect::Changed => None,
            })
            .collect();
        let snapshot = if !changes_policy {
            None
        } else if is_urgent(&entries) {
            // No policy refuses it, not even one that leaves this rollout out.
            Some(self.snapshot_of_all(Some(&name), Some(&after))?)
        } else {
            Some(self.snapshot_with(&name, Some(&after))?)
        };
        let actions = entries
            .iter()
            .map(|entry| self.action(&name, &by, before, &after, entry))
            .collect();
        Ok(Change {
            name,
            by,
            next: Next::Rollout(after),
            entries,
            actions,
            snapshot,
            tombstone: None,
        })
    }

    fn deleted(&self, name: String, by: String, before: &Rollout) -> Result<Change, CommandError> {
        let snapshot = self.snapshot_with(&name, None)?;
        let tombstone = self.tombstone_of(before);
        let action = self.deletion(&name, &by, Some(before), tombstone.as_ref());
        Ok(Change {
            tombstone,
            name,
            by,
            next: Next::NoRollout,
            entries: Vec::new(),
            actions: vec![action],
            snapshot: Some(snapshot),
        })
    }
}

fn step(rollout: &Rollout, event: Event<'_>, now: Now) -> Result<(Rollout, Vec<Effect>), CommandError> {
    knhk_promotion::step(rollout, event, now).map_err(|refusal| CommandError::Refused {
        name: rollout.name().to_owned(),
        refusal,
    })
}
