//! Both sides of a handshake over real TCP: who gets in, who does not and with which alert, and what a rotation changes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use knhk_identity::testing::{Authority, Held, Kind, Svid, alert, always, client, identity};
use knhk_identity::{
    Acceptor, Allow, Alpn, Clock, Connector, Env, HandshakeError, Identity, Now, Observer, PeerError,
    Readiness, Serial, Side, TlsIncoming,
};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, HandshakeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

const START: Duration = Duration::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

/// A wall clock that is set by hand.
struct Hand(Mutex<Duration>);

impl Clock for Hand {
    fn now(&self) -> Now {
        let unix = *self.0.lock().expect("not poisoned");
        Now {
            unix,
            steady: unix.saturating_sub(START),
        }
    }
}

fn env() -> (Env, Arc<Hand>) {
    let clock = Arc::new(Hand(Mutex::new(START)));
    let env = Env {
        clock: Arc::<Hand>::clone(&clock),
        random: Arc::new(|| 0),
    };
    (env, clock)
}

/// Hands on how handshakes of the server end, and remembers whom it refused last.
struct Outcomes {
    ends: mpsc::UnboundedSender<&'static str>,
    refused: Arc<Mutex<Option<PeerError>>>,
}

impl Observer for Outcomes {
    fn handshake(&self, ours: Side, outcome: &'static str) {
        if ours == Side::Server {
            let _ = self.ends.send(outcome);
        }
    }

    fn peer_refused(&self, ours: Side, error: &PeerError) {
        assert_eq!(ours, Side::Server);
        *self.refused.lock().expect("not poisoned") = Some(error.clone());
    }
}

/// A server that says to each client which serial number it showed.
struct Server {
    address: String,
    outcomes: mpsc::UnboundedReceiver<&'static str>,
    refused: Arc<Mutex<Option<PeerError>>>,
    held: Held,
    identity: Identity,
}

impl Server {
    async fn start(svid: &Svid, trusted: &[&Authority], allow: Allow, env: Env) -> Self {
        let (ends, outcomes) = mpsc::unbounded_channel();
        let refused = Arc::new(Mutex::new(None));
        let observer = Outcomes {
            ends,
            refused: Arc::clone(&refused),
        };
        let (identity, held) = identity(svid, trusted, env, Arc::new(observer));
        let acceptor = Acceptor::new(identity.clone(), allow, Alpn::Http2);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut incoming = TlsIncoming::new(listener, acceptor).expect("an address");
        let address = incoming.local_address().to_string();
        tokio::spawn(async move {
            while let Some(Ok(mut connection)) = incoming.next().await {
                tokio::spawn(async move {
                    let serial = format!("{}\n", connection.info().peer.serial);
                    let _ = connection.write_all(serial.as_bytes()).await;
                    let mut rest = Vec::new();
                    let _ = connection.read_to_end(&mut rest).await;
                });
            }
        });
        Self {
            address,
            outcomes,
            refused,
            held,
            identity,
        }
    }

    async fn outcome(&mut self) -> &'static str {
        self.outcomes.recv().await.expect("the server lives")
    }
}

fn ids(patterns: &[&str]) -> Allow {
    Allow::Ids(
        patterns
            .iter()
            .map(|text| text.parse().expect("a pattern"))
            .collect(),
    )
}

fn everybody() -> Allow {
    ids(&["spiffe://example.org/*", "spiffe://other.org/*"])
}

/// Connects and reads the server's line: the alert where there is one.
async fn ask(config: &Arc<ClientConfig>, address: &str) -> Result<(String, HandshakeKind), AlertDescription> {
    let tcp = TcpStream::connect(address).await.expect("it listens");
    let name = ServerName::try_from("knhk").expect("a name");
    let mut line = String::new();
    let result = async {
        let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?;
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.map(|_| byte[0] != b'\n')? {
            line.push(char::from(byte[0]));
        }
        Ok::<_, std::io::Error>(stream.get_ref().1.handshake_kind().expect("it is over"))
    };
    match result.await {
        Ok(kind) => Ok((line, kind)),
        Err(error) => Err(alert(&error).unwrap_or_else(|| panic!("no alert: {error:?}"))),
    }
}

