//! Faults of a peer: [`Faults`] decides what happens to a request, [`Proxy`] stands before a peer and does it.
//!
//! A peer that is a server of the harness itself asks [`Faults`] without a proxy.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::Error;
use crate::ports::Port;

/// For ever, as the number of times that a fault is to happen.
pub const FOR_EVER: u32 = u32::MAX;

/// A request as a peer gets it.
#[derive(Debug)]
pub struct Asked {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// An answer's status and body, which is JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

/// What happens to a request instead of what should.
#[derive(Clone)]
pub enum Fault {
    /// It is answered with this and does not reach the peer.
    Answer(Answer),
    /// It is taken and never answered, and does not reach the peer. [`Faults::held`] tells of each.
    Hold,
    /// It reaches the peer, and the connection is closed instead of an answer.
    LoseAnswer,
    /// It reaches the peer, and the body of its answer is changed.
    Edit(Arc<dyn Fn(Bytes) -> Bytes + Send + Sync>),
}

/// Which requests.
pub type Which = fn(&Asked) -> bool;

/// What is planned, and what has been seen. A clone is the same plan.
#[derive(Clone)]
pub struct Faults {
    counted: Which,
    state: Arc<Mutex<State>>,
    held: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    seen: u64,
    planned: VecDeque<Planned>,
}

struct Planned {
    which: Which,
    fault: Fault,
    left: u32,
}

impl Faults {
    /// No faults yet. `counted` says which requests [`Faults::seen`] counts.
    pub fn new(counted: Which) -> Self {
        Self {
            counted,
            state: Arc::default(),
            held: Arc::new(Semaphore::new(0)),
        }
    }

    /// Plans a fault for the next `times` requests of which `which` holds. Faults planned earlier come first.
    pub fn plan(&self, which: Which, times: u32, fault: Fault) {
        self.state().planned.push_back(Planned {
            which,
            fault,
            left: times,
        });
    }

    /// Forgets every fault that is planned.
    pub fn heal(&self) {
        self.state().planned.clear();
    }

    /// How many of the counted requests have come, those that met a fault included.
    pub fn seen(&self) -> u64 {
        self.state().seen
    }

    /// Waits until one more request is held than this was called for before.
    pub async fn held(&self) {
        if let Ok(permit) = self.held.acquire().await {
            permit.forget();
        }
    }

    /// What is to happen to this request. Counts it.
    pub fn meet(&self, asked: &Asked) -> Option<Fault> {
        let mut state = self.state();
        state.seen += u64::from((self.counted)(asked));
        let planned = state
            .planned
            .iter_mut()
            .find(|planned| planned.left > 0 && (planned.which)(asked))?;
        if planned.left != FOR_EVER {
            planned.left -= 1;
        }
        let fault = planned.fault.clone();
        drop(state);
        Some(fault)
    }

