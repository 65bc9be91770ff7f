//! The rollouts and the flags that they ask for: one task owns them, so that every change is made, recorded and published in one order.

mod backlog;
mod book;
mod change;
mod definitions;
mod driver;
mod tombstones;

use std::sync::Arc;
use std::time::Duration;

use knhk_decision::PolicyError;
use knhk_flags::Document;
use knhk_promotion::{Command, Refusal, Rollout};
use knhk_receipts::LogError;
use knhk_regions::wire::{FlagsState, RolloutState};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::api::RolloutSummary;

pub(crate) use book::Book;
pub(crate) use definitions::Definitions;
pub(crate) use driver::{Driver, DriverParts, Recorded};
pub(crate) use tombstones::{Tombstone, Tombstones};

/// Rollouts at once; each is in every snapshot.
pub(crate) const MAX_ROLLOUTS: usize = knhk_decision::limits::MAX_ROLLOUTS;
/// Operators' commands that wait for the driver.
const WAITING_COMMANDS: usize = 64;
/// How long another region waits for one of its changes to be followed: the next message may be an abort.
const FOLLOW_WITHIN: Duration = Duration::from_secs(1);

/// The way to the rollouts, for every other task.
#[derive(Debug)]
pub(crate) struct Rollouts {
    book: Book,
    commands: mpsc::Sender<Request>,
}

#[derive(Debug)]
struct Request {
    by: String,
    action: Action,
    done: oneshot::Sender<Result<(), CommandError>>,
}

#[derive(Debug)]
enum Action {
    Command {
        name: String,
        command: Box<Command>,
    },
    Delete {
        name: String,
    },
    /// This region becomes a rollout's home.
    Adopt {
        name: String,
    },
    /// Another region's state of a rollout, which is later than ours.
    Follow(Box<RolloutState>),
    /// Flag definitions in the place of those in force.
    Flags(Arc<Document>),
    /// Another region's flag definitions, which are later than ours.
    FollowFlags(Box<FlagsState>, InUse),
}

/// What becomes of flags of which a rollout in force asks for what they no longer have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InUse {
    /// They are not followed.
    Stay,
    /// They are, and the rollout is left out of the policy.
    MayGo,
}

/// Why a command changed nothing.
#[derive(Debug, Error)]
pub(crate) enum CommandError {
    #[error("rollout `{0}`: there is none; `knhk rollout list` shows those there are")]
    NoSuchRollout(String),
    #[error(
        "rollout `{0}`: there are {MAX_ROLLOUTS} already, the most that one service holds; delete one first"
    )]
    TooMany(String),
    #[error("rollout `{name}`: {refusal}")]
    Refused { name: String, refusal: Refusal },
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("the flags were not changed: {0}")]
    FlagsInUse(PolicyError),
    #[error("nothing was changed: it could not be recorded: {0}")]
    NotRecorded(#[from] LogError),
    #[error("nothing was changed: earlier receipts still wait for the log; see /readyz, and try again")]
    Behind,
    #[error(
        "rollout `{0}`: it was rolled back or aborted while this waited for the log, and stays so; see its history"
    )]
    Overtaken(String),
    #[error(
        "rollout `{name}`: its home is region {home}, which alone advances it: act there, or take it over with `knhk rollout adopt {name}`; `abort` works everywhere"
    )]
    NotHome { name: String, home: String },
    #[error("rollout `{name}`: {region} is its home already")]
    IsHome { name: String, region: String },
    #[error("rollout `{0}`: there are no other regions; see `regions` in docs/regions.md")]
    OneRegion(String),
    #[error(
        "rollout `{name}`: what region {from} says of it cannot be read: {reason}; run the same `knhk` everywhere"
    )]
    Unreadable {
        name: String,
        from: String,
        reason: String,
    },
    #[error("what region {from} says of the flags cannot be read: {reason}; run the same `knhk` everywhere")]
    FlagsUnreadable { from: String, reason: String },
    #[error("nothing was changed: the service is stopping")]
    Stopping,
}

