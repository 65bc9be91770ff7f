//! Where the service listens: over mutual TLS where it has an identity, on loopback where it has none.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use futures::Stream;
use knhk_identity::{Acceptor, Allow, Alpn, Identity, Role, Roles, TlsIncoming};
use knhk_proto::envoy::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::external_processor_server::ExternalProcessorServer;
use knhk_proto::v1::gate_server::GateServer;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;

use super::{ServeError, Task, Tasks, spawn};
use crate::app::ledger::replace;
use crate::app::regions::start::Waiting;
use crate::app::{App, Ground};
use crate::config::Config;
use crate::grpc::{CheckService, GateService, MAX_MESSAGE_BYTES, ProcessService, Recording};
use crate::http::{Access, Early, Front, PeerIdentity, api_routes, probe_routes};

/// Largest message of a filter, in bytes: 1 MiB of recorded decisions and some room.
const MAX_UP_BYTES: usize = 2 * 1024 * 1024;
/// Envoy holds one connection a worker; ending it now and then lets replicas share the load. Streams finish first.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);
/// Streams that one connection of a proxy may have under way; beyond, Envoy opens another connection. `ext_proc` holds one
/// for as long as its request lasts.
const MAX_STREAMS: u32 = 1_024;
/// Connections of proxies that wait to be accepted.
const BACKLOG: u32 = 1_024;
/// Idle HTTP/2 connections are probed this often, so that dead proxies are noticed.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Bound sockets: from here on nothing about addresses can fail.
pub(super) struct Listeners {
    /// Bound, and not listening before the service is whole: until then a proxy is told at once that nobody is there.
    grpc: TcpSocket,
    http: TcpListener,
    probe: TcpListener,
    socket: UnixListener,
}

/// Listeners over HTTP that are served, by what there is already.
pub(super) struct Doors {
    grpc: TcpSocket,
    addresses: serde_json::Value,
    http: Front,
    probe: Front,
    socket: Front,
    tasks: Vec<(&'static str, Task)>,
}

impl Listeners {
    pub(super) async fn bind(config: &Config) -> Result<Self, ServeError> {
        Ok(Self {
            grpc: bind_later("listen.grpc", config.listen.grpc)?,
            http: bind_tcp("listen.http", config.listen.http).await?,
            probe: bind_tcp("listen.probe", config.listen.probe).await?,
            socket: bind_socket(&config.data.join("knhk.sock"))?,
        })
    }

    /// Answers what can be answered before the log is open: whether the service is ready, and what other regions ask.
    pub(super) fn open(
        self,
        config: &Config,
        ground: &Ground,
        waiting: &Waiting,
        draining: &CancellationToken,
    ) -> Result<Doors, ServeError> {
        let addresses = self.addresses().map_err(|source| ServeError::Data {
            path: config.data.clone(),
            source,
        })?;
        let Self {
            grpc,
            http,
            probe,
            socket,
        } = self;
        let early = Early { ground, waiting };
        let (access, operators) = access(config);
        let (front, at_socket) = (
            Front::new(early.api_routes(&access)),
            Front::new(early.api_routes(&operators)),
        );
        let at_probe = Front::new(early.probe_routes());
        let http = match (&ground.identity, &access) {
            (Some(identity), Access::Workloads(roles)) => {
                let http = secured("listen.http", http, identity, roles, Alpn::Http1)?;
                serve_http(http, front.routes(), draining)
            }
            _ => serve_http(http, front.routes(), draining),
        };
        Ok(Doors {
            grpc,
            addresses,
            tasks: vec![
                ("the HTTP listener", http),
                (
                    "the probe listener",
                    serve_http(probe, at_probe.routes(), draining),
                ),
                (
                    "the socket's listener",
                    serve_http(socket, at_socket.routes(), draining),
                ),
            ],
            http: front,
            probe: at_probe,
            socket: at_socket,
        })
    }

