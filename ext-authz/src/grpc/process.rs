//! Envoy's `ext_proc`: the filter's own decision, recorded with the outcome before the client sees the response.

mod by_check;
mod exchange;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::external_processor_server::ExternalProcessor;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use knhk_telemetry::attribute::AccessDoor;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::recording::Recording;
use super::route_options::{BadOption, RouteOptions, Wait};
use super::seldom::Seldom;
use crate::app::clock::wall_ms;
use crate::app::proxies::Proxy;
use exchange::{Effect, Event, Exchange, World};

/// Requests under way through `ext_proc` at a time. A stream beyond is refused, and Envoy's `failure_mode_allow` decides
/// about its request. Each holds a decision, whose size follows the policy, and one message at a time.
pub(crate) const MAX_EXCHANGES: u32 = 16_384;
/// Largest message of a proxy, in bytes. Envoy takes 60 KiB of headers by default. Room for a message is made as soon as its
/// length has come, so this is what a stream costs that does not send the rest.
pub(crate) const MAX_MESSAGE_BYTES: usize = 512 * 1024;
/// Most bytes that messages are received in: 16,384 x 512 KiB = 8 GiB, when every stream has sent the longest. With headers as
/// long as Envoy takes by default it is 16,384 x 60 KiB = 960 MiB. A stream keeps that room until it ends. A parsed message is
/// larger than its bytes, and there only while it is answered: recording does not hold it.
const MAX_HELD_BYTES: u64 = 8 << 30;
const _: () = assert!(MAX_EXCHANGES as u64 * MAX_MESSAGE_BYTES as u64 <= MAX_HELD_BYTES);
/// A proxy that does not read for so long is gone.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// The log has so long for a decision whose stream has ended. Nobody waits for it, so that is more than a route gives.
const RECORD_AT_END_WITHIN: Duration = Duration::from_secs(10);
/// Once the service drains, requests under way have so long to get their response; then their stream ends and they are
/// recorded without. Less than the service as a whole waits, so that the log is still there.
const FINISH_WITHIN: Duration = Duration::from_secs(8);

/// The gRPC service.
#[derive(Clone)]
pub(crate) struct ProcessService {
    shared: Arc<Shared>,
}

struct Shared {
    recording: Arc<Recording>,
    places: Arc<Semaphore>,
    violations: Seldom,
    draining: CancellationToken,
}

impl ProcessService {
    pub(crate) fn new(recording: Arc<Recording>, draining: CancellationToken) -> Self {
        Self {
            shared: Arc::new(Shared {
                recording,
                places: Arc::new(Semaphore::new(MAX_EXCHANGES as usize)),
                violations: Seldom::default(),
                draining,
            }),
        }
    }

    /// Resolves once no exchange is under way and no decision of one is being recorded.
    pub(crate) async fn finished(&self) {
        let _ = self.shared.places.acquire_many(MAX_EXCHANGES).await;
    }
}

#[tonic::async_trait]
impl ExternalProcessor for ProcessService {
    type ProcessStream = ReceiverStream<Result<ProcessingResponse, Status>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let shared = Arc::clone(&self.shared);
        let app = shared.recording.app();
        let proxy = app.proxies.admit(request.extensions(), AccessDoor::Process)?;
        let Ok(place) = Arc::clone(&shared.places).try_acquire_owned() else {
            app.metrics.exchange_refused();
            let message = format!("{MAX_EXCHANGES} requests are under way, the most that one service takes");
            return Err(Status::resource_exhausted(message));
        };
        let options = RouteOptions::from_metadata(request.metadata());
        if let Err(bad) = &options {
            shared.recording.route_refused(bad);
        }
        // One answer waits at most: the next message is read when the last one's answer is taken.
        let (replies, stream) = mpsc::channel(1);
        tokio::spawn(serve(
            shared,
            proxy,
            place,
            options,
            request.into_inner(),
            replies,
        ));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Lives as long as the exchange, which is longer than its stream when a decision is recorded at the end.
async fn serve(
    shared: Arc<Shared>,
    proxy: Arc<Proxy>,
    place: OwnedSemaphorePermit,
    options: Result<RouteOptions, BadOption>,
    mut inbound: Streaming<ProcessingRequest>,
    replies: mpsc::Sender<Result<ProcessingResponse, Status>>,
) {
    let _open = shared.recording.app().metrics.exchange_opened();
    let mut session = Session {
        shared: &shared,
        proxy: &proxy,
        exchange: Exchange::new(options),
    };
    if let Err(status) = session.converse(&mut inbound, &replies).await {
        // The stream may be gone already, which is how aborted requests end.
        let _ = tokio::time::timeout(SEND_WITHIN, replies.send(Err(status))).await;
    }
    drop((replies, inbound));
    session.settle().await;
    drop(place);
}

struct Session<'a> {
    shared: &'a Shared,
    proxy: &'a Proxy,
    exchange: Exchange,
}

