//! A stand-in for Azure Key Vault: a TLS server with real P-256 keys that speaks the REST of Key Vault's data plane and of the
//! authority that gives out its tokens. Microsoft publishes no server that could be run here.
//!
//! What keeps it honest is that Microsoft's own Python client works against it (`tests/peers/azure/client.py`).
//! Written from the REST reference of Key Vault (keys) and of the Microsoft identity platform (OAuth 2.0 client credentials).

mod authority;
mod rest;
mod store;
mod tls;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::fault::{Asked, Fault, Faults};
use crate::Error;
use crate::ports::Port;

pub use authority::Application;
pub use store::{Enabled, KeyError, Kind, Vault};

/// The longest body that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// An answer of the server.
#[derive(Debug)]
struct Reply {
    status: u16,
    challenge: Option<String>,
    body: serde_json::Value,
}

impl Reply {
    fn ok(body: serde_json::Value) -> Self {
        Self {
            status: 200,
            challenge: None,
            body,
        }
    }
}

/// What the server knows.
#[derive(Debug)]
struct State {
    vault: Vault,
    authority: authority::Authority,
}

/// A running stand-in.
#[derive(Debug)]
pub struct KeyVault {
    state: Arc<Mutex<State>>,
    faults: Faults,
    acceptor: Acceptor,
    port: Port,
    running: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl KeyVault {
    /// Starts it on a free port, with an empty vault, and writes the certificate of its authority to `ca_file`. It lives on the
    /// runtime of the caller.
    pub fn start(application: Application, ca_file: &Path, faults: Faults) -> Result<Self, Error> {
        let port = Port::reserve()?;
        let (acceptor, ca) = tls::acceptor()?;
        std::fs::write(ca_file, ca).map_err(Error::io(format!("{}", ca_file.display())))?;
        let url = format!("https://{}", port.address());
        let state = State {
            vault: Vault::new(&url),
            authority: authority::Authority::new(&url, application),
        };
        let mut server = Self {
            state: Arc::new(Mutex::new(state)),
            faults,
            acceptor: Acceptor(acceptor),
            port,
            running: None,
        };
        server.come_back()?;
        Ok(server)
    }

    /// Its URL, as vault and as authority.
    pub fn url(&self) -> String {
        format!("https://{}", self.port.address())
    }

    /// What happens to requests instead of what should.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Its keys, as their owner sees them.
    pub fn with_vault<T>(&self, see: impl FnOnce(&mut Vault) -> T) -> T {
        see(&mut lock(&self.state).vault)
    }

    /// How long the tokens are good for that are given out from now on.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        lock(&self.state).authority.set_lifetime(lifetime);
    }

    /// Every token that was given out is forgotten.
    pub fn revoke_tokens(&self) {
        lock(&self.state).authority.revoke();
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Ends every connection and refuses new ones, on the address that stays its own.
    pub async fn go(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            // The listener is closed when the task is gone.
            let _ = running.await;
        }
    }

    /// Listens, after [`KeyVault::go`] again.
    pub fn come_back(&mut self) -> Result<(), Error> {
        let what = || format!("the key vault on {}", self.address());
        let listener = std::net::TcpListener::bind(self.address()).map_err(Error::io(what()))?;
        listener.set_nonblocking(true).map_err(Error::io(what()))?;
        let listener = TcpListener::from_std(listener).map_err(Error::io(what()))?;
        let (state, faults) = (Arc::clone(&self.state), self.faults.clone());
        self.running = Some(tokio::spawn(serve(
            listener,
            self.acceptor.clone(),
            state,
            faults,
        )));
        Ok(())
    }
}

impl Drop for KeyVault {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }
}

/// Ends with all its connections when it is dropped.
async fn serve(listener: TcpListener, acceptor: Acceptor, state: Arc<Mutex<State>>, faults: Faults) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let (acceptor, state, faults) = (acceptor.clone(), Arc::clone(&state), faults.clone());
        connections.spawn(async move {
            let Ok(stream) = acceptor.0.accept(stream).await else {
                return;
            };
            let service = service_fn(|request| answer(&state, &faults, request));
            // An error is how a lost answer closes the connection, and what a client that goes away leaves.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    state: &Mutex<State>,
    faults: &Faults,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Error> {
    let http = |reason: String| Error::Http {
        what: "the key vault".to_owned(),
        reason,
    };
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await;
    let asked = Asked {
        method: head.method,
        uri: head.uri,
        headers: head.headers,
        body: body.map_err(|error| http(error.to_string()))?.to_bytes(),
    };
    let fault = faults.meet(&asked);
    match &fault {
        Some(Fault::Answer(answer)) => {
            return response(answer.status.as_u16(), None, answer.body.clone())
                .map_err(|error| http(error.to_string()));
        }
        Some(Fault::Hold) => faults.hold().await,
        Some(Fault::LoseAnswer | Fault::Edit(_)) | None => {}
    }
    let reply = route(&mut lock(state), &asked, now());
    let body = Bytes::from(reply.body.to_string());
    let body = match fault {
        Some(Fault::LoseAnswer) => return Err(http("the answer is lost on purpose".to_owned())),
        Some(Fault::Edit(edit)) => edit(body),
        _ => body,
    };
    response(reply.status, reply.challenge, body).map_err(|error| http(error.to_string()))
}

/// The authority's requests need no token; every other one is for the vault.
fn route(state: &mut State, asked: &Asked, now: Duration) -> Reply {
    if let Some(reply) = state.authority.answer(asked, now) {
        return reply;
    }
    if !state.authority.knows(asked, now) {
        return state.authority.challenge();
    }
    rest::answer(&mut state.vault, asked, now)
}

fn response(
    status: u16,
    challenge: Option<String>,
    body: Bytes,
) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
    let mut response = Response::builder()
        .status(status)
        .header("content-type", "application/json; charset=utf-8")
        .header("cache-control", "no-cache")
        .header("x-ms-keyvault-service-version", "1.9.2669.1");
    if let Some(challenge) = challenge {
        response = response.header("www-authenticate", challenge);
    }
    response.body(Full::new(body))
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
