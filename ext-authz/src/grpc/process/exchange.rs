//! One exchange: a request and its response through `ext_proc`, as a machine without a network, a disk or a clock.
//!
//! The request's headers are decided and answered at once. The decision waits for the response's headers, and is recorded
//! with their status before they go on. If the stream ends first it is recorded without one. A request that is denied gets
//! no response: its decision is recorded before the answer to its headers.

use std::time::Duration;

use knhk_decision::Admission;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::processing_request::Request;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::{
    HttpHeaders, ProcessingRequest, ProcessingResponse,
};
use knhk_receipts::Via;
use knhk_telemetry::ServiceMetrics;
use knhk_telemetry::attribute::ExchangeOutcome;
use thiserror::Error;

use super::wire;
use crate::app::recorder::{CheckedDecision, OwnDecision, Seen};
use crate::app::snapshots::Snapshots;
use crate::grpc::decided::Decided;
use crate::grpc::headers::HeaderList;
use crate::grpc::recording::{NotRecorded, Refusal};
use crate::grpc::route_options::{BadOption, OnError, RouteOptions, Wait};

/// What an exchange may know of the service when something happens.
#[derive(Clone, Copy)]
pub(super) struct World<'a> {
    pub(super) snapshots: &'a Snapshots,
    /// Where failed flags are counted.
    pub(super) metrics: &'a ServiceMetrics,
    /// Since the Unix epoch.
    pub(super) wall_ms: u64,
    /// Does not run backwards.
    pub(super) mono: Duration,
    /// Chance, where a request without an ID is sampled.
    pub(super) draw: fn() -> [u8; 16],
}

/// What happens to an exchange.
#[derive(Debug)]
pub(super) enum Event {
    /// The proxy sent this.
    Message {
        message: Box<ProcessingRequest>,
        /// The ID of the receipt that Check has given the request, which the log has.
        by_check: Option<String>,
    },
    /// [`Effect::Record`] was carried out; with the receipt's ID if the decision is durable.
    Recorded(Result<String, NotRecorded>),
    /// The stream is over: no answer reaches the proxy any more.
    Ended,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Wait for what happens next.
    Wait,
    /// Send this, then wait for what happens next.
    Reply(Box<ProcessingResponse>),
    /// Make this durable; the next event is [`Event::Recorded`].
    Record(Box<OwnDecision>),
}

/// What is to be done, and how the exchange came to its end if this is it.
#[derive(Debug, PartialEq)]
pub(super) struct Step {
    pub(super) effect: Effect,
    pub(super) outcome: Option<ExchangeOutcome>,
}

/// A message that cannot come here. The stream ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Violation {
    #[error("request_headers came a second time, or after response_headers")]
    RequestHeaders,
    #[error("response_headers came a second time")]
    ResponseHeaders,
    #[error(
        "processing_mode: FULL_DUPLEX_STREAMED and GRPC would have bodies sent back; set both body modes to NONE"
    )]
    BodyMode,
}

/// The state of one exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    options: Result<RouteOptions, BadOption>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Nothing of the request has come.
    Begun,
    /// The request's headers are answered.
    Requested { at: Duration, record: Record },
    /// The decision is being recorded.
    Recording(Reason),
    /// The response's headers are answered, or the stream is over.
    Over,
}

/// What there is to record of a request.
#[derive(Debug)]
enum Record {
    Decision(Box<CheckedDecision>),
    /// Nothing: the route says so.
    Nothing,
    /// Nothing: Check did it before, under this ID.
    ByCheck(String),
    /// Nothing more: the request was refused.
    Refused,
}

/// Why a decision is being recorded.
#[derive(Debug, Clone, Copy)]
enum Reason {
    /// The request is denied, and its headers, which came at this time, wait for it.
    Denied(Duration),
    /// The response's headers wait for it.
    Responded(Answering),
    /// The stream ended.
    Ended,
}

/// Whether the proxy waits for answers. In Envoy's `observability_mode` it does not, and reads none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answering {
    Awaited,
    Unread,
}

impl Answering {
    fn of(message: &ProcessingRequest) -> Self {
        if message.observability_mode {
            Self::Unread
        } else {
            Self::Awaited
        }
    }

    fn with(self, reply: ProcessingResponse) -> Effect {
        match self {
            Self::Awaited => Effect::Reply(Box::new(reply)),
            Self::Unread => Effect::Wait,
        }
    }
}

