//! The servers and clients that KNHK is made of, over mutual TLS: tonic, axum, and a configuration that outlives rotations.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::extract::connect_info::Connected;
use axum::routing::get;
use axum::serve::IncomingStream;
use knhk_identity::testing::{Authority, always, identity};
use knhk_identity::{
    Acceptor, Allow, Alpn, Connector, Env, HandshakeError, PeerError, PeerInfo, TlsIncoming,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::HealthServer;

fn everybody() -> Allow {
    Allow::Ids(vec!["spiffe://example.org/*".parse().expect("a pattern")])
}

async fn listen(acceptor: Acceptor) -> (TlsIncoming, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let incoming = TlsIncoming::new(listener, acceptor).expect("an address");
    let address = incoming.local_address();
    (incoming, address)
}

#[tokio::test]
async fn tonic_knows_its_caller() {
    let authority = Authority::new("example.org");
    let (server, _server) = identity(
        &authority.svid("/server", always()),
        &[&authority],
        Env::system(),
        Arc::new(()),
    );
    let (client, _client) = identity(
        &authority.svid("/client", always()),
        &[&authority],
        Env::system(),
        Arc::new(()),
    );
    let (incoming, address) = listen(Acceptor::new(server, everybody(), Alpn::Http2)).await;
    let (reporter, _) = tonic_health::server::health_reporter();
    reporter.set_service_status("", ServingStatus::Serving).await;
    let health = tonic_health::server::HealthService::from_health_reporter(reporter);
    let only_the_client = |request: Request<()>| match request.extensions().get::<PeerInfo>() {
        Some(info) if info.peer.id.path() == "/client" => Ok(request),
        other => Err(Status::permission_denied(format!("{other:?}"))),
    };
    let service =
        tonic::service::interceptor::InterceptedService::new(HealthServer::new(health), only_the_client);
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );

    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let connector = Connector::new(client.clone(), everybody(), Alpn::Http2);
    let channel = endpoint
        .connect_with_connector(connector)
        .await
        .expect("a channel");
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let answer = HealthClient::new(channel)
        .check(request)
        .await
        .expect("it is let in");
    assert_eq!(answer.into_inner().status, 1);

    let elsewhere = Allow::Ids(vec!["spiffe://example.org/other".parse().expect("a pattern")]);
    let wrong = Connector::new(client, elsewhere, Alpn::Http2);
    let error = endpoint
        .connect_with_connector(wrong)
        .await
        .expect_err("it is not who is wanted");
    let refused = PeerError::within(&error).expect("the reason is kept");
    assert_eq!(
        refused.to_string(),
        "spiffe://example.org/server is not allowed here: expected is spiffe://example.org/other"
    );
}

/// Who calls, as a service of axum's makes it for itself.
#[derive(Clone)]
struct Caller(String);

impl Connected<IncomingStream<'_, TlsIncoming>> for Caller {
    fn connect_info(stream: IncomingStream<'_, TlsIncoming>) -> Self {
        Self(stream.io().info().peer.id.to_string())
    }
}

#[tokio::test]
async fn axum_knows_its_caller_and_one_configuration_serves_over_rotations() {
    let authority = Authority::new("example.org");
    let (server, _server) = identity(
        &authority.svid("/server", always()),
        &[&authority],
        Env::system(),
        Arc::new(()),
    );
    let (client, held) = identity(
        &authority.svid("/first", always()),
        &[&authority],
        Env::system(),
        Arc::new(()),
    );
    let (incoming, address) = listen(Acceptor::new(server, everybody(), Alpn::Http1)).await;
    let routes = Router::new().route("/", get(async |ConnectInfo(Caller(id)): ConnectInfo<Caller>| id));
    let service = routes.into_make_service_with_connect_info::<Caller>();
    tokio::spawn(axum::serve(incoming, service).into_future());

    let config = Arc::new(client.client_config(everybody(), &[Alpn::Http1]));
    let ask = || async {
        let tcp = TcpStream::connect(address).await.expect("it listens");
        let name = ServerName::try_from("knhk").expect("a name");
        let mut stream = TlsConnector::from(Arc::clone(&config))
            .connect(name, tcp)
            .await
            .expect("a connection");
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: knhk\r\nconnection: close\r\n\r\n")
            .await
            .expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        answer
    };
    let answer = ask().await;
    assert!(answer.ends_with("spiffe://example.org/first"), "{answer}");
    held.rotate(&authority.svid("/second", always()), &[&authority]);
    let answer = ask().await;
    assert!(answer.ends_with("spiffe://example.org/second"), "{answer}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_one_line() {
    let authority = Authority::new("example.org");
    let (client, _client) = identity(
        &authority.svid("/client", always()),
        &[&authority],
        Env::system(),
        Arc::new(()),
    );
    let unused = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = unused.local_addr().expect("bound").to_string();
    drop(unused);
    let error = Connector::new(client, everybody(), Alpn::Http2)
        .connect(&address)
        .await
        .expect_err("nobody is there");
    assert!(
        matches!(error, HandshakeError::Broken(_)) && !error.to_string().contains('\n'),
        "{error}"
    );
}