#[tokio::test]
async fn both_sides_know_who_is_there() {
    let authority = Authority::new("example.org");
    let (env, _) = env();
    let mut server = Server::start(
        &authority.svid("/server", always()),
        &[&authority],
        everybody(),
        env.clone(),
    )
    .await;
    let (identity, _held) = identity(
        &authority.svid("/client", always()),
        &[&authority],
        env,
        Arc::new(()),
    );
    let connector = Connector::new(
        identity.clone(),
        ids(&["spiffe://example.org/server"]),
        Alpn::Http2,
    );
    let mut connection = connector.connect(&server.address).await.expect("a connection");
    assert_eq!(
        connection.info().peer.id.to_string(),
        "spiffe://example.org/server"
    );
    assert_eq!(connection.alpn(), Some(&b"h2"[..]));
    assert_eq!(
        &connection.info().peer.serial,
        server.identity.current().expect("held").serial()
    );
    let mut line = vec![0; identity.current().expect("held").serial().to_string().len()];
    connection.read_exact(&mut line).await.expect("reads");
    assert_eq!(
        String::from_utf8(line).expect("text"),
        identity.current().expect("held").serial().to_string()
    );
    assert_eq!(server.outcome().await, "full");
}

#[tokio::test]
async fn a_bad_client_is_refused_with_the_alert_that_says_why() {
    let (authority, other) = (Authority::new("example.org"), Authority::new("other.org"));
    // It says it is an authority of the same trust domain.
    let pretender = Authority::new("example.org");
    let (env, _) = env();
    let allow = ids(&["spiffe://example.org/ns/prod/*"]);
    let mut server = Server::start(&authority.svid("/server", always()), &[&authority], allow, env).await;
    let past = Duration::ZERO..START.saturating_sub(HOUR);
    let future = START + HOUR..START + 2 * HOUR;
    for (outcome, alert, svid) in [
        ("no_certificate", AlertDescription::CertificateRequired, None),
        (
            "unknown_trust_domain",
            AlertDescription::UnknownCA,
            Some(other.svid("/ns/prod/web", always())),
        ),
        (
            "expired",
            AlertDescription::CertificateExpired,
            Some(authority.svid("/ns/prod/web", past)),
        ),
        (
            "not_yet_valid",
            AlertDescription::CertificateExpired,
            Some(authority.svid("/ns/prod/web", future)),
        ),
        (
            "not_allowed",
            AlertDescription::AccessDenied,
            Some(authority.svid("/ns/production/web", always())),
        ),
        (
            "untrusted",
            AlertDescription::UnknownCA,
            Some(authority.forged("/ns/prod/web")),
        ),
        (
            "untrusted",
            AlertDescription::UnknownCA,
            Some(pretender.svid("/ns/prod/web", always())),
        ),
        (
            "untrusted",
            AlertDescription::UnknownCA,
            Some(authority.odd(Kind::ServerOnly)),
        ),
        (
            "not_svid",
            AlertDescription::BadCertificate,
            Some(authority.odd(Kind::NoUri)),
        ),
        (
            "not_svid",
            AlertDescription::BadCertificate,
            Some(authority.odd(Kind::TwoUris)),
        ),
    ] {
        let answer = ask(&Arc::new(client(svid.as_ref())), &server.address).await;
        assert_eq!(answer.expect_err(outcome), alert, "{outcome}");
        assert_eq!(server.outcome().await, outcome);
        let told = server.refused.lock().expect("not poisoned").take();
        assert_eq!(told.is_some(), svid.is_some(), "{outcome}");
        let id = told.as_ref().and_then(PeerError::id);
        assert_eq!(
            id.is_some(),
            told.is_some() && outcome != "not_svid",
            "the ID that was seen"
        );
    }
    let good = authority.svid("/ns/prod/web", always());
    ask(&Arc::new(client(Some(&good))), &server.address)
        .await
        .expect("a good one gets in");
    assert_eq!(server.outcome().await, "full");
}