impl Exchange {
    /// An exchange on a route with these options; with wrong ones its requests are refused.
    pub(super) fn new(options: Result<RouteOptions, BadOption>) -> Self {
        Self {
            options,
            stage: Stage::Begun,
        }
    }

    /// What a response waits for, and for how long.
    pub(super) fn wait(&self) -> (Wait, Duration) {
        self.options
            .as_ref()
            .map_or((Wait::Local, Duration::ZERO), |options| {
                (options.wait, options.wait_timeout)
            })
    }

    /// What an event leads to. After a violation the state is what it was: [`Event::Ended`] comes next.
    pub(super) fn step(&mut self, event: Event, world: World<'_>) -> Result<Step, Violation> {
        match event {
            Event::Message { message, by_check } => self.received(&message, by_check, world),
            Event::Recorded(recorded) => Ok(self.recorded(recorded)),
            Event::Ended => Ok(self.ended()),
        }
    }

    fn received(
        &mut self,
        message: &ProcessingRequest,
        by_check: Option<String>,
        world: World<'_>,
    ) -> Result<Step, Violation> {
        if let Some(config) = &message.protocol_config
            && !wire::leaves_bodies_alone(config)
        {
            return Err(Violation::BodyMode);
        }
        let answering = Answering::of(message);
        match &message.request {
            Some(Request::RequestHeaders(headers)) => match self.stage {
                Stage::Begun => Ok(self.requested(message, headers, by_check, world)),
                _ => Err(Violation::RequestHeaders),
            },
            Some(Request::ResponseHeaders(headers)) => self.responded(headers, answering, world),
            other => Ok(Step {
                effect: answering.with(wire::to_other(other.as_ref())),
                outcome: None,
            }),
        }
    }

    fn requested(
        &mut self,
        message: &ProcessingRequest,
        headers: &HttpHeaders,
        by_check: Option<String>,
        world: World<'_>,
    ) -> Step {
        let answering = Answering::of(message);
        let (record, reply, outcome) = match &self.options {
            Err(bad) => {
                let outcome = match answering {
                    Answering::Awaited => ExchangeOutcome::FailedClosed,
                    Answering::Unread => ExchangeOutcome::FailedOpen,
                };
                (
                    Record::Refused,
                    wire::refused(Refusal::from(bad), None),
                    Some(outcome),
                )
            }
            Ok(options) => {
                let headers = wire::list(headers);
                let decided = decide(options, message, headers, world);
                if (decided.admission, answering) == (Admission::Denied, Answering::Awaited) {
                    return self.denied(decided.record, world.mono);
                }
                let (record, reply) = admitted(decided, headers, by_check);
                (record, reply, None)
            }
        };
        self.stage = Stage::Requested {
            at: world.mono,
            record,
        };
        Step {
            effect: answering.with(reply),
            outcome,
        }
    }

    /// Whatever Check has recorded: it did not record this.
    fn denied(&mut self, record: Option<CheckedDecision>, at: Duration) -> Step {
        if let Some(decision) = record {
            self.stage = Stage::Recording(Reason::Denied(at));
            return record_with(Box::new(decision), None);
        }
        self.stage = refused_at(at);
        Step {
            effect: Effect::Reply(Box::new(wire::refused(Refusal::peer_not_allowed(), None))),
            outcome: Some(ExchangeOutcome::Denied),
        }
    }

    fn responded(
        &mut self,
        headers: &HttpHeaders,
        answering: Answering,
        world: World<'_>,
    ) -> Result<Step, Violation> {
        let answered = |receipt, outcome| Step {
            effect: answering.with(wire::to_response(receipt)),
            outcome,
        };
        match std::mem::replace(&mut self.stage, Stage::Over) {
            // Another filter answered before the request got here, and Envoy shows us its answer all the same.
            Stage::Begun => Ok(answered(None, Some(ExchangeOutcome::NotDecided))),
            Stage::Requested { at, record } => Ok(match record {
                Record::Nothing => answered(None, Some(ExchangeOutcome::NotRecorded)),
                Record::ByCheck(receipt) => answered(Some(&receipt), Some(ExchangeOutcome::NotRecorded)),
                Record::Refused => answered(None, None),
                Record::Decision(decision) => {
                    self.stage = Stage::Recording(Reason::Responded(answering));
                    let took = world.mono.saturating_sub(at);
                    record_with(
                        decision,
                        Some(Seen {
                            status: wire::status(wire::list(headers)),
                            duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                        }),
                    )
                }
            }),
            before @ (Stage::Recording(_) | Stage::Over) => {
                self.stage = before;
                Err(Violation::ResponseHeaders)
            }
        }
    }

