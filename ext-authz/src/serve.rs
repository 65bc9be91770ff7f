//! `knhk serve`: start, listen, drain.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use knhk_proto::envoy::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::external_processor_server::ExternalProcessorServer;
use knhk_proto::v1::gate_server::GateServer;
use knhk_telemetry::logging::LoggingError;
use rustix::fs::Mode;
use serde_json::json;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;

use crate::app::journal::look_after;
use crate::app::ledger::replace;
use crate::app::{App, Opened, StartError};
use crate::config::{Config, ConfigError, Provider};
use crate::grpc::{CheckService, GateService, MAX_MESSAGE_BYTES, ProcessService, Recording};
use crate::http::{Access, PeerIdentity, api_routes, probe_routes};

/// After SIGTERM, requests under way have so long to finish.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// Then the log and the shortcut have so long to be written. A disk that hangs does not keep the service from ending:
/// what was acknowledged is durable, and the next start does the rest.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// No file or socket of the service is for others than its user: not for a moment.
const OTHERS_MAY_NOTHING: u32 = 0o077;
/// Largest message of a filter, in bytes: 1 MiB of recorded decisions and some room.
const MAX_UP_BYTES: usize = 2 * 1024 * 1024;
/// Envoy holds one connection a worker; ending it now and then lets replicas share the load. Streams finish first.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);
/// Streams that one connection of a proxy may have under way; beyond, Envoy opens another connection. `ext_proc` holds one
/// for as long as its request lasts.
const MAX_STREAMS: u32 = 1_024;
/// Idle HTTP/2 connections are probed this often, so that dead proxies are noticed.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Why the service stopped.
#[derive(Debug, Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{field}: cannot listen on {address}: {source}; {}", remedy(source))]
    Listen {
        field: &'static str,
        address: String,
        source: io::Error,
    },
    #[error("{path}: {source}; check the directory's owner and the disk")]
    Data { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Logging(#[from] LoggingError),
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    #[error("{0} ended by itself: {1}; start the service again, and report this with its log")]
    Stopped(&'static str, String),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program has it: is a `knhk serve` running?",
        io::ErrorKind::PermissionDenied => "ports below 1024 and other users' directories need more rights",
        io::ErrorKind::InvalidInput => "a socket's path has at most 107 bytes: give a shorter `data`",
        _ => "is it an address of this machine?",
    }
}

/// Runs the service until SIGTERM or SIGINT.
pub(crate) async fn serve(config: &Path, log: &str) -> Result<(), ServeError> {
    let config = Config::load(config)?;
    knhk_telemetry::logging::init(log)?;
    rustix::process::umask(Mode::from_raw_mode(OTHERS_MAY_NOTHING));
    let signals = Signals::listen()?;
    let Opened {
        app,
        driver,
        saver,
        rotator,
    } = App::open(&config).await?;
    let listeners = Listeners::bind(&config).await?;
    warn_of_development_settings(&config);

    let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
    // Without the saver a start takes longer, and that is all: it may end by itself, and says so.
    let saver = tokio::spawn(saver.run(stop.clone()));
    let inner = Tasks::of([
        (
            "the rollouts' driver",
            spawn(never_fails(driver.run(stop.clone()))),
        ),
        (
            "the key's rotation",
            spawn(never_fails(rotator.run(stop.clone()))),
        ),
        ("the log", spawn(look_after(app.journal.clone(), stop.clone()))),
    ]);
    let servers = listeners.serve(&config, &app, &draining);
    tracing::info!(
        region = config.region,
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );

    let ended = tokio::select! {
        () = signals.received() => Ok(()),
        ended = servers.ended() => ended,
        ended = inner.ended() => ended,
    };
    tracing::info!("draining");
    app.drain();
    draining.cancel();
    servers.finished("connections", DRAIN_WITHIN).await;
    stop.cancel();
    inner.finished("the rollouts and the log", CLOSE_WITHIN).await;
    let closed = async {
        let _ = saver.await;
        app.log.clone().close().await
    };
    match tokio::time::timeout(CLOSE_WITHIN, closed).await {
        Ok(Ok(())) => tracing::info!("stopped"),
        Ok(Err(error)) => {
            tracing::error!(%error, "the last receipts are durable but not signed; the next start signs them");
        }
        Err(_) => {
            tracing::error!("the disk did not answer within {CLOSE_WITHIN:?}; the next start does the rest");
        }
    }
    ended
}

async fn never_fails(task: impl Future<Output = ()>) -> Result<(), Infallible> {
    task.await;
    Ok(())
}

fn warn_of_development_settings(config: &Config) {
    if config.kms.provider == Provider::Local {
        tracing::warn!(
            "kms.provider is `local`: the signing key is a file, for development; use a KMS in production"
        );
    }
    if config.insecure_dev {
        tracing::warn!(
            "insecure_dev is true: anybody on this machine may write over {}",
            config.listen.http
        );
    }
}

struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Signals {
    /// From here on, a signal starts a drain instead of ending the process.
    fn listen() -> Result<Self, ServeError> {
        let on = |kind| signal(kind).map_err(ServeError::Signals);
        Ok(Self {
            term: on(SignalKind::terminate())?,
            int: on(SignalKind::interrupt())?,
        })
    }

    async fn received(mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// Bound sockets: from here on nothing about addresses can fail.
struct Listeners {
    grpc: TcpListener,
    http: TcpListener,
    probe: TcpListener,
    socket: UnixListener,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, ServeError> {
        let listeners = Self {
            grpc: bind_tcp("listen.grpc", config.listen.grpc).await?,
            http: bind_tcp("listen.http", config.listen.http).await?,
            probe: bind_tcp("listen.probe", config.listen.probe).await?,
            socket: bind_socket(&config.data.join("knhk.sock"))?,
        };
        listeners.publish_addresses(&config.data)?;
        Ok(listeners)
    }

    /// Port 0 in the configuration took a free port; `data/addresses.json` says which.
    fn publish_addresses(&self, data: &Path) -> Result<(), ServeError> {
        let path = data.join("addresses.json");
        let written = || {
            let addresses = json!({
                "grpc": self.grpc.local_addr()?,
                "http": self.http.local_addr()?,
                "probe": self.probe.local_addr()?,
            });
            replace(&path, format!("{addresses}\n").as_bytes())
        };
        written().map_err(|source| ServeError::Data {
            path: path.clone(),
            source,
        })
    }

    fn serve(self, config: &Config, app: &Arc<App>, draining: &CancellationToken) -> Tasks {
        let tcp = if config.insecure_dev {
            Access::AnybodyWrites
        } else {
            Access::Readers
        };
        let routes = |access| api_routes(Arc::clone(app), access);
        let grpc = serve_grpc(self.grpc, Arc::clone(app), draining.clone());
        let probe = probe_routes(Arc::clone(app));
        let drained = || draining.clone().cancelled_owned();
        let serve_tcp = |listener, routes: Router| {
            let service = routes.into_make_service_with_connect_info::<PeerIdentity>();
            axum::serve(listener, service)
                .with_graceful_shutdown(drained())
                .into_future()
        };
        let socket = {
            let service = routes(Access::Operators).into_make_service_with_connect_info::<PeerIdentity>();
            axum::serve(self.socket, service)
                .with_graceful_shutdown(drained())
                .into_future()
        };
        Tasks::of([
            ("the gRPC listener", spawn(grpc)),
            ("the HTTP listener", spawn(serve_tcp(self.http, routes(tcp)))),
            ("the probe listener", spawn(serve_tcp(self.probe, probe))),
            ("the socket's listener", spawn(socket)),
        ])
    }
}

async fn bind_tcp(field: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen {
            field,
            address: address.to_string(),
            source,
        })
}

/// The log's lock says that no other service uses this directory, so a socket that is there is a dead one's.
fn bind_socket(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Listen {
        field: "data",
        address: path.display().to_string(),
        source,
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // Nobody connects between the two calls: the umask lets only our user in.
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

async fn serve_grpc(
    listener: TcpListener,
    app: Arc<App>,
    draining: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    let gate = GateService::new(Arc::clone(&app), draining.clone());
    let recording = Arc::new(Recording::new(app));
    let check = CheckService::new(Arc::clone(&recording));
    let process = ProcessService::new(recording, draining.clone());
    let processor = ExternalProcessorServer::new(process.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    // Of an incoming stream the builder's own setting is ignored; without it an answer waits 40 ms for an acknowledgement.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .max_connection_age(MAX_CONNECTION_AGE)
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(health_service)
        .add_service(GateServer::new(gate).max_decoding_message_size(MAX_UP_BYTES))
        .add_service(AuthorizationServer::new(check))
        .add_service(processor)
        .serve_with_incoming_shutdown(incoming, async move {
            draining.cancelled().await;
            health.set_service_status("", ServingStatus::NotServing).await;
        })
        .await?;
    process.finished().await;
    Ok(())
}

type Task = JoinHandle<Result<(), String>>;

fn spawn<E: std::fmt::Display + 'static>(task: impl Future<Output = Result<(), E>> + Send + 'static) -> Task {
    tokio::spawn(async move { task.await.map_err(|error| error.to_string()) })
}

/// Tasks that run as long as the service does, each with its name for people.
struct Tasks(tokio::sync::Mutex<Vec<(&'static str, Task)>>);

impl Tasks {
    fn of<const N: usize>(tasks: [(&'static str, Task); N]) -> Self {
        Self(tokio::sync::Mutex::new(tasks.into()))
    }

    /// Resolves when a task ends by itself, also by a panic. None should, and the service is not whole without it.
    async fn ended(&self) -> Result<(), ServeError> {
        let mut tasks = self.0.lock().await;
        let handles = tasks
            .iter_mut()
            .map(|(name, handle)| Box::pin(async move { (*name, handle.await) }));
        let ((name, ended), _, _) = futures::future::select_all(handles).await;
        let reason = match ended {
            Ok(Ok(())) => "it was closed".to_owned(),
            Ok(Err(reason)) => reason,
            Err(panicked) => panicked.to_string(),
        };
        Err(ServeError::Stopped(name, reason))
    }

    /// Waits until all have ended, at most `limit`; says which kind of thing was still under way.
    async fn finished(self, what: &str, limit: Duration) {
        let running = self
            .0
            .into_inner()
            .into_iter()
            .filter(|(_, handle)| !handle.is_finished());
        let all = futures::future::join_all(running.map(|(_, handle)| handle));
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("{what}: still busy after {limit:?}; cut off");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_ends_the_service_and_is_named() {
        let waits = spawn(never_fails(std::future::pending()));
        let panics = spawn(never_fails(async { panic!("a bug") }));
        let tasks = Tasks::of([("the one", waits), ("the other", panics)]);
        let message = tasks.ended().await.expect_err("ended").to_string();
        assert!(
            message.starts_with("the other ended by itself: ") && message.contains("a bug"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn what_does_not_end_is_cut_off_at_the_limit() {
        let tasks = Tasks::of([("the one", spawn(never_fails(std::future::pending())))]);
        tasks.finished("it", Duration::ZERO).await;
    }
}
