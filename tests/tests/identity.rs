//! Identity from a real SPIRE: rotations that nobody notices, agents that come and go, peers that must not get in.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use knhk_identity::testing::{Authority, Svid};
use knhk_identity::{
    Acceptor, Allow, Alpn, Connector, Env, HandshakeError, Identity, NoSvid, Observer, Readiness, Side,
    SourceError, SpiffeSection, TlsConnection, TlsIncoming,
};
use knhk_tests::peer::spire::{Entry, Spire, Workload};
use knhk_tests::{handshake, wait};
use rustls::AlertDescription;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_secs(3600);
/// How long a test waits for what SPIRE does within seconds.
const LATEST: Duration = Duration::from_secs(60);

/// What metrics would be told.
#[derive(Default)]
struct Seen {
    handshakes: Mutex<Vec<&'static str>>,
    failures: Mutex<Vec<SourceError>>,
}

impl Observer for Seen {
    fn handshake(&self, ours: Side, outcome: &'static str) {
        if ours == Side::Server {
            self.handshakes.lock().expect("not poisoned").push(outcome);
        }
    }

    fn source_failed(&self, error: &SourceError) {
        self.failures.lock().expect("not poisoned").push(error.clone());
    }
}

/// An identity that follows SPIRE's agent until this is dropped.
struct Following {
    identity: Identity,
    seen: Arc<Seen>,
    keeper: JoinHandle<()>,
}

impl Following {
    fn new(spire: &Spire) -> Self {
        let section: SpiffeSection =
            serde_saphyr::from_str(&format!("workload_api: {}", spire.endpoint())).expect("a section");
        let config = section.validate(None).expect("valid");
        let seen = Arc::new(Seen::default());
        let (identity, keeper) = Identity::new(&config, Env::system(), Arc::<Seen>::clone(&seen));
        let keeper = tokio::spawn(keeper.run(CancellationToken::new()));
        Self {
            identity,
            seen,
            keeper,
        }
    }

    /// The number of the snapshot that comes after `number`.
    async fn next(&self, number: u64) -> u64 {
        let next = timeout(LATEST, self.identity.later_than(number)).await;
        next.expect("in time").expect("the keeper runs").number()
    }

    /// Waits until the newest handshake has ended so: a client is told before its outcome is counted.
    async fn until_refused(&self, outcome: &'static str) {
        let seen = wait::until(outcome, LATEST, || async {
            match self.seen.handshakes.lock().expect("not poisoned").last() {
                Some(newest) if *newest == outcome => Ok(()),
                newest => Err(format!("{newest:?}")),
            }
        });
        seen.await.expect("it is counted");
    }