    fn recorded(&mut self, recorded: Result<String, NotRecorded>) -> Step {
        let on_error = self
            .options
            .as_ref()
            .map_or(OnError::Closed, |options| options.on_error);
        let Stage::Recording(reason) = std::mem::replace(&mut self.stage, Stage::Over) else {
            // Nothing was being recorded, so nothing is told.
            return Step {
                effect: Effect::Wait,
                outcome: None,
            };
        };
        let (effect, outcome) = match (reason, recorded) {
            (Reason::Denied(at), recorded) => {
                self.stage = refused_at(at);
                let denied = Refusal::peer_not_allowed;
                let (reply, outcome) = match (recorded, on_error) {
                    (Ok(receipt), _) => (wire::refused(denied(), Some(&receipt)), ExchangeOutcome::Denied),
                    (Err(_), OnError::Open) => (wire::refused(denied(), None), ExchangeOutcome::FailedOpen),
                    (Err(why), OnError::Closed) => {
                        (wire::refused(why.into(), None), ExchangeOutcome::FailedClosed)
                    }
                };
                (Effect::Reply(Box::new(reply)), outcome)
            }
            (Reason::Responded(answering), Ok(receipt)) => (
                answering.with(wire::to_response(Some(&receipt))),
                ExchangeOutcome::Recorded,
            ),
            (Reason::Responded(answering), Err(why)) => match (on_error, answering) {
                (OnError::Closed, Answering::Awaited) => (
                    answering.with(wire::refused(why.into(), None)),
                    ExchangeOutcome::FailedClosed,
                ),
                _ => (
                    answering.with(wire::to_response(None)),
                    ExchangeOutcome::FailedOpen,
                ),
            },
            (Reason::Ended, Ok(_)) => (Effect::Wait, ExchangeOutcome::RecordedUnfinished),
            (Reason::Ended, Err(_)) => (Effect::Wait, ExchangeOutcome::Lost),
        };
        Step {
            effect,
            outcome: Some(outcome),
        }
    }

    fn ended(&mut self) -> Step {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Requested {
                record: Record::Decision(decision),
                ..
            } => {
                self.stage = Stage::Recording(Reason::Ended);
                record_with(decision, None)
            }
            Stage::Requested {
                record: Record::Nothing | Record::ByCheck(_),
                ..
            } => Step {
                effect: Effect::Wait,
                outcome: Some(ExchangeOutcome::NotRecorded),
            },
            Stage::Requested {
                record: Record::Refused,
                ..
            }
            | Stage::Begun
            | Stage::Over => Step {
                effect: Effect::Wait,
                outcome: None,
            },
            // Whoever records tells the result first.
            Stage::Recording(reason) => {
                self.stage = Stage::Recording(reason);
                Step {
                    effect: Effect::Wait,
                    outcome: None,
                }
            }
        }
    }
}

fn decide(
    options: &RouteOptions,
    message: &ProcessingRequest,
    headers: HeaderList<'_>,
    world: World<'_>,
) -> Decided {
    let facts = wire::ProcessFacts {
        headers,
        certified: wire::certified(message),
        peer_source: options.peer,
        wall_ms: world.wall_ms,
    };
    Decided::of(
        world.snapshots,
        world.metrics,
        &facts,
        options.record,
        world.wall_ms,
        world.draw,
    )
}

/// A request that goes on. In Envoy's `observability_mode` that is each one, whatever was decided.
fn admitted(
    mut decided: Decided,
    headers: HeaderList<'_>,
    by_check: Option<String>,
) -> (Record, ProcessingResponse) {
    let record = match (by_check, decided.record) {
        (Some(receipt), _) => {
            // Check has told the upstream: it stays.
            decided
                .headers
                .push(knhk_decision::headers::RECEIPT, receipt.clone());
            Record::ByCheck(receipt)
        }
        (None, Some(decision)) => Record::Decision(Box::new(decision)),
        (None, None) => Record::Nothing,
    };
    (record, wire::to_request(&decided.headers, headers))
}

/// Should Envoy go on with a request that was answered, there is nothing more to do for it.
fn refused_at(at: Duration) -> Stage {
    Stage::Requested {
        at,
        record: Record::Refused,
    }
}

fn record_with(decision: Box<CheckedDecision>, seen: Option<Seen>) -> Step {
    Step {
        effect: Effect::Record(Box::new(OwnDecision {
            decision: *decision,
            via: Via::ExtProc,
            seen,
        })),
        outcome: None,
    }
}
