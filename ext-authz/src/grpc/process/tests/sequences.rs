//! Messages in any order.

use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::processing_request::Request;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::processing_response::Response;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpTrailers, ProcessingRequest, ProcessingResponse,
};
use proptest::prelude::*;

use super::super::exchange::Effect;
use super::support::{Run, message, request, response, to_guarded};

/// What a proxy may send, in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    Unknown,
}

impl Sent {
    /// A request for the guarded host comes from nobody that is admitted there.
    fn message(self, guarded: bool) -> ProcessingRequest {
        match self {
            Self::RequestHeaders if guarded => to_guarded(&[("x-user-id", "u")]),
            Self::RequestHeaders => request(&[("x-user-id", "u")]),
            Self::RequestBody => message(Request::RequestBody(HttpBody::default())),
            Self::RequestTrailers => message(Request::RequestTrailers(HttpTrailers::default())),
            Self::ResponseHeaders => response("200"),
            Self::ResponseBody => message(Request::ResponseBody(HttpBody::default())),
            Self::ResponseTrailers => message(Request::ResponseTrailers(HttpTrailers::default())),
            Self::Unknown => ProcessingRequest::default(),
        }
    }

    /// Whether this is the kind of answer that the protocol asks for.
    fn is_answered_by(self, reply: &ProcessingResponse) -> bool {
        match (&reply.response, self) {
            (Some(Response::ImmediateResponse(_)), Self::RequestHeaders | Self::ResponseHeaders)
            | (Some(Response::RequestHeaders(_)), Self::RequestHeaders)
            | (Some(Response::ResponseHeaders(_)), Self::ResponseHeaders)
            | (None, Self::Unknown) => true,
            (Some(Response::RequestBody(reply)), Self::RequestBody)
            | (Some(Response::ResponseBody(reply)), Self::ResponseBody) => reply.response.is_none(),
            (Some(Response::RequestTrailers(reply)), Self::RequestTrailers)
            | (Some(Response::ResponseTrailers(reply)), Self::ResponseTrailers) => {
                reply.header_mutation.is_none()
            }
            _ => false,
        }
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        4 => Just(Sent::RequestHeaders),
        4 => Just(Sent::ResponseHeaders),
        1 => Just(Sent::RequestBody),
        1 => Just(Sent::RequestTrailers),
        1 => Just(Sent::ResponseBody),
        1 => Just(Sent::ResponseTrailers),
        1 => Just(Sent::Unknown),
    ]
}

proptest! {
    /// Whatever comes in whatever order: each message has exactly its own kind of answer or none where nobody reads one;
    /// a decision is recorded exactly once if the route wants it; and there is one outcome, at most.
    #[test]
    fn every_message_is_answered_in_order_and_every_decision_is_recorded_once(
        messages in prop::collection::vec((sent(), any::<bool>()), 0..8),
        record in prop::sample::select(vec!["all", "none", "bad"]),
        on_error in prop::sample::select(vec!["open", "closed"]),
        durable in any::<bool>(),
        guarded in any::<bool>(),
    ) {
        let mut run = Run::with(&[("record", record), ("on_error", on_error)]);
        let (mut decided, mut responded, mut records, mut violated) = (false, false, 0, false);
        for (sent, observability_mode) in messages {
            let mut message = sent.message(guarded);
            message.observability_mode = observability_mode;
            let may_come = match sent {
                Sent::RequestHeaders => !decided && !responded,
                Sent::ResponseHeaders => !responded,
                _ => true,
            };
            let Ok(effect) = run.send(message) else {
                prop_assert!(!may_come);
                violated = true;
                break;
            };
            prop_assert!(may_come);
            decided |= sent == Sent::RequestHeaders;
            responded |= sent == Sent::ResponseHeaders;
            let effect = match effect {
                Effect::Record(own) => {
                    // Who is denied gets no response that could be seen.
                    let denied = guarded && sent == Sent::RequestHeaders && !observability_mode;
                    prop_assert!(denied && own.seen.is_none() || sent == Sent::ResponseHeaders && own.seen.is_some());
                    records += 1;
                    if durable { run.durable(records) } else { run.fails("io") }
                }
                other => other,
            };
            match effect {
                Effect::Reply(reply) => prop_assert!(!observability_mode && sent.is_answered_by(&reply), "{sent:?}: {reply:?}"),
                Effect::Wait => prop_assert!(observability_mode),
                Effect::Record(_) => prop_assert!(false, "recorded twice"),
            }
        }
        if let Effect::Record(own) = run.ends() {
            prop_assert!(own.seen.is_none() && !responded);
            records += 1;
            let effect = if durable { run.durable(records) } else { run.fails("io") };
            prop_assert_eq!(effect, Effect::Wait);
        }
        prop_assert_eq!(run.ends(), Effect::Wait, "the end comes once");
        prop_assert_eq!(records, u64::from(decided && record == "all"));
        prop_assert_eq!(run.outcomes.len(), usize::from(decided || responded));
        prop_assert!(!violated || decided || responded);
    }
}
