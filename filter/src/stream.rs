//! The life of the stream to the service, as a state machine: (state, event, now) -> (state, effect).
//!
//! A lost stream is opened again for ever. The wait doubles with each attempt that came to nothing, and is
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
        /// Attempts in a row that were no good.
        failures: u32,
    },
    /// There is one.
    Open(Open),
}

/// An open stream: as far as this side knows, for a service that cannot be reached shows as a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    token: StreamToken,
    since: Mono,
    /// Whether the service has said something on it.
    answered: bool,
    /// Attempts in a row before this one that were no good.
    failures: u32,
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
        match self {
            Self::Open(open) => Some(open.token),
            Self::Waiting { .. } => None,
        }
    }

    /// Whether there is a good stream.
    pub fn is_good(&self, now: Mono) -> bool {
        match self {
            Self::Open(open) => open.is_good(now),
            Self::Waiting { .. } => false,
        }
    }

    /// What follows from an event.
    #[must_use]
    pub fn step(self, event: Event, now: Mono) -> (Self, Option<Effect>) {
        match (self, event) {
            (Self::Waiting { until, .. }, Event::Tick) if now >= until => (self, Some(Effect::Open)),
            (Self::Waiting { failures, .. }, Event::Opened(token)) => {
                let open = Open {
                    token,
                    since: now,
                    answered: false,
                    failures,
                };
                (Self::Open(open), Some(Effect::Greet(token)))
            }
            (Self::Waiting { failures, .. }, Event::Refused(roll)) => {
                (Self::waiting(failures.saturating_add(1), now, roll), None)
            }
            (Self::Open(open), Event::Received(token)) if token == open.token => (
                Self::Open(Open {
                    answered: true,
                    ..open
                }),
                None,
            ),
            (Self::Open(open), Event::Closed(token, roll)) if token == open.token => {
                let failures = if open.is_good(now) {
                    0
                } else {
                    open.failures.saturating_add(1)
                };
                (Self::waiting(failures, now, roll), Some(Effect::Close(token)))
            }
            (Self::Open(open), Event::Replaced) => (Self::NEW, Some(Effect::Cancel(open.token))),
            // A stream that is not this one's (any more).
            (_, Event::Closed(token, _)) => (self, Some(Effect::Close(token))),
            (Self::Open(_), Event::Opened(token)) => (self, Some(Effect::Cancel(token))),
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

impl Open {
    /// Whether the service said something on it, or it has lived long.
    fn is_good(&self, now: Mono) -> bool {
        self.answered || now >= self.since.plus_millis(PROVEN_AFTER_MILLIS)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the world does to the machine; `Opened` and `Refused` are the host's answers to `Effect::Open`.
    fn worlds() -> impl Strategy<Value = Vec<(u64, bool, Option<Event>)>> {
        let event = prop_oneof![
            3 => Just(None),
            2 => any::<u32>().prop_map(|roll| Some(Event::Closed(StreamToken(0), Roll(roll)))),
            1 => Just(Some(Event::Received(StreamToken(0)))),
            1 => Just(Some(Event::Replaced)),
            1 => any::<u32>().prop_map(|roll| Some(Event::Closed(StreamToken(u32::MAX), Roll(roll)))),
            1 => Just(Some(Event::Received(StreamToken(u32::MAX)))),
        ];
        prop::collection::vec((0..20_000_u64, any::<bool>(), event), 1..100)
    }

    proptest! {
        #[test]
        fn at_most_one_stream_and_none_is_forgotten(worlds in worlds()) {
            let mut stream = Stream::NEW;
            let mut now = Mono(0);
            let mut opened = 0;
            let mut live = Vec::new();
            for (pass_millis, refuses, event) in worlds {
                now = now.plus_millis(pass_millis);
                // Token 0 stands for the present stream.
                let event = match (event, stream.token()) {
                    (Some(Event::Closed(StreamToken(0), roll)), Some(token)) => Event::Closed(token, roll),
                    (Some(Event::Received(StreamToken(0))), Some(token)) => Event::Received(token),
                    (Some(event), _) => event,
                    (None, _) => Event::Tick,
                };
                let mut next = Some(event);
                while let Some(event) = next.take() {
                    let (state, effect) = stream.step(event, now);
                    stream = state;
                    match effect {
                        Some(Effect::Open) if refuses => next = Some(Event::Refused(Roll(opened))),
                        Some(Effect::Open) => {
                            opened += 1;
                            live.push(StreamToken(opened));
                            next = Some(Event::Opened(StreamToken(opened)));
                        }
                        Some(Effect::Greet(token)) => prop_assert_eq!(Some(token), stream.token()),
                        Some(Effect::Close(token) | Effect::Cancel(token)) => live.retain(|known| *known != token),
                        None => {}
                    }
                    if let Event::Closed(token, _) = event {
                        prop_assert_eq!(effect, Some(Effect::Close(token)), "the host keeps it otherwise");
                    }
                }
                prop_assert_eq!(live.clone(), stream.token().into_iter().collect::<Vec<_>>());
                // However bad things went, the wait is bounded: the tick after it opens a stream.
                let (_, effect) = stream.step(Event::Tick, now.plus_millis(MAX_BACKOFF_MILLIS));
                prop_assert_eq!(effect, stream.token().is_none().then_some(Effect::Open));
            }
        }

        #[test]
        fn the_wait_doubles_up_to_its_bound(failures in 0..100_u32, roll: u32) {
            let full = (FIRST_BACKOFF_MILLIS << failures.min(10)).min(MAX_BACKOFF_MILLIS);
            let wait = backoff_millis(failures, Roll(roll));
            prop_assert!((full / 2..=full).contains(&wait), "{wait} of {full}");
        }
    }

    #[test]
    fn a_good_stream_starts_the_wait_anew() {
        let after = |stream: Stream, now: Mono| match stream
            .step(Event::Closed(StreamToken(1), Roll(u32::MAX)), now)
            .0
        {
            Stream::Waiting { until, failures } => (until.micros_since(now) / 1_000, failures),
            Stream::Open(_) => panic!("it was closed"),
        };
        let failing = Stream::Waiting {
            until: Mono(0),
            failures: 5,
        };
        let (open, _) = failing.step(Event::Opened(StreamToken(1)), Mono(0));
        let soon = Mono(0).plus_millis(10);
        assert_eq!(after(open, soon), (MAX_BACKOFF_MILLIS - 1, 6));
        let (answered, _) = open.step(Event::Received(StreamToken(1)), soon);
        assert_eq!(after(answered, soon), (FIRST_BACKOFF_MILLIS - 1, 0));
        assert_eq!(
            after(open, Mono(0).plus_millis(PROVEN_AFTER_MILLIS)),
            (FIRST_BACKOFF_MILLIS - 1, 0)
        );
    }
}
