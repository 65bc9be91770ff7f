//! Handshakes of a listener, full and resumed, each with a new TCP connection on loopback: both sides' work on one thread.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::net::SocketAddr;
use std::sync::Arc;

use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use futures::StreamExt;
use knhk_identity::testing::{Authority, always, identity};
use knhk_identity::{Acceptor, Allow, Alpn, Connector, Env, TlsIncoming};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

/// One byte to the server and one back, so that the server's tickets have arrived.
async fn one(config: &Arc<ClientConfig>, address: SocketAddr, expected: HandshakeKind) {
    let tcp = TcpStream::connect(address).await.expect("a connection");
    tcp.set_nodelay(true).expect("an option");
    let name = ServerName::try_from("knhk").expect("a name");
    let mut stream = TlsConnector::from(Arc::clone(config))
        .connect(name, tcp)
        .await
        .expect("a handshake");
    stream.write_all(b"?").await.expect("writes");
    let mut answer = [0];
    stream.read_exact(&mut answer).await.expect("reads");
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected));
}

fn handshakes(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let authority = Authority::new("example.org");
    let everybody = || Allow::Ids(vec!["spiffe://example.org/*".parse().expect("a pattern")]);
    let env = Env::system();
    let (server, _server) = identity(
        &authority.svid("/server", always()),
        &[&authority],
        env.clone(),
        Arc::new(()),
    );
    let (client, _client) = identity(
        &authority.svid("/client", always()),
        &[&authority],
        env,
        Arc::new(()),
    );

    let address = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let acceptor = Acceptor::new(server, everybody(), Alpn::Http2);
        let mut incoming = TlsIncoming::new(listener, acceptor).expect("an address");
        let address = incoming.local_address();
        tokio::spawn(async move {
            while let Some(Ok(mut connection)) = incoming.next().await {
                tokio::spawn(async move {
                    let mut byte = [0];
                    while connection.read_exact(&mut byte).await.is_ok() {
                        let _ = connection.write_all(&byte).await;
                    }
                });
            }
        });
        Connector::new(client.clone(), everybody(), Alpn::Http2)
            .connect(&address.to_string())
            .await
            .expect("a connection");
        address
    });

    let full = Arc::new(client.client_config(everybody(), &[Alpn::Http2]));
    let mut resumed = client.client_config(everybody(), &[Alpn::Http2]);
    // KNHK's own clients resume nothing; proxies do.
    resumed.resumption = Resumption::in_memory_sessions(64);
    let resumed = Arc::new(resumed);

    let mut group = criterion.benchmark_group("handshake");
    group.throughput(Throughput::Elements(1));
    let measure = |bencher: &mut Bencher<'_>, config, kind| {
        bencher.iter(|| runtime.block_on(one(config, address, kind)));
    };
    group.bench_function("full", |bencher| measure(bencher, &full, HandshakeKind::Full));
    // Just before, because the full ones pushed every older session out of the listener's memory.
    runtime.block_on(one(&resumed, address, HandshakeKind::Full));
    group.bench_function("resumed", |bencher| {
        measure(bencher, &resumed, HandshakeKind::Resumed);
    });
    group.finish();
}

criterion_group!(benches, handshakes);
criterion_main!(benches);