    /// Tells [`Faults::held`], and never returns.
    pub async fn hold(&self) {
        self.held.add_permits(1);
        std::future::pending::<()>().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

/// A proxy on a port of its own that passes plain HTTP on to a peer, or meets a fault.
#[derive(Debug)]
pub struct Proxy {
    faults: Faults,
    upstream: SocketAddr,
    port: Port,
    running: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts it. It lives on the runtime of the caller.
    pub fn start(upstream: SocketAddr, faults: Faults) -> Result<Self, Error> {
        let mut proxy = Self {
            faults,
            upstream,
            port: Port::reserve()?,
            running: None,
        };
        proxy.come_back()?;
        Ok(proxy)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// What it does to requests.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Ends every connection and refuses new ones, on the address that stays its own.
    pub async fn go(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            // The listener is closed when the task is gone.
            let _ = running.await;
        }
    }

    /// Listens, after [`Proxy::go`] again.
    pub fn come_back(&mut self) -> Result<(), Error> {
        let what = || format!("the proxy on {}", self.address());
        let listener = std::net::TcpListener::bind(self.address()).map_err(Error::io(what()))?;
        listener.set_nonblocking(true).map_err(Error::io(what()))?;
        let listener = TcpListener::from_std(listener).map_err(Error::io(what()))?;
        let (faults, upstream) = (self.faults.clone(), self.upstream);
        self.running = Some(tokio::spawn(serve(listener, faults, upstream)));
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }
}

/// Ends with all its connections when it is dropped.
async fn serve(listener: TcpListener, faults: Faults, upstream: SocketAddr) {
    let client = reqwest::Client::new();
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let (client, faults) = (client.clone(), faults.clone());
        connections.spawn(async move {
            let service = service_fn(|request| {
                let (client, faults) = (client.clone(), faults.clone());
                async move { pass(&client, &faults, upstream, request).await }
            });
            // An error is how a lost answer closes the connection, and what a client that goes away leaves.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(
    client: &reqwest::Client,
    faults: &Faults,
    upstream: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Error> {
    let http = |reason: String| Error::Http {
        what: format!("the proxy before {upstream}"),
        reason,
    };
    let (head, body) = request.into_parts();
    let asked = Asked {
        method: head.method,
        uri: head.uri,
        headers: head.headers,
        body: body
            .collect()
            .await
            .map_err(|error| http(error.to_string()))?
            .to_bytes(),
    };
    let fault = faults.meet(&asked);
    match &fault {
        Some(Fault::Answer(answer)) => return json(answer).map_err(|error| http(error.to_string())),
        Some(Fault::Hold) => faults.hold().await,
        Some(Fault::LoseAnswer | Fault::Edit(_)) | None => {}
    }
    let path = asked
        .uri
        .path_and_query()
        .map_or("/", hyper::http::uri::PathAndQuery::as_str);
    let answer = client
        .request(asked.method, format!("http://{upstream}{path}"))
        .headers(end_to_end(asked.headers))
        .body(asked.body)
        .send()
        .await
        .map_err(|error| http(error.to_string()))?;
    let (status, headers) = (answer.status(), end_to_end(answer.headers().clone()));
    let body = answer.bytes().await.map_err(|error| http(error.to_string()))?;
    let body = match fault {
        Some(Fault::LoseAnswer) => return Err(http("the answer is lost on purpose".to_owned())),
        Some(Fault::Edit(edit)) => edit(body),
        _ => body,
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn json(answer: &Answer) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
    Response::builder()
        .status(answer.status)
        .header("content-type", "application/json")
        .body(Full::new(answer.body.clone()))
}

/// Without what belongs to one connection; the length is set anew.
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every request with its path.
    async fn echo() -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|request: Request<Incoming>| async move {
                    Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(
                        request.uri().to_string(),
                    ))))
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        (address, tasks)
    }

    fn a(asked: &Asked) -> bool {
        asked.uri.path() == "/a"
    }

    async fn get(proxy: &Proxy, path: &str) -> Result<(u16, String), reqwest::Error> {
        let answer = reqwest::get(format!("http://{}{path}", proxy.address())).await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    fn busy() -> Fault {
        Fault::Answer(Answer {
            status: StatusCode::TOO_MANY_REQUESTS,
            body: Bytes::from_static(b"busy"),
        })
    }

    #[tokio::test]
    async fn planned_faults_come_in_order_to_the_requests_they_are_for() {
        let (upstream, _tasks) = echo().await;
        let proxy = Proxy::start(upstream, Faults::new(a)).expect("starts");
        proxy.faults().plan(a, 2, busy());
        proxy.faults().plan(
            a,
            FOR_EVER,
            Fault::Edit(Arc::new(|_| Bytes::from_static(b"edited"))),
        );
        assert_eq!(
            get(&proxy, "/b?x=1").await.expect("passed on"),
            (200, "/b?x=1".to_owned())
        );
        for _ in 0..2 {
            assert_eq!(get(&proxy, "/a").await.expect("answered").0, 429);
        }
        for _ in 0..2 {
            assert_eq!(
                get(&proxy, "/a").await.expect("edited"),
                (200, "edited".to_owned())
            );
        }
        proxy.faults().heal();
        assert_eq!(
            get(&proxy, "/a").await.expect("passed on"),
            (200, "/a".to_owned())
        );
        assert_eq!(
            proxy.faults().seen(),
            5,
            "only `/a` is counted, with and without a fault"
        );
    }

    #[tokio::test]
    async fn answers_are_lost_requests_are_held_and_the_peer_goes_and_comes_back() {
        let (upstream, _tasks) = echo().await;
        let mut proxy = Proxy::start(upstream, Faults::new(a)).expect("starts");
        proxy.faults().plan(a, 1, Fault::LoseAnswer);
        get(&proxy, "/a").await.expect_err("the answer is lost");
        proxy.faults().plan(a, 1, Fault::Hold);
        tokio::select! {
            answer = get(&proxy, "/a") => panic!("answered: {answer:?}"),
            () = proxy.faults().held() => {}
        }
        proxy.go().await;
        let refused = get(&proxy, "/a").await.expect_err("nobody listens");
        assert!(refused.is_connect(), "{refused:?}");
        proxy.come_back().expect("listens again");
        assert_eq!(get(&proxy, "/a").await.expect("passed on").0, 200);
    }
}