impl Session<'_> {
    /// Answers message by message until the proxy ends the stream.
    async fn converse(
        &mut self,
        inbound: &mut Streaming<ProcessingRequest>,
        replies: &mpsc::Sender<Result<ProcessingResponse, Status>>,
    ) -> Result<(), Status> {
        let cut = cut(&self.shared.draining);
        tokio::pin!(cut);
        loop {
            let message = tokio::select! {
                biased;
                message = inbound.message() => message?,
                () = &mut cut => return Err(Status::unavailable("the service is stopping")),
            };
            let Some(message) = message else { return Ok(()) };
            if let Some(reply) = self.answer(message).await? {
                match tokio::time::timeout(SEND_WITHIN, replies.send(Ok(reply))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err(Status::cancelled("the stream is gone")),
                    Err(_) => return Err(Status::deadline_exceeded("the proxy does not read")),
                }
            }
        }
    }

    async fn answer(&mut self, message: ProcessingRequest) -> Result<Option<ProcessingResponse>, Status> {
        let app = self.shared.recording.app();
        let arrived = app.clock.mono();
        if let Some(host) = wire::host(&message) {
            app.proxies.admit_host(self.proxy, AccessDoor::Process, host)?;
        }
        let by_check = by_check::receipt(&app.log, &message).await;
        let message = Box::new(message);
        let effect = self.step(Event::Message { message, by_check }, arrived)?;
        let Effect::Record(own) = effect else {
            return Ok(reply(effect));
        };
        let (wait, limit) = self.exchange.wait();
        let recorded = self.shared.recording.record(*own, self.proxy, wait, limit).await;
        let now = app.clock.mono();
        let effect = self.step(Event::Recorded(recorded), now)?;
        app.metrics.exchange_answered(now.saturating_sub(arrived));
        Ok(reply(effect))
    }

    /// Records what the stream's end left unrecorded.
    async fn settle(mut self) {
        let clock = &self.shared.recording.app().clock;
        if let Ok(Effect::Record(own)) = self.step(Event::Ended, clock.mono()) {
            let recorded = self
                .shared
                .recording
                .record(*own, self.proxy, Wait::Local, RECORD_AT_END_WITHIN)
                .await;
            let _ = self.step(Event::Recorded(recorded), clock.mono());
        }
    }

    fn step(&mut self, event: Event, mono: Duration) -> Result<Effect, Status> {
        let app = self.shared.recording.app();
        let world = World {
            snapshots: &app.snapshots,
            metrics: &app.metrics,
            wall_ms: wall_ms(),
            mono,
            draw: rand::random,
        };
        match self.exchange.step(event, world) {
            Ok(step) => {
                if let Some(outcome) = step.outcome {
                    app.metrics.exchange(outcome);
                }
                Ok(step.effect)
            }
            Err(violation) => {
                app.metrics.exchange_violated();
                if let Some(suppressed) = self.shared.violations.due(mono) {
                    tracing::warn!(%violation, suppressed, "a stream of ext_proc is ended");
                }
                Err(Status::invalid_argument(violation.to_string()))
            }
        }
    }
}

fn reply(effect: Effect) -> Option<ProcessingResponse> {
    match effect {
        Effect::Reply(reply) => Some(*reply),
        Effect::Wait | Effect::Record(_) => None,
    }
}

/// Resolves when the service does not wait for responses any longer.
async fn cut(draining: &CancellationToken) {
    draining.cancelled().await;
    tokio::time::sleep(FINISH_WITHIN).await;
}