    fn addresses(&self) -> io::Result<serde_json::Value> {
        Ok(json!({
            "grpc": self.grpc.local_addr()?,
            "http": self.http.local_addr()?,
            "probe": self.probe.local_addr()?,
        }))
    }
}

impl Doors {
    /// The service is whole: everything is answered, and proxies are let in.
    pub(super) fn serve(
        self,
        config: &Config,
        app: &Arc<App>,
        draining: &CancellationToken,
    ) -> Result<Tasks, ServeError> {
        let (access, operators) = access(config);
        self.http.exchange(api_routes(app, &access));
        self.socket.exchange(api_routes(app, &operators));
        self.probe.exchange(probe_routes(Arc::clone(app)));
        let grpc = self.grpc.listen(BACKLOG).map_err(|source| ServeError::Listen {
            field: "listen.grpc",
            address: config.listen.grpc.to_string(),
            source,
        })?;
        let grpc = if let (Some(identity), Access::Workloads(roles)) = (&app.identity, &access) {
            let grpc = secured("listen.grpc", grpc, identity, roles, Alpn::Http2)?;
            spawn(serve_grpc(grpc, Arc::clone(app), draining.clone()))
        } else {
            // Of an incoming stream the builder's own setting is ignored; without it an answer waits 40 ms for an
            // acknowledgement.
            let grpc = TcpIncoming::from(grpc).with_nodelay(Some(true));
            spawn(serve_grpc(grpc, Arc::clone(app), draining.clone()))
        };
        publish_addresses(&self.addresses, &config.data)?;
        let mut tasks = self.tasks;
        tasks.push(("the gRPC listener", grpc));
        Ok(Tasks::new(tasks))
    }
}

/// What callers may do: over TCP, and through the socket.
fn access(config: &Config) -> (Access, Access) {
    match &config.spiffe {
        // The socket's users show no SPIFFE ID, so there they only read.
        Some(spiffe) => (
            Access::Workloads(Arc::new(spiffe.roles.clone())),
            Access::LocalReaders,
        ),
        None if config.insecure_dev => (Access::AnybodyWrites, Access::Operators),
        None => (Access::Readers, Access::Operators),
    }
}

/// Port 0 in the configuration took a free port; `data/addresses.json` says which.
fn publish_addresses(addresses: &serde_json::Value, data: &Path) -> Result<(), ServeError> {
    let path = data.join("addresses.json");
    replace(&path, format!("{addresses}\n").as_bytes()).map_err(|source| ServeError::Data { path, source })
}

/// Connections over mutual TLS, of whoever has any role: each call asks for its own.
fn secured(
    field: &'static str,
    listener: TcpListener,
    identity: &Identity,
    roles: &Arc<Roles>,
    alpn: Alpn,
) -> Result<TlsIncoming, ServeError> {
    let allow = Allow::Roles {
        roles: Arc::clone(roles),
        any_of: Role::ALL.to_vec(),
    };
    TlsIncoming::new(listener, Acceptor::new(identity.clone(), allow, alpn)).map_err(|source| {
        ServeError::Listen {
            field,
            address: "its address".to_owned(),
            source,
        }
    })
}

fn serve_http<L>(listener: L, routes: Router, draining: &CancellationToken) -> Task
where
    L: Listener,
    L::Addr: std::fmt::Debug,
    PeerIdentity: for<'a> Connected<IncomingStream<'a, L>>,
{
    let service = routes.into_make_service_with_connect_info::<PeerIdentity>();
    spawn(
        axum::serve(listener, service)
            .with_graceful_shutdown(draining.clone().cancelled_owned())
            .into_future(),
    )
}

fn bind_later(field: &'static str, address: SocketAddr) -> Result<TcpSocket, ServeError> {
    let bound = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    bound().map_err(|source| ServeError::Listen {
        field,
        address: address.to_string(),
        source,
    })
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

async fn serve_grpc<S, C>(
    incoming: S,
    app: Arc<App>,
    draining: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    S: Stream<Item = io::Result<C>> + Send + 'static,
    C: AsyncRead + AsyncWrite + tonic::transport::server::Connected + Unpin + Send + 'static,
{
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    let gate = GateService::new(Arc::clone(&app), draining.clone());
    let recording = Arc::new(Recording::new(app));
    let check = CheckService::new(Arc::clone(&recording));
    let process = ProcessService::new(recording, draining.clone());
    let processor = ExternalProcessorServer::new(process.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
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
