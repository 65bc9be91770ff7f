//! A service that sends filters what a test made by hand, and remembers what they said.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use knhk_decision::PolicyDoc;
use knhk_proto::v1;
use knhk_proto::v1::gate_server::{Gate, GateServer};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::ports::Port;
use crate::{Error, wait};

/// Messages that may wait for one worker; more means that it reads nothing, and its stream ends.
const WAITING: usize = 64;

/// A running fake. It stops on drop.
#[derive(Debug)]
pub struct FakeGate {
    port: Port,
    state: Arc<Mutex<State>>,
    /// Of its own, so that its connections end with it. Absent only while it is dropped.
    runtime: Option<Runtime>,
}

#[derive(Debug, Default)]
struct State {
    newest: Option<v1::Snapshot>,
    streams: Vec<mpsc::Sender<Result<v1::Down, Status>>>,
    hellos: Vec<v1::Hello>,
    acks: Vec<v1::SnapshotId>,
    nacks: Vec<v1::Nack>,
}

/// The message that carries this document, as the service makes it.
pub fn snapshot(document: &PolicyDoc) -> v1::Snapshot {
    let policy = document.to_bytes();
    v1::Snapshot {
        id: Some(v1::SnapshotId {
            epoch: document.epoch,
            n: document.n,
        }),
        sha256: Sha256::digest(&policy).to_vec(),
        policy,
    }
}

impl FakeGate {
    /// Starts it on a free port, with nothing to send.
    pub fn start() -> Result<Self, Error> {
        let port = Port::reserve()?;
        let address = port.address();
        let io = || Error::io("the fake Gate");
        let state = Arc::new(Mutex::new(State::default()));
        let service = GateServer::new(Service(Arc::clone(&state)));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(io())?;
        let listener = std::net::TcpListener::bind(address).map_err(io())?;
        listener.set_nonblocking(true).map_err(io())?;
        let incoming = {
            let _inside = runtime.enter();
            TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).map_err(io())?)
        };
        // It ends with the runtime; an error would show as a missing answer.
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        Ok(Self {
            port,
            state,
            runtime: Some(runtime),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Sends a snapshot to every worker, and first thing to those that come later.
    pub fn send(&self, snapshot: v1::Snapshot) {
        let mut state = lock(&self.state);
        state
            .streams
            .retain(|stream| stream.try_send(Ok(down(snapshot.clone()))).is_ok());
        state.newest = Some(snapshot);
    }

    /// Waits until `workers` different streams have acknowledged this snapshot.
    pub async fn until_acked(&self, id: v1::SnapshotId, workers: usize) -> Result<(), Error> {
        self.until(&format!("{workers} acknowledgements of {id:?}"), |state| {
            state.acks.iter().filter(|&&acked| acked == id).count() >= workers
        })
        .await
    }

    /// Waits until `workers` workers have refused this snapshot, and gives their refusals.
    pub async fn until_refused(&self, id: v1::SnapshotId, workers: usize) -> Result<Vec<v1::Nack>, Error> {
        let refusals = |state: &State| -> Vec<v1::Nack> {
            state
                .nacks
                .iter()
                .filter(|nack| nack.id == Some(id))
                .cloned()
                .collect()
        };
        self.until(&format!("{workers} refusals of {id:?}"), |state| {
            refusals(state).len() >= workers
        })
        .await?;
        Ok(refusals(&lock(&self.state)))
    }

    /// Waits until `streams` streams have said Hello since the start.
    pub async fn until_greeted(&self, streams: usize) -> Result<Vec<v1::Hello>, Error> {
        self.until(&format!("{streams} greetings"), |state| {
            state.hellos.len() >= streams
        })
        .await?;
        Ok(lock(&self.state).hellos.clone())
    }

    async fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) -> Result<(), Error> {
        wait::until(what, wait::SOON, || {
            let state = lock(&self.state);
            let seen = if wanted(&state) {
                Ok(())
            } else {
                Err(format!("{state:?}"))
            };
            async { seen }
        })
        .await
    }
}

impl Drop for FakeGate {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Debug)]
struct Service(Arc<Mutex<State>>);

#[tonic::async_trait]
impl Gate for Service {
    type StreamStream = ReceiverStream<Result<v1::Down, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::Up>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let state = Arc::clone(&self.0);
        let mut up = request.into_inner();
        tokio::spawn(async move {
            while let Some(Ok(message)) = up.next().await {
                hear(&mut lock(&state), message, &sender);
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn hear(state: &mut State, message: v1::Up, stream: &mpsc::Sender<Result<v1::Down, Status>>) {
    match message.message {
        Some(v1::up::Message::Hello(hello)) => {
            let newest = state.newest.clone().filter(|newest| newest.id != hello.last);
            if let Some(newest) = newest {
                // A full channel is a worker that reads nothing; the test then waits in vain and says so.
                let _ = stream.try_send(Ok(down(newest)));
            }
            state.streams.push(stream.clone());
            state.hellos.push(hello);
        }
        Some(v1::up::Message::Ack(ack)) => state.acks.extend(ack.id),
        Some(v1::up::Message::Nack(nack)) => state.nacks.push(nack),
        Some(v1::up::Message::Report(_) | v1::up::Message::Decisions(_)) | None => {}
    }
}

fn down(snapshot: v1::Snapshot) -> v1::Down {
    v1::Down {
        message: Some(v1::down::Message::Snapshot(snapshot)),
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