#[tokio::test]
async fn a_bad_server_is_refused_by_our_client() {
    let (authority, other) = (Authority::new("example.org"), Authority::new("other.org"));
    let (env, clock) = env();
    let (identity, _held) = identity(
        &authority.svid("/client", always()),
        &[&authority],
        env.clone(),
        Arc::new(()),
    );
    let connector = Connector::new(identity, ids(&["spiffe://example.org/knhk/*"]), Alpn::Http2);
    for (label, svid, trusted) in [
        (
            "unknown_trust_domain",
            other.svid("/knhk/eu", always()),
            vec![&other, &authority],
        ),
        ("not_allowed", authority.svid("/web", always()), vec![&authority]),
    ] {
        let server = Server::start(&svid, &trusted, everybody(), env.clone()).await;
        let error = connector.connect(&server.address).await.expect_err("refused");
        assert_eq!(error.label(), label);
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    let ends = authority.svid("/knhk/eu", Duration::ZERO..START + HOUR);
    // Its certificate ends while our clock goes on: it would not show it any longer, so it is asked with a clock of its own.
    let (standing, _) = self::env();
    let server = Server::start(&ends, &[&authority], everybody(), standing).await;
    *clock.0.lock().expect("not poisoned") = START + 2 * HOUR;
    let error = connector.connect(&server.address).await.expect_err("refused");
    assert_eq!(error.label(), "expired");
    assert!(matches!(error, HandshakeError::Peer(PeerError::Expired { .. })));
}

#[tokio::test]
async fn an_identity_that_has_ended_serves_nobody_and_recovers() {
    let authority = Authority::new("example.org");
    let (env, clock) = env();
    let short = authority.svid("/server", START..START + HOUR);
    let mut server = Server::start(&short, &[&authority], everybody(), env).await;
    let config = Arc::new(client(Some(&authority.svid("/client", always()))));
    ask(&config, &server.address).await.expect("it is valid");
    assert_eq!(server.outcome().await, "full");
    assert_eq!(server.identity.status().readiness, Readiness::Ready);

    *clock.0.lock().expect("not poisoned") = START + HOUR * 9 / 10;
    assert!(matches!(server.identity.status().readiness, Readiness::Warns(_)));

    *clock.0.lock().expect("not poisoned") = START + 2 * HOUR;
    let mut tcp = TcpStream::connect(&server.address).await.expect("it listens");
    assert_eq!(server.outcome().await, "no_svid");
    assert_eq!(tcp.read(&mut [0]).await.expect("it is closed"), 0);
    let Readiness::Fails(why) = server.identity.status().readiness else {
        panic!("it is ready");
    };
    assert!(why.contains("spiffe://example.org/server has expired"), "{why}");

    server
        .held
        .rotate(&authority.svid("/server", always()), &[&authority]);
    ask(&config, &server.address).await.expect("it is valid again");
    assert_eq!(server.outcome().await, "full");
}

#[tokio::test]
async fn a_session_is_resumed_until_either_side_rotates_or_ends() {
    let authority = Authority::new("example.org");
    let (env, clock) = env();
    let mut server = Server::start(
        &authority.svid("/server", always()),
        &[&authority],
        everybody(),
        env,
    )
    .await;
    let short = authority.svid("/client", START..START + HOUR);
    let mut config = client(Some(&short));
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    let (serial, kind) = ask(&config, &server.address).await.expect("in");
    assert_eq!((kind, server.outcome().await), (HandshakeKind::Full, "full"));
    let (again, kind) = ask(&config, &server.address).await.expect("in");
    assert_eq!(
        (kind, server.outcome().await),
        (HandshakeKind::Resumed, "resumed")
    );
    assert_eq!(serial, again, "a resumed session has its peer");

    // A rotation on our side forgets every session, and with it what was trusted then.
    server
        .held
        .rotate(&authority.svid("/server", always()), &[&authority]);
    let (_, kind) = ask(&config, &server.address).await.expect("in");
    assert_eq!((kind, server.outcome().await), (HandshakeKind::Full, "full"));
    let (_, kind) = ask(&config, &server.address).await.expect("in");
    assert_eq!(
        (kind, server.outcome().await),
        (HandshakeKind::Resumed, "resumed")
    );

    // The client's certificate ends: a session that outlives it gets nothing.
    *clock.0.lock().expect("not poisoned") = START + 2 * HOUR;
    let tcp = TcpStream::connect(&server.address).await.expect("it listens");
    let name = ServerName::try_from("knhk").expect("a name");
    let resumed = TlsConnector::from(Arc::clone(&config)).connect(name, tcp).await;
    if let Ok(mut stream) = resumed {
        assert!(!matches!(stream.read(&mut [0]).await, Ok(1)), "it was served");
    }
    assert_eq!(server.outcome().await, "expired");
}

#[tokio::test]
async fn an_authority_that_is_no_longer_trusted_ends_its_sessions() {
    let (authority, other) = (Authority::new("example.org"), Authority::new("other.org"));
    let (env, _) = env();
    let svid = authority.svid("/server", always());
    let mut server = Server::start(&svid, &[&authority, &other], everybody(), env).await;
    let mut config = client(Some(&other.svid("/client", always())));
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    for outcome in ["full", "resumed"] {
        ask(&config, &server.address).await.expect("federated");
        assert_eq!(server.outcome().await, outcome);
    }
    server.held.rotate(&svid, &[&authority]);
    let alert = ask(&config, &server.address)
        .await
        .expect_err("not federated any longer");
    assert_eq!(alert, AlertDescription::UnknownCA);
    assert_eq!(server.outcome().await, "unknown_trust_domain");
}

#[tokio::test]
async fn a_rotation_drops_no_request_and_no_connection() {
    let authority = Authority::new("example.org");
    let (env, _) = env();
    let mut server = Server::start(
        &authority.svid("/server", always()),
        &[&authority],
        everybody(),
        env.clone(),
    )
    .await;
    let (identity, held) = identity(
        &authority.svid("/client", always()),
        &[&authority],
        env,
        Arc::new(()),
    );
    let connector = Connector::new(identity, everybody(), Alpn::Http2);
    let mut old = connector.connect(&server.address).await.expect("a connection");
    let mut serials: Vec<Serial> = Vec::new();
    for round in 0..20 {
        match round % 3 {
            1 => server
                .held
                .rotate(&authority.svid("/server", always()), &[&authority]),
            2 => held.rotate(&authority.svid("/client", always()), &[&authority]),
            _ => {}
        }
        let connection = connector
            .connect(&server.address)
            .await
            .expect("no rotation is seen");
        serials.push(connection.info().peer.serial.clone());
        assert_eq!(server.outcome().await, "full");
    }
    serials.dedup();
    assert_eq!(serials.len(), 8, "each rotation of the server shows");
    assert!(old.read_u8().await.is_ok(), "the first connection goes on");
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_timed_out_and_holds_up_nobody() {
    let authority = Authority::new("example.org");
    let (env, _) = env();
    let mut server = Server::start(
        &authority.svid("/server", always()),
        &[&authority],
        everybody(),
        env,
    )
    .await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(&server.address).await.expect("it listens"));
    }
    for _ in 0..100 {
        assert_eq!(server.outcome().await, "timeout");
    }
    for tcp in &mut silent {
        assert_eq!(tcp.read(&mut [0]).await.unwrap_or(0), 0, "it is closed");
    }
}

#[tokio::test]
async fn the_silent_hold_up_nobody() {
    let authority = Authority::new("example.org");
    let (env, _) = env();
    let mut server = Server::start(
        &authority.svid("/server", always()),
        &[&authority],
        everybody(),
        env,
    )
    .await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(&server.address).await.expect("it listens"));
    }
    let config = Arc::new(client(Some(&authority.svid("/client", always()))));
    ask(&config, &server.address).await.expect("served beside them");
    assert_eq!(server.outcome().await, "full");
}

#[tokio::test]
async fn who_speaks_no_tls_is_told_apart() {
    let authority = Authority::new("example.org");
    let (env, _) = env();
    let mut server = Server::start(
        &authority.svid("/server", always()),
        &[&authority],
        everybody(),
        env,
    )
    .await;
    let mut plain = TcpStream::connect(&server.address).await.expect("it listens");
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .expect("writes");
    assert_eq!(server.outcome().await, "not_tls");
    drop(TcpStream::connect(&server.address).await.expect("it listens"));
    assert_eq!(server.outcome().await, "broken");
}