    async fn until(&self, what: &str, holds: impl Fn(&Identity) -> bool) {
        let seen = wait::until(what, LATEST, || {
            let status = self.identity.status();
            let seen = if holds(&self.identity) {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            };
            async { seen }
        });
        seen.await.expect(what);
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn ids(pattern: &str) -> Allow {
    Allow::Ids(vec![pattern.parse().expect("a pattern")])
}

/// A server that sends back what it gets, and knows whom it served by serial number.
struct Echo {
    address: String,
    served: Arc<Mutex<BTreeSet<String>>>,
    task: JoinHandle<()>,
}

impl Echo {
    async fn start(identity: Identity, allow: Allow) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let acceptor = Acceptor::new(identity, allow, Alpn::Http2);
        let mut incoming = TlsIncoming::new(listener, acceptor).expect("an address");
        let address = incoming.local_address().to_string();
        let served = Arc::new(Mutex::new(BTreeSet::new()));
        let clients = Arc::clone(&served);
        let task = tokio::spawn(async move {
            while let Some(Ok(connection)) = incoming.next().await {
                let serial = connection.info().peer.serial.to_string();
                clients.lock().expect("not poisoned").insert(serial);
                tokio::spawn(echo(connection));
            }
        });
        Self {
            address,
            served,
            task,
        }
    }

    fn served(&self) -> usize {
        self.served.lock().expect("not poisoned").len()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn echo(mut connection: TlsConnection) {
    let mut byte = [0];
    while connection.read_exact(&mut byte).await.is_ok() {
        if connection.write_all(&byte).await.is_err() {
            return;
        }
    }
}

async fn request(connection: &mut TlsConnection) -> std::io::Result<()> {
    connection.write_all(b"?").await?;
    connection.read_u8().await.map(|_| ())
}

/// Requests until both sides saw `rotations`: each over a new connection, and each over one that was there before. None may
/// fail. Gives how many requests there were.
async fn traffic_over_rotations(spire: &Spire, rotations: usize, at_least: Duration) -> u64 {
    let (server, client) = (Following::new(spire), Following::new(spire));
    server.next(0).await;
    client.next(0).await;
    let echo = Echo::start(server.identity.clone(), ids(&spire.id("/*"))).await;
    let connector = Connector::new(client.identity.clone(), ids(&spire.id("/*")), Alpn::Http2);
    let mut lasting = connector.connect(&echo.address).await.expect("a connection");
    let mut servers = BTreeSet::new();
    let mut requests = 0;
    let mut beat = tokio::time::interval(Duration::from_millis(10));
    let begin = tokio::time::Instant::now();
    while servers.len() <= rotations || echo.served() <= rotations || begin.elapsed() < at_least {
        beat.tick().await;
        let mut fresh = connector
            .connect(&echo.address)
            .await
            .expect("a rotation refuses nobody");
        servers.insert(fresh.info().peer.serial.to_string());
        request(&mut fresh).await.expect("a rotation fails no request");
        request(&mut lasting)
            .await
            .expect("a rotation ends no connection");
        requests += 2;
        let patience = LATEST * u32::try_from(rotations).expect("few") + at_least;
        assert!(
            begin.elapsed() < patience,
            "{servers:?} after {requests} requests"
        );
    }
    let refused: Vec<_> = server.seen.handshakes.lock().expect("not poisoned").clone();
    assert!(refused.iter().all(|outcome| *outcome == "full"), "{refused:?}");
    assert!(server.identity.status().rotations >= u64::try_from(rotations).expect("few"));
    assert!(server.identity.status().refused_updates.is_empty());
    requests
}

fn entry<'a>(path: &'a str, federates_with: &'a [&'a Spire]) -> Entry<'a> {
    Entry {
        path,
        of: Workload::Anything,
        ttl: HOUR,
        federates_with,
    }
}

async fn spire_with(entry_ttl: Duration) -> Spire {
    let spire = Spire::start("example.org").await.expect("SPIRE");
    let entry = Entry {
        path: "/knhk",
        of: Workload::Anything,
        ttl: entry_ttl,
        federates_with: &[],
    };
    spire.create_entry(&entry).expect("an entry");
    spire
}

#[tokio::test]
async fn an_entry_that_is_created_after_the_start_is_waited_for() {
    let spire = Spire::start("example.org").await.expect("SPIRE");
    let following = Following::new(&spire);
    following
        .until("the agent says no", |identity| {
            let error = identity.status().source.last_error;
            error.is_some_and(|error| error.contains("create a registration entry"))
        })
        .await;
    let NoSvid { .. } = following.identity.current().expect_err("there is no entry");
    let Readiness::Fails(why) = following.identity.status().readiness else {
        panic!("it is ready");
    };
    assert!(why.contains("no identity") && !why.contains('\n'), "{why}");

    spire.create_entry(&entry("/knhk/eu", &[])).expect("an entry");
    following.next(0).await;
    let status = following.identity.status();
    assert_eq!(status.readiness, Readiness::Ready);
    assert_eq!(
        status.svid.expect("held").spiffe_id,
        "spiffe://example.org/knhk/eu"
    );
    assert_eq!(status.trust_domains, ["example.org"]);
    assert_eq!((status.source.last_error, status.source.failures), (None, 0));
}

#[tokio::test]
async fn an_agent_that_restarts_costs_nothing() {
    let mut spire = spire_with(HOUR).await;
    let following = Following::new(&spire);
    following.next(0).await;
    let echo = Echo::start(following.identity.clone(), ids("spiffe://example.org/*")).await;
    let connector = Connector::new(
        following.identity.clone(),
        ids("spiffe://example.org/knhk"),
        Alpn::Http2,
    );
    spire.kill_agent();
    following
        .until("the stream breaks", |identity| {
            !identity.status().source.connected
        })
        .await;
    let mut connection = connector
        .connect(&echo.address)
        .await
        .expect("the SVID is still good");
    request(&mut connection).await.expect("an answer");
    spire.start_agent().await.expect("it starts again");
    following
        .until("the stream is back", |identity| {
            identity.status().source.connected
        })
        .await;
    request(&mut connection).await.expect("the connection went on");
}

