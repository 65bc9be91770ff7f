//! The listening side.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use rustls::HandshakeKind;
use rustls::server::ServerSessionMemoryCache;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::connection::TlsConnection;
use crate::identity::Identity;
use crate::peer::{Allow, Peer, Side, verify_resumed};
use crate::snapshot::Snapshot;
use crate::tls::error::HandshakeError;
use crate::tls::{Alpn, Moment, Proof, Seen, server_config};

/// A handshake takes at most so long.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Most handshakes of a listener at once; further connections wait in the kernel's queue.
pub const MAX_HANDSHAKES: usize = 512;
/// Most sessions that a listener keeps for resumption, two a handshake.
pub const MAX_SESSIONS: usize = 4096;
/// Connections that are ready and were not taken yet.
const READY: usize = 64;
/// After an error of `accept`, such as too many open files: so that it is not asked again at once, and again.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// Makes connections of TCP streams. Each handshake uses the snapshot that is held when it begins.
///
/// A session may be resumed while the snapshot is held under which it began, and while the client's certificate is valid;
/// a rotation, ours or that of any trust domain's authorities, ends them all. See `docs/decisions/0010-identity.md`.
#[derive(Debug)]
pub struct Acceptor {
    identity: Identity,
    allow: Arc<Allow>,
    alpn: Alpn,
    sessions: Mutex<Sessions>,
}

/// The sessions of one snapshot.
#[derive(Debug)]
struct Sessions {
    snapshot: u64,
    store: Arc<ServerSessionMemoryCache>,
}

impl Sessions {
    fn of(snapshot: u64) -> Self {
        Self {
            snapshot,
            store: ServerSessionMemoryCache::new(MAX_SESSIONS),
        }
    }
}

impl Acceptor {
    /// Lets in whom `allow` means, and speaks `alpn` with clients that ask.
    pub fn new(identity: Identity, allow: Allow, alpn: Alpn) -> Self {
        Self {
            identity,
            allow: Arc::new(allow),
            alpn,
            sessions: Mutex::new(Sessions::of(0)),
        }
    }

    /// One handshake, within [`HANDSHAKE_WITHIN`]. It is counted and a failure is logged.
    pub async fn accept(&self, tcp: TcpStream, remote: SocketAddr) -> Result<TlsConnection, HandshakeError> {
        let ended = match timeout(HANDSHAKE_WITHIN, self.handshake(tcp)).await {
            Ok(ended) => ended,
            Err(_) => Err(HandshakeError::Timeout(HANDSHAKE_WITHIN)),
        };
        match ended {
            Ok((stream, peer, outcome)) => {
                self.identity.observer().handshake(Side::Server, outcome);
                Ok(TlsConnection::new(stream.into(), peer, remote))
            }
            Err(error) => {
                let observer = self.identity.observer();
                if let HandshakeError::Peer(refused) = &error {
                    observer.peer_refused(Side::Server, refused);
                }
                observer.handshake(Side::Server, error.label());
                if let HandshakeError::Broken(_) = &error {
                    // Port scanners and health checks connect and go away: no news.
                    tracing::debug!(%remote, "no handshake: {error}");
                } else {
                    tracing::warn!(%remote, reason = error.label(), "no handshake: {error}");
                }
                Err(error)
            }
        }
    }

    async fn handshake(&self, tcp: TcpStream) -> Result<Shaken, HandshakeError> {
        let snapshot = self.identity.current()?;
        // Small answers should not wait for an acknowledgement; without it they do, and that is all.
        let _ = tcp.set_nodelay(true);
        let seen: Seen = Arc::new(OnceLock::new());
        let moment = Moment::Fixed(Arc::clone(&snapshot), Arc::clone(&seen));
        let proof = Proof::new(moment, Arc::clone(&self.allow), Side::Client);
        let sessions = self.sessions_of(&snapshot);
        let config = server_config(proof, self.alpn, sessions, self.identity.env());
        let accepted = TlsAcceptor::from(Arc::new(config)).accept(tcp).await;
        let stream = match (accepted, seen.get()) {
            (Err(_), Some(Err(refused))) => return Err(refused.clone().into()),
            (Err(error), _) => return Err(HandshakeError::of(error)),
            (Ok(stream), _) => stream,
        };
        let session = stream.get_ref().1;
        let outcome = match session.handshake_kind() {
            Some(HandshakeKind::Resumed) => "resumed",
            _ => "full",
        };
        let peer = if let Some(verdict) = seen.get() {
            verdict.clone()?
        } else {
            let chain = session.peer_certificates().ok_or(HandshakeError::NoCertificate)?;
            verify_resumed(chain, &self.allow, self.identity.now().unix)?
        };
        Ok((stream, peer, outcome))
    }

    fn sessions_of(&self, snapshot: &Snapshot) -> Arc<ServerSessionMemoryCache> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        // A handshake that began before a rotation and asks late gets a store of its own: it must not bring back an old one.
        if snapshot.number() < sessions.snapshot {
            return ServerSessionMemoryCache::new(1);
        }
        if snapshot.number() > sessions.snapshot {
            *sessions = Sessions::of(snapshot.number());
        }
        Arc::clone(&sessions.store)
    }
}

type Shaken = (tokio_rustls::server::TlsStream<TcpStream>, Peer, &'static str);

/// A listener's connections after their handshakes. Handshakes run beside each other, so that a slow one holds up nobody;
/// a failed one is not seen here. Dropped, it listens no longer.
#[derive(Debug)]
pub struct TlsIncoming {
    ready: mpsc::Receiver<TlsConnection>,
    local: SocketAddr,
    task: JoinHandle<()>,
}

impl TlsIncoming {
    /// Listens from now on.
    pub fn new(listener: TcpListener, acceptor: Acceptor) -> io::Result<Self> {
        let local = listener.local_addr()?;
        let (give, ready) = mpsc::channel(READY);
        let task = tokio::spawn(accept_all(listener, Arc::new(acceptor), give));
        Ok(Self { ready, local, task })
    }

    /// Where it listens.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for TlsIncoming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept_all(listener: TcpListener, acceptor: Arc<Acceptor>, give: mpsc::Sender<TlsConnection>) {
    let room = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let (tcp, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            }
        };
        let (acceptor, give) = (Arc::clone(&acceptor), give.clone());
        handshakes.spawn(async move {
            let accepted = acceptor.accept(tcp, remote).await;
            // From here on it is the server's to bound: one that waits to be taken keeps no other from its handshake.
            drop(place);
            if let Ok(connection) = accepted {
                let _ = give.send(connection).await;
            }
        });
    }
}

/// For tonic's `serve_with_incoming`.
impl Stream for TlsIncoming {
    type Item = io::Result<TlsConnection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|next| next.map(Ok))
    }
}

/// For `axum::serve`.
#[cfg(feature = "axum")]
impl axum::serve::Listener for TlsIncoming {
    type Io = TlsConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TlsConnection, SocketAddr) {
        match self.ready.recv().await {
            Some(connection) => {
                let remote = connection.info().remote;
                (connection, remote)
            }
            // The task ends only with the runtime.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}
