//! `knhk serve`: start, listen, drain.

use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use knhk_proto::envoy::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use knhk_proto::v1::gate_server::GateServer;
use knhk_telemetry::logging::LoggingError;
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
use crate::app::{App, StartError};
use crate::config::{Config, ConfigError};
use crate::grpc::{CheckService, GateService};
use crate::http::{Access, PeerIdentity, api_routes, probe_routes};

/// After SIGTERM, requests under way have so long to finish.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// Largest message of a filter, in bytes: 1 MiB of recorded decisions and some room.
const MAX_UP_BYTES: usize = 2 * 1024 * 1024;
/// Envoy holds one connection a worker; ending it now and then lets replicas share the load. Streams finish first.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);
/// Idle HTTP/2 connections are probed this often, so that dead proxies are noticed.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Why the service stopped.
#[derive(Debug, Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{field}: cannot listen on {address}: {source}; is another `knhk serve` running?")]
    Listen {
        field: &'static str,
        address: String,
        source: std::io::Error,
    },
    #[error("{path}: {source}; check the directory's owner and the disk")]
    Data { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Logging(#[from] LoggingError),
    #[error("signals cannot be received: {0}")]
    Signals(std::io::Error),
    #[error("the {0} listener stopped: {1}")]
    Stopped(&'static str, String),
}

/// Runs the service until SIGTERM or SIGINT.
pub(crate) async fn serve(config: &Path, log: &str) -> Result<(), ServeError> {
    let config = Config::load(config)?;
    knhk_telemetry::logging::init(log)?;
    let signals = Signals::listen()?;
    let (app, driver, saver) = App::open(&config).await?;
    let listeners = Listeners::bind(&config).await?;
    warn_of_development_settings(&config);

    let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
    let driver = tokio::spawn(driver.run(stop.clone()));
    let saver = tokio::spawn(saver.run(stop.clone()));
    let keeper = tokio::spawn(look_after(app.journal.clone(), stop.clone()));
    let servers = listeners.serve(&config, &app, &draining);
    tracing::info!(
        region = config.region,
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );

    let ended = tokio::select! {
        () = signals.received() => Ok(()),
        ended = servers.ended() => ended,
    };
    tracing::info!("draining");
    app.drain();
    draining.cancel();
    servers.drained().await;
    stop.cancel();
    let _ = tokio::join!(driver, saver, keeper);
    if let Err(error) = app.log.clone().close().await {
        tracing::error!(%error, "the last receipts are durable but not signed; the next start signs them");
    }
    tracing::info!("stopped");
    ended
}

fn warn_of_development_settings(config: &Config) {
    tracing::warn!("kms.provider is `local`: the signing key is a file; use a KMS in production");
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

    fn serve(self, config: &Config, app: &Arc<App>, draining: &CancellationToken) -> Servers {
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
        Servers(tokio::sync::Mutex::new(vec![
            ("grpc", spawn(grpc)),
            ("http", spawn(serve_tcp(self.http, routes(tcp)))),
            ("probe", spawn(serve_tcp(self.probe, probe))),
            ("socket", spawn(socket)),
        ]))
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
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // The directory is 0700, so nobody connects between the two calls.
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
    let check = CheckService::new(app);
    // Of an incoming stream the builder's own setting is ignored; without it an answer waits 40 ms for an acknowledgement.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .max_connection_age(MAX_CONNECTION_AGE)
        .add_service(health_service)
        .add_service(GateServer::new(gate).max_decoding_message_size(MAX_UP_BYTES))
        .add_service(AuthorizationServer::new(check))
        .serve_with_incoming_shutdown(incoming, async move {
            draining.cancelled().await;
            health.set_service_status("", ServingStatus::NotServing).await;
        })
        .await
}

type Served = JoinHandle<Result<(), String>>;

fn spawn<E: std::fmt::Display>(server: impl Future<Output = Result<(), E>> + Send + 'static) -> Served {
    tokio::spawn(async move { server.await.map_err(|error| error.to_string()) })
}

/// The running listeners.
struct Servers(tokio::sync::Mutex<Vec<(&'static str, Served)>>);

impl Servers {
    /// Resolves when a listener ends by itself, which none should.
    async fn ended(&self) -> Result<(), ServeError> {
        let mut servers = self.0.lock().await;
        let handles = servers
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

    /// Waits for what is under way, at most [`DRAIN_WITHIN`].
    async fn drained(self) {
        let servers = self
            .0
            .into_inner()
            .into_iter()
            .filter(|(_, handle)| !handle.is_finished());
        let finished = futures::future::join_all(servers.map(|(_, handle)| handle));
        if tokio::time::timeout(DRAIN_WITHIN, finished).await.is_err() {
            tracing::warn!("connections were still open after {DRAIN_WITHIN:?}; they are cut");
        }
    }
}