#[tokio::test]
async fn an_agent_that_is_gone_for_longer_than_the_svid_lives() {
    let mut spire = spire_with(Duration::from_secs(12)).await;
    let following = Following::new(&spire);
    following.next(0).await;
    let echo = Echo::start(following.identity.clone(), ids("spiffe://example.org/*")).await;
    let connector = Connector::new(
        following.identity.clone(),
        ids("spiffe://example.org/*"),
        Alpn::Http2,
    );
    connector.connect(&echo.address).await.expect("it is valid");
    spire.kill_agent();
    following
        .until("it ends", |identity| identity.current().is_err())
        .await;
    let Readiness::Fails(why) = following.identity.status().readiness else {
        panic!("it is ready");
    };
    assert!(
        why.contains("spiffe://example.org/knhk has expired; spiffe.workload_api: "),
        "{why}"
    );
    assert!(
        why.contains("start the SPIRE agent") && !why.contains('\n'),
        "{why}"
    );
    let number = following.identity.status().rotations + 1;
    assert!(matches!(
        connector.connect(&echo.address).await,
        Err(HandshakeError::NoSvid(_))
    ));

    spire.start_agent().await.expect("it starts again");
    following.next(number).await;
    let mut connection = connector.connect(&echo.address).await.expect("it is valid again");
    request(&mut connection).await.expect("an answer");
    let failures = following.seen.failures.lock().expect("not poisoned").len();
    assert!(failures <= 60, "{failures} attempts in some seconds");
}

#[tokio::test]
async fn the_servers_authority_is_rotated() {
    let spire = spire_with(HOUR).await;
    let following = Following::new(&spire);
    let number = following.next(0).await;
    let first = following.identity.current().expect("held");
    let echo = Echo::start(following.identity.clone(), ids("spiffe://example.org/*")).await;
    let connector = Connector::new(
        following.identity.clone(),
        ids("spiffe://example.org/*"),
        Alpn::Http2,
    );
    let mut lasting = connector.connect(&echo.address).await.expect("a connection");

    let old = spire.rotate_authority().expect("a new authority");
    following
        .until("an SVID of the new authority", |identity| {
            identity
                .current()
                .is_ok_and(|held| held.serial() != first.serial())
        })
        .await;
    assert!(following.identity.current().expect("held").number() > number);
    connector
        .connect(&echo.address)
        .await
        .expect("both authorities are known");
    let number = following.identity.current().expect("held").number();
    spire.revoke_authority(&old).expect("it was tainted");
    following.next(number).await;
    let mut fresh = connector
        .connect(&echo.address)
        .await
        .expect("the new authority is known");
    request(&mut fresh).await.expect("an answer");
    request(&mut lasting).await.expect("the connection went on");
    assert!(following.identity.status().refused_updates.is_empty());
}

#[tokio::test]
async fn an_entry_that_is_deleted_ends_the_identity() {
    let spire = Spire::start("example.org").await.expect("SPIRE");
    let entry = entry("/knhk", &[]);
    let id = spire.create_entry(&entry).expect("an entry");
    let following = Following::new(&spire);
    following.next(0).await;
    spire.delete_entry(&id).expect("it is there");
    following
        .until("it is given up", |identity| identity.current().is_err())
        .await;
    let why = following.identity.status().readiness.to_string();
    assert!(why.contains("the Workload API took it back"), "{why}");
    spire.create_entry(&entry).expect("an entry");
    following.next(0).await;
}

#[tokio::test]
async fn one_rotation_under_traffic_fails_nothing() {
    let spire = spire_with(Duration::from_secs(20)).await;
    let requests = traffic_over_rotations(&spire, 1, Duration::ZERO).await;
    assert!(requests > 20, "{requests}");
}

#[tokio::test]
#[ignore = "two minutes: make soak"]
async fn rotations_under_two_minutes_of_traffic_fail_nothing() {
    let spire = spire_with(Duration::from_secs(30)).await;
    let requests = traffic_over_rotations(&spire, 3, Duration::from_secs(125)).await;
    eprintln!("{requests} requests");
}

