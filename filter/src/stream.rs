//! The life of the stream to the service, as a state machine: (state, event, now) -> (state, effect).
//!
//! A lost stream is opened again for ever. The wait doubles with each attempt that the service did not answer, and is
//! drawn at random from its upper half, so that a fleet that lost its service does not come back as one.

use crate::host::{Mono, StreamToken};

/// The wait before the first attempt to open a lost stream again. Short: until then a rollback does not arrive.
pub const FIRST_BACKOFF_MILLIS: u64 = 100;
/// The longest wait. A service that comes back has its whole fleet within this.
pub const MAX_BACKOFF_MILLIS: u64 = 5_000;
/// A stream that lived this long was good, also if the service had nothing to say on it.
pub const PROVEN_AFTER_MILLIS: u64 = 10_000;

/// A number drawn uniformly from all of `u32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roll(pub u32);

/// Where the stream of one plugin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// There is none; one is opened at the first tick from `until` on.
    Waiting {
        /// When the wait is over.
        until: Mono,
        /// Attempts in a row that the service did not answer.
        failures: u32,
    },
    /// It is open, as far as this side knows: a service that cannot be reached shows as a close.
    Open {
        /// Which one.
        token: StreamToken,
        /// Since when.
        since: Mono,
        /// Whether the service has said something on it.
        answered: bool,
        /// Attempts in a row before this one that the service did not answer.
        failures: u32,
    },
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed, and this plugin is the one that speaks for its VM.
    Tick,
    /// Time has passed, and another plugin speaks for the VM.
    Replaced,
    /// The host opened the stream.
    Opened(StreamToken),
    /// The host did not.
    Refused(Roll),
    /// The service said something.
    Received(StreamToken),
    /// The service closed a stream, or it broke.
    Closed(StreamToken, Roll),
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Open a stream, then tell with [`Event::Opened`] or [`Event::Refused`].
    Open,
    /// Say Hello.
    Greet(StreamToken),
    /// End this side too: the host keeps what it has of a stream until both sides are closed.
    Close(StreamToken),
    /// Reset it.
    Cancel(StreamToken),
}

impl Stream {
    /// None yet, and no reason to wait.
    pub const NEW: Self = Self::Waiting {
        until: Mono(0),
        failures: 0,
    };

    /// The stream that messages go out on.
    pub fn token(&self) -> Option<StreamToken> {
        match *self {
            Self::Open { token, .. } => Some(token),
            Self::Waiting { .. } => None,
        }
    }

    /// Whether the service has been silent since the stream before this one, or this one, was lost.
    pub fn is_failing(&self) -> bool {
        match *self {
            Self::Waiting { failures, .. } => failures > 0,
            Self::Open {
                answered, failures, ..
            } => failures > 0 && !answered,
        }
    }

    /// What follows from an event.
    #[must_use]
    pub fn step(self, event: Event, now: Mono) -> (Self, Option<Effect>) {
        match (self, event) {
            (Self::Waiting { until, .. }, Event::Tick) if now >= until => (self, Some(Effect::Open)),
            (Self::Waiting { failures, .. }, Event::Opened(token)) => (
                Self::Open {
                    token,
                    since: now,
                    answered: false,
                    failures,
                },
                Some(Effect::Greet(token)),
            ),
            (Self::Waiting { failures, .. }, Event::Refused(roll)) => {
                (Self::waiting(failures.saturating_add(1), now, roll), None)
            }
            (
                Self::Open {
                    token,
                    since,
                    failures,
                    ..
                },
                Event::Received(from),
            ) if from == token => (
                Self::Open {
                    token,
                    since,
                    answered: true,
                    failures,
                },
                None,
            ),
            (
                Self::Open {
                    token,
                    since,
                    answered,
                    failures,
                },
                Event::Closed(closed, roll),
            ) if closed == token => {
                let good = answered || now >= since.plus_millis(PROVEN_AFTER_MILLIS);
                let failures = if good { 0 } else { failures.saturating_add(1) };
                (Self::waiting(failures, now, roll), Some(Effect::Close(token)))
            }
            (Self::Open { token, .. }, Event::Replaced) => (Self::NEW, Some(Effect::Cancel(token))),
            // A stream that is not this one's (any more).
            (_, Event::Closed(token, _)) => (self, Some(Effect::Close(token))),
            (Self::Open { .. }, Event::Opened(token)) => (self, Some(Effect::Cancel(token))),
            (_, Event::Tick | Event::Replaced | Event::Refused(_) | Event::Received(_)) => (self, None),
        }
    }

    fn waiting(failures: u32, now: Mono, roll: Roll) -> Self {
        Self::Waiting {
            until: now.plus_millis(backoff_millis(failures, roll)),
            failures,
        }
    }
}

/// How long to wait after `failures` attempts in a row: between half of the doubled wait and all of it.
fn backoff_millis(failures: u32, roll: Roll) -> u64 {
    let full = 1_u64
        .checked_shl(failures)
        .and_then(|factor| factor.checked_mul(FIRST_BACKOFF_MILLIS))
        .map_or(MAX_BACKOFF_MILLIS, |wait| wait.min(MAX_BACKOFF_MILLIS));
    let half = full / 2;
    half + (((full - half) * u64::from(roll.0)) >> u32::BITS)
}