impl CommandError {
    /// A stable, low-cardinality name.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::NoSuchRollout(_) => "not_found",
            Self::TooMany(_) => "too_many_rollouts",
            Self::Refused { refusal, .. } => refusal.label(),
            Self::Policy(_) => "invalid_policy",
            Self::FlagsInUse(_) => "flags_in_use",
            Self::NotRecorded(_) => "not_recorded",
            Self::Behind => "log_behind",
            Self::Overtaken(_) => "overtaken",
            Self::NotHome { .. } => "not_home",
            Self::IsHome { .. } => "is_home",
            Self::OneRegion(_) => "one_region",
            Self::Unreadable { .. } | Self::FlagsUnreadable { .. } => "unreadable",
            Self::Stopping => "stopping",
        }
    }
}

impl Rollouts {
    /// One rollout.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Rollout>, CommandError> {
        self.book
            .get(name)
            .ok_or_else(|| CommandError::NoSuchRollout(name.to_owned()))
    }

    /// All of them, by name.
    pub(crate) fn summaries(&self) -> Vec<RolloutSummary> {
        self.book
            .page()
            .rollouts
            .values()
            .map(|rollout| summary(rollout))
            .collect()
    }

    /// What [`super::saver`] reads.
    pub(crate) fn book(&self) -> Book {
        self.book.clone()
    }

    /// Carries out an operator's command. Returns once it is recorded and published.
    pub(crate) async fn command(
        &self,
        name: String,
        by: String,
        command: Command,
    ) -> Result<(), CommandError> {
        let command = Box::new(command);
        self.send(by, Action::Command { name, command }).await
    }

    /// Removes a rollout; its requests go to stable.
    pub(crate) async fn delete(&self, name: String, by: String) -> Result<(), CommandError> {
        self.send(by, Action::Delete { name }).await
    }

    /// Makes this region a rollout's home.
    pub(crate) async fn adopt(&self, name: String, by: String) -> Result<(), CommandError> {
        self.send(by, Action::Adopt { name }).await
    }

    /// Takes over what another region says of a rollout, unless something later is known by now.
    pub(crate) async fn follow(&self, from: &str, state: RolloutState) -> Result<(), CommandError> {
        self.send_soon(from, Action::Follow(Box::new(state))).await
    }

    /// The flag definitions in force.
    pub(crate) fn flags(&self) -> Arc<Document> {
        self.book.page().flags
    }

    /// Puts flag definitions, which were checked, in the place of those in force. Refused where a rollout asks for what they
    /// no longer have.
    pub(crate) async fn apply_flags(&self, flags: Document, by: String) -> Result<(), CommandError> {
        self.send(by, Action::Flags(Arc::new(flags))).await
    }

    /// Takes over the flag definitions of another region, unless later ones are in force by now.
    pub(crate) async fn follow_flags(
        &self,
        from: &str,
        state: FlagsState,
        in_use: InUse,
    ) -> Result<(), CommandError> {
        self.send_soon(from, Action::FollowFlags(Box::new(state), in_use))
            .await
    }

    /// Another region's change. One that the log does not take in time may come into force later all the same.
    async fn send_soon(&self, from: &str, action: Action) -> Result<(), CommandError> {
        let sent = self.send(format!("region:{from}"), action);
        let answer = tokio::time::timeout(FOLLOW_WITHIN, sent).await;
        answer.unwrap_or(Err(CommandError::Behind))
    }

    async fn send(&self, by: String, action: Action) -> Result<(), CommandError> {
        let (done, answer) = oneshot::channel();
        let request = Request { by, action, done };
        self.commands
            .send(request)
            .await
            .map_err(|_| CommandError::Stopping)?;
        answer.await.map_err(|_| CommandError::Stopping)?
    }
}

/// A rollout's row.
pub(crate) fn summary(rollout: &Rollout) -> RolloutSummary {
    RolloutSummary {
        name: rollout.name().to_owned(),
        phase: rollout.phase().label().to_owned(),
        reason: rollout.phase().reason().map(str::to_owned),
        generation: rollout.generation(),
        stable: rollout.spec().stable().to_owned(),
        version: rollout.spec().version().to_owned(),
        weight: rollout.weight().percent(),
        home: rollout.home().map(str::to_owned),
    }
}