#[tokio::test]
async fn a_foreign_trust_domain_is_known_once_it_is_federated() {
    let (home, abroad) = tokio::join!(Spire::start("example.org"), Spire::start("abroad.org"));
    let (home, abroad) = (home.expect("SPIRE"), abroad.expect("SPIRE"));
    let alone = home.create_entry(&entry("/knhk", &[])).expect("an entry");
    home.federate_with(&abroad).expect("a bundle");
    abroad.federate_with(&home).expect("a bundle");
    abroad.create_entry(&entry("/knhk", &[&home])).expect("an entry");
    let (server, client) = (Following::new(&home), Following::new(&abroad));
    let number = server.next(0).await;
    client.next(0).await;
    let echo = Echo::start(server.identity.clone(), ids("spiffe://abroad.org/*")).await;
    let connector = Connector::new(
        client.identity.clone(),
        ids("spiffe://example.org/*"),
        Alpn::Http2,
    );
    let mut refused = connector
        .connect(&echo.address)
        .await
        .expect("the client knows the server");
    let error = request(&mut refused)
        .await
        .expect_err("and not the other way round");
    let why = HandshakeError::refused_later(&error).expect("an alert");
    assert!(
        matches!(why, HandshakeError::RefusedByPeer(AlertDescription::UnknownCA)),
        "{why}"
    );
    server.until_refused("unknown_trust_domain").await;

    home.create_entry(&entry("/knhk/abroad", &[&abroad]))
        .expect("an entry");
    home.delete_entry(&alone).expect("it is there");
    server.next(number).await;
    server
        .until("the foreign bundle", |identity| {
            identity.status().trust_domains == ["abroad.org", "example.org"]
        })
        .await;
    let mut connection = connector.connect(&echo.address).await.expect("a connection");
    request(&mut connection).await.expect("both know each other");
    assert_eq!(connection.info().peer.id.trust_domain_name(), "example.org");
}

/// Shows what is given, and asks.
async fn ask_with(shown: Option<&Svid>, address: &str) -> Result<(), AlertDescription> {
    handshake::ask_with(shown, address)
        .await
        .expect("an answer or an alert")
}

#[tokio::test]
async fn bad_peers_are_refused_at_the_handshake() {
    let (home, abroad) = tokio::join!(spire_with(HOUR), Spire::start("abroad.org"));
    let abroad = abroad.expect("SPIRE");
    let following = Following::new(&home);
    following.next(0).await;
    let echo = Echo::start(following.identity.clone(), ids("spiffe://example.org/ns/prod/*")).await;

    let mint = |spire: &Spire, path, ttl| spire.mint(path, ttl).expect("minted").svid().expect("an SVID");
    let good = mint(&home, "/ns/prod/web", HOUR);
    ask_with(Some(&good), &echo.address)
        .await
        .expect("a good one gets in");

    let forged = Authority::new("example.org").forged("/ns/prod/web");
    for (outcome, alert, shown) in [
        ("no_certificate", AlertDescription::CertificateRequired, None),
        (
            "unknown_trust_domain",
            AlertDescription::UnknownCA,
            Some(mint(&abroad, "/ns/prod/web", HOUR)),
        ),
        (
            "not_allowed",
            AlertDescription::AccessDenied,
            Some(mint(&home, "/ns/test/web", HOUR)),
        ),
        ("untrusted", AlertDescription::UnknownCA, Some(forged)),
    ] {
        let refused = ask_with(shown.as_ref(), &echo.address).await.expect_err(outcome);
        assert_eq!(refused, alert, "{outcome}");
        following.until_refused(outcome).await;
    }

    // Good for a second, and then not.
    let short = home
        .mint("/ns/prod/web", Duration::from_secs(1))
        .expect("an SVID");
    let expired = wait::until("it ends", LATEST, || {
        let (shown, address) = (short.svid().expect("an SVID"), echo.address.clone());
        async move {
            ask_with(Some(&shown), &address)
                .await
                .err()
                .ok_or_else(|| "it is good".to_owned())
        }
    });
    assert_eq!(
        expired.await.expect("in time"),
        AlertDescription::CertificateExpired
    );
    following.until_refused("expired").await;
}
