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
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;

use super::{ServeError, Task, Tasks, spawn};
use crate::app::App;
use crate::app::ledger::replace;
use crate::config::Config;
use crate::grpc::{CheckService, GateService, MAX_MESSAGE_BYTES, ProcessService, Recording};
use crate::http::{Access, PeerIdentity, api_routes, probe_routes};

/// Largest message of a filter, in bytes: 1 MiB of recorded decisions and some room.
const MAX_UP_BYTES: usize = 2 * 1024 * 1024;
/// Envoy holds one connection a worker; ending it now and then lets replicas share the load. Streams finish first.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);
/// Streams that one connection of a proxy may have under way; beyond, Envoy opens another connection. `ext_proc` holds one
/// for as long as its request lasts.
const MAX_STREAMS: u32 = 1_024;
/// Idle HTTP/2 connections are probed this often, so that dead proxies are noticed.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Bound sockets: from here on nothing about addresses can fail.
pub(super) struct Listeners {
    grpc: TcpListener,
    http: TcpListener,
    probe: TcpListener,
    socket: UnixListener,
}

impl Listeners {
    pub(super) async fn bind(config: &Config) -> Result<Self, ServeError> {
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

    pub(super) fn serve(
        self,
        config: &Config,
        app: &Arc<App>,
        draining: &CancellationToken,
    ) -> Result<Tasks, ServeError> {
        let Self {
            grpc,
            http,
            probe,
            socket,
        } = self;
        let ([grpc, http], operators) =
            if let (Some(identity), Some(spiffe)) = (&app.identity, &config.spiffe) {
                let roles = Arc::new(spiffe.roles.clone());
                let grpc = secured("listen.grpc", grpc, identity, &roles, Alpn::Http2)?;
                let http = secured("listen.http", http, identity, &roles, Alpn::Http1)?;
                let access = Access::Workloads(roles);
                // The socket's users show no SPIFFE ID, so there they only read.
                (
                    serve_both(grpc, http, app, &access, draining),
                    Access::LocalReaders,
                )
            } else {
                // Of an incoming stream the builder's own setting is ignored; without it an answer waits 40 ms for an
                // acknowledgement.
                let grpc = TcpIncoming::from(grpc).with_nodelay(Some(true));
                let access = if config.insecure_dev {
                    Access::AnybodyWrites
                } else {
                    Access::Readers
                };
                (serve_both(grpc, http, app, &access, draining), Access::Operators)
            };
        let probe = serve_http(probe, probe_routes(Arc::clone(app)), draining);
        let socket = serve_http(socket, api_routes(app, &operators), draining);
        Ok(Tasks::of([
            ("the gRPC listener", grpc),
            ("the HTTP listener", http),
            ("the probe listener", probe),
            ("the socket's listener", socket),
        ]))
    }
}

fn serve_both<S, C, L>(
    grpc: S,
    http: L,
    app: &Arc<App>,
    access: &Access,
    draining: &CancellationToken,
) -> [Task; 2]
where
    S: Stream<Item = io::Result<C>> + Send + 'static,
    C: AsyncRead + AsyncWrite + tonic::transport::server::Connected + Unpin + Send + 'static,
    L: Listener,
    L::Addr: std::fmt::Debug,
    PeerIdentity: for<'a> Connected<IncomingStream<'a, L>>,
{
    [
        spawn(serve_grpc(grpc, Arc::clone(app), draining.clone())),
        serve_http(http, api_routes(app, access), draining),
    ]
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
